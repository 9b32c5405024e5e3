"""Couplings: least cost, conditions kept apart, and what is left of the noise's independence of the condition."""

from __future__ import annotations

import itertools

import pytest
import torch

from gaussians import WIDE
from pushforward.core.errors import RecipeError
from pushforward.core.random import Draws
from pushforward.paths.coupling import COUPLINGS, costs, coupling_named

ALL = slice(None)


def pair(n: int, seed: int = 0, size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, size, generator=generator, dtype=WIDE) + 1, torch.randn(n, size, generator=generator, dtype=WIDE)


def test_costs_are_squared_distances() -> None:
    data, noise = pair(7)
    torch.testing.assert_close(costs(data, noise), torch.cdist(data, noise) ** 2)


def test_the_exact_coupling_is_the_best_of_all_permutations() -> None:
    data, noise = pair(6)
    cost = costs(data, noise)
    found = COUPLINGS["ot"](cost, ALL, Draws(0, 0, 6))
    assert sorted(found.tolist()) == list(range(6))
    best = min(sum(float(cost[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    assert float(cost[torch.arange(6), found].sum()) == pytest.approx(best)


def test_the_exact_coupling_costs_what_the_peer_finds() -> None:
    import ot

    data, noise = pair(64, 3)
    cost = costs(data, noise)
    found = COUPLINGS["ot"](cost, ALL, Draws(0, 0, 64))
    uniform = torch.full((64,), 1 / 64, dtype=WIDE).numpy()
    assert float(cost[torch.arange(64), found].mean()) == pytest.approx(float(ot.emd2(uniform, uniform, cost.numpy())))


def test_sinkhorn_draws_from_the_entropic_plan_of_the_peer() -> None:
    import ot

    n, repeats = 8, 4000
    data, noise = pair(n, 5)
    cost = costs(data, noise)
    uniform = torch.full((n,), 1 / n, dtype=WIDE).numpy()
    plan = torch.from_numpy(ot.sinkhorn(uniform, uniform, cost.numpy(), float(0.05 * cost.mean()), numItermax=20_000))
    counts = torch.zeros(n, n, dtype=WIDE)
    for seed in range(repeats):
        drawn = COUPLINGS["sinkhorn"](cost, ALL, Draws(seed, 0, n))
        counts[torch.arange(n), drawn] += 1
    error = (counts / repeats - n * plan).abs()
    assert float(error.max()) < 5 * (0.25 / repeats) ** 0.5 + 0.01


@pytest.mark.parametrize("name", ["ot", "sinkhorn"])
def test_noise_never_crosses_categories(name: str) -> None:
    data, noise = pair(60)
    levels = torch.arange(60)[:, None] % 3
    found = COUPLINGS[name](costs(data, noise, levels), ALL, Draws(1, 0, 60))
    assert torch.equal(levels[found], levels)
    # and it is the best there is within each
    if name == "ot":
        for k in range(3):
            at = (levels[:, 0] == k).nonzero()[:, 0]
            inner = COUPLINGS["ot"](costs(data[at], noise[at]), ALL, Draws(1, 0, 20))
            assert torch.equal(at[inner], found[at])


def test_plain_transport_spoils_what_noise_knows_of_the_condition_and_ours_does_not() -> None:
    """Data of two classes far apart: coupled without looking at them, each class gets noise from its own half of the plane."""
    n = 512
    levels = (torch.arange(n) % 2)[:, None]
    data, noise = pair(n, 2)
    data = data + 6 * levels
    plain = noise[COUPLINGS["ot"](costs(data, noise), ALL, Draws(0, 0, n))]
    aware = noise[COUPLINGS["ot"](costs(data, noise, levels), ALL, Draws(0, 0, n))]
    of = lambda z: float((z[levels[:, 0] == 1].mean(0) - z[levels[:, 0] == 0].mean(0)).norm())
    assert of(plain) > 1.0
    assert of(aware) == pytest.approx(of(noise))


def test_numbers_keep_noise_near_their_own_as_they_are_weighed() -> None:
    data, noise = pair(128, 4)
    number = data[:, :1] - 1  # the condition is what the data are about
    moved = []
    for weight in (0.0, 10.0, 1e6):
        found = COUPLINGS["ot"](costs(data, noise, None, number, weight), ALL, Draws(0, 0, 128))
        moved.append(float((number[found] - number).abs().mean()))
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 1e-3


def test_a_process_takes_its_own_rows() -> None:
    data, noise = pair(10)
    cost = costs(data, noise)
    whole = COUPLINGS["ot"](cost, ALL, Draws(0, 0, 10))
    assert torch.equal(COUPLINGS["ot"](cost, slice(4, 7), Draws(0, 4, 7)), whole[4:7])
    drawn = COUPLINGS["sinkhorn"](cost, ALL, Draws(0, 0, 10))
    assert torch.equal(COUPLINGS["sinkhorn"](cost, slice(4, 7), Draws(0, 4, 7)), drawn[4:7])


def test_unknown_couplings_are_refused() -> None:
    with pytest.raises(RecipeError, match="sinkhorn"):
        coupling_named("sinkhron")
