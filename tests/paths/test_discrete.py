"""Discrete paths against matrix exponentials, Bayes' rule and enumeration of tiny spaces: K = 3 values, D = 2 elements."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.random import Draws
from pushforward.paths.discrete import PATHS, DiscretePath, Masked, Uniform

WIDE = torch.float64
K, D = 3, 2
paths = pytest.mark.parametrize("path", [PATHS[n](K, s) for n in PATHS for s in ("linear", "cosine")], ids=str)
for cls in PATHS.values():
    cls.__str__ = lambda self: f"{type(self).__name__} {self.keep.name}"  # type: ignore[method-assign]


def generator(path: DiscretePath) -> Tensor:
    """G (S, S) of the chain whose rates are β(t) G: to the mask, or to a value drawn anew."""
    pi = F.one_hot(torch.tensor(K), K + 1).to(WIDE) if isinstance(path, Masked) else torch.full((K,), 1 / K, dtype=WIDE)
    return pi.expand(path.states, -1) - torch.eye(path.states, dtype=WIDE)


def between(path: DiscretePath, s: float, t: float) -> Tensor:
    """P(z_t | z_s), (S, S), by the matrix exponential: ∫ β = log α(s) − log α(t)."""
    alpha = path.keep.alpha(torch.tensor([s, t], dtype=WIDE))
    return torch.matrix_exp(generator(path) * float(alpha[0].log() - alpha[1].log()))


def predictions(path: DiscretePath, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every state z (S,) with a random p(x | z) (S, K)."""
    logits = torch.randn(path.states, K, generator=torch.Generator().manual_seed(seed), dtype=WIDE)
    return torch.arange(path.states), logits.softmax(-1)


@paths
def test_marginals_are_those_of_the_chain(path: DiscretePath) -> None:
    x = torch.eye(K, dtype=WIDE)
    for t in (0.01, 0.3, 0.9):
        torch.testing.assert_close(path.marginal(x, torch.full((K,), t, dtype=WIDE)), between(path, 0.0, t)[:K])
    start, end = path.marginal(x, torch.zeros(K, dtype=WIDE)), path.marginal(x, torch.ones(K, dtype=WIDE))
    torch.testing.assert_close(start[:, :K], x)
    assert torch.equal(end, end[:1].expand_as(end)), "at t = 1 nothing is left of the data"
    t = torch.linspace(0.05, 0.95, 7, dtype=WIDE, requires_grad=True)
    (slope,) = torch.autograd.grad(path.keep.alpha(t).sum(), t)
    torch.testing.assert_close(path.keep.d_alpha(t.detach()), slope)
    torch.testing.assert_close(path.keep.gone(t), 1 - path.keep.alpha(t))


@paths
def test_drawn_states_follow_the_marginal(path: DiscretePath) -> None:
    n, time = 12_000, 0.6
    x, t = torch.full((n, 1), 1), torch.full((n,), time, dtype=WIDE)
    z = path.draw(x, t, Draws(3, 0, n))
    expected = path.marginal(F.one_hot(x[:1], K).to(WIDE), t[:1]).flatten() * n
    seen = torch.bincount(z.flatten(), minlength=path.states).double()
    assert torch.equal(seen[expected == 0], expected[expected == 0])
    assert chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-3
    assert torch.equal(path.draw(x, torch.zeros(n, dtype=WIDE), Draws(3, 0, n)), x)


@paths
def test_reverse_rates_and_posteriors_are_those_of_bayes(path: DiscretePath) -> None:
    z, p = predictions(path)
    s, t = 0.35, 0.7
    times = [torch.full((path.states,), v, dtype=WIDE) for v in (s, t)]
    rates, posterior = path.rates(z, p, times[1]), path.posterior(z, p, *times)
    beta = float(-path.keep.d_alpha(torch.tensor(t, dtype=WIDE)) / path.keep.alpha(torch.tensor(t, dtype=WIDE)))
    to_s, to_t, step = between(path, 0.0, s), between(path, 0.0, t), between(path, s, t)
    for state in range(path.states):
        expected_rates, expected = torch.zeros(path.states, dtype=WIDE), torch.zeros(path.states, dtype=WIDE)
        masked = isinstance(path, Masked)
        for x in range(K):
            if to_t[x, state] < 1e-12:
                continue
            for j in range(path.states):
                weight = p[state, x] if not masked or state == K else 1.0  # data that are not masked stay, whatever p says
                expected[j] += weight * to_s[x, j] * step[j, state] / to_t[x, state]
                if j != state:
                    expected_rates[j] += p[state, x] * beta * generator(path)[j, state] * to_t[x, j] / to_t[x, state]
        if not masked or state == K:
            torch.testing.assert_close(rates[state], expected_rates)
        else:
            assert not rates[state].any()
        torch.testing.assert_close(posterior[state], expected)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(path.states, dtype=WIDE))


