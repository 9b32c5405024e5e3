"""Continuous flows: data and latent are the two ends of a differential equation.

    dx/dt = f(t, x),   x(0) = x the data,   x(1) = z the latent
    V = log|det ∂z/∂x| = ∫₀¹ tr ∂f/∂x dt                    (Chen et al. 2018, arXiv:1806.07366)

The trace is exact, or estimated by probes e with E[e eᵀ] = 1 that stay the same along the way (Grathwohl et al. 2018,
arXiv:1810.01367): ∫ eᵀ (∂f/∂x) e dt is unbiased for V, no bound. Training may ask for fields that are easy to solve, by

    ∫ |f|² dt   and   ∫ ‖∂f/∂x‖²_F dt = E ∫ |(∂f/∂x) e|² dt     (Finlay et al. 2020, arXiv:2002.02798)

All of these are integrals along a path that does not depend on them, so they are no part of the state (solvers/tableau).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.errors import RecipeError
from pushforward.core.random import Draws
from pushforward.core.shapes import per_example
from pushforward.core.transform import Transform
from pushforward.solvers import divergence
from pushforward.solvers.adjoint import adjoint
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.solvers.rowwise import Given, RowField

Field = Callable[[Tensor, Tensor, Context | None], Tensor]
TRACES, PROBES = ("exact", "hutchinson"), ("signs", "normal")
_TRAINING, _EVALUATION = Fixed("rk4", 8), Adaptive(1e-5)


class Prepared(Protocol):
    """A field f(t, x) for one solve, at times (), or (B,), and points (B, …).

    ``given`` is what belongs to rows; each call hands it back, for the rows that are asked for. ``tensors`` are all numbers
    that f depends on, ``given`` included, and ``rebuilt`` is f with others in their place.
    """

    @property
    def given(self) -> Given: ...

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...

    def rebuilt(self, tensors: tuple[Tensor, ...]) -> Prepared: ...

    def __call__(self, t: Any, x: Tensor, given: Given) -> Tensor: ...

    def derivatives(
        self, t: Any, x: Tensor, given: Given, probe: Tensor | None = None, *, value: bool = True, trace: bool = True
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """f if ``value``; tr ∂f/∂x (B,) if ``trace``; (∂f/∂x) e, or eᵀ ∂f/∂x, for a ``probe`` e (B, P, …)."""
        ...


@runtime_checkable
class Knows(Protocol):
    """A prepared field of which much follows from time alone: it is then also asked at ``Shared`` times of rows."""

    def beforehand(self, times: Tensor) -> Given:
        """Of times (N,), tensors (N, …)."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A field that works out beforehand what a solve shares; None where it has nothing to offer, as under gradients."""

    def prepared(self, context: Context | None = None) -> Prepared | None: ...


