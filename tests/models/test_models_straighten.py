"""Students of flows against closed forms: the straight map between normals, quadrature, and the flow map of normal data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gaussians import ONE, THREE, WIDE, Mixture
from pushforward.core.context import Conditioner, Context
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.metrics.straightness import straightness_of_rows
from pushforward.models.consistency import ConsistencyModel
from pushforward.models.diffusion import Diffusion, Scoring
from pushforward.models.path import Sampling, Training
from pushforward.models.straighten import Consistency, Reflow, jump_cost, straightness
from pushforward.nets.mlp import TimeMLP
from pushforward.paths.prediction import from_pair
from pushforward.paths.schedule import EDM, VP, Rectified, Schedule
from pushforward.solvers import sde
from pushforward.solvers.choice import Fixed
from pushforward.solvers.grids import grid

PATH = Rectified()


class Given(nn.Module):
    """A network that is a given function of (x, clock)."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.unused = function, nn.Parameter(torch.zeros((), dtype=WIDE))

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        return self.function(x, t) + 0 * self.unused


def build(net: nn.Module, schedule: Schedule = PATH, **training: object) -> Diffusion:
    return Diffusion(
        Schema(Vector(2)),
        Compose([]),
        net,
        Conditioner((), 4),
        schedule,
        (2,),
        training=Training(**training),  # type: ignore[arg-type]
        scoring=Scoring(solve=Fixed("heun", 40)),
    )


def knowing(data: Mixture, schedule: Schedule = PATH) -> Diffusion:
    """The model that predicts v of ``data`` exactly."""

    def function(seen: Tensor, clock: Tensor) -> Tensor:
        t = clock.double()
        if isinstance(schedule, EDM):
            t = schedule.start * (schedule.stop / schedule.start) ** t
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = seen.double() * over((alpha**2 + sigma**2).sqrt(), seen)
        return from_pair("v", data.denoise(x, alpha, sigma), data.noise(x, alpha, sigma), schedule, t).to(seen.dtype)

    return build(Given(function), schedule).double().eval()


def end_of(x: Tensor, t: Tensor, data: Mixture = ONE) -> Tensor:
    """Where the flow of one normal leads from x (B, D) at t (B,): m + s (x − α m)/√(α² s² + σ²)."""
    alpha, sigma = ((f(t)[:, None]) for f in (PATH.alpha, PATH.sigma))
    mean, std = data.means[0], data.stds[0]
    return mean + std * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2).sqrt()