@paths
def test_the_bound_is_the_formula_of_rates(path: DiscretePath) -> None:
    z, p = predictions(path)
    for x, time in itertools.product(range(K), (0.02, 0.4, 0.85)):
        t = torch.full((path.states,), time, dtype=WIDE)
        true = F.one_hot(torch.full((path.states,), x), K).to(WIDE)
        possible = path.marginal(true, t).gather(-1, z[:, None])[:, 0] > 0
        model, known = path.rates(z, p, t), path.rates(z, true, t)
        terms = model - known + torch.special.xlogy(known, known) - torch.special.xlogy(known, model)
        found = path.bound(z, torch.full((path.states,), x), p.log(), t)
        torch.testing.assert_close(found[possible], terms.sum(-1)[possible])
        exact = path.bound(z, torch.full((path.states,), x), true.clamp_min(1e-300).log(), t)
        torch.testing.assert_close(exact[possible], torch.zeros_like(exact[possible]), rtol=0, atol=1e-10)


@paths
def test_the_bound_keeps_its_digits_at_both_ends(path: DiscretePath) -> None:
    z, p = predictions(path)
    for x, time in itertools.product(range(K), (0.0, 1e-6, 1e-3, 0.999, 1 - 1e-6, 1.0)):
        if time == 0.0:
            z, p = torch.full_like(z, x), p  # the only state there is
        single, double = (
            path.bound(
                z, torch.full_like(z, x), p.to(kind).log(), torch.full((path.states,), time, dtype=torch.float32).to(kind)
            )
            for kind in (torch.float32, WIDE)
        )
        assert single.isfinite().all()
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-5)
        z = torch.arange(path.states)


@pytest.mark.parametrize("keep", ["linear", "cosine"])
def test_evidence_is_the_likelihood_of_each_value(keep: str) -> None:
    """Bayes' rule with it and a prior gives the posterior of an element by itself."""
    path = Uniform(K, keep)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=WIDE)
    for time in (1e-6, 0.3, 0.99):
        t = torch.full((K,), time, dtype=WIDE)
        found = (prior.log() + path.evidence(torch.arange(K), t)).softmax(-1)
        joint_chance = prior[:, None] * path.marginal(torch.eye(K, dtype=WIDE), t)
        torch.testing.assert_close(found, (joint_chance / joint_chance.sum(0)).T)


# a distribution over two elements, its exact denoiser, and paths over pairs of states


def joint(seed: int = 5) -> Tensor:
    """p(x), (K, K), far from independent."""
    logits = 1.5 * torch.randn(K, K, generator=torch.Generator().manual_seed(seed), dtype=WIDE)
    return logits.flatten().softmax(0).view(K, K)


def pairs(states: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=D)))


def noised(path: DiscretePath, t: float) -> Tensor:
    """q_t(z | x) of pairs, (K², S²)."""
    one = path.marginal(torch.eye(K, dtype=WIDE), torch.full((K,), t, dtype=WIDE))
    return torch.kron(one, one)


def denoiser(path: DiscretePath, p: Tensor, t: float) -> Tensor:
    """p(x_i | z) for all pairs z, (S², D, K), by Bayes; where z cannot be, uniform."""
    weight = (p.flatten()[:, None] * noised(path, t)).T.view(-1, K, K)
    total = weight.sum((1, 2), keepdim=True)
    weight = torch.where(total > 0, weight / total.clamp_min(1e-300), 1 / K**2)
    return torch.stack([weight.sum(2), weight.sum(1)], 1)


def integrand(path: DiscretePath, guess: Tensor, t: float) -> Tensor:
    """E_{q_t(z|x)} of the bound's integrand for every x, (K²,)."""
    z, x = pairs(path.states), pairs(K)
    times = torch.full((len(z),), t, dtype=WIDE)
    each = torch.stack([path.bound(z, row.expand_as(z), guess.clamp_min(1e-300).log(), times).sum(1) for row in x])
    chance = noised(path, t)
    return torch.where(chance > 0, chance * each, 0.0).sum(1)


