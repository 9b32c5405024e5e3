"""The fused E step against the sums written out, in every remainder of its blocks, strips, tiles and vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.kernels import gaussians
from pushforward.models.gaussians import FullGaussians
from pushforward.models.mixture import GaussianMixture

WIDE = torch.float64


def problem(rows: int, size: int, count: int, apart: float = 2.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows + 31 * size + count)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=WIDE, generator=generator)

    root = torch.linalg.cholesky((a := normal(count, size, size)) @ a.mT + 0.3 * torch.eye(size))
    means = apart * normal(count, size)
    of = torch.randint(count, (rows,), generator=generator)
    y = means[of] + (root[of] @ normal(rows, size, 1))[:, :, 0]
    whiten = torch.linalg.inv(root).tril()
    return y, whiten, (whiten @ means[:, :, None])[:, :, 0], normal(count), torch.rand(rows, dtype=WIDE, generator=generator)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("rows", "size", "count"), [(1, 1, 1), (7, 2, 3), (513, 3, 2), (1024, 4, 5), (1000, 5, 4), (700, 16, 6), (530, 19, 3)]
)
@pytest.mark.parametrize("apart", [0.5, 6.0])  # all rows in all components; each in one, where rows are collected
def test_all_sums_are_those_written_out(rows: int, size: int, count: int, apart: float, weighed: bool) -> None:
    y, whiten, centres, height, weight = problem(rows, size, count, apart)
    found = gaussians.e_step(y, whiten, centres, height, weight if weighed else None)
    joint = height - 0.5 * (torch.einsum("kij,bj->bki", whiten, y) - centres).square().sum(2)
    share = joint.softmax(1) * (weight[:, None] if weighed else 1)
    torch.testing.assert_close(gaussians.log_likelihood(y, whiten, centres, height), found[0], rtol=0.0, atol=0.0)
    truth = joint.logsumexp(1), share.sum(0), share.T @ y, torch.einsum("bk,bi,bj->kij", share, y, y)
    for value, wanted in zip(found, truth, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


def test_two_threads_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    y, whiten, centres, height, _ = problem(3000, 6, 4)
    one = gaussians.e_step(y, whiten, centres, height)
    monkeypatch.setattr(gaussians, "threads", lambda parts: min(parts, 2))
    for a, b in zip(gaussians.e_step(y, whiten, centres, height), one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)


def test_components_of_no_weight_and_rows_far_from_all_are_no_trouble() -> None:
    y, whiten, centres, height, _ = problem(600, 3, 3)
    y[5] = 1e6
    height[1] = -torch.inf
    likelihood, count, first, second = gaussians.e_step(y, whiten, centres, height)
    assert likelihood.isfinite().all()
    assert float(count[1]) == 0
    assert float(count.sum()) == pytest.approx(600, rel=1e-12)
    assert float(first[1].abs().sum() + second[1].abs().sum()) == 0
    joint = height[[0, 2]] - 0.5 * (torch.einsum("kij,bj->bki", whiten, y) - centres).square().sum(2)[:, [0, 2]]
    torch.testing.assert_close(likelihood, joint.logsumexp(1), rtol=1e-12, atol=1e-10)


def test_exponentials_are_numpys() -> None:
    x = -np.concatenate([np.linspace(0, 2, 1001), np.geomspace(1e-12, 707, 2000)])
    np.testing.assert_allclose(np.array([gaussians.exp(v) for v in x]), np.exp(x), rtol=4e-16 * 4)


def test_a_mixture_steps_alike_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    y, *_ = problem(2000, 5, 4)
    one, other = (GaussianMixture(Schema(Vector(5)), Compose([]), 5, components=4) for _ in range(2))
    told = one.fit_em(y, iterations=20, tolerance=0.0)
    monkeypatch.setattr(FullGaussians, "fusible", lambda self, rows: False)
    np.testing.assert_allclose(other.fit_em(y, iterations=20, tolerance=0.0), told, rtol=1e-12)
    torch.testing.assert_close(one.covariances, other.covariances, rtol=1e-8, atol=1e-8)
