"""Samplers beside diffusers' schedulers, step by step, given the same network outputs; theirs are in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.paths.denoiser import velocity_of
from pushforward.paths.schedule import EDM, Rectified
from pushforward.paths.table import Table
from pushforward.paths.wrapped import Shifted
from pushforward.solvers import multistep, sde
from pushforward.solvers.grids import Grid, grid
from pushforward.solvers.samplers import follow
from pushforward.solvers.tableau import METHODS

WIDE = torch.float64
TABLE = Table.linear()
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def network(x: Tensor, t: Tensor | float) -> Tensor:
    """Some smooth function of x and the timestep, taken for the noise; near enough to it that errors do not grow."""
    return 0.3 * (1.3 * x + 0.002 * t).sin() + 0.6 * x


def denoise(x: Tensor, alpha: float, sigma: float, output: Callable[..., Tensor] = network) -> Tensor:
    """D of that network on any path: its own x is the variance-preserving one, its time the index in the table."""
    s = math.hypot(alpha, sigma)
    t = TABLE.time(torch.tensor(2 * math.log(alpha / sigma), dtype=WIDE)) * 1000 - 1
    own_alpha, own_sigma = alpha / s, sigma / s
    return (x / s - own_sigma * output(x / s, t)) / own_alpha


def path_of(scheduler: Any, x: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
    """The states of a diffusers scheduler, from the first to the last."""
    states = [x]
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        arguments = {"generator": generator} if generator is not None else {}
        x = scheduler.step(network(seen, t), t, x, **arguments).prev_sample
        states.append(x)
    return states


def at_timesteps(timesteps: Tensor) -> Grid:
    """Our grid at diffusers' timesteps; integers here."""
    return Grid.of(TABLE, ((timesteps.double() + 1) / 1000).tolist())


def ours(run: Callable[..., Tensor], x: Tensor, at: Grid, *arguments: Any) -> list[Tensor]:
    states: list[Tensor] = []
    run(denoise, x, at, *arguments, watch=lambda i, x, d: states.append(x))
    return states


def start(n: int = 3) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=WIDE)


