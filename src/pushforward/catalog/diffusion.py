"""Diffusion and flow matching: each paper is a setting of one model.

| family | path | prediction, weighting | times | sampler |
|---|---|---|---|---|
| ``ddpm`` | a table of T steps | v, of noise | of the table | DPM-Solver++(2M) |
| ``score-sde`` | vp, ve or subvp | v, of noise: σ² on the score | uniform | DPM-Solver++(2M) |
| ``edm`` | σ = t | v, of v: EDM's preconditioning | log-normal | Heun in σ, Karras' grid |
| ``flow-matching`` | rectified, polynomial or angle | v, of the velocity | uniform | Heun |
| ``rectified-flow`` | rectified | v, of the velocity | uniform or logit-normal | Heun |
| ``transport`` | as flow-matching, from other data | v, of the velocity | uniform | Heun |
| ``consistency`` | rectified | v, of the end of the path | a grid | jumps |

All but the last can be sampled with any sampler, on any path. Data have variance 1, coordinate by coordinate, whatever their
units.

DDPM's loss is that of the noise, but the network gives what the best linear guess of the noise leaves over, which is v: the
same minimum, and a new network already is the model of independent marginals instead of one whose samples are two hundred times
too wide. ``prediction="noise"`` is the network of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from pushforward.catalog.networks import NetOptions, assembled, network, whitened
from pushforward.core.context import Conditioner
from pushforward.core.errors import RecipeError
from pushforward.core.schema import Image, Kind, Points, Schema, Signal, Vector
from pushforward.core.transform import Compose
from pushforward.models.consistency import ConsistencyModel
from pushforward.models.diffusion import Diffusion, Scoring
from pushforward.models.noisy import NoisyClassifier
from pushforward.models.path import Kept, Sampling, Training
from pushforward.models.transport import Transport
from pushforward.paths.schedule import EDM, VE, VP, Angle, Polynomial, Rectified, Schedule, SubVP
from pushforward.paths.table import Table
from pushforward.paths.wrapped import Shifted
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.transforms.univariate import Standardise

_IMAGE_STEPS = 20  # of a density of pictures or signals: a tolerance would take five times as many


@dataclass(frozen=True)
class DiffusionOptions(NetOptions):
    """Options that all of diffusion and flow matching share, besides those of the network.

    condition_drop: rate of condition dropout, which guidance needs. prediction: noise, data, v, velocity or score. weighting:
    noise, data, v, velocity, score, likelihood, min-snr or p2. times: uniform, logit-normal, mode or log-normal. shift: noise
    over signal times so much (for large images). sampler: how to sample unless told otherwise. sampling_steps: how many.
    grid: where the steps are. path: along which schedule, if not the model's own. score_steps: solver steps of densities and
    codes, 0 for as many as the tolerance needs. tolerance: of each step of these. probes: of a trace that is estimated.
    """

    condition_drop: float = 0.1
    prediction: str = "v"
    weighting: str = "velocity"
    times: str = "uniform"
    shift: float = 1.0
    sampler: str = "heun"
    sampling_steps: int = 30
    grid: str = "uniform"
    path: str = ""
    score_steps: int = 0
    tolerance: float = 1e-4
    probes: int = 1


def _solved(kind: Kind, steps: int, tolerance: float) -> Choice:
    """How the flow is followed: in so many ``steps``, or 0 for what suits the kind of data."""
    steps = steps or (_IMAGE_STEPS if isinstance(kind, (Image, Signal, Points)) else 0)
    return Fixed("heun", steps) if steps else Adaptive(tolerance)


def _build(
    schema: Schema,
    config: DiffusionOptions,
    schedule: Schedule,
    *,
    coupling: str = "independent",
    variance: bool = False,
    bound: int = 0,
) -> Diffusion:
    preprocess, net, conditioner, shape = assembled(schema, config, lambda channels: 2 * channels if variance else channels)
    if config.shift != 1:
        schedule = Shifted(schedule, config.shift)
    solve = _solved(schema.example, config.score_steps, config.tolerance)
    return Diffusion(
        schema,
        preprocess,
        net,
        conditioner,
        schedule,
        shape,
        training=Training(config.prediction, config.weighting, config.times, coupling, config.condition_drop, variance),
        sampling=Sampling(config.sampler, config.sampling_steps, config.grid, config.path),
        scoring=Scoring(solve, probes=config.probes, bound=bound),
    )


def _chosen(name: str, what: str, offered: dict[str, Callable[[], Schedule]]) -> Schedule:
    if name not in offered:
        raise ValueError(f"{what} is one of {', '.join(offered)}, found {name!r}")
    return offered[name]()


@dataclass(frozen=True)
class DdpmOptions(DiffusionOptions):
    """Options of DDPM.

    betas: linear or cosine. trained_steps: T. zero_terminal: no signal at the last step (predict v then). variance: fixed, or
    learned by the network beside the noise. bound_terms: score by the variational bound, of so many of its T terms a draw,
    instead of the exact flow. The others are those of all diffusion.
    """

    weighting: str = "noise"
    sampler: str = "dpm++2m"
    betas: str = "linear"
    trained_steps: int = 1000
    zero_terminal: bool = False
    variance: str = "fixed"
    bound_terms: int = 0


def ddpm(schema: Schema, config: DdpmOptions) -> Diffusion:
    """Ho et al. 2020, arXiv:2006.11239; cosine β and learned variances of Nichol & Dhariwal 2021, arXiv:2102.09672."""
    if config.trained_steps < 2:
        raise ValueError(f"trained_steps must be at least 2, found {config.trained_steps}")
    if config.variance not in ("fixed", "learned"):
        raise ValueError(f"variance is fixed or learned, found {config.variance!r}")
    if config.shift != 1 and (config.variance == "learned" or config.bound_terms):
        raise ValueError("a shifted table has no steps of its own: leave shift at 1 for learned variances and bounds")
    made = {"linear": partial(Table.linear, config.trained_steps), "cosine": partial(Table.cosine, config.trained_steps)}
    table = _chosen(config.betas, "betas", made)  # type: ignore[arg-type]
    assert isinstance(table, Table)
    table = table.zero_terminal() if config.zero_terminal else table
    return _build(schema, config, table, variance=config.variance == "learned", bound=config.bound_terms)


@dataclass(frozen=True)
class ScoreSdeOptions(DiffusionOptions):
    """Options of score-based models by stochastic differential equations.

    sde: vp, ve or subvp. The others are those of all diffusion.
    """

    weighting: str = "noise"
    sampler: str = "dpm++2m"
    grid: str = "log-snr"
    sde: str = "vp"


def score_sde(schema: Schema, config: ScoreSdeOptions) -> Diffusion:
    """Song et al. 2020, arXiv:2011.13456."""
    return _build(schema, config, _chosen(config.sde, "sde", {"vp": VP, "ve": VE, "subvp": SubVP}))


@dataclass(frozen=True)
class EdmOptions(DiffusionOptions):
    """Options of EDM.

    sigma_min, sigma_max: levels of noise, for data of deviation 1. The others are those of all diffusion.
    """

    weighting: str = "v"
    times: str = "log-normal"
    sampler: str = "edm"
    sampling_steps: int = 18
    grid: str = "karras"
    sigma_min: float = 0.002
    sigma_max: float = 80.0


def edm(schema: Schema, config: EdmOptions) -> Diffusion:
    """Karras et al. 2022, arXiv:2206.00364."""
    return _build(schema, config, EDM(config.sigma_min, config.sigma_max))


@dataclass(frozen=True)
class FlowMatchingOptions(DiffusionOptions):
    """Options of flow matching.

    schedule: rectified, polynomial or angle. coupling: of noise and data, independent, ot (minibatch optimal transport, within
    conditions) or sinkhorn. The others are those of all diffusion.
    """

    schedule: str = "rectified"
    coupling: str = "independent"


_BOUNDED: dict[str, Callable[[], Schedule]] = {"rectified": Rectified, "polynomial": Polynomial, "angle": Angle}


def flow_matching(schema: Schema, config: FlowMatchingOptions) -> Diffusion:
    """Lipman et al. 2022, arXiv:2210.02747; Tong et al. 2023, arXiv:2302.00482."""
    return _build(schema, config, _chosen(config.schedule, "schedule", _BOUNDED), coupling=config.coupling)


@dataclass(frozen=True)
class RectifiedFlowOptions(DiffusionOptions):
    """Options of rectified flow: those of all diffusion."""


def rectified_flow(schema: Schema, config: RectifiedFlowOptions) -> Diffusion:
    """x_t = (1 − t) x_0 + t ε (Liu et al. 2022, arXiv:2209.03003)."""
    return _build(schema, config, Rectified())


@dataclass(frozen=True)
class TransportOptions(NetOptions):
    """Options of transport from other data, besides those of the network.

    condition_drop: rate of condition dropout, which guidance needs. prediction: v or velocity. times: uniform, logit-normal or
    mode. schedule: rectified, polynomial or angle. coupling: ot (minibatch optimal transport, within conditions), sinkhorn or
    independent. sampler: how to sample unless told otherwise. sampling_steps: how many. grid: where the steps are. score_steps:
    solver steps of codes, 0 for as many as the tolerance needs. tolerance: of each step of these. source_rows: examples kept of
    the source, as many as it has or can be kept where it is 0.
    """

    condition_drop: float = 0.1
    prediction: str = "v"
    times: str = "uniform"
    schedule: str = "rectified"
    coupling: str = "ot"
    sampler: str = "heun"
    sampling_steps: int = 30
    grid: str = "uniform"
    score_steps: int = 0
    tolerance: float = 1e-4
    source_rows: int = 0


def transport(schema: Schema, config: TransportOptions) -> Transport:
    """Tong et al. 2023, arXiv:2302.00482; Liu et al. 2022, arXiv:2209.03003."""
    if config.source_rows < 1:
        raise ValueError("transport carries other data to these: name them with source= (--source)")
    kind = schema.example
    preprocess, net, conditioner, shape = assembled(schema, config, lambda channels: channels)
    if isinstance(kind, Vector) and not kind.bounds:
        preprocess = Compose([Standardise(kind.shape)])  # what is near stays near: costs are those of the data's own geometry
    return Transport(
        schema,
        preprocess,
        net,
        conditioner,
        _chosen(config.schedule, "schedule", _BOUNDED),
        shape,
        Kept(config.source_rows, kind.shape, torch.uint8 if isinstance(kind, Image) else torch.float64),
        training=Training(config.prediction, times=config.times, coupling=config.coupling, drop=config.condition_drop),
        sampling=Sampling(config.sampler, config.sampling_steps, config.grid),
        solve=_solved(kind, config.score_steps, config.tolerance),
    )


@dataclass(frozen=True)
class ConsistencyOptions(NetOptions):
    """Options of consistency models, besides those of the network.

    condition_drop: rate of condition dropout, which guidance needs. prediction: v or velocity. sampling_steps: jumps, unless
    told otherwise. grid: where they are. intervals: of the grid that is trained on, 0 for more and more of them. scale: of the
    distance per coordinate below which it is a square.
    """

    condition_drop: float = 0.1
    prediction: str = "v"
    sampling_steps: int = 2
    grid: str = "uniform"
    intervals: int = 0
    scale: float = 0.03


def consistency(schema: Schema, config: ConsistencyOptions) -> ConsistencyModel:
    """Song et al. 2023, arXiv:2303.01469; without a teacher by self-distillation, Boffi et al. 2025, arXiv:2505.18825."""
    preprocess, net, conditioner, shape = assembled(schema, config, lambda channels: 2 * channels)
    return ConsistencyModel(
        schema,
        preprocess,
        net,
        conditioner,
        shape,
        training=Training(config.prediction, drop=config.condition_drop),
        sampling=Sampling("consistency", config.sampling_steps, config.grid),
        intervals=config.intervals or None,
        c=config.scale,
    )


@dataclass(frozen=True)
class NoisyClassifierOptions(NetOptions):
    """Options of the classifier of noisy data: those of the network.

    features: what the network gives the last layer.
    """

    features: int = 64


def noisy_classifier(schema: Schema, config: NoisyClassifierOptions) -> NoisyClassifier:
    """p(y | x_t) at every level of noise (Dhariwal & Nichol 2021, arXiv:2105.05233)."""
    if schema.target is None:
        raise RecipeError("a classifier needs a target: name one with target= (--target)")
    kind, preprocess = schema.example, whitened(schema.example)
    net, shape = network(kind, preprocess, config, Conditioner(()), lambda channels: config.features)
    # maps have their features first, points last
    places = (1,) if isinstance(kind, Points) else tuple(range(2, len(shape) + 1))
    return NoisyClassifier(schema, preprocess, net, nn.Linear(config.features, schema.target.levels), shape, places)
