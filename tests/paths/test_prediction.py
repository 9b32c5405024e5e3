"""Predictions into one another, weights of their errors, and how often each time is seen."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pushforward.paths import weighting
from pushforward.paths.prediction import PREDICTIONS, coefficients, convert, determinant, from_pair, shares, to_pair
from pushforward.paths.schedule import EDM, VP, Angle, Rectified, Schedule
from pushforward.paths.schedules import SCHEDULES
from pushforward.paths.table import Table

WIDE = torch.float64
MADE = {name: make() for name, make in SCHEDULES.items()}
every = pytest.mark.parametrize("schedule", MADE.values(), ids=MADE)


def times(schedule: Schedule, n: int = 40) -> Tensor:
    u = (torch.arange(n, dtype=WIDE) + 0.57) / (n + 0.2)
    return schedule.start + (schedule.stop - schedule.start) * u


@every
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(PREDICTIONS, 2)))
def test_every_prediction_from_every_other(schedule: Schedule, source: str, target: str) -> None:
    t = times(schedule)
    data, noise = torch.randn(2, len(t), 3, dtype=WIDE)
    x = schedule.alpha(t)[:, None] * data + schedule.sigma(t)[:, None] * noise
    given = from_pair(source, data, noise, schedule, t)
    found = convert(given, x, source, target, schedule, t)
    truth = from_pair(target, data, noise, schedule, t)
    scale = 1 + truth.abs()  # the velocity of σ = 80 is of that size
    assert float(((found - truth) / scale).abs().max()) < 1e-6
    back = convert(found, x, target, source, schedule, t)
    assert float(((back - given) / (1 + given.abs())).abs().max()) < 1e-6


@every
def test_predictions_are_what_their_papers_say(schedule: Schedule) -> None:
    t = times(schedule)
    data, noise = torch.randn(2, len(t), 3, dtype=WIDE)
    alpha, sigma, da, ds = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma))
    found = {name: from_pair(name, data, noise, schedule, t) for name in PREDICTIONS}
    torch.testing.assert_close(found["noise"], noise)
    torch.testing.assert_close(found["data"], data)
    torch.testing.assert_close(found["velocity"], da * data + ds * noise)
    torch.testing.assert_close(found["score"], -noise / sigma)
    # EDM's network output for data of deviation 1 is (x_0 − c_skip x)/c_out, and −v
    x = alpha * data + sigma * noise
    ratio = sigma / alpha
    c_skip, c_out = 1 / (ratio**2 + 1), ratio / (ratio**2 + 1).sqrt()
    torch.testing.assert_close(-found["v"], (data - c_skip * x / alpha) / c_out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", [Rectified(), Angle(), Table.linear().zero_terminal(), VP()])
@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_conversions_are_finite_at_both_ends(schedule: Schedule, name: str, end: float, dtype: torch.dtype) -> None:
    t = torch.full((4,), end, dtype=dtype)
    data, noise = torch.randn(2, 4, 3, dtype=dtype)
    x = schedule.alpha(t)[:, None] * data + schedule.sigma(t)[:, None] * noise
    value = torch.randn(4, 3, dtype=dtype) if name in ("score", "velocity") else from_pair(name, data, noise, schedule, t)
    if name == "velocity" and not schedule.regular:
        return  # it is infinite there
    found = to_pair(name, value, x, schedule, t)
    assert all(part.isfinite().all() for part in found)
    if name == "v":  # it tells both everywhere
        torch.testing.assert_close(found[0], data, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1], noise, rtol=1e-4, atol=1e-4)


@every
@pytest.mark.parametrize("name", PREDICTIONS)
def test_coefficients_solve_the_two_equations(schedule: Schedule, name: str) -> None:
    t = times(schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    (a, b), c = shares(name, schedule, t), coefficients(name, schedule, t)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    # α x_0 + σ ε = x and a x_0 + b ε = P for every x and P
    for p, q, x, value in ((alpha, sigma, one, zero), (a, b, zero, one)):
        torch.testing.assert_close(p * c.skip + q * c.noise_skip, x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(p * c.out + q * c.noise_out, value, rtol=1e-6, atol=1e-6)


# weights


def squared(kind: str, error: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """The squared error of the prediction ``kind`` where the data are off by ``error`` and x is held."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return from_pair(kind, error[:, None], -(alpha / sigma)[:, None] * error[:, None], schedule, t)[:, 0] ** 2