def twice(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same for the jump and for the flow."""
    return lambda x, t: torch.cat([function(x, t)] * 2, 1)


def jumping(net: nn.Module, **how: Any) -> ConsistencyModel:
    sampling = Sampling("consistency", 2)
    return ConsistencyModel(Schema(Vector(2)), Compose([]), net, Conditioner((), 4), (2,), sampling=sampling, **how)


def consistent(**how: Any) -> ConsistencyModel:
    """The model whose D is that map."""

    def function(seen: Tensor, clock: Tensor) -> Tensor:
        t = clock.double().clamp(min=1e-9)
        alpha, sigma = PATH.alpha(t), PATH.sigma(t)
        x = seen.double() * over((alpha**2 + sigma**2).sqrt(), seen)
        data = end_of(x, t)
        return from_pair("v", data, (x - over(alpha, x) * data) / over(sigma, x), PATH, t)

    return jumping(Given(twice(function)), **how).double().eval()


def descend(model: nn.Module, rows: Callable[[int], Batch], steps: int, rate: float = 5e-3) -> None:
    model.train()
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = model(rows(step))["loss"].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.eval()


def small_net(outputs: int = 2) -> TimeMLP:
    return TimeMLP(2, hidden=(32, 32), scale=3.0, outputs=outputs)


# straightness


def test_a_straight_flow_is_straight() -> None:
    noise = torch.randn(50, 2, dtype=WIDE)
    goal = torch.tensor([1.0, -2.0], dtype=WIDE) + 0.3 * noise
    deviation, cost = straightness_of_rows(lambda t, x: noise - goal, noise, steps=3)
    torch.testing.assert_close(deviation, torch.zeros(50, dtype=WIDE), atol=1e-12, rtol=0)
    torch.testing.assert_close(cost, (noise - goal).square().mean(1))


@pytest.mark.parametrize("schedule", [Rectified(), VP(), EDM()])
def test_the_straightness_of_normal_data_is_that_of_quadrature(schedule: Schedule) -> None:
    """x_t = α m + √(α² s² + σ²) z, so S = ∫ (g' − (1 − s))² dt and C = |m|²/D + (1 − s)², whatever the schedule trained on."""
    n, s = 4000, float(ONE.stds[0])
    found = straightness(knowing(ONE, schedule), n, Draws(0, 0, n), steps=200)
    t = (torch.arange(20_000, dtype=WIDE) + 0.5) / 20_000
    slope = (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2).sqrt()
    wanted = float((slope - (1 - s)).square().mean())
    error = 5 * found.deviation.standard_error + (1e-3 if isinstance(schedule, EDM) else 1e-5)
    assert found.deviation.value == pytest.approx(wanted, abs=error)
    cost = float(ONE.means[0].square().mean()) + (1 - s) ** 2
    assert found.cost.value == pytest.approx(cost, abs=5 * found.cost.standard_error)
    assert 0 < found.deviation.standard_error < 0.1 * wanted


def test_the_cost_of_a_jump_is_that_of_the_map() -> None:
    n, s = 4000, float(ONE.stds[0])
    found = jump_cost(consistent(), n, Draws(0, 0, n))
    cost = float(ONE.means[0].square().mean()) + (1 - s) ** 2
    assert found.value == pytest.approx(cost, abs=5 * found.standard_error)
    assert jump_cost(knowing(ONE), n, Draws(0, 0, n)).value > 2 * cost  # to the mean


# reflow


def pairs(model: Diffusion, n: int, seed: int = 5) -> Tensor:
    noise = Draws(seed, 0, n).normal(2, dtype=WIDE)
    with torch.no_grad():
        ode, context = model.flow(None, n)
        return torch.cat([ode.push(noise, context), noise], 1)


def batches(x: Tensor, size: int = 256) -> Callable[[int], Batch]:
    places = lambda step: torch.from_numpy(
        torch.randint(len(x), (size,), generator=torch.Generator().manual_seed(step)).numpy()
    )
    return lambda step: Batch(x[places(step)], Draws(step, 0, size))


def test_the_loss_of_pairs_is_the_distance_to_their_difference() -> None:
    """Velocity weighting makes the error of v that of dx/dt: a net of zeros has the flow of N(0, 1) for its own."""
    model = Reflow(build(Given(lambda x, t: torch.zeros_like(x))).double())
    n = 20_000
    y, noise = torch.full((n, 2), 2.0, dtype=WIDE), Draws(3, 0, n).normal(2, dtype=WIDE)
    with torch.no_grad():
        found = model(Batch(torch.cat([y, noise], 1), Draws(0, 0, n)))["loss"]
    t = (torch.arange(1000, dtype=WIDE) + 0.5) / 1000
    # of x_t = (1 − t) y + t ε zeros say that dx/dt is (2t − 1) x_t/s²; what is left is (s dx/dt − …)² on average over ε
    s2 = (1 - t) ** 2 + t**2
    left = lambda a, b: (b - a - (2 * t - 1) * ((1 - t) * a + t * b) / s2).square()
    wanted = float((left(2.0, 0.0) + left(0.0, 1.0)).mean())
    assert float(found.mean()) == pytest.approx(wanted, abs=5 * float(found.std()) / n**0.5)


def test_between_normals_reflow_finds_the_straight_map() -> None:
    """The flow of one normal is x = m + s ε: one step of Euler's method must find it."""
    torch.manual_seed(0)
    student = build(small_net()).double()
    x = pairs(knowing(ONE), 4000)
    torch.testing.assert_close(x[:, :2], ONE.means[0] + ONE.stds[0] * x[:, 2:], atol=5e-3, rtol=0)
    descend(Reflow(student), batches(x), 400)
    n = 5000
    found = straightness(student, n, Draws(9, 0, n))
    assert found.deviation.value < 1e-3
    with torch.no_grad():
        drawn = student.sample(n, None, Draws(1, 0, n), sampler="euler", steps=1)
    torch.testing.assert_close(drawn.mean(0), ONE.means[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), 0.36 * torch.eye(2, dtype=WIDE), atol=0.03, rtol=0)


def test_reflow_straightens_a_mixture_at_no_higher_cost() -> None:
    torch.manual_seed(0)
    teacher, student = knowing(THREE), build(small_net()).double()
    descend(Reflow(student), batches(pairs(teacher, 3000)), 500)
    before, after = (straightness(m, 2000, Draws(4, 0, 2000)) for m in (teacher, student))
    assert after.deviation.value < 0.1 * before.deviation.value
    assert after.cost.value < before.cost.value + 0.01
    with torch.no_grad():
        drawn = student.sample(4000, None, Draws(1, 0, 4000), sampler="euler", steps=1)
        once = teacher.sample(4000, None, Draws(1, 0, 4000), sampler="euler", steps=1)
    real = THREE.sample(20_000, seed=8)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), real.T.cov(), atol=0.1, rtol=0)
    assert float(once.T.cov().diagonal().max()) < 0.01  # all at the mean


# consistency


