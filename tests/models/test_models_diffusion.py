"""Flow matching against closed forms: Gaussian data whose velocity is known, and the Jacobian of the solver's own map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.diffusion import Diffusion
from pushforward.nets.mlp import TimeMLP
from pushforward.paths.schedule import SCHEDULES
from pushforward.solvers import ode
from pushforward.transforms.univariate import Standardise

WIDE = torch.float64
COSTS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


class Given(nn.Module):
    """A network that is a given function of (x, t), and counts its calls."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.calls = function, 0
        self.unused = nn.Parameter(torch.zeros((), dtype=WIDE))

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        self.calls += 1
        return self.function(x, t)


def zero(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


def build(
    net: nn.Module, size: int = 2, *, schedule: str = "linear", columns: tuple[Column, ...] = (), **options: Any
) -> Diffusion:
    conditioner = Conditioner(columns, 4)
    model = Diffusion(
        Schema(Vector(size), columns),
        Compose([]),
        net,
        conditioner,
        SCHEDULES[schedule](),
        (size,),
        **{"method": "rk4"} | options,
    )
    return model.double().eval()


def random_net(tiny: Any, size: int = 2, context: int = 0) -> nn.Module:
    torch.manual_seed(0)
    net = TimeMLP(size, hidden=(16, 16), context=context, scale=3.0)
    tiny.perturb(net, 0.6)
    return net


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_net_of_zeros_is_right_for_normal_data(schedule: str) -> None:
    """For y ~ N(0, 1), x_t = s(t) ε with s² = α² + σ², so the velocity of its flow is (s'/s) x."""
    model = build(Given(zero), schedule=schedule)
    t = torch.linspace(0.01, 0.99, 40, dtype=WIDE).requires_grad_()
    s = (model.schedule.alpha(t).square() + model.schedule.sigma(t).square()).sqrt()
    (slope,) = torch.autograd.grad(s.sum(), t)
    x = torch.randn(40, 2, dtype=WIDE)
    torch.testing.assert_close(model.velocity(x, t.detach()), (slope / s.detach())[:, None] * x)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_correction_has_the_scale_of_what_is_left_to_learn(schedule: str) -> None:
    plain = build(Given(zero), schedule=schedule)
    unit = build(Given(lambda x, t: torch.ones_like(x)), schedule=schedule)
    t, x = torch.linspace(0.05, 0.95, 9, dtype=WIDE), torch.randn(9, 2, dtype=WIDE)
    a, s, da, ds = (f(t) for f in (plain.schedule.alpha, plain.schedule.sigma, plain.schedule.d_alpha, plain.schedule.d_sigma))
    # Var[v | x_t] = Var v − Cov(v, x_t)² / Var x_t with y, ε standard normal
    variance = da**2 + ds**2 - (a * da + s * ds) ** 2 / (a**2 + s**2)
    torch.testing.assert_close((unit.velocity(x, t) - plain.velocity(x, t))[:, 0], variance.sqrt())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_of_a_net_of_zeros_is_normal(schedule: str) -> None:
    model = build(Given(zero), 3, schedule=schedule, score_steps=40)
    x = 2 * torch.randn(20, 3, dtype=WIDE)
    truth = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x), truth, atol=1e-5, rtol=1e-5)


def gaussian(cov: Tensor, schedule: str = "linear") -> Given:
    """The net whose velocity is the true one for y ~ N(0, Σ): v = (αα'Σ + σσ')(α²Σ + σ²)⁻¹ x."""
    path = SCHEDULES[schedule]()
    eye = torch.eye(len(cov), dtype=WIDE)

    def correction(u: Tensor, t: Tensor) -> Tensor:
        a, s, da, ds = (f(t)[:, None, None] for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
        norm = (a**2 + s**2).sqrt()
        x = u * norm[:, 0]
        velocity = ((a * da * cov + s * ds * eye) @ torch.linalg.solve(a**2 * cov + s**2 * eye, x[:, :, None]))[:, :, 0]
        linear = ((a * da + s * ds) / norm**2)[:, 0] * x
        return (velocity - linear) / ((a * ds - da * s).abs() / norm)[:, 0]

    return Given(correction)


COV = torch.tensor([[1.6, 0.9], [0.9, 0.8]], dtype=WIDE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_and_samples_of_correlated_normal_data(schedule: str) -> None:
    model = build(gaussian(COV, schedule), schedule=schedule, score_steps=60, steps=40)
    x = torch.randn(30, 2, dtype=WIDE) * 1.5
    truth = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=WIDE), COV)
    torch.testing.assert_close(model.log_prob(x), truth.log_prob(x), atol=1e-4, rtol=1e-4)
    n = 6000
    drawn = model.sample(n, None, Draws(0, 0, n))
    torch.testing.assert_close(drawn.T.cov(), COV, atol=0.1, rtol=0.05)
    assert float(drawn.mean(0).abs().max()) < 5 * 1.6**0.5 / n**0.5


def test_encoding_is_the_inverse_of_sampling() -> None:
    model = build(gaussian(COV), score_steps=60, steps=60)
    noise = Draws(3, 0, 20).normal(2, dtype=WIDE)
    x = model.sample(20, None, Draws(3, 0, 20))
    torch.testing.assert_close(model.encode(x), noise, atol=1e-4, rtol=1e-4)
    # for Gaussian data along this path the map is x = Σ^½ ε
    values, vectors = torch.linalg.eigh(COV)
    torch.testing.assert_close(x, noise @ (vectors * values.sqrt()) @ vectors.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_is_the_change_of_variables_of_the_solvers_map(tiny: Any, schedule: str) -> None:
    model = build(random_net(tiny), schedule=schedule, score_steps=30)
    x = torch.randn(2, 2, dtype=WIDE)

    def to_noise(y: Tensor) -> Tensor:
        field = lambda t, state: (model.velocity(state[0], t.expand(1)),)
        return ode.fixed(field, (y[None],), torch.linspace(0, 1, 61, dtype=WIDE) ** 1.5, "rk4")[0][0]

    found = model.log_prob(x)
    for row, score in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(to_noise, row)
        base = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1).log_prob(to_noise(row)).sum()
        assert float(score) == pytest.approx(float((base + torch.linalg.slogdet(jacobian).logabsdet).detach()), abs=2e-3)
    plain = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1).log_prob(x).sum(1)
    assert float((found - plain).abs().min()) > 0.01


