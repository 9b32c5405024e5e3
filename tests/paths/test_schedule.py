"""Schedules: derivatives by autograd, inverses, ends, and what one calls (x, t) as another does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.paths.schedule import VP, Angle, Cosine, Polynomial, Rectified, Schedule, convert
from pushforward.paths.schedules import SCHEDULES
from pushforward.paths.table import Table
from pushforward.paths.wrapped import Shifted, Warped

WIDE = torch.float64
MADE = {name: make() for name, make in SCHEDULES.items()}
MADE |= {
    "polynomial of 3": Polynomial(3.0),
    "angle up to 1.2": Angle(1.2),
    "shifted": Shifted(Rectified(), 3.0),
    "shifted polynomial": Shifted(Polynomial(), 0.4),
    "shifted vp": Shifted(VP(), 2.0),
    "zero terminal": Table.linear().zero_terminal(),
    "few steps": Table.cosine(17),
    "warped": Warped(Rectified(), 2.0),
}
every = pytest.mark.parametrize("name", MADE)


def inside(schedule: Schedule, n: int = 301) -> Tensor:
    """Times strictly inside; never a knot of a table, where the derivative jumps."""
    u = (torch.arange(n, dtype=WIDE) + 0.5 + 0.1 * math.pi / 4) / (n + 0.3)
    return schedule.start + (schedule.stop - schedule.start) * u


@every
def test_derivatives_are_those_of_autograd(name: str) -> None:
    schedule = MADE[name]
    t = inside(schedule).requires_grad_()
    for value, slope in ((schedule.alpha, schedule.d_alpha), (schedule.sigma, schedule.d_sigma)):
        found = value(t)
        (truth,) = torch.autograd.grad(found.sum(), t) if found.requires_grad else (torch.zeros_like(t),)
        torch.testing.assert_close(slope(t.detach()), truth, rtol=1e-7, atol=1e-9)


@every
def test_the_log_snr_falls_and_time_is_its_inverse(name: str) -> None:
    schedule = MADE[name]
    t = inside(schedule)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * (schedule.alpha(t) / schedule.sigma(t)).log(), rtol=1e-6, atol=1e-6)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.time(log_snr), t, rtol=1e-8, atol=1e-10)
    assert (schedule.delta(t) > 0).all()


@every
def test_ends_are_finite_and_clocks_run_from_zero_to_one(name: str) -> None:
    schedule = MADE[name]
    ends = torch.tensor([schedule.start, schedule.stop], dtype=WIDE)
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    assert alpha.isfinite().all()
    assert sigma.isfinite().all()
    assert float(alpha[0]) == pytest.approx(1.0, abs=1e-12)
    assert float(alpha[1] / sigma[1]) < 0.4
    assert float(sigma[0]) < 0.011
    if schedule.regular:
        assert schedule.d_alpha(ends).isfinite().all()
        assert schedule.d_sigma(ends).isfinite().all()
    torch.testing.assert_close(schedule.clock(ends), torch.tensor([0.0, 1.0], dtype=WIDE))
    assert (schedule.clock(inside(schedule)).diff() > 0).all()
    # float32 comes out of float32, near enough
    t = inside(schedule).float()
    assert schedule.alpha(t).dtype == schedule.sigma(t).dtype == torch.float32
    torch.testing.assert_close(schedule.alpha(t).double(), schedule.alpha(t.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vp", "cosine", "angle", "linear-beta", "cosine-beta", "zero terminal", "shifted vp"])
def test_the_variance_is_preserved(name: str) -> None:
    t = inside(MADE[name])
    torch.testing.assert_close(MADE[name].alpha(t) ** 2 + MADE[name].sigma(t) ** 2, torch.ones_like(t))


@every
@pytest.mark.parametrize("other", ["rectified", "vp", "edm", "linear-beta"])
def test_there_and_back_between_two_schedules(name: str, other: str) -> None:
    source, target = MADE[name], MADE[other]
    t = inside(source, 40)[2:-2]
    t = t[source.log_snr(t) > target.log_snr(torch.tensor(target.stop, dtype=WIDE))]  # noisier levels the other has none of
    assert len(t) > 20
    x = torch.randn(len(t), 3, dtype=WIDE)
    moved, there = convert(x, t, source, target)
    torch.testing.assert_close(target.log_snr(there), source.log_snr(t), rtol=1e-6, atol=1e-6)
    # a pair (x_0, ε) means the same x on both, up to the scale that makes the variance of normal data one
    alpha, sigma = source.alpha(t), source.sigma(t)
    data, noise = torch.randn_like(x), None
    noise = (x - alpha[:, None] * data) / sigma[:, None]
    again = target.alpha(there)[:, None] * data + target.sigma(there)[:, None] * noise
    torch.testing.assert_close(moved, again, rtol=1e-6, atol=1e-6)
    back, home = convert(moved, there, target, source)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(home, t, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_table_holds_the_products_of_its_betas(kind: str, steps: int) -> None:
    table = getattr(Table, kind)(steps)
    kept = torch.cumprod(1 - table.betas, 0)
    t = torch.arange(1, steps + 1, dtype=WIDE) / steps
    torch.testing.assert_close(table.alpha(t) ** 2, kept, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(table.sigma(t) ** 2, 1 - kept, rtol=1e-9, atol=1e-15)
    assert float(table.sigma(torch.zeros(1, dtype=WIDE))) == 0


def test_tables_of_many_steps_come_to_their_limits() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=WIDE)
    for steps, error in ((1000, 2e-3), (10_000, 2e-4)):
        torch.testing.assert_close(Table.linear(steps).alpha(t), VP().alpha(t), rtol=0, atol=error)
    torch.testing.assert_close(Table.cosine(10_000).alpha(t), Cosine().alpha(t), rtol=0, atol=1e-6)


def test_the_integral_of_beta_by_quadrature() -> None:
    line = torch.linspace(0, 0.7, 20_001, dtype=WIDE)
    integral = torch.trapezoid(0.1 + 19.9 * line, line)
    t = torch.tensor(0.7, dtype=WIDE)
    assert float(VP().alpha(t)) == pytest.approx(math.exp(-0.5 * float(integral)), rel=1e-9)


def test_a_zero_terminal_table_keeps_its_first_step_and_loses_all_signal_at_its_end() -> None:
    plain, table = Table.linear(), Table.linear().zero_terminal()
    first, last = torch.tensor([1e-3], dtype=WIDE), torch.ones(1, dtype=WIDE)
    torch.testing.assert_close(table.alpha(first), plain.alpha(first))
    assert float(table.alpha(last)) == 0
    assert float(table.sigma(last)) == 1
    # in between √ᾱ is a linear map of what it was
    t = torch.arange(1, 1001, dtype=WIDE) / 1000
    before, after = plain.alpha(t), table.alpha(t)
    slope = (after[1:] - after[:-1]) / (before[1:] - before[:-1])
    torch.testing.assert_close(slope, slope[0].expand(999), rtol=1e-5, atol=0)


def test_the_shift_of_the_rectified_path_is_the_published_one() -> None:
    t, shift = torch.linspace(0, 1, 11, dtype=WIDE), 3.0
    schedule = Shifted(Rectified(), shift)
    torch.testing.assert_close(schedule.sigma(t), shift * t / (1 + (shift - 1) * t))
    inner = VP()
    torch.testing.assert_close(
        Shifted(inner, shift).log_snr(t[1:]), inner.log_snr(t[1:]) - 2 * math.log(shift), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Polynomial(0.5),
        lambda: VP(0.0, 1.0),
        lambda: Table(torch.tensor([0.1, 1.5])),
        lambda: Table(torch.tensor([1.0, 0.5])),
        lambda: Shifted(Rectified(), 0.0),
        lambda: Shifted(MADE["edm"], 2.0),
        lambda: Cosine(0.0),
        lambda: Angle(2.0),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"found|no end"):
        make()  # type: ignore[operator]
