"""Numbers on a grid as continuous ones.

A value k of a grid with step δ stands for the cell (k − δ/2, k + δ/2]. Uniform dequantisation draws x' = k + δ (u − ½); the
density on the grid, mass of the cell per step, is p(k) = ∫ p(x') du, so V = 0 and the mean of log p(x') is a lower bound
(Theis et al. 2016, arXiv:1511.01844). With δ = 1, as for pixels and counts, p(k) is the probability of k.

The noise need not be uniform: with u drawn from any q(u | x), V = −log q(u | x), and a q that is learned with the flow
tightens the bound (variational dequantisation, Ho et al. 2019, arXiv:1902.00275). Uniform noise makes a flow fit the corners
of a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise, Transform

Noise = Callable[[Tensor, Draws], tuple[Tensor, Tensor]]
"""Codes x (B, …) to u in (0, 1) of the same shape, float64, and −log q(u | x), (B,)."""

_EDGE = 1e-9  # u stays inside (0, 1) by this much, so that it never rounds to the next level


class VariationalNoise(nn.Module):
    """Noise for codes x (B, C, H, W), drawn by a flow that sees them. With ε standard logistic, one number for each code,

        v = flow.push(ε; x),    u = σ(v),    −log q(u | x) = Σ log σ'(v) − Σ log σ'(ε) − log|det ∂ε/∂v|,

    so that a flow that does nothing draws uniform noise. ``flow`` takes ε of ``shape`` to the shape of x; its
    ``Context.spatial`` is ``see``(x).
    """

    like: Tensor

    def __init__(self, flow: Transform, see: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.flow, self.see, self.shape = flow, see, tuple(shape)
        self.register_buffer("like", torch.zeros(()))

    def forward(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """u (B, C, H, W) and −log q(u | x) (B,), both float64."""
        epsilon = torch.logit(draws.uniform(*self.shape, dtype=torch.float64).clamp(_EDGE, 1 - _EDGE))
        v, score = self.flow.push_scored(epsilon.to(self.like.dtype), Context(spatial=self.see(x)))
        v = v.double()
        return v.sigmoid().clamp(_EDGE, 1 - _EDGE), _log_slope(v) - _log_slope(epsilon) - score


def _log_slope(v: Tensor) -> Tensor:
    """Σ log σ'(v), (B,)."""
    return (F.logsigmoid(v) + F.logsigmoid(-v)).flatten(1).sum(1)


