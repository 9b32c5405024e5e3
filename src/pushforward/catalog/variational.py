"""Models with latent variables as recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pushforward.catalog.flows import couplings
from pushforward.catalog.parts import Eye, PixelParams
from pushforward.core.context import Conditioner
from pushforward.core.distribution import Normal, NormalMixture
from pushforward.core.schema import Image, Kind, Schema, Table, Tokens
from pushforward.core.transform import Compose, Transform
from pushforward.models.blocks import Levels, Mixture
from pushforward.models.bound import Slope
from pushforward.models.discrete_vae import GumbelVAE
from pushforward.models.elements import Elements, elements
from pushforward.models.hierarchical import HVAE, Level
from pushforward.models.latent_prior import CodePrior, FlowPosterior, Prior, Pushed, VampPrior
from pushforward.models.vae import VAE
from pushforward.models.vq import VQVAE, Codebook
from pushforward.nets.grid import GridDecoder, GridEncoder, grid_sides
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.mlp import MLP
from pushforward.nets.resnet import ConvDecoder, ResNet
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.linear import Permute
from pushforward.transforms.monotone import Affine
from pushforward.transforms.spline import Spline

NETS = ("auto", "mlp", "conv")
_LARGE = 1024  # numbers of an image from which convolutions are worth their time


@dataclass(frozen=True)
class _Nets:
    """Options of the networks and of p(x | z).

    net: mlp, conv (images) or auto, which takes conv for images of more than 1024 numbers: on smaller ones a step of conv costs
    tens of mlp. hidden: widths of the multilayer nets, the decoder's in reverse. activation: of those: silu, tanh, relu, gelu
    or softplus. width: channels of the convolutional ones.
    likelihood: what p(x | z) is of single pixels, symbols and numbers: bernoulli (two levels), categorical, logistic or normal
    (both with learned scales, discretised where the data are on a grid); auto takes bernoulli for two levels, categorical for
    up to 32 levels and for symbols and categories, and logistic for 8-bit pixels and numbers. components: how many logistics
    or normals are mixed in a number.
    """

    net: str = "auto"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "silu"
    width: int = 32
    likelihood: str = "auto"
    components: int = 3


@dataclass(frozen=True)
class _Rate:
    """Options of what the code may cost.

    beta: weight of the rate in the loss. beta_warmup: share of training in which beta rises from 0. free_bits: nats that every
    latent dimension has for free. free_until: share of training after which these are gone, or None.
    """

    beta: float = 1.0
    beta_warmup: float = 0.0
    free_bits: float = 0.0
    free_until: float | None = None


def _slope(config: _Rate) -> Slope:
    return Slope(config.beta, config.beta_warmup, config.free_bits, config.free_until)


# p(x | z)


def _no_numbers(kind: Kind) -> bool:
    return isinstance(kind, Tokens) or (isinstance(kind, Table) and all(c.discrete for c in kind.learned))


def _automatic(kind: Kind, components: int) -> Elements:
    return elements(kind, components)


def _bernoulli(kind: Kind, components: int) -> Elements:
    if not (isinstance(kind, Image) and kind.levels == 2):
        found = f"{kind.name} data of {kind.levels} levels" if isinstance(kind, Image) else f"{kind.name} data"
        raise ValueError(f"likelihood='bernoulli' is for images of two levels, found {found}: leave likelihood as it is")
    return elements(kind)


def _categorical(kind: Kind, components: int) -> Elements:
    if isinstance(kind, Image):
        return Elements([Levels(kind.size, kind.levels, "scaled")], kind)
    if not _no_numbers(kind):
        raise ValueError(
            f"likelihood='categorical' is for levels, and the {kind.name} data have numbers: take logistic or normal"
        )
    return elements(kind)


def _numbers(bell: str) -> Callable[[Kind, int], Elements]:
    def build(kind: Kind, components: int) -> Elements:
        if _no_numbers(kind) or (isinstance(kind, Image) and kind.levels == 2):
            raise ValueError(
                f"likelihood='{bell}' is for numbers, and the {kind.name} data have none: leave likelihood as it is"
            )
        if isinstance(kind, Image):
            return Elements([Mixture(kind.size, 1.0, (0.0, kind.levels - 1.0), components, bell)], kind)
        return elements(kind, components, bell)

    return build


LIKELIHOODS: dict[str, Callable[[Kind, int], Elements]] = {
    "auto": _automatic,
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "logistic": _numbers("logistic"),
    "normal": _numbers("normal"),
}


@dataclass(frozen=True)
class _Ends:
    """Both ends of such a model: what the encoder sees, from what of it q is made, and p(x | z)."""

    conditioner: Conditioner
    parts: Elements
    eye: Eye
    image: Image | None
    config: _Nets

    def encoder(self, outputs: int) -> nn.Module:
        """(input, context) → (B, outputs)."""
        context = self.conditioner.width
        if self.image is not None:
            return ResNet(self.image.channels, outputs, width=self.config.width, context=context)
        return MLP(self.eye.features, outputs, self.config.hidden, context=context, activation=self.config.activation)

    def decoder(self, inputs: int) -> nn.Module:
        """(B, inputs + context) → (B, P)."""
        inputs, outputs = inputs + self.conditioner.width, len(self.parts.param_element)
        if self.image is not None:
            height, width = self.image.height, self.image.width
            maps = ConvDecoder(inputs, outputs // (height * width), height, width, features=self.config.width)
            return PixelParams(maps, self.image.channels)
        return MLP(inputs, outputs, self.config.hidden[::-1], activation=self.config.activation, zero_last=True)

    def seen(self) -> tuple[int, ...]:
        """The shape of what the encoder sees."""
        return self.image.shape if self.image is not None else (self.eye.features,)


def _ends(schema: Schema, config: _Nets) -> _Ends:
    kind = schema.example
    if config.net not in NETS:
        raise ValueError(f"net is one of {', '.join(NETS)}, found {config.net!r}")
    if config.net == "conv" and not isinstance(kind, Image):
        raise ValueError(f"net='conv' is for images, found {kind.name} data: leave net as it is")
    if config.likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood is one of {', '.join(LIKELIHOODS)}, found {config.likelihood!r}")
    large = isinstance(kind, Image) and kind.size > _LARGE
    image = kind if isinstance(kind, Image) and (config.net == "conv" or (config.net == "auto" and large)) else None
    parts = LIKELIHOODS[config.likelihood](kind, config.components)
    return _Ends(Conditioner(schema.conditions), parts, Eye(kind, flat=image is None), image, config)


def _latent(schema: Schema, asked: int | None) -> int:
    kind = schema.example
    if asked is not None and asked < 1:
        raise ValueError(f"latent must be at least 1, found {asked}")
    return asked or (32 if isinstance(kind, Image) and max(kind.height, kind.width) > 16 else 16)


# vae


@dataclass(frozen=True)
class VaeOptions(_Rate, _Nets):
    """Options of the VAE.

    latent: dimensions of the code; None takes 16, or 32 for images above 16 pixels. samples: draws in the bound that is
    trained: above 1 it is the importance-weighted one. gradient: plain, or dreg for the doubly reparameterised one. prior:
    normal, mixture (of normals), vamp (of the encoder's answers to pseudo-examples) or flow. posterior: normal, or flow for an
    inverse autoregressive one. pseudo: parts of the mixture, or pseudo-examples. transforms: layers of each flow.
    """

    latent: int | None = None
    samples: int = 1
    gradient: str = "plain"
    prior: str = "normal"
    posterior: str = "normal"
    pseudo: int = 64
    transforms: int = 4


def _flow_prior(latent: int, config: VaeOptions, ends: _Ends) -> Prior:
    layers = couplings(latent, config.transforms, (64, 64), Spline, Conditioner(()))
    return Pushed(Normal((latent,)), Compose(layers))


PRIORS: dict[str, Callable[[int, VaeOptions, _Ends], Prior]] = {
    "normal": lambda latent, config, ends: Normal((latent,)),
    "mixture": lambda latent, config, ends: NormalMixture((latent,), config.pseudo),
    "vamp": lambda latent, config, ends: VampPrior(config.pseudo, ends.seen()),
    "flow": _flow_prior,
}


def inverse_autoregressive(latent: int, transforms: int, hidden: Sequence[int], steering: int) -> Compose:
    """Layers that draw in one pass, each steered by ``steering`` numbers, with the order turned round between them."""
    layers: list[Transform] = []
    for index in range(transforms):
        degrees = torch.arange(1, latent + 1)
        net = MaskedMLP(degrees, degrees.repeat(2), hidden, context=steering, zero_last=True)
        layers.append(Autoregressive(net, Affine()).inverse())
        if index + 1 < transforms:
            layers.append(Permute.reversed(latent))
    return Compose(layers)


def _flow_posterior(latent: int, config: VaeOptions) -> FlowPosterior:
    steering = 2 * latent
    return FlowPosterior(inverse_autoregressive(latent, config.transforms, (64, 64), steering), steering)


POSTERIORS: dict[str, Callable[[int, VaeOptions], FlowPosterior | None]] = {
    "normal": lambda latent, config: None,
    "flow": _flow_posterior,
}


def vae(schema: Schema, config: VaeOptions) -> VAE:
    """A code of real numbers between an encoder and a decoder."""
    for name, known in (("prior", PRIORS), ("posterior", POSTERIORS)):
        if getattr(config, name) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, found {getattr(config, name)!r}")
    if config.transforms < 1 or config.pseudo < 1:
        raise ValueError(f"transforms and pseudo must be at least 1, found {config.transforms} and {config.pseudo}")
    ends, latent = _ends(schema, config), _latent(schema, config.latent)
    posterior = POSTERIORS[config.posterior](latent, config)
    encoder = ends.encoder(2 * latent + (posterior.size if posterior else 0))
    return VAE(
        schema,
        ends.parts,
        ends.eye,
        encoder,
        ends.decoder(latent),
        ends.conditioner,
        latent=latent,
        prior=PRIORS[config.prior](latent, config, ends),
        posterior=posterior,
        slope=_slope(config),
        samples=config.samples,
        gradient=config.gradient,
    )


# hvae


@dataclass(frozen=True)
class HvaeOptions(_Rate, _Nets):
    """Options of the hierarchical VAE.

    latents: dimensions of the code's levels, from the one next to the data to the top. state: width of what the levels hand
    down.
    """

    latents: tuple[int, ...] = (16, 8, 4)
    state: int = 128
    beta_warmup: float = 0.2


def hvae(schema: Schema, config: HvaeOptions) -> HVAE:
    """Levels of small residual nets between the ends of the VAE."""
    if not config.latents or min(config.latents) < 1 or config.state < 1:
        raise ValueError(f"found latents {config.latents} and state {config.state}: expected numbers of at least 1")
    ends, state = _ends(schema, config), config.state

    def small(inputs: int, outputs: int, zero: bool = False) -> MLP:
        return MLP(inputs, outputs, (state,), activation=config.activation, zero_last=zero)

    levels = []
    for index, latent in enumerate(config.latents):
        up = small(state, state) if index + 1 < len(config.latents) else None
        prior, posterior = small(state, 2 * latent, zero=True), small(2 * state, 2 * latent)
        levels.append(Level(latent, state, prior, posterior, small(state, state), up))
    return HVAE(
        schema,
        ends.parts,
        ends.eye,
        ends.encoder(state),
        ends.decoder(state),
        ends.conditioner,
        levels,
        state=state,
        slope=_slope(config),
    )


# gumbel-vae


@dataclass(frozen=True)
class GumbelVaeOptions(_Rate, _Nets):
    """Options of the VAE with categorical codes.

    variables: how many. classes: of each. estimator: of the gradient: gumbel (the Gumbel-softmax), straight-through, reinforce
    or leave-one-out. temperature: of the Gumbel-softmax at the beginning of training. final_temperature: at its end.
    samples: draws of leave-one-out.
    """

    variables: int = 20
    classes: int = 10
    estimator: str = "gumbel"
    temperature: float = 1.0
    final_temperature: float = 0.5
    samples: int = 4


def gumbel_vae(schema: Schema, config: GumbelVaeOptions) -> GumbelVAE:
    """Categorical codes between the ends of the VAE."""
    ends, size = _ends(schema, config), config.variables * config.classes
    return GumbelVAE(
        schema,
        ends.parts,
        ends.eye,
        ends.encoder(size),
        ends.decoder(size),
        ends.conditioner,
        variables=config.variables,
        classes=config.classes,
        estimator=config.estimator,
        temperature=(config.temperature, config.final_temperature),
        samples=config.samples,
        slope=_slope(config),
    )


# vq-vae


@dataclass(frozen=True)
class VqVaeOptions(_Nets):
    """Options of the VQ-VAE.

    codes: vectors in the codebook. size: numbers in each. places: codes of an example; of large images they are a grid instead.
    halvings: how many times that grid's sides are half of the image's. commitment: weight of the encoder's distance from its
    codes. decay: of the codebook's averages. revive: codes with less than this share of a fair use start anew. prior_hidden:
    widths of the prior over codes.
    """

    codes: int = 128
    size: int = 16
    places: int = 8
    halvings: int = 2
    commitment: float = 0.25
    decay: float = 0.99
    revive: float = 0.02
    prior_hidden: tuple[int, ...] = (512, 512)


def vq_vae(schema: Schema, config: VqVaeOptions) -> VQVAE:
    """A grid of codes for large images, a row of them for everything else, and a masked net as their prior."""
    for name in ("size", "places", "halvings"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, found {getattr(config, name)}")
    ends = _ends(schema, config)
    context, image, size, places = ends.conditioner.width, ends.image, config.size, config.places
    if image is not None:
        h, w = grid_sides(image.height, image.width, config.halvings)
        places, outputs = h * w, len(ends.parts.param_element) // (image.height * image.width)
        shared = {"halvings": config.halvings}
        encoder: nn.Module = GridEncoder(image.channels, size, width=config.width, context=context, **shared)
        maps = GridDecoder(size, outputs, image.height, image.width, features=config.width, extra=context, **shared)
        decoder: nn.Module = PixelParams(maps, image.channels)
    else:
        encoder, decoder = ends.encoder(places * size), ends.decoder(places * size)
    return VQVAE(
        schema,
        ends.parts,
        ends.eye,
        encoder,
        decoder,
        ends.conditioner,
        Codebook(config.codes, size, config.decay, config.revive),
        CodePrior(places, config.codes, config.prior_hidden, context=context),
        commitment=config.commitment,
    )