def test_a_consistent_function_has_no_loss() -> None:
    """Its loss is what the teacher's steps err, of order 2."""
    x = ONE.sample(2000, seed=1)
    with torch.no_grad():
        losses = []
        for intervals in (20, 40, 400):
            model = Consistency(consistent(intervals=intervals, c=1e-9), knowing(ONE)).train()
            losses.append(float(model(Batch(x, Draws(0, 0, 2000)))["loss"].mean()))
        # an error of order 3 a step, between neighbours
        assert losses[0] / losses[1] == pytest.approx(8, rel=0.4)
        assert losses[2] < 1e-6
        assert float(model.eval()(Batch(x, Draws(0, 0, 2000)))["loss"].mean()) < 0.01
        lost = Consistency(jumping(Given(twice(knowing(ONE).net.function)), intervals=400, c=1e-9).double(), knowing(ONE))
        assert float(lost.train()(Batch(x, Draws(0, 0, 2000)))["loss"].mean()) > 1e-4
        assert float(lost.eval()(Batch(x, Draws(0, 0, 2000)))["loss"].mean()) > 0.1


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_a_consistency_function_samples_rightly_in_any_number_of_steps(steps: int) -> None:
    n = 20_000
    with torch.no_grad():
        drawn = consistent().sample(n, None, Draws(1, 0, n), steps=steps)
    torch.testing.assert_close(drawn.mean(0), ONE.means[0], atol=5 * 0.6 / n**0.5, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), 0.36 * torch.eye(2, dtype=WIDE), atol=0.02, rtol=0)


def test_a_posterior_mean_is_no_consistency_function() -> None:
    """x ← α D + σ z with the exact denoiser ends with half of the variance, as its recursion says."""
    n = 20_000
    with torch.no_grad():
        draws, nodes = Draws(1, 0, n), grid(PATH, 200, "uniform")
        fresh = lambda: draws.normal(2, dtype=WIDE)
        drawn = sde.consistency(knowing(ONE).denoiser(None, n), fresh(), nodes, fresh)
    assert float(drawn.T.cov().diagonal().mean()) == pytest.approx(0.18, abs=0.02)


def test_distilling_a_mixture_makes_one_step_enough() -> None:
    torch.manual_seed(0)
    teacher, student = knowing(THREE), jumping(small_net(4), intervals=10).double()
    x = THREE.sample(4000, seed=2)
    model = Consistency(student, teacher)
    held = Batch(THREE.sample(1000, seed=3), Draws(7, 0, 1000))
    with torch.no_grad():
        before = float(model.eval()(held)["loss"].mean())
    descend(model, batches(x, 128), 400)
    with torch.no_grad():
        assert float(model(held)["loss"].mean()) < 0.7 * before
        drawn = student.sample(4000, None, Draws(1, 0, 4000), steps=1)
    real = THREE.sample(20_000, seed=8)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.12, rtol=0)
    # a single step of the teacher's own D gives the mean and no spread at all
    assert float((drawn.T.cov() - real.T.cov()).norm() / real.T.cov().norm()) < 0.35


def test_without_a_teacher_a_mixture_is_learned_too() -> None:
    """Two jumps of a network that learned them from a velocity of its own."""
    torch.manual_seed(0)
    student, x = jumping(small_net(4)).double(), THREE.sample(20_000, seed=2)

    class Counted(nn.Module):  # what the trainer calls after each step
        def __init__(self) -> None:
            super().__init__()
            self.model = student

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            student.after_step("model")
            return student(batch)

    descend(Counted(), batches(x), 1200)
    with torch.no_grad():
        drawn = student.sample(4000, None, Draws(1, 0, 4000))
    real = THREE.sample(20_000, seed=8)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=0.15, rtol=0)
    assert float((drawn.T.cov() - real.T.cov()).norm() / real.T.cov().norm()) < 0.35


def test_the_grid_gets_finer_while_it_is_learned() -> None:
    model = jumping(small_net(4))
    found = []
    for trained in (0, 1, 247, 248, 991, 992, 3968, 15_872):
        model.trained.fill_(trained)
        found.append(model.intervals)
    assert found == [2, 2, 2, 4, 4, 8, 16, 32]
    model.after_step("model")
    assert int(model.trained) == 15_873
    assert jumping(small_net(4), intervals=5).intervals == 5
    Consistency(model, build(small_net())).after_step("model")
    assert int(model.trained) == 15_874


def test_gradients_reach_the_student_alone() -> None:
    torch.manual_seed(0)
    teacher, student = build(small_net()), jumping(small_net(4))
    with torch.no_grad():
        for net in (teacher.net, student.net):
            net.last.weight.normal_(0, 0.3)
    model = Consistency(student, teacher)
    model(Batch(torch.randn(64, 2), Draws(0, 0, 64)))["loss"].mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in student.net.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert {name.split(".")[0] for name, _ in model.turn_parameters(model.turns[0])} == {"student"}


def test_students_are_on_the_rectified_path() -> None:
    net = small_net()
    for wrong in (build(net, VP()), build(net, prediction="data")):
        with pytest.raises(ValueError, match="found a student"):
            Reflow(wrong)
    with pytest.raises(ValueError, match="predicts v or velocity, found data"):
        jumping(net, training=Training(prediction="data"))
    with pytest.raises(ValueError, match="0 intervals"):
        jumping(net, intervals=0)
