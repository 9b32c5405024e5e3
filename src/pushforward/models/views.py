"""Two views of one example that a representation should hold equal.

Images are cropped, resized, mirrored and their brightness and contrast changed (Chen et al. 2020, arXiv:2002.05709), as tensor
operations on whole batches; rows of numbers have a share of their features replaced by another row's (Bahri et al. 2021,
arXiv:2106.15147). Every random choice comes from ``draws``, so a view belongs to its row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.random import Draws


class ImageViews(nn.Module):
    """Random crops of area ``smallest`` … 1, resized back, mirrored left–right where ``mirror``, jittered by ``jitter``."""

    def __init__(self, smallest: float = 0.4, mirror: bool = True, jitter: float = 0.3) -> None:
        super().__init__()
        self.smallest, self.mirror, self.jitter = smallest, mirror, jitter

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """(B, C, H, W) in [−1, 1] → a view of the same shape."""
        u = draws.uniform(8, dtype=x.dtype)
        side = (self.smallest + (1 - self.smallest) * u[:, 0]).sqrt()
        stretch = (0.75 + 0.5 * u[:, 1]).sqrt()
        width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
        flip = torch.where(u[:, 2] < 0.5, -1.0, 1.0) if self.mirror else torch.ones_like(side)
        shift_x, shift_y = (2 * u[:, 3] - 1) * (1 - width), (2 * u[:, 4] - 1) * (1 - height)
        zero = torch.zeros_like(side)
        affine = torch.stack([torch.stack([flip * width, zero, shift_x], 1), torch.stack([zero, height, shift_y], 1)], 1)
        grid = F.affine_grid(affine, list(x.shape), align_corners=False)
        view = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
        gain = 1 + self.jitter * (2 * u[:, 5] - 1)
        shift = self.jitter * (2 * u[:, 6] - 1)
        mean = view.mean((1, 2, 3), keepdim=True)
        return (view - mean) * gain.view(-1, 1, 1, 1) + mean + shift.view(-1, 1, 1, 1)


class FeatureViews(nn.Module):
    """A share ``rate`` of the features is replaced by those of another row drawn from the training sample."""

    pool: Tensor

    def __init__(self, features: int, rate: float = 0.4, pool: int = 1024) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("pool", torch.zeros(pool, features))

    def prepare(self, x: Tensor) -> None:
        """Fill the pool with rows of ``x`` (N, F), again from the start where N is smaller."""
        self.pool.copy_(x[torch.arange(len(self.pool)) % len(x)])

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """(B, F) → a view of the same shape."""
        other = self.pool.to(x.dtype).gather(0, draws.integers(len(self.pool), x.shape[1]))
        return torch.where(draws.uniform(x.shape[1]) < self.rate, other, x)
