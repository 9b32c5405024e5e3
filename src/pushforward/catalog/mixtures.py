"""Mixtures and hidden Markov models fitted by EM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

from pushforward.catalog.parts import marginals, vector_marginals
from pushforward.core.schema import Image, Kind, Schema, Signal, Table, Tokens, Vector
from pushforward.core.transform import Compose
from pushforward.models.bayes import BayesianMixture
from pushforward.models.densities import Densities, DiagonalGaussians, Levels, Product
from pushforward.models.hmm import HiddenMarkov
from pushforward.models.lloyd import KMeans
from pushforward.models.mixture import COVARIANCES, GaussianMixture, Mixture
from pushforward.transforms.reshape import Flatten
from pushforward.transforms.tabular import NumberMarginals, TableMap


@dataclass(frozen=True)
class GmmOptions:
    """Options of the Gaussian mixture.

    components: how many; with a criterion the most there may be. covariance: full, tied, diagonal or spherical. prior: weight,
    in rows, of the data's own covariance in each component's; None takes the number of coordinates, 0 is plain maximum
    likelihood. restarts: k-means++ starts, of which the likeliest after a short run is gone on with. criterion: bic or aic, by
    which the number of components is chosen on a sample of the rows; None takes all.
    """

    components: int = 10
    covariance: str = "full"
    prior: float | None = None
    restarts: int = 1
    criterion: str | None = None


def gmm(schema: Schema, config: GmmOptions) -> GaussianMixture:
    """A mixture on coordinates whose marginals are normal; gaps stay gaps."""
    transform, size = vector_marginals(schema.example, fill=False)
    prior = float(size) if config.prior is None else config.prior
    return GaussianMixture(
        schema,
        transform,
        size,
        components=config.components,
        covariance=config.covariance,
        prior=prior,
        restarts=config.restarts,
        criterion=config.criterion,
    )


@dataclass(frozen=True)
class BayesianOptions:
    """Options of the variational Gaussian mixture.

    components: the most there may be; how many stay in use comes from the data. weights: the prior of their weights, dirichlet
    or sticks. concentration: of that prior, the smaller the fewer components stay; None takes 1/components. strength: rows that
    the prior of each mean is worth. width: the covariance that the prior expects of a component, by that of all the data; the
    smaller the more components stay. restarts: k-means++ starts, of which the one with the highest bound after a short run is
    gone on with.
    """

    components: int = 20
    weights: str = "dirichlet"
    concentration: float | None = None
    strength: float = 1.0
    width: float = 1.0
    restarts: int = 1


def bayesian_mixture(schema: Schema, config: BayesianOptions) -> BayesianMixture:
    """On the coordinates of ``gmm``."""
    transform, size = vector_marginals(schema.example, fill=False)
    return BayesianMixture(
        schema,
        transform,
        size,
        components=config.components,
        weights_prior=config.weights,
        concentration=config.concentration,
        strength=config.strength,
        width=config.width,
        restarts=config.restarts,
    )


@dataclass(frozen=True)
class ProductMixtureOptions:
    """Options of the mixture of independent coordinates.

    components: how many; with a criterion the most there may be. smoothing: counts added to every level of every component.
    prior: weight, in rows, of the data's own variances in each component's. restarts: starts, of which the likeliest after a
    short run is gone on with. criterion: bic or aic, by which the number of components is chosen; None takes all.
    """

    components: int = 20
    smoothing: float = 0.1
    prior: float = 1.0
    restarts: int = 1
    criterion: str | None = None


def product_mixture(schema: Schema, config: ProductMixtureOptions) -> Mixture:
    """Levels categorical, two of them Bernoulli; numbers Gaussian once their marginals are normal; gaps left out."""
    transform, densities = _products(schema.example, config)
    return Mixture(schema, transform, densities, restarts=config.restarts, criterion=config.criterion)


@singledispatch
def _products(kind: Kind, config: ProductMixtureOptions) -> tuple[Compose, Densities]:
    raise TypeError(f"{type(kind).__name__} has no product densities")


@_products.register
def _(kind: Vector, config: ProductMixtureOptions) -> tuple[Compose, Densities]:
    return marginals(kind), DiagonalGaussians(kind.length, config.components, prior=config.prior)


@_products.register
def _(kind: Image, config: ProductMixtureOptions) -> tuple[Compose, Densities]:
    levels = Levels([kind.levels] * kind.size, config.components, smoothing=config.smoothing)
    return Compose([Flatten(kind.shape)]), levels


@_products.register
def _(kind: Tokens, config: ProductMixtureOptions) -> tuple[Compose, Densities]:
    return Compose([]), Levels([len(kind.vocabulary)] * kind.length, config.components, smoothing=config.smoothing)


@_products.register
def _(kind: Table, config: ProductMixtureOptions) -> tuple[Compose, Densities]:
    columns = kind.learned
    numbers, levels = ([c for c in columns if c.discrete == discrete] for discrete in (False, True))
    gaps = sum(c.missing for c in numbers)
    bounds = [c.bounds for c in numbers]
    by_number = NumberMarginals([c.resolution or 0.0 for c in numbers], fill=False, gaps=gaps > 0, bounds=bounds)
    table = TableMap(columns, by_number, Compose([]))  # type: ignore[arg-type]  # levels stay as they are
    table.stochastic = by_number.grid is not None
    parts: list[Densities] = []
    if numbers:
        parts.append(DiagonalGaussians(len(numbers), config.components, prior=config.prior))
    if levels or gaps:  # whether a number is missing is a level too
        counts = [c.levels for c in levels] + [2] * gaps
        parts.append(Levels(counts, config.components, smoothing=config.smoothing))
    return Compose([table]), Product(parts)


@dataclass(frozen=True)
class HmmOptions:
    """Options of the hidden Markov model.

    components: how many states; with a criterion the most there may be. covariance: of the channels of a signal in each state,
    full, tied, diagonal or spherical. smoothing: counts added to every transition and every symbol. prior: weight, in times, of
    the channels' own covariance in each state's. restarts: starts, of which the likeliest after a short run is gone on with.
    criterion: bic or aic, by which the number of states is chosen; None takes all.
    """

    components: int = 8
    covariance: str = "full"
    smoothing: float = 0.1
    prior: float = 1.0
    restarts: int = 1
    criterion: str | None = None


def hmm(schema: Schema, config: HmmOptions) -> HiddenMarkov:
    """Symbols of a text, the one that fills it up included, or the channels of a signal at each time."""
    kind = schema.example
    densities: Densities
    if config.covariance not in COVARIANCES:
        raise ValueError(f"covariance is one of {', '.join(COVARIANCES)}, found {config.covariance!r}")
    if isinstance(kind, Signal):
        transform = marginals(kind)
        densities = COVARIANCES[config.covariance](kind.channels, config.components, config.prior, 1e-6)
    else:
        assert isinstance(kind, Tokens)
        transform = Compose([])
        densities = Levels([len(kind.vocabulary)], config.components, smoothing=config.smoothing)
    return HiddenMarkov(
        schema,
        transform,
        densities,
        channels_first=isinstance(kind, Signal),
        smoothing=config.smoothing,
        restarts=config.restarts,
        criterion=config.criterion,
    )


@dataclass(frozen=True)
class KMeansOptions:
    """Options of k-means.

    components: how many centres. restarts: k-means++ starts, of which the tightest after a short run is gone on with.
    """

    components: int = 10
    restarts: int = 3


def kmeans(schema: Schema, config: KMeansOptions) -> KMeans:
    """On the coordinates of ``gmm``."""
    transform, size = vector_marginals(schema.example, fill=False)
    return KMeans(schema, transform, size, components=config.components, restarts=config.restarts)