@every
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["noise", "data", "v", "velocity", "score"])
def test_a_weighting_named_after_a_prediction_is_the_loss_of_that_prediction(
    schedule: Schedule, prediction: str, name: str
) -> None:
    t = times(schedule)
    error = torch.randn(len(t), dtype=WIDE)
    found = weighting.weight(weighting.WEIGHTINGS[name], prediction, schedule, t) * squared(prediction, error, schedule, t)
    truth = squared(name, error, schedule, t)
    if name == "v":  # of the unit circle
        truth = squared("data", error, schedule, t) * (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2) / schedule.sigma(t) ** 2
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-12)


@every
def test_weights_of_the_papers(schedule: Schedule) -> None:
    t = times(schedule)
    snr = schedule.log_snr(t).exp()
    on_noise = lambda w: weighting.weight(w, "noise", schedule, t)
    torch.testing.assert_close(on_noise(weighting.min_snr(5.0)), torch.minimum(snr, 5 * torch.ones_like(t)) / snr)
    torch.testing.assert_close(on_noise(weighting.p2(0.5, 2.0)), (2 + snr) ** -0.5)
    # the bound of −log p: half of −dλ/dt on the noise (Kingma et al. 2021)
    u = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.log_snr(u).sum(), u)
    torch.testing.assert_close(on_noise(weighting.likelihood), -0.5 * slope, rtol=1e-6, atol=1e-9)


def test_edms_weight_is_that_of_v() -> None:
    """λ(σ) = (σ² + σ_d²)/(σ σ_d)² on the data."""
    schedule, t = EDM(), torch.logspace(-2, 1.5, 9, dtype=WIDE)
    found = weighting.weight(weighting.v, "data", schedule, t)
    torch.testing.assert_close(found, (t**2 + 1) / t**2)


@pytest.mark.parametrize("name", [n for n in weighting.WEIGHTINGS if n not in ("likelihood", "score")])
def test_weights_are_finite_at_both_ends(name: str) -> None:
    ends = torch.tensor([0.0, 1.0])
    for schedule in (Rectified(), Angle(), Table.linear()):
        if name == "velocity" and not schedule.regular:
            continue
        assert weighting.weight(weighting.WEIGHTINGS[name], "v", schedule, ends).isfinite().all()


# times


@pytest.mark.parametrize("name", weighting.SAMPLINGS)
def test_times_are_monotone_and_inside(name: str) -> None:
    u = torch.linspace(0, 1, 501, dtype=WIDE)
    for schedule in MADE.values():
        t = weighting.SAMPLINGS[name](schedule, u)
        assert t.isfinite().all()
        assert ((t >= schedule.start) & (t <= schedule.stop + 1e-12)).all()
        step = t.diff()
        assert (step >= -1e-12).all() or (step <= 1e-12).all()


def test_times_have_the_published_densities() -> None:
    """dt/du of the map is one over the density that the paper gives."""
    u = torch.linspace(0.02, 0.98, 49, dtype=WIDE).requires_grad_()
    t = weighting.logit_normal(0.3, 0.8)(Rectified(), u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    z = (t.logit() - 0.3) / 0.8
    density = (-0.5 * z**2).exp() / (0.8 * math.sqrt(2 * math.pi) * t * (1 - t))
    torch.testing.assert_close(1 / slope, density.detach(), rtol=1e-6, atol=1e-9)
    sigma = weighting.log_normal(-0.5, 1.2)(EDM(), u).detach()
    z = torch.special.ndtri(u.detach())
    torch.testing.assert_close(sigma.log(), -0.5 + 1.2 * z)
    mode = weighting.mode(0.9)(Rectified(), u.detach())
    torch.testing.assert_close(mode, 1 - u.detach() - 0.9 * ((0.5 * math.pi * u.detach()).cos() ** 2 - 1 + u.detach()))


def test_a_table_is_trained_at_its_own_times() -> None:
    table, u = Table.linear(7), torch.linspace(0, 1, 1001, dtype=WIDE)[:-1]
    t = weighting.uniform(table, u)
    torch.testing.assert_close(t.unique(), torch.arange(1, 8, dtype=WIDE) / 7)
    counts = torch.bincount((t * 7).round().long())[1:]
    assert int(counts.max() - counts.min()) <= 1


def test_determinants_say_how_errors_scale() -> None:
    schedule = VP()
    t = times(schedule)
    a, b = shares("v", schedule, t)
    torch.testing.assert_close(determinant("v", schedule, t), schedule.alpha(t) * b - schedule.sigma(t) * a)
    torch.testing.assert_close(determinant("v", schedule, t), torch.ones_like(t))
