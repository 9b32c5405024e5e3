"""Continuous normalizing flows as recipes: which field, solved how."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.catalog.parts import noise, vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.schema import Schema
from pushforward.core.transform import Compose
from pushforward.models.flow import Flow
from pushforward.nets.field import FieldMLP
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.solvers.tableau import tableau_named
from pushforward.transforms.ode import ODE

TRACES = ("auto", "exact", "hutchinson")
_EXACT_UP_TO = 32  # coordinates, of fields whose trace costs more the more of them there are


@dataclass(frozen=True)
class CnfOptions:
    """Options of continuous normalizing flows.

    hidden: widths of the field's layers; with up to two the exact trace costs little. activation: tanh, softplus or silu.
    solver: of training, euler, midpoint, heun or rk4 in solver_steps, or dopri5 to the tolerance. tolerance: of scores and
    samples, which dopri5 always solves. trace: exact, hutchinson, or auto for what is cheap. adjoint: gradients by solving
    backwards, in constant memory. kinetic, jacobian: weights of the regularisers of training. base: the noise.
    """

    hidden: tuple[int, ...] = (128, 128)
    activation: str = "tanh"
    solver: str = "rk4"
    solver_steps: int = 8
    tolerance: float = 1e-5
    trace: str = "auto"
    adjoint: bool = False
    kinetic: float = 0.0
    jacobian: float = 0.0
    base: str = "normal"


def cnf(schema: Schema, config: CnfOptions) -> Flow:
    """One ODE between base and marginals (Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2018, arXiv:1810.01367)."""
    if config.trace not in TRACES:
        raise ValueError(f"trace is one of {', '.join(TRACES)}, found {config.trace!r}")
    evaluation = Adaptive(config.tolerance)
    training: Choice = evaluation
    if tableau_named(config.solver).error is None:
        training = Fixed(config.solver, config.solver_steps)
    preprocess, size = vector_marginals(schema.example)
    conditioner, (distribution, between) = Conditioner(schema.conditions), noise(config.base, size)
    field = FieldMLP(size, config.hidden, context=conditioner.width, activation=config.activation)
    cheap = len(config.hidden) <= 2 or size <= _EXACT_UP_TO
    trace = config.trace if config.trace != "auto" else "exact" if cheap else "hutchinson"
    ode = ODE(
        field,
        training=training,
        evaluation=evaluation,
        trace=trace,
        adjoint=config.adjoint,
        kinetic=config.kinetic,
        jacobian=config.jacobian,
    )
    return Flow(
        schema,
        distribution,
        Compose([*between, ode, *preprocess]),
        conditioner,
        density_kind="ode",
        weights_are_exact=trace == "exact",
    )
