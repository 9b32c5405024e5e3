"""Gradient estimators against exact enumeration: every outcome of few categories, and closed forms of normals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.algorithms.estimators import (
    gumbel,
    gumbel_max,
    gumbel_softmax,
    leave_one_out,
    log_mass,
    normal_score_function,
    one_hot,
    relaxed,
    reparameterised,
    score_function,
    straight_through,
)

WIDE = torch.float64
LOGITS = torch.tensor([[0.3, -0.4, 0.9], [-0.2, 0.7, 0.1]], dtype=WIDE)  # two variables of three classes
TABLE = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=WIDE) + 2.0


def f(z: Tensor) -> Tensor:
    """A table of two categories, z (…, 2, 3), which is bilinear between them, and its square, which is not."""
    value = torch.einsum("...i,ij,...j->...", z[..., 0, :], TABLE, z[..., 1, :])
    return value + 0.5 * value.square()


def certain(*classes: int) -> Tensor:
    """Uniform numbers with which the Gumbel-max draws these ``classes``, whatever the logits."""
    return torch.stack([torch.where(torch.arange(3) == k, 1 - 1e-15, 1e-300) for k in classes]).double()


OUTCOMES = list(itertools.product(range(3), repeat=2))


def exact(function: Callable[[Tensor], Tensor] = f) -> tuple[Tensor, Tensor]:
    """E f and its gradient by enumeration."""
    logits = LOGITS.clone().requires_grad_()
    log_p = logits.log_softmax(-1)
    codes = [torch.nn.functional.one_hot(torch.tensor(o), 3).double() for o in OUTCOMES]
    value = sum((log_p * z).sum().exp() * function(z) for z in codes)
    assert isinstance(value, Tensor)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def expected(estimate: Callable[[Tensor, tuple[tuple[int, ...], ...]], Tensor], draws: int) -> tuple[Tensor, Tensor]:
    """The mean of an estimate, and of its gradient, over every outcome of ``draws`` draws."""
    value, slope = torch.zeros((), dtype=WIDE), torch.zeros_like(LOGITS)
    for outcome in itertools.product(OUTCOMES, repeat=draws):
        logits = LOGITS.clone().requires_grad_()
        chance = torch.stack([LOGITS.log_softmax(-1)[[0, 1], list(one)].sum() for one in outcome]).sum().exp()
        found = estimate(logits, outcome)
        value += chance * found.detach()
        slope += chance * torch.autograd.grad(found, logits)[0]
    return value, slope


@pytest.mark.parametrize("baseline", [0.0, 3.7])
def test_the_score_function_is_unbiased(baseline: float) -> None:
    value, slope = expected(lambda logits, o: score_function(f, logits[None], certain(*o[0])[None], baseline)[0], 1)
    truth, gradient = exact()
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(slope, gradient)


@pytest.mark.parametrize("draws", [2, 3])
def test_leave_one_out_is_unbiased(draws: int) -> None:
    def estimate(logits: Tensor, outcome: tuple[tuple[int, ...], ...]) -> Tensor:
        return leave_one_out(f, logits[None], torch.stack([certain(*one)[None] for one in outcome]))[0]

    value, slope = expected(estimate, draws)
    truth, gradient = exact()
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(slope, gradient)


def test_leave_one_out_needs_two_draws() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        leave_one_out(f, LOGITS[None], torch.rand(1, 1, 2, 3))


def sampled(estimator: Callable[[Tensor], Tensor], n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean value, mean gradient and its variance for a row, over ``n`` rows."""
    logits = LOGITS.expand(n, 2, 3).clone().requires_grad_()
    value = estimator(logits)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().mean(), slope.mean(0), slope.var(0)


