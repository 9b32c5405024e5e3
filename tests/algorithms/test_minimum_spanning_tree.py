"""Trees and forests against scipy, enumeration and each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist

from pushforward.algorithms.minimum_spanning_tree import euclidean_tree, kruskal, prim
from pushforward.core.errors import DataError
from pushforward.kernels import tree


def edge_list(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.nonzero(np.triu(np.isfinite(matrix), 1))
    return np.stack([i, j], 1), matrix[i, j]


def graph(seed: int, nodes: int, density: float) -> np.ndarray:
    """A symmetric matrix of random weights, +∞ where there is no edge."""
    rng = np.random.default_rng(seed)
    upper = np.triu(np.where(rng.random((nodes, nodes)) < density, rng.random((nodes, nodes)) + 1, 0), 1)
    whole = upper + upper.T
    return np.where(whole == 0, np.inf, whole)


def as_sets(edges: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(map(int, edge)) for edge in edges}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.02, 1))
def test_both_are_scipys_forest(seed: int, nodes: int, density: float) -> None:
    matrix = graph(seed, nodes, density)
    edges, weights = edge_list(matrix)
    sparse = csr_array((weights, edges.T), shape=(nodes, nodes)) if len(edges) else csr_array((nodes, nodes))
    truth = minimum_spanning_tree(sparse).tocoo()
    parts = connected_components(sparse, directed=False)[0]
    for found in (prim(matrix), kruskal(nodes, edges, weights)):
        assert found.trees == parts
        assert found.weights.sum() == pytest.approx(truth.data.sum())
        assert as_sets(found.edges) == as_sets(np.stack(truth.coords, 1))
        for (i, j), weight in zip(found.edges, found.weights, strict=True):
            assert matrix[i, j] == weight


def test_the_least_of_all_trees() -> None:
    # Cayley: 125 trees on 5 nodes, here all sets of 4 edges that connect them
    matrix = graph(3, 5, 1.0)
    edges, weights = edge_list(matrix)
    totals = []
    for some in itertools.combinations(range(len(edges)), 4):
        joined = csr_array((np.ones(4), edges[list(some)].T), shape=(5, 5))
        if connected_components(joined, directed=False)[0] == 1:
            totals.append(weights[list(some)].sum())
    assert len(totals) == 125
    assert prim(matrix).weights.sum() == pytest.approx(min(totals))
    assert kruskal(5, edges, weights).weights.sum() == pytest.approx(min(totals))


def test_negative_weights_loops_and_double_edges() -> None:
    edges = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [0, 2]])
    found = kruskal(4, edges, np.array([-9.0, 2.0, 1.0, -1.0, 5.0]))
    assert found.edges.tolist() == [[1, 2], [1, 0]]
    assert found.weights.tolist() == [-1, 1]
    assert found.trees == 2


@pytest.mark.parametrize(("rows", "width", "offset"), [(200, 3, 0.0), (120, 40, 1e6), (2, 1, 0.0), (1, 2, 0.0)])
def test_the_kernel_is_prim_of_all_distances(rows: int, width: int, offset: float) -> None:
    points = np.random.default_rng(rows).normal(size=(rows, width)) * 1e-3 + offset
    found, truth = euclidean_tree(points), prim(cdist(points, points))
    assert np.array_equal(found.edges, truth.edges)
    assert found.weights == pytest.approx(truth.weights, rel=1e-5)
    edges, squares = tree.prim_of_points(points.astype(np.float32))
    assert edges.shape == (rows - 1, 2)
    assert squares.shape == (rows - 1,)


def test_ties_give_a_tree_all_the_same() -> None:
    points = np.random.default_rng(0).integers(0, 3, (60, 2))
    found = euclidean_tree(points)
    assert found.weights.sum() == pytest.approx(prim(cdist(points, points)).weights.sum())
    assert connected_components(csr_array((np.ones(59), found.edges.T), shape=(60, 60)), directed=False)[0] == 1
    assert euclidean_tree(np.full((9, 2), 7.0)).weights.tolist() == [0.0] * 8


def test_bad_input() -> None:
    lopsided = np.array([[0.0, 1.0], [2.0, 0.0]])
    for call in (
        lambda: prim(np.zeros((2, 3))),
        lambda: prim(lopsided),
        lambda: prim(np.full((2, 2), np.nan)),
        lambda: kruskal(2, np.array([[0, 2]]), np.ones(1)),
        lambda: kruskal(2, np.array([[0, 1]]), np.ones(2)),
        lambda: kruskal(2, np.array([[0, 1]]), np.array([np.inf])),
        lambda: euclidean_tree(np.array([[np.nan]])),
        lambda: euclidean_tree(np.zeros(3)),
    ):
        with pytest.raises(DataError):
            call()
