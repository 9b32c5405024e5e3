"""Steps whose ends are dyadic, so that rows with steps of their own still meet at the same times.

Much of what a field does may follow from time alone, as of a network whose layers an embedding of time modulates: for a net of
three layers of 128 units that is more work than all the rest. Were every row at a time of its own, every row would need it. So
a step h wanted at t is rounded down to end on a grid,

    t + h → g ⌊(t + h) / g⌋,    g = 2^⌊log₂ h⌋ / 4,    3/4 h < step ≤ h

and a thousand rows stand at a few dozen of times, each with a few steps to take from there. What a field makes of a time is
worked out once for all nodes of all these steps, before the first of them is asked for. A row's steps still follow from the row
alone, and all rows go on together. Powers of two alone, as in a tree of halves, took 1.8 to 2.3 times the steps.

These are 8 % shorter in the mean than what was wanted. That is won back by a controller that follows the last error sooner,
with ``BETA`` of its β, and where the rest of the way is at most ``REACH`` times the step that is wanted, it is the last step:
trained flows of 2, 8 and 16 numbers took 4 to 10 % fewer steps than without a grid, and log p erred 1.4, 0.9 and 0.8 times as
much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BETA, REACH = 0.25, 1.4

Beforehand = Callable[[Tensor], tuple[Tensor, ...]]  # of times (N,), tensors (N, …)


@dataclass(frozen=True)
class Shared:
    """Times of A rows: that of row i is ``times`` (K,) at ``of`` (A,), and ``known`` (K, …) what a field made of them."""

    times: Tensor
    of: Tensor
    known: tuple[Tensor, ...]


def rounded(t: Tensor, h: Tensor) -> Tensor:
    """Steps (A,) from ``t``, at least 3/4 of ``h``, that end on the grid; either way."""
    way = h.sign()
    grid = torch.ldexp(torch.ones_like(h), torch.frexp(h).exponent - 3)
    # where a step is hardly one at the precision of t, rounding must not end in steps of no length
    return way * torch.maximum(torch.floor((t + h) * way / grid) * grid - t * way, 0.75 * h.abs())


def shared(beforehand: Beforehand, t: Tensor, h: Tensor, nodes: Tensor) -> list[Shared]:
    """Times t + node · h of rows (A,), for each of ``nodes`` (N, 1): one for all rows of the same t and h."""
    if t.dtype == torch.float32:  # two of them are one whole number
        pairs, of = torch.unique(torch.stack([t, h], 1).view(torch.int64).flatten(), return_inverse=True)
        starts, sizes = pairs.view(t.dtype).view(-1, 2).unbind(1)
    else:
        (starts, i), (sizes, j) = (torch.unique(v, return_inverse=True) for v in (t, h))
        pairs, of = torch.unique(i * len(sizes) + j, return_inverse=True)
        starts, sizes = starts[pairs // max(1, len(sizes))], sizes[pairs % max(1, len(sizes))]
    times = torch.addcmul(starts, nodes, sizes)
    known = [v.view(*times.shape, *v.shape[1:]).unbind() for v in beforehand(times.flatten())]
    return [Shared(time, of, tuple(parts)) for time, *parts in zip(times.unbind(), *known, strict=True)]
