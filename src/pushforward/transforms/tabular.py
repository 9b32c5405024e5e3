"""Tables, vectors and pixels ↔ vectors whose coordinates are standard normal, one by one.

Each coordinate is pushed forward from N(0, 1) by its own marginal, so that what a flow, mixture or diffusion has left to
learn is only how the coordinates hang together; doing nothing is already the independent-marginals model.

* levels (categories, booleans, pixels): level k with frequency w_k owns the interval [c_k, c_k + w_k) of [0, 1). pull draws
  q uniformly in it and z = Φ⁻¹(q). q(z | k) has density φ(z)/w_k, so V = log w_k − log φ(z).
* numbers: dequantised where they lie on a grid, taken to the whole line where they have bounds (transforms/support), then a
  monotone piecewise-linear map through matched quantiles of the data and of N(0, 1); V = Σ log dz/dx.
* missing numbers: a level column says that the number is missing; the number itself, unknown, is drawn as z ~ N(0, 1) with
  V = −log φ(z) (the bound is then on the log-probability of what was seen, gap included), or kept NaN for models that
  integrate it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.schema import Column
from pushforward.core.transform import Elementwise
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.support import Support

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_PULLED = 4096  # rows that prepare hands on: statistics want all, layers behind them a sample
_EDGE = 1e-13  # Φ⁻¹ stays finite, |z| < 7.4
_FREE = (-math.inf, math.inf)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - _HALF_LOG_2PI


def _on_grid(ends: Tensor, steps: Tensor, towards: Callable[[Tensor], Tensor]) -> Tensor:
    """The outermost values of grids that bounds leave in; the bounds themselves where there is no grid."""
    whole = torch.where(steps > 0, steps, 1.0)
    # bounds are decimal too: 0.3 is on the grid of step 0.1 though 0.3 / 0.1 is a little less than 3
    near = (ends / whole).round()
    count = torch.where((ends / whole - near).abs() < 1e-6, near, towards(ends / whole))
    return torch.where(steps > 0, count * whole, ends)


class LevelMarginals(Elementwise):
    """Codes in {0 … levels_d − 1} of ``shape`` (D coordinates) ↔ z of the same shape.

    ``levels`` is one count for all coordinates or one for each. Frequencies are smoothed by ``pseudo`` counts a level. The z
    come in the dtype of the module's ``like`` (float32 unless the model is turned to float64).
    """

    stochastic = True
    edges: Tensor
    like: Tensor
    rows: Tensor

    def __init__(self, shape: tuple[int, ...], levels: int | Sequence[int], pseudo: float = 0.1) -> None:
        super().__init__()
        self.shape, self.pseudo = tuple(shape), pseudo
        size = math.prod(self.shape)
        counts = [levels] * size if isinstance(levels, int) else list(levels)
        self.widest = max(counts, default=1)
        levels_of = torch.tensor(counts)
        self._live = (torch.arange(self.widest) < levels_of[:, None]).double()
        self.register_buffer("edges", self._edges(torch.zeros(size, self.widest, dtype=torch.float64)))
        self.register_buffer("like", torch.zeros(()))
        self.register_buffer("rows", torch.arange(size) * (self.widest + 1), persistent=False)

    def _edges(self, counts: Tensor) -> Tensor:
        weights = (counts + self.pseudo) * self._live
        weights = weights / weights.sum(1, keepdim=True)
        edges = torch.cat([torch.zeros(len(weights), 1, dtype=weights.dtype), weights.cumsum(1)], 1)
        return (edges / edges[:, -1:]).clamp(max=1)

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        codes = x.flatten(1).long().cpu()
        size = codes.shape[1]
        flat = (codes + torch.arange(size) * self.widest).flatten()
        counts = torch.bincount(flat, minlength=size * self.widest).view(size, self.widest).double()
        self.edges.copy_(self._edges(counts))
        return self.pull(x[:_PULLED])[0]

    def _interval(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        at = codes + self.rows
        flat = self.edges.flatten()
        low = flat[at]
        return low, flat[at + 1] - low

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        q = torch.special.ndtr(z.flatten(1).to(self.edges.dtype))
        codes = torch.searchsorted(self.edges[:, 1:].contiguous(), q.T.contiguous(), right=True).T
        top = (self._live.sum(1).long() - 1).to(z.device)
        return codes.minimum(top).to(self.edges.dtype).view(len(z), *self.shape)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        low, width = self._interval(x.flatten(1).long())
        uniform = draws.uniform(low.shape[1], dtype=low.dtype)
        z = torch.special.ndtri((low + uniform * width).clamp(_EDGE, 1 - _EDGE))
        score = (width.log() - _log_normal(z)).sum(1)
        return z.to(self.like.dtype).view(len(x), *self.shape), score

    def log_mass(self, x: Tensor) -> Tensor:
        """Σ log w_k: the exact log-probability under independent marginals, (B,)."""
        return self._interval(x.flatten(1).long())[1].log().sum(1)


class NumberMarginals(Elementwise):
    """Numbers (B, D) ↔ z (B, D): a monotone piecewise-linear map through ``knots`` matched quantiles, linear in the tails.

    ``resolutions`` are the steps of the grids the numbers lie on, 0 for continuous ones. ``bounds`` are the ends of each
    coordinate, or None; every number that ``push`` gives is between them. NaN, a missing number, is drawn from N(0, 1) when
    ``fill`` is true and stays NaN otherwise.
    """

    knots_x: Tensor
    knots_z: Tensor
    like: Tensor

    def __init__(
        self,
        resolutions: Sequence[float],
        *,
        fill: bool = True,
        gaps: bool = False,
        knots: int = 64,
        bounds: Sequence[tuple[float, float] | None] | None = None,
    ) -> None:
        super().__init__()
        size = len(resolutions)
        self.fill, self.gaps = fill, gaps
        steps = torch.tensor(list(resolutions), dtype=torch.float64)
        ends = torch.tensor([b or _FREE for b in bounds or [None] * size], dtype=torch.float64).view(size, 2)
        low, high = _on_grid(ends[:, 0], steps, torch.ceil), _on_grid(ends[:, 1], steps, torch.floor)
        self.grid = Dequantise(steps, (low, high)) if any(resolutions) else None
        # dequantised numbers fill the cells of the outermost values
        self.support = Support(low - steps / 2, high + steps / 2) if bool(ends.isfinite().any()) else None
        self.stochastic = self.grid is not None or gaps
        self.tight = self.grid is None
        line = torch.linspace(-4, 4, knots, dtype=torch.float64)
        self.register_buffer("knots_x", line.repeat(size, 1))
        self.register_buffer("knots_z", line.repeat(size, 1))
        self.register_buffer("like", torch.zeros(()))

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        spread = (self.grid.pull(x)[0] if self.grid is not None else x).to(self.knots_x.dtype)
        if self.support is not None:
            spread = self.support.prepare(spread)
        for d, column in enumerate(spread.unbind(1)):
            self._fit_column(d, column[~column.isnan()])
        return self.pull(x[:_PULLED])[0]

    def _fit_column(self, d: int, values: Tensor) -> None:
        """Knots at evenly spread probabilities, at least 16 values apart, and at the extremes with p = 1/2N."""
        n, total = len(values), self.knots_x.shape[1]
        if n == 0:
            return
        cells = max(1, min(total - 3, n // 16))
        p = torch.linspace(0, 1, cells + 1, dtype=values.dtype)
        x = torch.quantile(values[:: max(1, n // 1_000_000)], p)
        z = torch.special.ndtri(p.clamp(0.5 / n, 1 - 0.5 / n))
        # a slope dx/dz of at least 1e-4 deviations keeps repeated values invertible
        std = float(values.std(unbiased=False)) or 1.0
        rise = (x.diff()).maximum(1e-4 * std * z.diff())
        x = torch.cat([x[:1], x[0] + rise.cumsum(0)])
        # both ends get one more knot a deviation of z further out: tails fall off with the mean slope at least
        slope = (x[-1] - x[0]) / (z[-1] - z[0])
        low = slope.maximum((x[1] - x[0]) / (z[1] - z[0]))
        high = slope.maximum((x[-1] - x[-2]) / (z[-1] - z[-2]))
        x = torch.cat([x[:1] - low, x, x[-1:] + high])
        z = torch.cat([z[:1] - 1, z, z[-1:] + 1])
        spare = torch.arange(1, total - len(x) + 1, dtype=x.dtype)
        x, z = torch.cat([x, x[-1] + high * spare]), torch.cat([z, z[-1] + spare])
        self.knots_x[d], self.knots_z[d] = x, z

    @staticmethod
    def _through(value: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Piecewise-linear interpolation of each column through its knots; values and log slopes, (B, D)."""
        at = torch.searchsorted(source, value.T.contiguous()).T.clamp(1, source.shape[1] - 1)
        rows = torch.arange(source.shape[0], device=value.device)
        x0, x1 = source[rows, at - 1], source[rows, at]
        y0, y1 = target[rows, at - 1], target[rows, at]
        slope = (y1 - y0) / (x1 - x0)
        return y0 + slope * (value - x0), slope.log()

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        x, _ = self._push_each(z)
        return self.grid.push(x) if self.grid is not None else x

    def _push_each(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers before they are put on their grids, and the log slopes dz/dx there."""
        x, score = self._through(z.to(self.knots_z.dtype), self.knots_z, self.knots_x)
        if self.support is None:
            return x, -score
        x, bent = self.support.push_each(x)
        return x, bent - score

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        if self.stochastic:
            return super().push_scored(z, context)
        x, score = self._push_each(z)
        return x, score.sum(1)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        x = x.to(self.knots_x.dtype)
        if self.grid is not None:
            x = self.grid.pull(x, None, draws)[0]
        bent: Tensor | float = 0.0
        if self.support is not None:
            x, bent = self.support.pull_each(x)
        z, score = self._through(x, self.knots_x, self.knots_z)
        score = score + bent
        if self.gaps:
            gap = x.isnan()
            score = score.masked_fill(gap, 0.0)
            if self.fill:
                drawn = draws.normal(z.shape[1], dtype=z.dtype)
                z, score = torch.where(gap, drawn, z), torch.where(gap, -_log_normal(drawn), score)
            else:
                z = z.masked_fill(gap, math.nan)
        return z.to(self.like.dtype), score.sum(1)


class TableMap(Elementwise):
    """Codes of a table (B, C) ↔ vectors (B, C + G): numbers, levels, and a gap indicator for each of G columns with gaps.

    ``number_map`` and ``level_map`` do the work for their parts.
    """

    def __init__(self, columns: Sequence[Column], number_map: Elementwise, level_map: Elementwise) -> None:
        super().__init__()
        self.numbers, self.levels, self.gapped = _places(columns)
        self.width, self.size = len(columns), len(columns) + len(self.gapped)
        self.number_map, self.level_map = number_map, level_map
        self.stochastic = number_map.stochastic or len(self.levels) + len(self.gapped) > 0
        self.tight = number_map.tight

    def _parts(self, x: Tensor) -> list[tuple[Elementwise, Tensor]]:
        gaps = x[:, self.gapped].isnan().to(x.dtype)
        pairs = [(self.number_map, x[:, self.numbers]), (self.level_map, torch.cat([x[:, self.levels], gaps], 1))]
        return [(part, codes) for part, codes in pairs if codes.shape[1]]

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        handed_on = [part.prepare(codes) for part, codes in self._parts(x)]
        rows = min(len(z) for z in handed_on)  # some hand on the first rows only
        return torch.cat([z[:rows] for z in handed_on], 1)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        n, k = len(self.numbers), len(self.levels)
        x = torch.empty(len(z), self.width, dtype=torch.promote_types(z.dtype, torch.float64), device=z.device)
        if n:
            x[:, self.numbers] = self.number_map.push(z[:, :n]).to(x.dtype)
        if z.shape[1] > n:
            levels = self.level_map.push(z[:, n:]).to(x.dtype)
            x[:, self.levels] = levels[:, :k]
            x[:, self.gapped] = torch.where(levels[:, k:] > 0, math.nan, x[:, self.gapped])
        return x

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        pulled = [part.pull(codes, None, draws) for part, codes in self._parts(x)]
        return torch.cat([z for z, _ in pulled], 1), torch.stack([score for _, score in pulled]).sum(0)

    def spread(self, observed: Tensor) -> Tensor:
        """A number that is to be filled in is known to be there: gap indicators are always known."""
        known = torch.ones(len(observed), len(self.gapped), dtype=torch.bool, device=observed.device)
        return torch.cat([observed[:, self.numbers], observed[:, self.levels], known], 1)


def _places(columns: Sequence[Column]) -> tuple[list[int], list[int], list[int]]:
    """Indices of number columns, of level columns, and of number columns with gaps."""
    numbers = [i for i, c in enumerate(columns) if not c.discrete]
    return numbers, [i for i, c in enumerate(columns) if c.discrete], [i for i in numbers if columns[i].missing]


def _counts(columns: Sequence[Column]) -> list[int]:
    _, levels, gapped = _places(columns)
    return [columns[i].levels for i in levels] + [2] * len(gapped)


def _resolutions(columns: Sequence[Column]) -> list[float]:
    return [columns[i].resolution or 0.0 for i in _places(columns)[0]]


def table_marginals(columns: Sequence[Column], *, fill: bool = True) -> TableMap:
    """Every coordinate standard normal. With ``fill`` gaps are drawn from N(0, 1), else they stay NaN."""
    counts, (at, _, gapped) = _counts(columns), _places(columns)
    bounds = [columns[i].bounds for i in at]
    numbers = NumberMarginals(_resolutions(columns), fill=fill, gaps=bool(gapped), bounds=bounds)
    return TableMap(columns, numbers, LevelMarginals((len(counts),), counts))


def table_codes(columns: Sequence[Column]) -> TableMap:
    """Every coordinate in the codes' own units, grids and levels dequantised; gaps stay NaN."""
    counts = torch.tensor(_counts(columns), dtype=torch.float64)
    grids = torch.tensor(_resolutions(columns), dtype=torch.float64)
    levels = Dequantise(1.0, (torch.zeros_like(counts), (counts - 1).clamp(min=0)))
    return TableMap(columns, Dequantise(grids), levels)
