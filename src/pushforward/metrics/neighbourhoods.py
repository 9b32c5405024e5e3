"""Do samples stay where data are, and are data covered by samples? Balls to the k-th nearest neighbour stand for the supports.

With B(z) the ball around z to its k-th nearest neighbour in z's own set, real rows x and generated rows y:

    precision = share of y in some B(x)             recall   = share of x in some B(y)
    density   = mean over y of #{x: y ∈ B(x)} / k   coverage = share of B(x) that hold a y

The first two are Kynkäänniemi et al.'s, 2019, arXiv:1904.06991, the others Naeem et al.'s, 2020, arXiv:2002.09797.

Precision and recall of samples of the data's own distribution are below 1 and fall with the dimension, and one outlier's
large ball can raise them; density has expectation 1 there and coverage 1 − 2^{−k} for N = M.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_pair, mean_row, proportion, row_blocks, square_block
from pushforward.metrics.likelihood import mean_with_error


@dataclass(frozen=True)
class Neighbourhoods:
    """The four figures, of ``k`` neighbours: shares in [0, 1], but ``density`` ≥ 0.

    Standard errors are those of the rows that are judged (y, x, y, x) with the balls held fixed.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    k: int


def neighbourhoods(real: Values, generated: Values, k: int = 5) -> Neighbourhoods:
    """Precision, recall, density and coverage of ``generated`` (M, D) beside ``real`` (N, D), in a space of features.

    Distances are Euclidean. Compare only figures of one N, M and k. O((N + M)² D) time in blocks. DataError for unfit arrays,
    and for k not in 1 … min(N, M) − 1.
    """
    x, y = as_pair(real, generated, minimum=2)
    if not 1 <= k < min(len(x), len(y)):
        raise DataError(f"found k={k} for {len(x)} and {len(y)} rows: expected 1 … {min(len(x), len(y)) - 1}")
    centre = mean_row(x, y)
    true, fake = torch.from_numpy(x - centre), torch.from_numpy(y - centre)
    around_true, around_fake = _radii(true, k), _radii(fake, k)
    balls = torch.zeros(len(fake), dtype=torch.int64)
    recalled, covered = torch.zeros(len(true), dtype=torch.uint8), torch.zeros(len(true), dtype=torch.uint8)
    for rows in row_blocks(len(fake), len(true)):
        squares = square_block(fake[rows], true)
        inside = squares <= around_true
        balls[rows] = inside.sum(1)
        # the largest byte, which is found much faster than whether any is true
        covered |= inside.view(torch.uint8).amax(0)
        recalled |= (squares <= around_fake[rows, None]).view(torch.uint8).amax(0)
    return Neighbourhoods(
        precision=proportion(int((balls > 0).sum()), len(fake)),
        recall=proportion(int(recalled.sum()), len(true)),
        density=mean_with_error(balls / k),
        coverage=proportion(int(covered.sum()), len(true)),
        k=k,
    )


def _radii(x: Tensor, k: int) -> Tensor:
    """The squared distance of each row to its k-th nearest other row, (N,)."""
    out = torch.empty(len(x), dtype=torch.float64)
    for rows in row_blocks(len(x), len(x)):
        squares = square_block(x[rows], x)
        squares.diagonal(rows.start).fill_(torch.inf)
        out[rows] = squares.topk(k, dim=1, largest=False).values[:, -1]
    return out
