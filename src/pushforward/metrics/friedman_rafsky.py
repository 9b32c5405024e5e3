"""The two-sample test of Friedman & Rafsky 1979: how often does the minimum spanning tree of both sets join one to the other?

Rows of one distribution mix, so that of the N + M − 1 edges an expected 2NM/(N + M) cross; few do where the sets lie apart.
Given the tree, the variance over all divisions into N and M rows is known, with C pairs of edges that share a node, L = N + M:

    Var = 2NM/(L(L−1)) · [ (2NM − L)/L + (C − L + 2)/((L−2)(L−3)) · (L(L−1) − 4NM + 2) ]

1 − crossing · L/(2NM) estimates the Henze–Penrose divergence, from 0 for equal distributions to 1 for disjoint ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pushforward.algorithms.minimum_spanning_tree import euclidean_tree
from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Estimate, Values, as_pair, generator, subsample


@dataclass(frozen=True)
class FriedmanRafsky:
    """``crossing`` edges where ``expected`` are where the distributions agree.

    ``z`` is (crossing − expected) in standard deviations, below 0 where the sets lie apart; ``p_value`` is the share of
    N(0, 1) below it (both NaN where all divisions are alike), ``permutation_p_value`` that of random divisions of the same
    tree. ``divergence`` is Henze and Penrose's, with the error it has where the distributions agree, a little too large where
    they do not. ``rows`` counts those used, of both.
    """

    crossing: int
    expected: float
    z: float
    p_value: float
    permutation_p_value: float
    divergence: Estimate
    rows: int


def friedman_rafsky(x: Values, y: Values, limit: int = 10_000, permutations: int = 500, seed: int = 0) -> FriedmanRafsky:
    """The test for x (N, D) and y (M, D), N, M ≥ 2, by Euclidean distance: bring columns to a common scale first.

    Sides of more than ``limit`` rows are cut to it with ``seed``; the tree takes O(rows² · D) time and O(rows · D) memory.
    Where distances tie, as in discrete data, the tree is one of several: which one, chance decides, and the test stays exact
    given it. DataError for unfit arrays or settings.
    """
    left, right = as_pair(x, y, minimum=2)
    if limit < 2 or permutations < 1:
        raise DataError(f"found limit={limit}, permutations={permutations}: expected at least 2 and 1")
    left, right = subsample(left, limit, seed, 1), subsample(right, limit, seed, 2)
    n, m = len(left), len(right)
    rows = n + m
    rng = generator(seed, 3)
    order = rng.permutation(rows)  # ties must not favour neighbours in one set
    edges = euclidean_tree(np.concatenate([left, right])[order]).edges
    second = order >= n
    one, other = edges.T
    crossing = int((second[one] != second[other]).sum())
    degree = np.bincount(edges.ravel(), minlength=rows)
    shared = float((degree * (degree - 1)).sum() / 2)
    expected = 2 * n * m / rows
    rest = (shared - rows + 2) / ((rows - 2) * (rows - 3)) * (rows * (rows - 1) - 4 * n * m + 2)
    sd = math.sqrt(2 * n * m / (rows * (rows - 1)) * ((2 * n * m - rows) / rows + rest))
    z = (crossing - expected) / sd if sd > 0 else math.nan
    fewer = 0
    for _ in range(permutations):
        labels = rng.permutation(second)
        fewer += int((labels[one] != labels[other]).sum()) <= crossing
    scale = rows / (2 * n * m)
    return FriedmanRafsky(
        crossing=crossing,
        expected=expected,
        z=z,
        p_value=0.5 * math.erfc(-z / math.sqrt(2)),
        permutation_p_value=(fewer + 1) / (permutations + 1),
        divergence=Estimate(max(1 - crossing * scale, 0.0), sd * scale),
        rows=rows,
    )