def compare(found: list[Tensor], truth: list[Tensor], scale: list[float] | None = None, tolerance: float = 5e-5) -> None:
    assert len(found) == len(truth)
    for i, (a, b) in enumerate(zip(found, truth, strict=True)):
        factor = scale[i] if scale else 1.0
        torch.testing.assert_close(a * factor, b, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"state {i}: {m}")


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [4, 25])
def test_ddim(spacing: str, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    at = grid(TABLE, steps, spacing)
    np.testing.assert_allclose(np.array(at.t[:-1]) * 1000 - 1, scheduler.timesteps.numpy(), atol=1e-6)
    compare(ours(multistep.ddim, start(), at), path_of(scheduler, start()))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    x, noises = start(), torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    states, now = [x], x
    for t, z in zip(scheduler.timesteps, noises, strict=True):
        now = scheduler.step(network(now, t), t, now, eta=eta, variance_noise=z).prev_sample
        states.append(now)
    fresh = iter(noises)
    found = ours(partial(sde.ddim, eta=eta), x, grid(TABLE, 10, "leading"), lambda: next(fresh))
    compare(found, states)


@pytest.mark.parametrize(("kind", "spread"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm_ancestral(kind: str, spread: float) -> None:
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type=kind, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    one, two = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    truth = path_of(scheduler, start(), one)
    normal = lambda: torch.randn(3, 4, generator=two, dtype=WIDE)
    found = ours(partial(sde.ddpm, spread=spread), start(), grid(TABLE, 10, "leading"), normal)
    compare(found, truth)


@pytest.mark.parametrize("scheduler_type", ["euler", "heun"])
def test_euler_and_heun_in_sigma(scheduler_type: str) -> None:
    cls = {"euler": diffusers.EulerDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler}[scheduler_type]
    scheduler = cls(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    steps = (
        scheduler.timesteps if scheduler_type == "euler" else torch.cat([scheduler.timesteps[:1], scheduler.timesteps[1::2]])
    )
    at = at_timesteps(steps.unique().flip(0))
    assert at.steps == 8
    x = start()
    scale = [1 / a for a in at.alpha]  # its states are x/α
    if scheduler_type == "euler":
        compare(ours(multistep.ddim, x * at.alpha[0], at), path_of(scheduler, x), scale)
        return
    states = path_of(scheduler, x)
    compare(ours(sde.edm, x * at.alpha[0], at, torch.Tensor), [states[0], *states[2::2], states[-1]], scale)


@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_dpm_solver_of_second_order(kind: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, solver_order=2, solver_type=kind, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(9)
    run = multistep.dpmpp_2m if kind == "midpoint" else partial(multistep.exponential, order=2)
    compare(ours(run, start(), at_timesteps(scheduler.timesteps)), path_of(scheduler, start()))


def test_dpm_solver_for_the_reverse_time_equation() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="sde-dpmsolver++", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(9)
    noises = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    x = start()
    states, now = [x], x
    for t, z in zip(scheduler.timesteps, noises, strict=True):
        now = scheduler.step(network(now, t), t, now, variance_noise=z).prev_sample
        states.append(now)
    fresh = iter(noises)
    found = ours(sde.dpmpp_sde, x, at_timesteps(scheduler.timesteps), lambda: next(fresh))
    compare(found, states)


@pytest.mark.parametrize("order", [1, 2])
def test_unipc(order: int) -> None:
    # its third order ends in a singular matrix where the last σ is zero
    scheduler = diffusers.UniPCMultistepScheduler(
        **BETAS, solver_order=order, solver_type="bh2", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(9)
    found: list[Tensor] = []
    multistep.unipc(denoise, start(), at_timesteps(scheduler.timesteps), order=order, watch=lambda i, x, d: found.append(x))
    truth = path_of(scheduler, start())
    # ours shows states mended, its are those before: only the ends are the same thing
    torch.testing.assert_close(found[-1], truth[-1], rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("stochastic", [False, True])
def test_edm(stochastic: bool) -> None:
    """Preconditioning and steps in one: the network's output is F, and data have deviation ½ there, 1 here."""
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.set_timesteps(7)
    path = EDM(0.004, 160.0)
    at = Grid.of(path, (2 * scheduler.sigmas[:-1].double()).tolist())
    np.testing.assert_allclose(at.sigma[:-1], grid(path, 7, "karras").sigma[:-1], rtol=1e-6)

    def denoised(x: Tensor, alpha: float, sigma: float) -> Tensor:
        from pushforward.paths.prediction import coefficients

        t = torch.tensor(sigma, dtype=WIDE)
        c = coefficients("v", path, t)
        output = network(x / math.hypot(alpha, sigma), 0.25 * math.log(sigma / 2))
        return float(c.skip) * x - float(c.out) * output  # F = −v

    x = start() * 80
    states, now = [x], x
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(now, t)
        sigma = float(scheduler.sigmas[i])
        now = scheduler.step(network(seen, 0.25 * math.log(sigma)), t, now).prev_sample
        states.append(now)
    found: list[Tensor] = []
    multistep.ddim(denoised, 2 * x, at, watch=lambda i, x, d: found.append(x))
    if stochastic:
        # no churn: Euler's step of ours is the first half of edm's
        found = []
        sde.edm(denoised, 2 * x, Grid.of(path, at.t[-2:-1]), torch.Tensor, watch=lambda i, x, d: found.append(x))
        torch.testing.assert_close(found[-1], denoised(2 * x, 1.0, at.sigma[-2]))
        return
    compare(found, states, [0.5] * len(found))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(6)
    path = Shifted(Rectified(), shift) if shift != 1 else Rectified()
    times = path.time(2 * ((1 - scheduler.sigmas[:-1].double()) / scheduler.sigmas[:-1].double()).log())
    at = Grid.of(Rectified(), scheduler.sigmas[:-1].double().tolist())
    x = start()
    states, now = [x], x
    for t in scheduler.timesteps:
        now = scheduler.step(network(now, t), t, now).prev_sample
        states.append(now)
    # its time is σ; ours is what the shift makes σ of
    torch.testing.assert_close(path.sigma(times), scheduler.sigmas[:-1].double(), rtol=1e-6, atol=1e-6)
    found: list[Tensor] = []
    follow(lambda t, x: network(x, 1000 * t), x, at, METHODS["euler"], watch=lambda i, x, d: found.append(x))
    compare(found, states)


def test_velocities_of_a_denoiser_are_the_flow_of_the_network() -> None:
    x = start()
    for t in (0.2, 0.7):
        v = velocity_of(denoise, TABLE)(t, x)
        at = torch.tensor(t, dtype=WIDE)
        data = denoise(x, float(TABLE.alpha(at)), float(TABLE.sigma(at)))
        noise = network(x, t * 1000 - 1)
        torch.testing.assert_close(v, float(TABLE.d_alpha(at)) * data + float(TABLE.d_sigma(at)) * noise, rtol=1e-5, atol=1e-5)
