"""Samplers against exact denoisers of mixtures: orders of convergence, moments, exact numbers of steps, and limits at the
ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from gaussians import THREE, WIDE, Mixture
from pushforward.core.errors import RecipeError
from pushforward.paths.denoiser import velocity_of
from pushforward.paths.schedule import EDM, VE, VP, Angle, Polynomial, Rectified, Schedule
from pushforward.paths.schedules import SCHEDULES
from pushforward.paths.table import Table
from pushforward.solvers import multistep, sde
from pushforward.solvers.grids import GRIDS, Grid, grid
from pushforward.solvers.multistep import phi
from pushforward.solvers.samplers import SAMPLERS, follow, sampler_named, times_of
from pushforward.solvers.tableau import METHODS

PATHS = {
    "vp": (VP(), 0.9, 0.1),
    "rectified": (Rectified(), 0.95, 0.1),
    "edm": (EDM(), 10.0, 0.2),
    "angle": (Angle(), 0.95, 0.1),
}


def nodes(name: str, steps: int) -> Grid:
    """Between the two times of PATHS, neither of which is an end."""
    path, first, last = PATHS[name]
    power = 7 if name == "edm" else 1
    times = np.linspace(first ** (1 / power), last ** (1 / power), steps + 1) ** power
    return Grid.of(path, times.tolist(), clean=False)


def start(path: Schedule, t: float, n: int = 12) -> Tensor:
    at = torch.tensor(t, dtype=WIDE)
    noise = torch.randn(n, 2, dtype=WIDE, generator=torch.Generator().manual_seed(1))
    return float(path.alpha(at)) * THREE.sample(n) + float(path.sigma(at)) * noise


@pytest.fixture(scope="module")
def truth() -> dict[str, Tensor]:
    """Where the flow leads, by scipy's integrator of order 8 at tolerance 1e-12."""
    found = {}
    for name, (path, first, last) in PATHS.items():
        field = velocity_of(THREE.denoise, path)
        slopes = lambda t, y, field=field: field(float(t), torch.tensor(y).view(-1, 2)).flatten().numpy()
        x = start(path, first).flatten().numpy()
        solved = solve_ivp(slopes, (first, last), x, rtol=1e-12, atol=1e-12, method="DOP853")
        found[name] = torch.tensor(solved.y[:, -1]).view(-1, 2)
    return found


def flow(tableau: str, path: Schedule, x: Tensor, at: Grid) -> Tensor:
    return follow(velocity_of(THREE.denoise, path), x, at, METHODS[tableau])


