"""Numbers on a grid as continuous ones.

A value k of a grid with step δ stands for the cell (k − δ/2, k + δ/2]. Uniform dequantisation draws x' = k + δ (u − ½); the
density on the grid, mass of the cell per step, is p(k) = ∫ p(x') du, so V = 0 and the mean of log p(x') is a lower bound
(Theis et al. 2016, arXiv:1511.01844). With δ = 1, as for pixels and counts, p(k) is the probability of k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise


class Dequantise(Elementwise):
    """Grids of step ``resolution``, a number or one per coordinate of the last dimension; step 0 leaves a number as it is.

    ``bounds`` (lower, upper) clamp what ``push`` rounds to, as pixel values need.
    """

    resolution: Tensor
    lower: Tensor
    upper: Tensor
    stochastic = True
    tight = False

    def __init__(self, resolution: float | Tensor = 1.0, bounds: tuple[float | Tensor, float | Tensor] | None = None) -> None:
        super().__init__()
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
        noise = draws.uniform(*x.shape[1:], dtype=self.resolution.dtype) - 0.5
        return x + self.resolution * noise, torch.zeros(len(x), dtype=self.resolution.dtype, device=x.device)


class LevelBands(Elementwise):
    """Pixels (B, C, H, W) in {0 … L − 1} ↔ z of the same shape, one order-preserving map for all pixels of a channel.

    Level k, with frequency w_k in its channel, owns the interval of z that N(0, 1) gives the mass w_k. ``pull`` draws z
    uniformly in a band of that interval, at most ``width`` wide, so V = log(width of the band); ``push`` gives the level
    whose interval z is in. A frequent level such as a black background is then a narrow line with room for error on both sides,
    which a network learns easily, where spreading it over its whole interval would bury pictures in noise.
    """

    edges: Tensor
    low: Tensor
    wide: Tensor
    like: Tensor
    stochastic = True
    tight = False

    def __init__(self, shape: tuple[int, ...], levels: int, width: float = 0.6, pseudo: float = 0.5) -> None:
        super().__init__()
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

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        draws = draws or Draws(0, 0, len(x), device=x.device)
        codes = x.long()
        wide = self._of(self.wide, codes)
        z = self._of(self.low, codes) + wide * draws.uniform(*self.shape, dtype=wide.dtype)
        return z.to(self.like.dtype), wide.log().flatten(1).sum(1)