class ODE(Transform):
    """The flow of ``field``(t, x, context), with t () or (B,) and x (B, …).

    ``training`` and ``evaluation`` say how to solve in ``train()`` and in ``eval()`` mode. ``trace``: exact, or hutchinson
    with ``probes`` of ``noise``, signs or normal; they come from the ``draws`` of ``pull`` and are a row's own. ``estimated``
    says that V is such an estimate. ``adjoint`` takes gradients by solving backwards instead of through the steps, whereupon
    memory does not grow with them. A field with a method ``prepared`` is asked for it; others are differentiated by autograd.
    ``kinetic`` and ``jacobian`` weigh the regularisers in ``pull_regularised``. Raises PushforwardError where an adaptive
    solver gives up.
    """

    def __init__(
        self,
        field: Field,
        *,
        training: Choice = _TRAINING,
        evaluation: Choice = _EVALUATION,
        trace: str = "exact",
        probes: int = 1,
        noise: str = "signs",
        adjoint: bool = False,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
    ) -> None:
        super().__init__()
        if trace not in TRACES:
            raise ValueError(f"found trace {trace!r}: expected one of {TRACES}")
        if noise not in PROBES:
            raise ValueError(f"found noise {noise!r}: expected one of {PROBES}")
        if probes < 1:
            raise ValueError(f"found {probes} probes: expected 1 or more")
        if kinetic < 0 or jacobian < 0:
            raise ValueError(f"found weights {kinetic} and {jacobian} of the regularisers: expected none below 0")
        self.field = field
        self.solve_training, self.solve_evaluation = training, evaluation
        self.exact, self.probes, self.noise, self.adjoint = trace == "exact", probes, noise, adjoint
        self.kinetic, self.jacobian = kinetic, jacobian
        self.regularised = kinetic > 0 or jacobian > 0
        self.estimated, self.regularised = not self.exact, kinetic > 0 or jacobian > 0

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self._solve(z, context, None, 1.0, 0.0, ())[0]

    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The latent alone, without V."""
        return self._solve(x, context, None, 0.0, 1.0, ())[0]

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        z, integrals = self._solve(x, context, draws, 0.0, 1.0, ("trace",))
        return z, integrals[:, 0]

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """x and V there. Probes are the same at each call, so that training by samples needs the exact trace."""
        if self.estimated and torch.is_grad_enabled():
            raise RecipeError("training by samples would adapt to the probes of an estimated trace: use trace='exact'")
        x, integrals = self._solve(z, context, None, 1.0, 0.0, ("trace",))
        return x, -integrals[:, 0]

    def pull_regularised(
        self, x: Tensor, context: Context | None = None, draws: Draws | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``pull``, and the penalty (B,) that training adds to −log p: kinetic · ∫|f|² dt + jacobian · ∫‖∂f/∂x‖²_F dt."""
        weights = {"kinetic": self.kinetic, "jacobian": self.jacobian}
        weights = {name: weight for name, weight in weights.items() if weight}
        z, integrals = self._solve(x, context, draws, 0.0, 1.0, ("trace", *weights))
        penalty = torch.zeros_like(integrals[:, 0])
        for column, weight in enumerate(weights.values(), 1):
            penalty = penalty + weight * integrals[:, column]
        return z, integrals[:, 0], penalty

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self._solve(x[:1024], context, None, 0.0, 1.0, ())[0]

    def _solve(
        self, y: Tensor, context: Context | None, draws: Draws | None, start: float, stop: float, wanted: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """The other end of the path, and the integrals ``wanted``, (B, Q): of the trace, of |f|², of ‖∂f/∂x‖²_F."""
        choice = self.solve_training if self.training else self.solve_evaluation
        offered = self.field.prepared(context) if isinstance(self.field, Prepares) else None
        field = Direct.of(self.field, context) if offered is None else offered
        probe: Given = ()
        if "jacobian" in wanted or ("trace" in wanted and not self.exact):
            draws = draws or Draws(0, 0, len(y), device=y.device)
            draw = draws.signs if self.noise == "signs" else draws.normal
            probe = (draw(self.probes, *y.shape[1:], dtype=y.dtype),)

        def system(field: Prepared) -> tuple[RowField, RowField | None, Given]:
            n = len(field.given)

            def f(t: Any, x: Tensor, given: Given) -> Tensor:
                return field(t, x, given[:n])

            def integrand(t: Any, x: Tensor, given: Given) -> Tensor:
                return self._integrand(field, t, x, given[:n], given[n] if probe else None, wanted)

            # one row of context, as in ``prepare``, is that of all
            shared = (v.expand(len(y), *v.shape[1:]) if len(v) == 1 else v for v in field.given)
            return f, integrand if wanted else None, (*shared, *probe)

        if self.adjoint and torch.is_grad_enabled():
            end, integrals = adjoint(lambda tensors: system(field.rebuilt(tensors)), field.tensors, y, start, stop, choice)
        else:
            f, integrand, given = system(field)
            beforehand = field.beforehand if isinstance(field, Knows) else None
            solution = choice.rows(f, y, start, stop, given=given, integrand=integrand, beforehand=beforehand)
            (end,), integrals = solution.state, solution.integral
        return end, y.new_zeros(len(y), 0) if integrals is None else integrals

    def _integrand(
        self, field: Prepared, t: Any, x: Tensor, given: Given, probe: Tensor | None, wanted: tuple[str, ...]
    ) -> Tensor:
        """What is integrated along the way, (A, Q)."""
        exact = self.exact and "trace" in wanted
        value, trace, product = field.derivatives(t, x, given, probe, value="kinetic" in wanted, trace=exact)
        columns = []
        if "trace" in wanted:
            columns.append(trace if trace is not None else _over_probes(cast(Tensor, product) * cast(Tensor, probe)))
        if "kinetic" in wanted:
            columns.append(per_example(cast(Tensor, value).square()))
        if "jacobian" in wanted:
            columns.append(_over_probes(cast(Tensor, product).square()))
        return torch.stack(columns, 1)


def _over_probes(products: Tensor) -> Tensor:
    """(B, P, …) to the sum over …, the mean over P: (B,)."""
    return products.flatten(2).sum(2).mean(1)


@dataclass(frozen=True)
class Direct:
    """Any field, taken as it is: derivatives by autograd."""

    field: Field
    names: tuple[str, ...]  # the parts of the context that ``given`` holds
    given: Given
    weights: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, field: Field, context: Context | None) -> Direct:
        parts = {} if context is None else {p.name: getattr(context, p.name) for p in fields(context)}
        parts = {name: part for name, part in parts.items() if part is not None}
        return cls(field, tuple(parts), tuple(parts.values()))

    def _named(self) -> dict[str, Tensor]:
        return dict(self.field.named_parameters()) if isinstance(self.field, nn.Module) else {}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self._named().values(), *self.given)

    def rebuilt(self, tensors: tuple[Tensor, ...]) -> Direct:
        names = list(self._named())
        weights = dict(zip(names, tensors, strict=False))
        return replace(self, given=tensors[len(names) :], weights=weights)

    def __call__(self, t: Tensor, x: Tensor, given: Given) -> Tensor:
        context = Context(**dict(zip(self.names, given, strict=True))) if self.names else None
        if self.weights:
            return torch.func.functional_call(cast(nn.Module, self.field), self.weights, (t, x, context))
        return self.field(t, x, context)

    def derivatives(
        self, t: Tensor, x: Tensor, given: Given, probe: Tensor | None = None, *, value: bool = True, trace: bool = True
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        f = lambda x: self(t, x, given)
        found, divergent, product = None, None, None
        if trace:
            found, divergent = divergence.exact(f, x)
        if probe is not None:
            found, product = divergence.product(f, x, probe)
        return f(x) if found is None and value else found, divergent, product