def integral(path: DiscretePath, guess: object) -> Tensor:
    """∫_0^1 of ``integrand`` by Gauss and Legendre's rule in u, t = u²; ``guess`` is a function of t."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = torch.zeros(K**D, dtype=WIDE)
    for node, weight in zip(0.5 + 0.5 * nodes, 0.5 * weights, strict=True):
        total += 2 * node * weight * integrand(path, guess(node**2), node**2)  # type: ignore[operator]
    return total


@paths
def test_with_the_exact_denoiser_the_bound_is_log_p(path: DiscretePath) -> None:
    p = joint()
    found = integral(path, lambda t: denoiser(path, p, t))
    torch.testing.assert_close(found, -p.flatten().log(), rtol=1e-5, atol=1e-5)


def wrong(path: DiscretePath, t: float) -> Tensor:
    """A denoiser (S², D, K) of no distribution; at small t it believes what it sees, or the bound would be infinite."""
    return 0.5 * (denoiser(path, joint(8), t) + denoiser(path, joint(9), t))


def chain_step(path: DiscretePath, guess: Tensor, s: float, t: float) -> Tensor:
    """p(z_s | z_t) of pairs, (S², S²), the elements of z_s drawn independently."""
    z = pairs(path.states)
    times = [torch.full((len(z),), v, dtype=WIDE) for v in (s, t)]
    first, second = path.posterior(z, guess, *times).unbind(1)
    return (first[:, :, None] * second[:, None]).flatten(1)


def discrete_bound(path: DiscretePath, steps: int) -> Tensor:
    """The bound of a chain of ``steps`` steps for every x, (K²,): Σ_k E KL(q(z_s | z_t, x) ‖ p(z_s | z_t)), by enumeration."""
    total = torch.zeros(K**D, dtype=WIDE)
    for k in range(steps):
        s, t = k / steps, (k + 1) / steps
        model, chance = chain_step(path, wrong(path, t), s, t), noised(path, t)
        for row, x in enumerate(pairs(K)):
            known = F.one_hot(x, K).to(WIDE).expand(path.states**D, -1, -1)
            true = chain_step(path, known, s, t)
            gap = (torch.special.xlogy(true, true) - torch.special.xlogy(true, model)).sum(1)
            total[row] += torch.where(chance[row] > 0, chance[row] * gap, 0.0).sum()
    return total


@paths
def test_the_bound_is_the_limit_of_many_steps(path: DiscretePath) -> None:
    limit = integral(path, lambda t: wrong(path, t))
    coarse, fine = ((discrete_bound(path, n) - limit).abs().max() for n in (16, 32))
    assert coarse < 0.5 * limit.max()
    assert 0.6 < math.log2(float(coarse / fine)) < 1.4


@paths
def test_steps_backwards_give_the_data_with_an_error_of_the_first_order(path: DiscretePath) -> None:
    p, errors = joint(), []
    noise = path.marginal(torch.full((1, K), 1 / K, dtype=WIDE), torch.ones(1, dtype=WIDE))[0]
    for steps in (8, 16, 32):
        state = torch.kron(noise, noise)
        for k in reversed(range(steps)):
            s, t = k / steps, (k + 1) / steps
            state = state @ chain_step(path, denoiser(path, p, t), s, t)
        found = state.view(path.states, path.states)[:K, :K]
        assert float(found.sum()) == pytest.approx(1, abs=1e-9)
        errors.append(0.5 * float((found - p).abs().sum()))
    assert errors[-1] < 0.03
    for coarse, fine in itertools.pairwise(errors):
        assert 0.7 < math.log2(coarse / fine) < 1.5


@paths
def test_drawn_chains_give_the_data(path: DiscretePath) -> None:
    p, n, steps = joint(), 6000, 60
    draws = Draws(1, 0, n)
    z = path.noise(draws, D)
    for k in reversed(range(steps)):
        s, t = ((k + i) / steps for i in (0, 1))
        table = denoiser(path, p, t)
        guess = table[z[:, 0] * path.states + z[:, 1]]
        chance = path.posterior(z, guess, torch.full((n,), s, dtype=WIDE), torch.full((n,), t, dtype=WIDE))
        z = draws.categorical(chance.log())
    counts = torch.bincount(z[:, 0] * K + z[:, 1], minlength=K**2).double()
    assert chisquare(counts, n * p.flatten()).pvalue > 1e-3


def test_unknown_schedules_and_no_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="expected linear or cosine"):
        Masked(3, "quadratic")
    with pytest.raises(ValueError, match="0 levels"):
        Masked(0)
