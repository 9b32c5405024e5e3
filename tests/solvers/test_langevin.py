"""Chains against densities whose conditionals are known: Gaussians, two modes, walls."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.solvers.langevin import mala

WIDE = torch.float64


def numbers(seed: int, *shape: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return (
        lambda: torch.randn(*shape, dtype=WIDE, generator=generator),
        lambda: torch.rand(shape[0], dtype=WIDE, generator=generator),
    )


def covariance(size: int) -> Tensor:
    torch.manual_seed(3)
    a = torch.randn(size, size, dtype=WIDE)
    c = a @ a.T + 0.2 * torch.eye(size, dtype=WIDE)
    return c / c.diag().sqrt() / c.diag().sqrt()[:, None]


def test_what_is_free_is_drawn_given_what_is_not() -> None:
    size, n = 5, 4000
    c = covariance(size)
    inverse = torch.linalg.inv(c)
    free = torch.tensor([False, True, True, False, True]).expand(n, -1)
    held = torch.tensor([1.2, 0, 0, -0.8, 0], dtype=WIDE)
    normal, uniform = numbers(0, n, size)
    start = torch.where(free, normal(), held)
    end = mala(lambda y: -0.5 * ((y @ inverse) * y).sum(1), start, free, normal, uniform, 120)
    a, b = [0, 3], [1, 2, 4]
    assert torch.equal(end[:, a], start[:, a])
    gain = c[b][:, a] @ torch.linalg.inv(c[a][:, a])
    mean, cov = gain @ held[a], c[b][:, b] - gain @ c[a][:, b]
    scale = cov.diag().sqrt()
    assert float(((end[:, b].mean(0) - mean) / scale).abs().max()) < 4.5 / n**0.5
    assert float(((torch.cov(end[:, b].T) - cov) / scale / scale[:, None]).abs().max()) < 0.09


def test_a_sharp_density_far_from_the_start_is_reached() -> None:
    n = 500
    normal, uniform = numbers(1, n, 2)
    end = mala(lambda y: -0.5 * ((y - 2.5) / 0.02).square().sum(1), normal(), torch.ones(n, 2).bool(), normal, uniform, 200)
    assert float((end.mean(0) - 2.5).abs().max()) < 0.005
    torch.testing.assert_close(end.std(0), torch.full((2,), 0.02, dtype=WIDE), rtol=0.15, atol=0.0)


def test_modes_get_their_weights() -> None:
    n = 3000
    normal, uniform = numbers(2, n, 2)
    modes = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.8, 0.2], dtype=WIDE)),
        torch.distributions.MultivariateNormal(
            torch.tensor([[-0.7, 0.0], [1.6, 0.5]], dtype=WIDE), 0.04 * torch.eye(2, dtype=WIDE)
        ),
    )
    end = mala(modes.log_prob, normal(), torch.ones(n, 2).bool(), normal, uniform, 120)
    assert float((end[:, 0] > 0.5).double().mean()) == pytest.approx(0.2, abs=0.04)


def test_walls_and_undefined_places_are_not_entered() -> None:
    n = 800
    normal, uniform = numbers(3, n, 1)

    def half(y: Tensor) -> Tensor:  # a half-normal; NaN beyond 2, −∞ below 0
        value = -0.5 * y[:, 0].square()
        return value.masked_fill(y[:, 0] > 2, math.nan).masked_fill(y[:, 0] < 0, -math.inf)

    end = mala(half, normal(), torch.ones(n, 1).bool(), normal, uniform, 60)[:, 0]
    assert ((end >= 0) & (end <= 2)).all()
    # mean of the normal cut to (0, 2)
    truth = (1 - math.exp(-2)) / math.sqrt(2 * math.pi) / 0.47725
    assert float(end.mean()) == pytest.approx(truth, abs=0.08)


def test_rows_are_chains_of_their_own() -> None:
    n = 40
    free = torch.rand(n, 3, generator=torch.Generator().manual_seed(5)) < 0.7
    whole = [torch.randn(n, 3, dtype=WIDE) for _ in range(200)]
    coins = [torch.rand(n, dtype=WIDE) for _ in range(200)]
    inverse = torch.linalg.inv(covariance(3))
    density = lambda y: -0.5 * ((y @ inverse) * y).sum(1)

    def run(rows: slice) -> Tensor:
        a, b = iter(whole), iter(coins)
        return mala(density, torch.zeros(n, 3, dtype=WIDE)[rows], free[rows], lambda: next(a)[rows], lambda: next(b)[rows], 30)

    torch.testing.assert_close(torch.cat([run(slice(0, 13)), run(slice(13, n))]), run(slice(None)))
    none = mala(density, whole[0], torch.zeros(n, 3).bool(), lambda: whole[1], lambda: coins[0], 5)
    assert torch.equal(none, whole[0])
    assert not none.requires_grad
