"""Prim's algorithm on points, whose distances are computed as they are needed.

The reference is ``algorithms.minimum_spanning_tree.prim`` of all distances. The nodes outside the tree stay packed at the
front of an array, so that a step reads each once from the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def prim_of_points(points: Any) -> Any:
    """Edges (N − 1, 2) int64 and squared lengths (N − 1,) float32 of the tree of finite ``points`` (N, D) float32."""
    count, width = points.shape
    outside, names = points.copy(), np.arange(count)
    best, parent = np.full(count, np.inf, np.float32), np.zeros(count, np.int64)
    edges, squares = np.empty((max(count - 1, 0), 2), np.int64), np.empty(max(count - 1, 0), np.float32)
    if count < 2:
        return edges, squares
    # node 0 first, as the reference does
    newest, name, left = outside[0].copy(), names[0], count - 1
    outside[0], names[0] = outside[left], names[left]
    for edge in range(count - 1):
        at, least = 0, np.float32(np.inf)
        for i in range(left):
            square = np.float32(0.0)
            for d in range(width):
                gap = outside[i, d] - newest[d]
                square += gap * gap
            if square < best[i]:
                best[i], parent[i] = square, name
            if best[i] < least:
                least, at = best[i], i
        edges[edge, 0], edges[edge, 1], squares[edge] = parent[at], names[at], least
        newest[:], name = outside[at], names[at]
        left -= 1
        outside[at], names[at], best[at], parent[at] = outside[left], names[left], best[left], parent[left]
    return edges, squares