DETERMINISTIC: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "euler": (1, partial(flow, "euler")),
    "midpoint": (2, partial(flow, "midpoint")),
    "heun": (2, partial(flow, "heun")),
    "rk4": (4, partial(flow, "rk4")),
    "dopri5": (5, partial(flow, "dopri5")),
    "ddim": (1, lambda path, x, at: multistep.ddim(THREE.denoise, x, at)),
    "dpm++2m": (2, lambda path, x, at: multistep.dpmpp_2m(THREE.denoise, x, at)),
    **{
        f"exponential of {p}": (p, lambda path, x, at, p=p: multistep.exponential(THREE.denoise, x, at, order=p))
        for p in (1, 2, 3)
    },
    **{f"unipc of {p}": (p + 1, lambda path, x, at, p=p: multistep.unipc(THREE.denoise, x, at, order=p)) for p in (1, 2, 3)},
    "edm": (2, lambda path, x, at: sde.edm(THREE.denoise, x, at, torch.Tensor)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_converge_at_the_order_of_their_papers(truth: dict[str, Tensor], name: str, path: str) -> None:
    order, run = DETERMINISTIC[name]
    schedule, first, _ = PATHS[path]
    ladder = (10, 20, 40) if order >= 4 and "unipc" not in name else (80, 160, 320)
    errors = [float((run(schedule, start(schedule, first), nodes(path, n)) - truth[path]).norm(dim=1).mean()) for n in ladder]
    found = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert found[-1] == pytest.approx(order, abs=0.25) or (order == 5 and found[-1] > 4.75), (errors, found)


def test_the_published_third_order_formula_is_of_order_two(truth: dict[str, Tensor]) -> None:
    """Its last term has half the second divided difference, which is half the second derivative already. The first step is
    mended as ours is, so that nothing else tells the two apart."""
    errors = []
    for n in (80, 160, 320):
        at = nodes("vp", n)
        lam, x, behind = at.half_log_snr(), start(PATHS["vp"][0], 0.9), []
        for i in range(n):
            data = THREE.denoise(x, at.alpha[i], at.sigma[i])
            if i == 1:
                x = multistep._again(at, start(PATHS["vp"][0], 0.9), behind[0], data)
            behind = [data, *behind[:2]]
            h = lam[i + 1] - lam[i]
            x = at.sigma[i + 1] / at.sigma[i] * x + at.alpha[i + 1] * phi(0, h) * behind[0]
            if len(behind) == 3:
                r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
                near, far = (behind[0] - behind[1]) / r0, (behind[1] - behind[2]) / r1
                first = near + r0 / (r0 + r1) * (near - far)
                second = (near - far) / (r0 + r1)
                x = x + at.alpha[i + 1] * (phi(1, h) / h * first + phi(2, h) / h**2 * second)
        errors.append(float((x - truth["vp"]).norm(dim=1).mean()))
    assert math.log2(errors[1] / errors[2]) < 2.3
    ours = multistep.exponential(THREE.denoise, start(PATHS["vp"][0], 0.9), nodes("vp", 320), order=3)
    assert float((ours - truth["vp"]).norm(dim=1).mean()) < 0.2 * errors[2]


# stochastic ones: of normal data their samples are affine in all the noise, so that moments are known without sampling

NORMAL = Mixture(torch.ones(1, dtype=WIDE), torch.tensor([[0.3]], dtype=WIDE), torch.tensor([0.6], dtype=WIDE))


def moments(run: Callable[..., Tensor], path: Schedule, at: Grid) -> tuple[float, float]:
    """Mean and variance of what ``run`` makes of the right law at the first node."""
    mean, variance = at.alpha[0] * 0.3, at.alpha[0] ** 2 * 0.36 + at.sigma[0] ** 2
    noises = torch.zeros(1 + 2 * at.steps, dtype=WIDE)

    def sample(z: Tensor) -> Tensor:
        fresh = iter(z[1:])
        x = (mean + math.sqrt(variance) * z[0]).view(1, 1)
        return run(NORMAL.denoise, x, at, lambda: next(fresh).view(1, 1)).flatten()

    spread = torch.autograd.functional.jacobian(sample, noises)
    return float(sample(noises)), float(spread.square().sum())


STOCHASTIC: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "ddpm": (1, sde.ddpm),
    "ddpm with the larger variance": (1, partial(sde.ddpm, spread=1.0)),
    "ddpm between the two": (1, partial(sde.ddpm, spread=0.3)),
    "ddim with η = 1/2": (1, partial(sde.ddim, eta=0.5)),
    "euler-maruyama": (1, sde.euler_maruyama),
    "dpm++sde": (2, sde.dpmpp_sde),
    "edm": (2, partial(sde.edm, churn=4.0)),
}


@pytest.mark.parametrize("path", ["rectified", "edm"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_come_to_the_right_moments(name: str, path: str) -> None:
    order, run = STOCHASTIC[name]
    schedule, _, last = PATHS[path]
    alpha, sigma = float(schedule.alpha(torch.tensor(last))), float(schedule.sigma(torch.tensor(last)))
    errors = []
    for n in (40, 80, 160):
        mean, variance = moments(run, schedule, nodes(path, n))
        assert mean == pytest.approx(alpha * 0.3, abs=1e-3)
        errors.append(abs(variance - alpha**2 * 0.36 - sigma**2))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.15), errors


def test_the_noise_of_ddim_with_eta_one_is_that_of_ddpm() -> None:
    at, x = nodes("vp", 7), start(PATHS["vp"][0], 0.9)

    def draws() -> Callable[[], Tensor]:
        generator = torch.Generator().manual_seed(3)
        return lambda: torch.randn(x.shape, generator=generator, dtype=WIDE)

    one = sde.ddim(THREE.denoise, x, at, draws(), eta=1.0)
    torch.testing.assert_close(one, sde.ddpm(THREE.denoise, x, at, draws()))
    none = sde.ddim(THREE.denoise, x, at, draws(), eta=0.0)
    torch.testing.assert_close(none, multistep.ddim(THREE.denoise, x, at))


def test_a_learned_variance_lies_where_the_network_puts_it() -> None:
    at, x = nodes("vp", 5), start(PATHS["vp"][0], 0.9)
    for where in (0.0, 0.4, 1.0):
        told = lambda x, a, s, where=where: (THREE.denoise(x, a, s), torch.full_like(x, where))
        one, two = (iter(torch.randn(5, *x.shape, generator=torch.Generator().manual_seed(2), dtype=WIDE)) for _ in range(2))
        learned = sde.ddpm(told, x, at, lambda one=one: next(one))
        torch.testing.assert_close(learned, sde.ddpm(THREE.denoise, x, at, lambda two=two: next(two), spread=where))


def test_the_corrector_leaves_the_law_of_its_node_nearly_as_it_is() -> None:
    """A Langevin step of size e on a normal law of variance v makes it (1 − e/v)² v + 2e = v + e²/v."""
    n = 4000
    path = VE()
    at = Grid.of(path, [0.5, 0.45], clean=False)
    law = math.sqrt(0.36 + at.sigma[0] ** 2)
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + law * torch.randn(n, 8, generator=generator, dtype=WIDE)
    eight = Mixture(torch.ones(1, dtype=WIDE), torch.full((1, 8), 0.3, dtype=WIDE), torch.tensor([0.6], dtype=WIDE))
    seen: list[Tensor] = []
    sde.predictor_corrector(
        eight.denoise,
        x,
        at,
        lambda: torch.randn(n, 8, generator=generator, dtype=WIDE),
        watch=lambda i, x, d: seen.append(x),
    )
    assert not torch.equal(seen[0], x)
    size = 2 * (0.16 * at.sigma[0]) ** 2
    truth = math.sqrt(law**2 + size**2 / law**2)
    assert float(seen[0].std()) == pytest.approx(truth, rel=5 / math.sqrt(2 * 8 * n))


@pytest.mark.parametrize("name", ["euler-maruyama", "pc", "ddpm", "dpm++sde", "edm"])
def test_samples_of_a_mixture_are_of_it(name: str) -> None:
    """From noise to data in many steps: the shares of the components and the density of what comes out."""
    n, path = 4000, EDM() if name == "edm" else VP()
    at = grid(path, 120, "karras" if name in ("edm", "dpm++sde") else "uniform")
    generator = torch.Generator().manual_seed(4)
    normal = lambda: torch.randn(n, 2, generator=generator, dtype=WIDE)
    x = math.hypot(at.alpha[0], at.sigma[0]) * normal()
    options: dict[str, Any] = {"churn": 20.0} if name == "edm" else {}
    drawn = SAMPLERS[name].solve(THREE.denoise, x, at, normal, **options)
    real = THREE.sample(n, seed=9)
    spread = float(THREE.log_prob(real).std()) / math.sqrt(n / 2)
    assert float(THREE.log_prob(drawn).mean()) == pytest.approx(float(THREE.log_prob(real).mean()), abs=5 * spread + 0.03)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), real.T.cov(), atol=0.12, rtol=0)


