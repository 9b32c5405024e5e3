"""The papers as recipes: name → ``build(schema, config)``, with defaults per kind of data.

``FAMILIES`` lists what there is without importing torch, so that help texts and ``pushforward models`` are quick; a recipe's
module holds its options, a frozen dataclass, and the function that builds the model. Lives here: which parts make which
paper, and which net suits which data. Never here: losses, layers, training loops.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pushforward.core.errors import RecipeError, Unsupported, did_you_mean

if TYPE_CHECKING:
    from pushforward.core.model import Model
    from pushforward.core.schema import Schema

_ALL = ("vector", "table", "image", "tokens")
_CONTINUOUS = ("vector", "table", "image")
_SHAPED = (*_CONTINUOUS, "signal", "points")
_SEEN = {"tokens": "text", "spatial": "image or signal"}
_FLOW_MODULES = ("flows", "glow", "continuous")


@dataclass(frozen=True)
class Family:
    """A recipe: where it is built, what it offers, what it takes, and the training it likes.

    ``place`` is "module:Options:build" under ``pushforward.catalog``. ``training`` overrides the trainer's defaults. ``slots``
    are those of a ``Context`` that its networks see: vector (numbers, categories and vectors), tokens (texts), spatial (images
    and signals). ``source_data`` says that it starts from data too, whose number of rows is its option ``source_rows``.
    """

    name: str
    title: str
    source: str
    place: str
    verbs: tuple[str, ...]
    density: str
    kinds: tuple[str, ...]
    conditions: bool = False
    target: bool = False
    source_data: bool = False
    baseline: bool = False
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    slots: tuple[str, ...] = ("vector",)

    def _parts(self) -> tuple[type, Callable[..., Model]]:
        module, options, build = self.place.split(":")
        loaded = importlib.import_module(f"pushforward.catalog.{module}")
        return getattr(loaded, options), getattr(loaded, build)

    @property
    def options(self) -> type:
        """The frozen dataclass of this family's own options."""
        return self._parts()[0]

    @property
    def flow(self) -> bool:
        """Whether it is a flow: a base distribution pushed through a transform, and more than independent marginals."""
        return self.place.split(":")[0] in _FLOW_MODULES

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Options from names and values. Raises RecipeError for an unknown name or a value of the wrong type."""
        options = self.options
        assert is_dataclass(options)
        names = {f.name: f for f in fields(options)}
        hints = get_type_hints(options)
        chosen = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        for name, value in chosen.items():
            if name not in names:
                raise RecipeError(f"{self.name} has no option '{name}': {did_you_mean(name, names)}")
            if not _fits(value, hints[name]):
                raise RecipeError(f"{self.name}: {name} is of type {names[name].type}, found {value!r}")
        try:
            return options(**chosen)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.name}: {error}") from error

    def check(self, schema: Schema) -> None:
        """Raises Unsupported where the family cannot learn data of this schema."""
        kind = schema.example.name
        if kind not in self.kinds:
            able = [f.name for f in FAMILIES.values() if kind in f.kinds and not f.baseline]
            raise Unsupported(f"{self.name} learns {_join(self.kinds)}, found {kind} data: {_join(able)} can")
        if schema.conditions and not self.conditions:
            able = [f.name for f in FAMILIES.values() if f.conditions and kind in f.kinds]
            raise Unsupported(f"{self.name} takes no conditions: {_join(able)} do")
        for c in schema.conditions:
            if c.slot not in self.slots:
                able = [f.name for f in FAMILIES.values() if c.slot in f.slots and kind in f.kinds]
                raise Unsupported(f"{self.name} takes no {_SEEN[c.slot]} ('{c.name}') as a condition: {_join(able)} do")
            if c.slot == "spatial" and c.kind.name != kind:
                raise Unsupported(f"the condition '{c.name}' is of kind {c.kind.name}, which {kind} data cannot have")
        if self.target and schema.target is None:
            raise RecipeError(f"{self.name} predicts a target: name one with target= (--target)")
        if schema.target is not None and not self.target:
            raise Unsupported(
                f"{self.name} predicts no target: use condition= (--condition) for p(x | c), or the family classifier"
            )

    def build(self, schema: Schema, config: Any) -> Model:
        """The model, untrained. Raises as ``check``, and Unsupported where the data have bounds that it does not keep."""
        self.check(schema)
        try:
            model = self._parts()[1](schema, config)
        except ValueError as error:
            raise RecipeError(f"{self.name}: {error}") from error
        if schema.bounded and "sample" in self.verbs:
            from pushforward.transforms.support import Support

            if not any(isinstance(part, Support) for part in model.modules()):
                able = "nice, gmm, rectified-flow do"
                raise Unsupported(f"{self.name} does not keep within bounds: {able}; or fit without them")
        return model


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type: int, float, str, bool, None, a tuple of one of them, or a union."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def _join(names: Any) -> str:
    return ", ".join(names) or "no family"


def _family(
    name: str, title: str, source: str, place: str, verbs: str, density: str, kinds: tuple[str, ...], **rest: Any
) -> Family:
    return Family(name, title, source, place, tuple(verbs.split()), density, kinds, **rest)


_FITS: Mapping[str, Any] = MappingProxyType({"learning_rate": 1e-3, "steps": 4000})
_FLOW_FAMILIES: tuple[tuple[str, str, str, str, str, Mapping[str, Any]], ...] = (
    (
        *("nice", "additive couplings with exact density", "Dinh et al. 2014, arXiv:1410.8516"),
        *("flows:NiceOptions:nice", "exact", _FITS),
    ),
    (
        *("realnvp", "affine couplings; of images level by level", "Dinh et al. 2016, arXiv:1605.08803"),
        *("flows:RealNvpOptions:realnvp", "exact", _FITS),
    ),
    (
        *(
            "glow",
            "couplings between learned linear maps; of images level by level",
            "Kingma & Dhariwal 2018, arXiv:1807.03039",
        ),
        *("glow:GlowOptions:glow", "exact", {**_FITS, "learning_rate": 3e-3, "batch_size": 128}),
    ),
    (
        *("maf", "masked autoregressive flow: scores in one pass", "Papamakarios et al. 2017, arXiv:1705.07057"),
        *("flows:MafOptions:maf", "exact", _FITS),
    ),
    (
        *("iaf", "inverse autoregressive flow: samples in one pass", "Kingma et al. 2016, arXiv:1606.04934"),
        *("flows:IafOptions:iaf", "exact", {**_FITS, "steps": 1000}),
    ),
    (
        *("nsf", "neural spline flow: rational-quadratic couplings", "Durkan et al. 2019, arXiv:1906.04032"),
        *("flows:NsfOptions:nsf", "exact", _FITS),
    ),
    (
        *("nsf-ar", "autoregressive neural spline flow", "Durkan et al. 2019, arXiv:1906.04032"),
        *("flows:NsfArOptions:nsf_ar", "exact", _FITS),
    ),
    (
        *("naf", "neural autoregressive flow: numbers through monotone networks", "Huang et al. 2018, arXiv:1804.00779"),
        *("flows:NafOptions:naf", "exact", {**_FITS, "steps": 3000}),
    ),
    (
        *("cnf", "continuous flow: an ODE trained by likelihood", "Chen et al. 2018, arXiv:1806.07366"),
        *("continuous:CnfOptions:cnf", "ode", {**_FITS, "learning_rate": 5e-3, "steps": 2000}),
    ),
)

_DIFFUSION_FAMILIES = (
    ("ddpm", "diffusion in T steps that learns the noise", "Ho et al. 2020, arXiv:2006.11239", "DdpmOptions:ddpm"),
    (
        *("score-sde", "score matching along a stochastic differential equation", "Song et al. 2020, arXiv:2011.13456"),
        "ScoreSdeOptions:score_sde",
    ),
    ("edm", "diffusion with its design choices set apart and tuned", "Karras et al. 2022, arXiv:2206.00364", "EdmOptions:edm"),
    (
        *(
            "flow-matching",
            "a velocity from noise to data, with coupled pairs if asked",
            "Lipman et al. 2022, arXiv:2210.02747",
        ),
        "FlowMatchingOptions:flow_matching",
    ),
    (
        *("rectified-flow", "straight paths from noise to data, sampled by an ODE", "Liu et al. 2022, arXiv:2209.03003"),
        "RectifiedFlowOptions:rectified_flow",
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            _family(
                "independent",
                "independent marginals: the baseline that knows no dependence",
                "",
                "baselines:IndependentOptions:independent",
                "sample score encode complete",
                "exact",
                (*_SHAPED, "tokens"),
                baseline=True,
            ),
            _family(
                "gaussian",
                "one full-covariance Gaussian in the data's own units: the linear baseline",
                "",
                "baselines:GaussianOptions:gaussian",
                "sample score encode complete",
                "exact",
                _SHAPED,
                baseline=True,
            ),
            *(
                _family(
                    *(name, title, source, place, "sample score encode complete", density, _CONTINUOUS),
                    conditions=True,
                    training=training,
                )
                for name, title, source, place, density, training in _FLOW_FAMILIES
            ),
            _family(
                "gmm",
                "Gaussian mixture fitted by EM, missing values included",
                "Dempster et al. 1977",
                "mixtures:GmmOptions:gmm",
                "sample score encode complete",
                "exact",
                _CONTINUOUS,
            ),
            _family(
                "vae",
                "variational autoencoder",
                "Kingma & Welling 2013, arXiv:1312.6114",
                "variational:VaeOptions:vae",
                "sample score encode complete",
                "lower_bound",
                _ALL,
                conditions=True,
                training={"learning_rate": 1e-3, "steps": 4000},
            ),
            *(
                _family(
                    *(name, title, source, f"diffusion:{place}", "sample score encode complete", "ode", _SHAPED),
                    conditions=True,
                    training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
                    slots=("vector", "tokens", "spatial"),
                )
                for name, title, source, place in _DIFFUSION_FAMILIES
            ),
            _family(
                "transport",
                "flow matching from one set of data to another",
                "Tong et al. 2023, arXiv:2302.00482",
                "diffusion:TransportOptions:transport",
                "sample encode",
                "",
                _SHAPED,
                conditions=True,
                source_data=True,
                training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
                slots=("vector", "tokens", "spatial"),
            ),
            _family(
                "consistency",
                "jumps from noise to data in a step or two",
                "Song et al. 2023, arXiv:2303.01469",
                "diffusion:ConsistencyOptions:consistency",
                "sample",
                "",
                _SHAPED,
                conditions=True,
                training={"learning_rate": 1e-3, "steps": 8000, "batch_size": 128},
                slots=("vector", "tokens", "spatial"),
            ),
            _family(
                "made",
                "masked autoregressive network with exact density",
                "Germain et al. 2015, arXiv:1502.03509",
                "autoregressive:MadeOptions:made",
                "sample score complete",
                "exact",
                _ALL,
                conditions=True,
                training={"learning_rate": 1e-3, "steps": 4000},
            ),
            _family(
                "masked-diffusion",
                "hidden values revealed in random order",
                "Sahoo et al. 2024, arXiv:2406.07524",
                "discrete:MaskedDiffusionOptions:masked_diffusion",
                "sample score complete",
                "lower_bound",
                _ALL,
                conditions=True,
                training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
            ),
            _family(
                "wgan-gp",
                "Wasserstein GAN with gradient penalty",
                "Gulrajani et al. 2017, arXiv:1704.00028",
                "adversarial:WganGpOptions:wgan_gp",
                "sample",
                "",
                _CONTINUOUS,
                conditions=True,
                training={"learning_rate": 1e-3, "steps": 4000, "batch_size": 64, "weight_decay": 0.0},
            ),
            _family(
                "simclr",
                "contrastive representation of two views",
                "Chen et al. 2020, arXiv:2002.05709",
                "representation:SimclrOptions:simclr",
                "encode",
                "",
                _CONTINUOUS,
                training={"learning_rate": 1e-3, "steps": 3000},
            ),
            _family(
                "noisy-classifier",
                "p(label | x with noise): steers diffusion models towards a label",
                "Dhariwal & Nichol 2021, arXiv:2105.05233",
                "diffusion:NoisyClassifierOptions:noisy_classifier",
                "predict",
                "",
                _SHAPED,
                target=True,
                training={"learning_rate": 1e-3, "steps": 3000, "batch_size": 128},
            ),
            _family(
                "classifier",
                "p(label | x)",
                "",
                "perception:ClassifierOptions:classifier",
                "encode predict",
                "",
                _ALL,
                target=True,
                training={"learning_rate": 1e-3, "steps": 2000, "weight_decay": 0.05},
            ),
        )
    }
)


def family(name: str) -> Family:
    """The family of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in FAMILIES:
        raise RecipeError(f"no family is called '{name}': {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]