def test_preprocessing_enters_the_density_once(tiny: Any) -> None:
    net = random_net(tiny)
    plain, moved = build(net), build(net)
    shift = Standardise((2,)).double()
    shift.mean.copy_(torch.tensor([3.0, -1.0]))
    shift.std.copy_(torch.tensor([2.0, 0.1]))
    moved.preprocess = Compose([shift])
    x = torch.randn(6, 2, dtype=WIDE)
    torch.testing.assert_close(moved.log_prob(shift.push(x)), plain.log_prob(x) - math.log(0.2))
    torch.testing.assert_close(moved.sample(6, None, Draws(0, 0, 6)), shift.push(plain.sample(6, None, Draws(0, 0, 6))))


def test_probes_estimate_the_exact_density(tiny: Any) -> None:
    net = random_net(tiny, 3)
    exact, rough = build(net, 3, score_steps=5), build(net, 3, score_steps=5, exact_up_to=2)
    assert exact.weights_are_exact
    assert not rough.weights_are_exact
    assert rough.random
    assert not exact.random
    x, n = torch.randn(1, 3, dtype=WIDE), 1500
    found = rough.log_prob(x.expand(n, -1), None, Draws(0, 0, n))
    assert float(found.mean()) == pytest.approx(float(exact.log_prob(x)), abs=5 * float(found.std()) / n**0.5)
    assert float(found.std()) > 1e-3


@pytest.mark.parametrize("method", COSTS)
@pytest.mark.parametrize("steps", [1, 7])
def test_sampling_takes_exactly_the_steps_asked_for(method: str, steps: int) -> None:
    net = Given(zero)
    build(net).sample(3, None, Draws(0, 0, 3), steps=steps, method=method)
    assert net.calls == steps * COSTS[method]


def test_guidance_is_linear_in_its_weight(tiny: Any) -> None:
    model = build(random_net(tiny, context=4), columns=tiny.conditions)
    tiny.perturb(model.conditioner)
    condition = tiny.condition(6)
    draw = lambda w, c=condition: model.sample(6, c, Draws(1, 0, 6), guidance=w, steps=1, method="euler")
    null, plain = draw(1.0, None), model.sample(6, condition, Draws(1, 0, 6), steps=1, method="euler")
    torch.testing.assert_close(draw(0.0), null)
    torch.testing.assert_close(draw(1.0), plain)
    torch.testing.assert_close(draw(3.0), null + 3 * (plain - null))
    assert not torch.isclose(plain, null).any()
    # an ODE of many steps: w = 0 is the unconditional flow, w → 1 the conditional one
    many = lambda w, c=condition: model.sample(6, c, Draws(1, 0, 6), guidance=w, steps=8)
    torch.testing.assert_close(many(0.0), many(1.0, None))
    torch.testing.assert_close(many(1.0 + 1e-12), many(1.0))


def test_the_loss_is_the_distance_to_the_paths_velocity() -> None:
    """With zeros for a net, E loss = E |v − E[v | x_t]|² = ∫ Var[v | x_t] dt for normal data, by quadrature."""
    for name in SCHEDULES:
        model, n = build(Given(zero), schedule=name), 20_000
        x = Draws(9, 0, n).normal(2, dtype=WIDE)
        found = model(Batch(x, Draws(1, 0, n)))["loss"]
        t = torch.linspace(0, 1, 2001, dtype=WIDE)
        a, s, da, ds = (
            f(t) for f in (model.schedule.alpha, model.schedule.sigma, model.schedule.d_alpha, model.schedule.d_sigma)
        )
        truth = torch.trapezoid(da**2 + ds**2 - (a * da + s * ds) ** 2 / (a**2 + s**2), t)
        assert float(found.mean()) == pytest.approx(float(truth), abs=5 * float(found.std()) / n**0.5)


def test_conditions_are_dropped_at_the_rate_asked_for(tiny: Any) -> None:
    class Seen(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
            assert context is not None
            self.vector = context.vector
            return torch.zeros_like(x)

    net, n = Seen(), 4000
    model = build(net, columns=tiny.conditions, drop=0.3)
    model(Batch(torch.randn(n, 2, dtype=WIDE), Draws(0, 0, n), tiny.condition(n)))
    share = float((net.vector == model.conditioner.null).all(1).double().mean())
    assert share == pytest.approx(0.3, abs=5 * (0.21 / n) ** 0.5)


def test_completion_comes_close_to_the_conditional_of_normal_data() -> None:
    model, n = build(gaussian(COV), steps=60), 3000
    x = torch.tensor([[1.5, 9.0]], dtype=WIDE).expand(n, -1)
    drawn = model.complete(x, torch.tensor([[True, False]]).expand(n, -1), None, Draws(0, 0, n))
    assert torch.equal(drawn[:, 0], x[:, 0])
    mean, variance = 0.9 / 1.6 * 1.5, 0.8 - 0.81 / 1.6
    assert float(drawn[:, 1].mean()) == pytest.approx(mean, abs=0.08)
    assert float(drawn[:, 1].var()) == pytest.approx(variance, rel=0.15)