# steps, ends and the watch


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, *level: float) -> Tensor:
        self.calls += 1
        return THREE.denoise(x, *level)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["uniform", "karras", "log-snr", "quadratic", "trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_are_exactly_those_asked_for(name: str, spacing: str, steps: int) -> None:
    sampler = SAMPLERS[name]
    path = {"own": Table.linear(), "regular": Rectified(), "signal": VP(), "edm": EDM()}[sampler.path]
    at, count = grid(path, steps, spacing), Counting()
    assert at.steps == steps
    assert at.sigma[-1] == 0
    x = math.hypot(at.alpha[0], at.sigma[0]) * torch.randn(5, 2, dtype=WIDE)
    seen: list[int] = []
    watch = lambda i, x, d: seen.append(i)
    if sampler.kind == "flow":
        found = sampler.solve(velocity_of(count, path), x, at, watch=watch)
    elif sampler.kind == "multistep":
        found = sampler.solve(count, x, at, watch=watch)
    else:
        found = sampler.solve(count, x, at, lambda: torch.randn(5, 2, dtype=WIDE), watch=watch)
    # Heun's method in σ has no second slope at σ = 0
    assert count.calls == steps * sampler.evaluations - (name == "edm")
    assert seen == list(range(steps + 1))
    assert found.isfinite().all()


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "dpm++3m", "unipc", "ddpm", "dpm++sde"])
@pytest.mark.parametrize("path", [Rectified(), Table.linear().zero_terminal(), Angle()])
def test_paths_without_signal_at_their_end_need_no_special_case(name: str, path: Schedule) -> None:
    n = 3000
    generator = torch.Generator().manual_seed(2)
    normal = lambda: torch.randn(n, 2, generator=generator, dtype=WIDE)
    at, sampler = grid(path, 60), SAMPLERS[name]
    args = (normal,) if sampler.kind == "stochastic" else ()
    drawn = sampler.solve(THREE.denoise, normal(), at, *args)
    real = THREE.sample(n, seed=5)
    # the smaller of the two variances makes samples too narrow in few steps
    slack = 0.2 if name == "ddpm" else 0.1
    assert float(THREE.log_prob(drawn).mean()) == pytest.approx(float(THREE.log_prob(real).mean()), abs=slack)


def test_infinite_noise_is_refused() -> None:
    x, normal = torch.randn(3, 2, dtype=WIDE), lambda: torch.randn(3, 2, dtype=WIDE)
    for name in ("euler-maruyama", "pc", "edm"):
        with pytest.raises(RecipeError, match="no signal"):
            SAMPLERS[name].solve(THREE.denoise, x, grid(Rectified(), 4), normal)