def _uniform(x: Tensor, draws: Draws, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return draws.uniform(*x.shape[1:], dtype=dtype), torch.zeros(len(x), dtype=dtype, device=x.device)


class Dequantise(Elementwise):
    """Grids of step ``resolution``, a number or one per coordinate of the last dimension; step 0 leaves a number as it is.

    ``bounds`` (lower, upper) clamp what ``push`` rounds to, as pixel values need. ``noise`` draws u, where it is not uniform.
    """

    resolution: Tensor
    lower: Tensor
    upper: Tensor
    stochastic = True
    tight = False

    def __init__(
        self,
        resolution: float | Tensor = 1.0,
        bounds: tuple[float | Tensor, float | Tensor] | None = None,
        noise: Noise | None = None,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("resolution", torch.as_tensor(resolution, dtype=torch.float64))
        lower, upper = bounds if bounds is not None else (-torch.inf, torch.inf)
        self.register_buffer("lower", torch.as_tensor(lower, dtype=torch.float64), persistent=False)
        self.register_buffer("upper", torch.as_tensor(upper, dtype=torch.float64), persistent=False)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        # times the inverse step, whole for decimal grids, gives back the very double that came in
        inverse = torch.where(self.resolution < 1, (1 / self.resolution).round(), 1 / self.resolution)
        x = torch.where(self.resolution > 0, (z * inverse).round() / inverse, z)
        return x.clamp(self.lower, self.upper)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        u, score = _uniform(x, draws, self.resolution.dtype) if self.noise is None else self.noise(x, draws)
        return x + self.resolution * (u - 0.5), score


class LevelBands(Elementwise):
    """Pixels (B, C, H, W) in {0 … L − 1} ↔ z of the same shape, one order-preserving map for all pixels of a channel.

    Level k, with frequency w_k in its channel, owns the interval of z that N(0, 1) gives the mass w_k. ``pull`` draws z
    uniformly in a band of that interval, at most ``width`` wide, so V = log(width of the band); ``push`` gives the level
    whose interval z is in. A frequent level such as a black background is then a narrow line with room for error on both sides,
    which a network learns easily, where spreading it over its whole interval would bury pictures in noise.

    A uniform band is a box, which affine layers under a normal base cannot match: a quarter of a bit a pixel. With ``bell``
    the noise of a level whose interval is wider than ``width`` is normal instead, with the deviation of the band, cut off at
    the ends of the interval, and V = −log of its density. ``noise`` draws the u in (0, 1) of which either is the quantile,
    where it is not uniform.
    """

    edges: Tensor
    low: Tensor
    wide: Tensor
    like: Tensor
    stochastic = True
    tight = False

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        width: float = 0.6,
        pseudo: float = 0.5,
        *,
        bell: bool = False,
        noise: Noise | None = None,
    ) -> None:
        super().__init__()
        self.bell, self.noise = bell, noise
        self.shape, self.levels, self.width, self.pseudo = tuple(shape), levels, width, pseudo
        channels = self.shape[0]
        for name, size in (("edges", levels + 1), ("low", levels), ("wide", levels)):
            self.register_buffer(name, torch.zeros(channels, size, dtype=torch.float64))
        self.register_buffer("like", torch.zeros(()))
        self._set(torch.zeros(channels, levels, dtype=torch.float64))

    def _set(self, counts: Tensor) -> None:
        weights = (counts + self.pseudo) / (counts + self.pseudo).sum(1, keepdim=True)
        edges = torch.special.ndtri(weights.cumsum(1)[:, :-1])
        outer = torch.full_like(weights[:, :1], torch.inf)
        low, high = torch.cat([-outer, edges], 1), torch.cat([edges, outer], 1)
        self.edges.copy_(torch.cat([-outer, edges, outer], 1))
        # bands sit in the middle of their interval; in one without an end, a third of a width away from the end it has
        margin = self.width / 3
        middle = torch.where(low.isinf(), high - margin - self.width / 2, low + margin + self.width / 2)
        middle = torch.where(low.isfinite() & high.isfinite(), (low + high) / 2, middle).nan_to_num(0.0)
        wide = torch.where((high - low).isfinite(), high - low, self.width).clamp(max=self.width)
        self.low.copy_(middle - wide / 2)
        self.wide.copy_(wide)

    def prepare(self, x: Tensor, context: Context | None = None) -> Tensor:
        channels = x.transpose(0, 1).flatten(1).long().cpu()
        self._set(torch.stack([torch.bincount(c, minlength=self.levels) for c in channels]).double())
        return self.pull(x[:1024])[0]

    def _of(self, table: Tensor, codes: Tensor) -> Tensor:
        """Entries (B, C, H, W) of a (C, L) table at ``codes``."""
        rows = torch.arange(len(table), device=codes.device)[:, None, None] * self.levels
        return table.flatten()[codes + rows]

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        values = z.to(self.edges.dtype).transpose(0, 1).flatten(1)
        codes = torch.searchsorted(self.edges[:, 1:-1].contiguous(), values.contiguous(), right=True)
        batch, (channels, height, width) = len(z), self.shape
        return codes.view(channels, batch, height, width).transpose(0, 1).to(torch.uint8)

    def smooth(self, z: Tensor) -> Tensor:
        """Levels as floats: the line from the middle of each level's band to that of the next."""
        middle = self.low + self.wide / 2
        values = z.to(middle.dtype)
        codes = torch.searchsorted(middle.contiguous(), values.detach().transpose(0, 1).flatten(1).contiguous(), right=True)
        batch, (channels, height, width) = len(z), self.shape
        below = (codes.view(channels, batch, height, width).transpose(0, 1) - 1).clamp(0, max(self.levels - 2, 0))
        start, stop = self._of(middle, below), self._of(middle, (below + 1).clamp(max=self.levels - 1))
        return (below + ((values - start) / (stop - start).clamp(min=1e-9)).clamp(0, 1)).to(z.dtype)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        codes = x.long()
        u, score = _uniform(x, draws, self.wide.dtype) if self.noise is None else self.noise(x, draws)
        wide = self._of(self.wide, codes)
        z, slope = self._of(self.low, codes) + wide * u, wide.log()
        if self.bell:
            bell, steepness = self._quantile(codes, u)
            frequent = wide >= self.width * (1 - 1e-9)
            z, slope = torch.where(frequent, bell, z), torch.where(frequent, steepness, slope)
        return z.to(self.like.dtype), score + slope.flatten(1).sum(1)

    def _quantile(self, codes: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """z with z ~ N(middle, σ²) inside the interval of its level when u is uniform, and log ∂z/∂u."""
        sigma = self.width / 12**0.5
        middle = self.low + self.wide / 2
        start, stop = (torch.special.ndtr((e - middle) / sigma) for e in (self.edges[:, :-1], self.edges[:, 1:]))
        mass = self._of(stop - start, codes)
        z = torch.special.ndtri((self._of(start, codes) + mass * u).clamp(_EDGE, 1 - _EDGE))
        slope = mass.log() + math.log(sigma) + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return self._of(middle, codes) + sigma * z, slope
