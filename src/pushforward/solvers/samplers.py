"""Samplers by name: from noise to data along a path, in exactly the steps asked for.

| kind | what it is asked for | samplers |
|---|---|---|
| flow | dx/dt = v(t, x) along a path with finite velocities | the methods of solvers/tableau |
| multistep | D(x, α, σ), one evaluation a step | ddim, dpm++2m, dpm++3m, exponential, unipc |
| stochastic | D and fresh noise | ddpm, euler-maruyama, pc, dpm++sde, edm, consistency |

``dpm++3m`` is the exponential method of order 3 (the published third-order multistep formula halves the last term of the
polynomial, and is of order 2: measured in tests/solvers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pushforward.core.errors import RecipeError, did_you_mean
from pushforward.solvers import multistep, sde
from pushforward.solvers.grids import Grid
from pushforward.solvers.multistep import Watch
from pushforward.solvers.steps import moved, stages
from pushforward.solvers.tableau import METHODS, Tableau


@dataclass(frozen=True)
class Sampler:
    """``solve`` as its kind is called; ``evaluations`` of the network a step; ``options`` it understands; the ``path`` it is
    run on where the user names none: the model's own, one with finite velocities (regular), with signal at its end, or
    EDM's."""

    kind: str
    solve: Callable[..., Tensor]
    evaluations: int = 1
    options: tuple[str, ...] = ()
    path: str = "own"


def follow(
    velocity: Callable[[float, Tensor], Tensor], x: Tensor, grid: Grid, tableau: Tableau, *, watch: Watch | None = None
) -> Tensor:
    """A Runge–Kutta method through the times of ``grid``. ``watch`` is shown x − t v for the data, which it is on straight
    paths."""
    f = lambda t, state: (velocity(t, state[0]),)
    for i in range(grid.steps):
        h = grid.t[i + 1] - grid.t[i]
        slopes, _ = stages(f, grid.t[i], h, (x,), tableau)  # type: ignore[arg-type]
        if watch:
            watch(i, x, x + (grid.t[-1] - grid.t[i]) * slopes[0][0])
        (x,) = moved((x,), slopes, tableau.b, h)
    if watch:
        watch(grid.steps, x, x)
    return x


def times_of(grid: Grid, tableau: Tableau) -> list[float]:
    """Every time at which ``follow`` asks."""
    steps = range(grid.steps)
    return [grid.t[i] + c * (grid.t[i + 1] - grid.t[i]) for i in steps for c in tableau.c]


SAMPLERS: Mapping[str, Sampler] = {
    **{
        name: Sampler("flow", partial(follow, tableau=tableau), len(tableau.c), path="regular")
        for name, tableau in METHODS.items()
    },
    "ddim": Sampler("multistep", multistep.ddim, options=("eta",)),
    "dpm++2m": Sampler("multistep", multistep.dpmpp_2m),
    "dpm++3m": Sampler("multistep", partial(multistep.exponential, order=3)),
    "exponential": Sampler("multistep", multistep.exponential, options=("order",)),
    "unipc": Sampler("multistep", multistep.unipc, options=("order",)),
    "ddpm": Sampler("stochastic", sde.ddpm, options=("spread",)),
    "euler-maruyama": Sampler("stochastic", sde.euler_maruyama, path="signal"),
    "pc": Sampler("stochastic", sde.predictor_corrector, 2, options=("ratio",), path="signal"),
    "dpm++sde": Sampler("stochastic", sde.dpmpp_sde),
    "edm": Sampler("stochastic", sde.edm, 2, options=("churn", "lowest", "highest", "inflate"), path="edm"),
    "consistency": Sampler("jumps", sde.consistency),
}


SAMPLER_OPTIONS = tuple(dict.fromkeys(option for sampler in SAMPLERS.values() for option in sampler.options))


def sampler_named(name: str, options: Mapping[str, Any] | None = None) -> Sampler:
    """The sampler of that name. Raises RecipeError for an unknown one, and for an option that it does not have."""
    if name not in SAMPLERS:
        raise RecipeError(f"no sampler is called '{name}': {did_you_mean(name, SAMPLERS)}")
    found = SAMPLERS[name]
    for option in options or {}:
        if option not in found.options:
            able = ", ".join(n for n, s in SAMPLERS.items() if option in s.options)
            hint = f"{able} has it" if able else f"it has {', '.join(found.options) or 'none'}"
            raise RecipeError(f"the sampler {name} has no option '{option}': {hint}")
    if name == "ddim" and options and options.get("eta"):
        return Sampler("stochastic", sde.ddim, options=("eta",))
    return found