def test_one_step_from_pure_noise_gives_the_mean_of_the_data() -> None:
    x = torch.randn(6, 2, dtype=WIDE)
    mean = (THREE.weights[:, None] * THREE.means).sum(0).expand(6, -1)
    for name in ("ddim", "dpm++2m", "unipc"):
        torch.testing.assert_close(SAMPLERS[name].solve(THREE.denoise, x, grid(Rectified(), 1)), mean)
    found = follow(velocity_of(THREE.denoise, Rectified()), x, grid(Rectified(), 1), METHODS["euler"])
    torch.testing.assert_close(found, mean)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("path", SCHEDULES)
def test_grids_fall_from_the_noisy_end_to_the_data(name: str, path: str) -> None:
    schedule = SCHEDULES[path]()
    for steps in (1, 2, 10):
        at = grid(schedule, steps, name)
        assert at.steps == steps
        assert all(b < a for a, b in itertools.pairwise(at.t))
        if name != "leading":
            assert at.t[0] == pytest.approx(schedule.stop)
        assert (at.alpha[-1], at.sigma[-1]) == (pytest.approx(1.0), 0.0)


def test_spacings_are_even_in_what_they_say() -> None:
    path = EDM()
    at = grid(path, 9, "karras")
    level = np.array(at.sigma[:-1])
    assert np.allclose(np.diff(level ** (1 / 7), 2), 0, atol=1e-9)
    assert (level[0], level[-1]) == (pytest.approx(80.0), pytest.approx(0.002))
    vp = grid(VP(), 9, "log-snr")
    assert np.allclose(np.diff(vp.half_log_snr()[:-1], 2), 0, atol=1e-6)
    assert np.allclose(np.diff(grid(Rectified(), 9, "uniform").t, 2), 0)
    assert np.allclose(np.diff(np.sqrt(grid(Rectified(), 9, "quadratic").t), 2), 0)
    table = Table.linear(1000)
    assert np.allclose(np.array(grid(table, 10, "trailing").t[:-1]) * 1000, np.arange(1000, 0, -100))
    assert np.allclose(np.array(grid(table, 10, "leading").t[:-1]) * 1000, np.arange(901, 0, -100))


def test_grids_of_the_users_own() -> None:
    at = Grid.of(Rectified(), [1.0, 0.4, 0.1])
    assert at.t == (1.0, 0.4, 0.1, 0.0)
    assert at.steps == 3
    with pytest.raises(RecipeError, match="falling"):
        Grid.of(Rectified(), [0.1, 0.4])
    with pytest.raises(RecipeError, match="expected them in"):
        Grid.of(Rectified(), [1.5, 0.4])
    with pytest.raises(RecipeError, match="at least 1"):
        grid(Rectified(), 0)
    with pytest.raises(RecipeError, match="karras"):
        grid(Rectified(), 3, "karas")
    with pytest.raises(RecipeError, match="use 10 at most"):
        grid(Table.linear(10), 11, "trailing")


def test_names_and_options_are_checked() -> None:
    with pytest.raises(RecipeError, match="dpm"):
        sampler_named("dpm++2")
    with pytest.raises(RecipeError, match="edm has it"):
        sampler_named("ddim", {"churn": 3.0})
    assert sampler_named("ddim", {"eta": 0.5}).kind == "stochastic"
    assert sampler_named("ddim", {"eta": 0.0}).kind == "multistep"


@pytest.mark.parametrize("j", [0, 1, 2, 3])
@pytest.mark.parametrize("h", [1e-4, 0.3, 0.999, 1.001, 3.0, 20.0])
def test_phi_is_its_integral(j: int, h: float) -> None:
    u, w = np.polynomial.legendre.leggauss(60)
    place = 0.5 * h * (u + 1)
    integral = float((0.5 * h * w * np.exp(place - h) * place**j / math.factorial(j)).sum())
    assert phi(j, h) == pytest.approx(integral, rel=1e-8)


def test_runge_kutta_asks_at_the_times_it_says() -> None:
    for tableau in METHODS.values():
        asked: list[float] = []
        at = grid(Rectified(), 4)
        follow(lambda t, x, asked=asked: (asked.append(t), x)[1], torch.ones(1, 1), at, tableau)
        assert asked == times_of(at, tableau)


def test_polynomial_paths_end_where_straight_ones_do() -> None:
    """The same flow through another clock: what comes out is the same as the number of steps grows."""
    x = torch.randn(8, 2, dtype=WIDE)
    run = lambda path: follow(velocity_of(THREE.denoise, path), x, grid(path, 400), METHODS["rk4"])
    torch.testing.assert_close(run(Rectified()), run(Polynomial(1.5)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(Rectified()), run(Angle()), rtol=1e-4, atol=1e-4)
