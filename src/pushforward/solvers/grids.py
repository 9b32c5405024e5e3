"""Which levels of noise a sampler visits.

A grid has n + 1 nodes from noise to data for n steps; the last one is the data themselves, σ = 0, whatever the path, so that no
sampler ends one step short of them and none needs a special last step from its caller.

| grid | nodes |
|---|---|
| ``uniform`` | even in t |
| ``log-snr`` | even in log α/σ (Lu et al. 2022, arXiv:2206.00927) |
| ``karras`` | (σ/α)^{1/ρ} even, ρ = 7 (Karras et al. 2022, arXiv:2206.00364) |
| ``quadratic`` | √t even (Song et al. 2020, arXiv:2010.02502) |
| ``trailing``, ``leading`` | of the T steps of a discrete process, counted from its noisy or from its clean end (Lin et al. 2023, arXiv:2305.08891) |
"""  # noqa: E501

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import RecipeError, did_you_mean

_CLEANEST, _NOISIEST = 0.002, 160.0  # σ/α between which spaced grids lie where a path has no ends of its own


class Path(Protocol):
    """What solvers know of x_t = α(t) x_0 + σ(t) ε, t from ``start`` to ``stop``."""

    start: float
    stop: float
    least: float

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def d_alpha(self, t: Tensor) -> Tensor: ...
    def d_sigma(self, t: Tensor) -> Tensor: ...
    def log_snr(self, t: Tensor) -> Tensor: ...
    def time(self, log_snr: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Grid:
    """n + 1 nodes: times ``t`` with ``alpha`` and ``sigma`` there; ``d_alpha`` and ``d_sigma`` at the first n."""

    t: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    d_alpha: tuple[float, ...]
    d_sigma: tuple[float, ...]

    @classmethod
    def of(cls, path: Path, times: Sequence[float], clean: bool = True) -> Grid:
        """The nodes at falling ``times``, after which comes the data where ``clean`` and the last of them is not it."""
        values = [float(t) for t in times]
        if not values or any(b >= a for a, b in itertools.pairwise(values)):
            raise RecipeError(f"found times {_short(values)}: expected them falling, from noise to data")
        if values[0] > path.stop or values[-1] < path.start:
            raise RecipeError(
                f"found times from {values[0]:g} to {values[-1]:g}: expected them in [{path.start:g}, {path.stop:g}]"
            )
        t = torch.tensor(values, dtype=torch.float64)
        alpha, sigma, d_alpha, d_sigma = (f(t).tolist() for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
        if clean and sigma[-1] > 0:
            end = float(path.time(torch.tensor(math.inf, dtype=torch.float64)))
            values, alpha, sigma = [*values, end], [*alpha, 1.0], [*sigma, 0.0]
        if len(values) < 2:
            raise RecipeError(f"found times {_short(values)}: expected one at least where there is noise")
        n = len(values) - 1
        return cls(tuple(values), tuple(alpha), tuple(sigma), tuple(d_alpha[:n]), tuple(d_sigma[:n]))

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    @property
    def levels(self) -> list[tuple[float, float]]:
        """(α, σ) of each node."""
        return list(zip(self.alpha, self.sigma, strict=True))

    def half_log_snr(self) -> list[float]:
        """log α/σ of each node, ±∞ where one of them is zero."""
        return [_ratio(a, s) for a, s in self.levels]


def _ratio(alpha: float, sigma: float) -> float:
    if sigma == 0:
        return math.inf
    return math.log(alpha) - math.log(sigma) if alpha > 0 else -math.inf


def _short(values: Sequence[float]) -> str:
    shown = [f"{v:g}" for v in values[:6]]
    return "[" + ", ".join(shown) + (", …]" if len(values) > 6 else "]")


def uniform(path: Path, steps: int) -> list[float]:
    """Even in t, down to the start where that is clean and before it where it is not."""
    clean = float(path.sigma(torch.tensor(path.start, dtype=torch.float64))) == 0
    return np.linspace(path.stop, path.start, steps + 1 if clean else max(steps, 1)).tolist()


def _spaced(path: Path, between: Callable[[float, float], np.ndarray]) -> list[float]:
    """The times of the levels σ/α that ``between``(noisiest, cleanest) gives; the first is the noisy end itself."""
    ends = torch.tensor([path.stop, path.least], dtype=torch.float64)
    high, low = (-0.5 * path.log_snr(ends)).exp().tolist()
    low = max(low, _CLEANEST) if path.start < path.least or low == 0 else low
    levels = between(min(high, _NOISIEST), low)
    times = path.time(torch.from_numpy(-2 * np.log(levels))).tolist()
    return [path.stop, *times[1:]]


def log_snr(path: Path, steps: int) -> list[float]:
    return _spaced(path, lambda high, low: np.geomspace(high, low, steps))


def karras(path: Path, steps: int, rho: float = 7.0) -> list[float]:
    return _spaced(path, lambda high, low: np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho)


def quadratic(path: Path, steps: int) -> list[float]:
    root = np.linspace(1.0, 0.0, steps + 1) ** 2
    return [*(path.start + (path.stop - path.start) * root[:-1]).tolist(), *([path.start] if _clean(path) else [])]


def _clean(path: Path) -> bool:
    return float(path.sigma(torch.tensor(path.start, dtype=torch.float64))) == 0


def _table(path: Path) -> int:
    """The T of a discrete process; 1000 for one that is continuous."""
    return int(getattr(getattr(path, "inner", path), "steps", 1000))


def _check(steps: int, table: int) -> None:
    if steps > table:
        raise RecipeError(f"{steps} steps of a process of {table} were asked for: use {table} at most, or another grid")


def trailing(path: Path, steps: int) -> list[float]:
    """Timesteps T, T − T/n, … of T: the noisiest is always there."""
    table = _table(path)
    _check(steps, table)
    at = np.round(np.arange(table, 0, -table / steps))[:steps] / table
    return (path.start + (path.stop - path.start) * at).tolist()


def leading(path: Path, steps: int) -> list[float]:
    """Timesteps 1, 1 + ⌊T/n⌋, … of T, as diffusion libraries long did it: the noisiest is missed unless n = T."""
    table = _table(path)
    _check(steps, table)
    at = (np.arange(steps) * (table // steps) + 1)[::-1] / table
    return (path.start + (path.stop - path.start) * at).tolist()


GRIDS: dict[str, Callable[[Path, int], list[float]]] = {
    "uniform": uniform,
    "log-snr": log_snr,
    "karras": karras,
    "quadratic": quadratic,
    "trailing": trailing,
    "leading": leading,
}


def grid(path: Path, steps: int, name: str = "uniform") -> Grid:
    """The grid of that name with exactly ``steps`` steps. Raises RecipeError for an unknown name and for no steps."""
    if name not in GRIDS:
        raise RecipeError(f"no grid is called '{name}': {did_you_mean(name, GRIDS)}")
    if steps < 1:
        raise RecipeError(f"steps must be at least 1, found {steps}")
    found = Grid.of(path, GRIDS[name](path, steps))
    assert found.steps == steps
    return found