def test_bias_and_variance_are_what_theory_says() -> None:
    n, generator = 200_000, torch.Generator().manual_seed(0)
    u = torch.rand(n, 2, 3, generator=generator, dtype=WIDE)
    several = torch.rand(4, n // 4, 2, 3, generator=generator, dtype=WIDE)
    _, gradient = exact()
    plain = sampled(lambda l: score_function(f, l, u), n)
    based = sampled(lambda l: score_function(f, l, u, float(exact()[0])), n)
    others = sampled(lambda l: leave_one_out(f, l, several), n // 4)
    sharp, soft = (sampled(lambda l, t=t: relaxed(f, l, u, t), n) for t in (0.1, 1.0))
    through = sampled(lambda l: straight_through(f, l, u, 1.0), n)
    for _, slope, variance in (plain, based):
        assert ((slope - gradient).abs() < 5 * (variance / n).sqrt()).all()
    assert ((others[1] - gradient).abs() < 5 * (others[2] / (n // 4)).sqrt()).all()
    assert based[2].sum() < 0.3 * plain[2].sum()
    assert 4 * others[2].sum() < 0.5 * plain[2].sum()  # of as many draws
    bias = [float((s[1] - gradient).norm()) for s in (sharp, soft, through)]
    assert bias[0] < 0.15 * bias[1]
    assert bias[1] > 0.2
    assert bias[2] > 0.2
    assert sharp[2].sum() > 3 * soft[2].sum()
    assert through[0] == pytest.approx(float(exact()[0]), abs=0.05)


def test_gumbel_max_draws_categories() -> None:
    n = 100_000
    u = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    share = torch.bincount(gumbel_max(LOGITS[0].expand(n, 3), u), minlength=3).double() / n
    p = LOGITS[0].softmax(0)
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()
    g = gumbel(u)
    assert float(g.mean()) == pytest.approx(0.5772156649, abs=0.01)
    assert float(g.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gumbel_numbers_are_finite_at_the_ends(dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, torch.finfo(dtype).tiny / 2, 0.5, 1 - torch.finfo(dtype).eps / 2, 1.0], dtype=dtype)
    g = gumbel(ends)
    assert g.isfinite().all()
    assert (g.diff() >= 0).all()
    torch.testing.assert_close(g[2], torch.tensor(-math.log(math.log(2)), dtype=dtype))


def test_the_relaxation_goes_to_the_category_as_the_temperature_falls() -> None:
    u = torch.rand(500, 2, 3, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    corner = one_hot(LOGITS.expand_as(u), u)
    gap = [float((gumbel_softmax(LOGITS, u, t) - corner).abs().mean()) for t in (2.0, 0.5, 0.1, 1e-3)]
    assert gap == sorted(gap, reverse=True)
    assert gap[-1] < 1e-3
    torch.testing.assert_close(gumbel_softmax(LOGITS, u, 0.7).sum(-1), torch.ones(500, 2, dtype=WIDE))
    torch.testing.assert_close(straight_through(f, LOGITS.expand_as(u), u, 0.7), f(corner))


def test_log_mass_is_that_of_the_category() -> None:
    z = one_hot(LOGITS, certain(2, 1))
    assert z.argmax(-1).tolist() == [2, 1]
    torch.testing.assert_close(log_mass(LOGITS, z), torch.stack([LOGITS[0].log_softmax(0)[2], LOGITS[1].log_softmax(0)[1]]))


def test_normal_estimators_find_the_gradient_of_a_cubic() -> None:
    """E (z³ + z²) = μ³ + 3 μ σ² + μ² + σ², whose gradients to μ and log σ are 3μ² + 3σ² + 2μ and 2σ²(3μ + 1)."""
    n, mu, s = 400_000, 0.6, math.log(0.7)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=WIDE)
    truth = torch.tensor([3 * mu**2 + 3 * math.exp(2 * s) + 2 * mu, 2 * math.exp(2 * s) * (3 * mu + 1)], dtype=WIDE)
    value = mu**3 + 3 * mu * math.exp(2 * s) + mu**2 + math.exp(2 * s)
    spread = []
    for estimator, more in ((reparameterised, ()), (normal_score_function, (0.0,)), (normal_score_function, (value,))):
        mean, log_std = (torch.full((n,), v, dtype=WIDE, requires_grad=True) for v in (mu, s))
        found = estimator(lambda z: z**3 + z**2, mean, log_std, noise, *more)
        slope = torch.stack(torch.autograd.grad(found.sum(), (mean, log_std)), 1)
        assert float(found.detach().mean()) == pytest.approx(value, abs=5 * float(found.detach().std()) / n**0.5)
        assert ((slope.mean(0) - truth).abs() < 5 * slope.std(0) / n**0.5).all()
        spread.append(slope.var(0).sum())
    assert spread[0] < 0.5 * spread[2] < 0.5 * spread[1]
