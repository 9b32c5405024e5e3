"""Diffusion against closed forms: networks that know mixtures exactly, the Jacobian of the flow's own map, and quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gaussians import ONE, THREE, WIDE, Mixture
from pushforward.core.context import Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Schema, Vector
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.models.diffusion import Diffusion, Scoring
from pushforward.models.path import Sampling, Training
from pushforward.nets.mlp import TimeMLP
from pushforward.paths.prediction import from_pair
from pushforward.paths.schedule import EDM, VP, Angle, Polynomial, Rectified, Schedule, SubVP
from pushforward.paths.schedules import SCHEDULES
from pushforward.paths.table import Table
from pushforward.paths.weighting import SAMPLINGS, WEIGHTINGS
from pushforward.paths.wrapped import Shifted
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.solvers.samplers import SAMPLERS
from pushforward.transforms.univariate import Standardise

FINE = Scoring(solve=Adaptive(1e-8))


class Given(nn.Module):
    """A network that is a given function of (x, clock), and counts its calls."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.calls = function, 0
        self.unused = nn.Parameter(torch.zeros((), dtype=WIDE))

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        self.calls += 1
        return self.function(x, t)


def zero(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


def knowing(data: Mixture, schedule: Schedule, prediction: str) -> Given:
    """The network that predicts ``data`` exactly under a schedule: it is told where on the circle x is, and the clock."""

    def function(seen: Tensor, clock: Tensor) -> Tensor:
        t = schedule.start + (schedule.stop - schedule.start) * clock
        if isinstance(schedule, EDM):
            t = schedule.start * (schedule.stop / schedule.start) ** clock
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = seen * over((alpha**2 + sigma**2).sqrt(), seen)
        return from_pair(prediction, data.denoise(x, alpha, sigma), data.noise(x, alpha, sigma), schedule, t)

    return Given(function)


def build(
    net: nn.Module,
    size: int = 2,
    *,
    schedule: Schedule | None = None,
    columns: tuple[Column, ...] = (),
    scoring: Scoring = FINE,
    **options: Any,
) -> Diffusion:
    conditioner = Conditioner(columns, 4)
    sampling = Sampling(**{k: options.pop(k) for k in ("sampler", "steps", "grid", "path") if k in options})
    model = Diffusion(
        Schema(Vector(size), columns),
        Compose([]),
        net,
        conditioner,
        schedule or Rectified(),
        (size,),
        training=Training(**options),
        sampling=sampling,
        scoring=scoring,
    )
    return model.double().eval()


def random_net(tiny: Any, size: int = 2, context: int = 0) -> nn.Module:
    torch.manual_seed(0)
    net = TimeMLP(size, hidden=(16, 16), context=context, scale=3.0)
    tiny.perturb(net, 0.6)
    return net


SETTINGS: list[tuple[str, Schedule, str]] = [
    ("rectified", Rectified(), "v"),
    ("velocity", Rectified(), "velocity"),
    ("polynomial", Polynomial(), "velocity"),
    ("angle", Angle(), "v"),
    ("vp", VP(), "noise"),
    ("vp v", VP(), "v"),
    ("vp score", VP(), "score"),
    ("vp data", VP(), "data"),
    ("subvp", SubVP(), "noise"),
    ("ve", SCHEDULES["ve"](), "v"),
    ("edm", EDM(), "v"),
    ("ddpm", Table.linear(), "noise"),
    ("cosine", Table.cosine(), "v"),
    ("zero terminal", Table.linear().zero_terminal(), "v"),
    ("shifted", Shifted(Rectified(), 3.0), "v"),
]
settings = pytest.mark.parametrize(("schedule", "prediction"), [s[1:] for s in SETTINGS], ids=[s[0] for s in SETTINGS])


@settings
def test_log_densities_are_those_of_the_mixture(schedule: Schedule, prediction: str) -> None:
    """The probability-flow ODE of every schedule and prediction, to 1e-3 nats."""
    model = build(knowing(THREE, schedule, prediction), schedule=schedule, prediction=prediction)
    x = torch.cat([THREE.sample(40, seed=3), torch.tensor([[3.0, 3.0], [-3.0, 0.0]], dtype=WIDE)])
    with torch.no_grad():
        found = model.log_prob(x)
    # σ of 50 leaves a fiftieth of signal, and beyond it the network is not asked
    slack = 1e-3 if schedule is SETTINGS[9][1] else 1e-4
    torch.testing.assert_close(found, THREE.log_prob(x), atol=1e-3 if prediction != "data" else 5e-3, rtol=slack)
    assert model.density_kind == "ode"


@settings
@pytest.mark.parametrize(
    ("sampler", "path", "spacing"),
    [
        ("heun", None, None),
        ("dpm++2m", None, "log-snr"),
        ("unipc", "edm", "karras"),
        ("edm", None, None),
        ("dpm++sde", "vp", "uniform"),
        ("dopri5", "rectified", "uniform"),
    ],
)
def test_any_model_is_sampled_by_any_sampler_on_any_path(
    schedule: Schedule, prediction: str, sampler: str, path: str | None, spacing: str | None
) -> None:
    model = build(knowing(THREE, schedule, prediction), schedule=schedule, prediction=prediction)
    n = 1500
    if isinstance(schedule, EDM) and sampler == "heun":
        spacing = "karras"  # even steps of σ up to 80 are of no use
    with torch.no_grad():
        drawn = model.sample(n, None, Draws(0, 0, n), steps=40, sampler=sampler, path=path, grid=spacing)
    real = THREE.sample(20_000, seed=8)
    spread = float(THREE.log_prob(real).std()) / math.sqrt(n)
    assert float(THREE.log_prob(drawn).mean()) == pytest.approx(float(THREE.log_prob(real).mean()), abs=5 * spread + 0.05)
    torch.testing.assert_close(drawn.mean(0), real.mean(0), atol=5 * 0.85 / math.sqrt(n), rtol=0)
    torch.testing.assert_close(drawn.T.cov(), real.T.cov(), atol=0.12, rtol=0)


@settings
def test_deterministic_samplers_lead_to_the_same_place(schedule: Schedule, prediction: str) -> None:
    """One flow, whatever the path, the solver and its clock."""
    model = build(knowing(THREE, schedule, prediction), schedule=schedule, prediction=prediction)
    noise = torch.randn(6, 2, dtype=WIDE)
    run = lambda **how: model.sample(6, None, Draws(0, 0, 6), noise=noise, **how)
    with torch.no_grad():
        truth = run(sampler="rk4", steps=300, path="angle")
        found = run(sampler="dpm++2m", steps=400, grid="log-snr", path="vp")
        other = run(sampler="heun", steps=300, path="rectified")
    # the paths with an end short of pure noise start a little beside it
    torch.testing.assert_close(found, truth, atol=2e-2, rtol=0)
    torch.testing.assert_close(other, truth, atol=5e-3, rtol=0)


@pytest.mark.parametrize("schedule", [Rectified(), VP(), EDM(), Table.linear(), Angle(), Polynomial(3.0)])
def test_a_net_of_zeros_is_right_for_normal_data(schedule: Schedule) -> None:
    model = build(Given(zero), 3, schedule=schedule)
    x = 2 * torch.randn(20, 3, dtype=WIDE)
    truth = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1).log_prob(x).sum(1)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(x), truth, atol=1e-5, rtol=1e-5)
        for sampler in ("heun", "dpm++2m"):
            noise = torch.randn(5, 3, dtype=WIDE)
            found = model.sample(5, None, Draws(0, 0, 5), noise=noise, sampler=sampler, steps=100, path="angle")
            torch.testing.assert_close(found, noise, atol=2e-3, rtol=1e-3)


def test_encoding_is_the_inverse_of_sampling() -> None:
    model = build(knowing(THREE, Rectified(), "v"), steps=200, sampler="rk4")
    noise = Draws(3, 0, 20).normal(2, dtype=WIDE)
    with torch.no_grad():
        x = model.sample(20, None, Draws(3, 0, 20))
        torch.testing.assert_close(model.encode(x), noise, atol=1e-3, rtol=1e-3)


def test_ddim_backwards_comes_to_the_code_at_first_order() -> None:
    model = build(knowing(THREE, Table.linear(), "noise"), schedule=Table.linear(), prediction="noise")
    x = THREE.sample(20, seed=1)
    with torch.no_grad():
        code = model.encode(x)
        errors = [float((model.encode(x, steps=n) - code).norm(dim=1).mean()) for n in (125, 250, 500)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(1, abs=0.3), errors


def test_densities_are_the_change_of_variables_of_the_flow(tiny: Any) -> None:
    for schedule in (Rectified(), VP()):
        model = build(random_net(tiny), schedule=schedule)
        x = torch.randn(2, 2, dtype=WIDE)
        found = model.log_prob(x).detach()
        normal = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1)
        for row, score in zip(x, found, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda y, model=model: model.encode(y[None])[0], row).detach()
            with torch.no_grad():
                base = normal.log_prob(model.encode(row[None])).sum()
            assert float(score) == pytest.approx(float(base + torch.linalg.slogdet(jacobian).logabsdet), abs=1e-5)
        assert float((found - normal.log_prob(x).sum(1)).abs().min()) > 0.01


def test_preprocessing_enters_the_density_once(tiny: Any) -> None:
    net = random_net(tiny)
    plain, moved = build(net), build(net)
    shift = Standardise((2,)).double()
    shift.mean.copy_(torch.tensor([3.0, -1.0]))
    shift.std.copy_(torch.tensor([2.0, 0.1]))
    moved.preprocess = Compose([shift])
    x = torch.randn(6, 2, dtype=WIDE)
    with torch.no_grad():
        torch.testing.assert_close(moved.log_prob(shift.push(x)), plain.log_prob(x) - math.log(0.2))
        torch.testing.assert_close(moved.sample(6, None, Draws(0, 0, 6)), shift.push(plain.sample(6, None, Draws(0, 0, 6))))


@pytest.mark.parametrize("noise", ["signs", "normal"])
def test_probes_estimate_the_exact_density(tiny: Any, noise: str) -> None:
    net = random_net(tiny, 3)
    how: dict[str, Any] = {"solve": Fixed("heun", 5), "noise": noise}
    exact = build(net, 3, scoring=Scoring(**how))
    rough = build(net, 3, scoring=Scoring(**how, exact_up_to=2))
    many = build(net, 3, scoring=Scoring(**how, exact_up_to=2, probes=8))
    assert (exact.weights_are_exact, rough.weights_are_exact) == (True, False)
    assert (exact.random, rough.random) == (False, True)
    x, n = torch.randn(1, 3, dtype=WIDE), 1500
    with torch.no_grad():
        found, calmer = (m.log_prob(x.expand(n, -1), None, Draws(0, 0, n)) for m in (rough, many))
        truth = float(exact.log_prob(x))
    assert float(found.mean()) == pytest.approx(truth, abs=5 * float(found.std()) / n**0.5)
    assert float(calmer.mean()) == pytest.approx(truth, abs=5 * float(calmer.std()) / n**0.5)
    assert 0.2 * float(found.var()) > float(calmer.var()) > 0.05 * float(found.var())


def test_interpolation_begins_and_ends_at_its_ends() -> None:
    model = build(knowing(THREE, Rectified(), "v"))
    a, b = THREE.sample(5, seed=1), THREE.sample(5, seed=2)
    with torch.no_grad():
        way = model.interpolate(a, b, 5)
    assert way.shape == (5, 5, 2)
    torch.testing.assert_close(way[:, 0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(way[:, -1], b, atol=1e-5, rtol=1e-5)


# sampling


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.kind != "jumps"])
@pytest.mark.parametrize("steps", [1, 7])
def test_sampling_takes_exactly_the_steps_asked_for(name: str, steps: int) -> None:
    net = Given(zero)
    x = build(net).sample(3, None, Draws(0, 0, 3), steps=steps, sampler=name)
    assert net.calls == steps * SAMPLERS[name].evaluations - (name == "edm")
    assert x.isfinite().all()


def test_the_way_can_be_watched_and_the_grid_be_ones_own() -> None:
    model = build(knowing(THREE, VP(), "v"), schedule=VP())
    seen: list[tuple[int, Tensor, Tensor]] = []
    noise = torch.randn(4, 2, dtype=WIDE)
    with torch.no_grad():
        x = model.sample(
            4, None, Draws(0, 0, 4), noise=noise, sampler="dpm++2m", grid=[1.0, 0.6, 0.3, 0.1], watch=lambda *a: seen.append(a)
        )
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4]
    torch.testing.assert_close(seen[0][1], noise)
    assert torch.equal(seen[-1][1], x)


def test_what_cannot_be_sampled_is_refused_in_one_line() -> None:
    model = build(Given(zero), schedule=VP())
    draw = lambda **how: model.sample(2, None, Draws(0, 0, 2), **how)
    with pytest.raises(RecipeError, match="infinite at an end"):
        draw(sampler="heun", path="vp")
    with pytest.raises(RecipeError, match="no path is called"):
        draw(path="vpp")
    with pytest.raises(RecipeError, match="no option 'eta'"):
        draw(sampler="heun", eta=0.3)
    with pytest.raises(RecipeError, match="consistency is no sampler of this model: use euler, midpoint"):
        draw(sampler="consistency")
    with pytest.raises(RecipeError, match="carry other data: this one starts from noise"):
        draw(start=torch.zeros(2, 2))


def test_predictions_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="predict v"):
        build(Given(zero), prediction="noise")
    with pytest.raises(ValueError, match="infinite"):
        build(Given(zero), schedule=VP(), prediction="velocity")
    with pytest.raises(ValueError, match="a table"):
        build(Given(zero), variance=True)


# guidance


def two_ways(tiny: Any) -> tuple[Diffusion, dict[str, Tensor]]:
    model = build(random_net(tiny, context=4), columns=tiny.conditions)
    tiny.perturb(model.conditioner)
    return model, tiny.condition(6)


def test_guidance_is_linear_in_its_weight(tiny: Any) -> None:
    model, condition = two_ways(tiny)
    draw = lambda w, c=condition, **how: model.sample(6, c, Draws(1, 0, 6), guidance=w, **how)
    one = {"steps": 1, "sampler": "euler"}
    with torch.no_grad():
        null, plain = draw(1.0, None, **one), draw(1.0, **one)
        torch.testing.assert_close(draw(0.0, **one), null)
        torch.testing.assert_close(draw(3.0, **one), null + 3 * (plain - null))
        assert not torch.isclose(plain, null).any()
        torch.testing.assert_close(draw(0.0, steps=8), draw(1.0, None, steps=8), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(draw(1.0 + 1e-12, steps=8), draw(1.0, steps=8), rtol=1e-6, atol=1e-6)


def test_guidance_keeps_to_its_interval_and_calls_the_network_once_a_step(tiny: Any) -> None:
    model, condition = two_ways(tiny)
    inner, sizes = model.net, []

    class Sized(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
            sizes.append(len(x))
            return inner(x, t, context)

    model.net = Sized()
    draw = lambda **how: model.sample(6, condition, Draws(1, 0, 6), steps=8, sampler="dpm++2m", **how)
    with torch.no_grad():
        plain = draw()
        sizes.clear()
        some = draw(guidance=3.0, guidance_interval=(0.5, 2.0))
        assert set(sizes) == {6, 12}
        assert len(sizes) == 8
        torch.testing.assert_close(draw(guidance=3.0, guidance_interval=(1e6, 1e7)), plain)
        assert not torch.isclose(some, plain).all()
    with pytest.raises(RecipeError, match="interval"):
        draw(guidance=3.0, guidance_interval=(2.0, 1.0))


def test_a_weaker_model_guides_like_a_null_condition_would(tiny: Any) -> None:
    strong, weak = build(random_net(tiny)), build(Given(zero))
    draw = lambda model, **how: model.sample(6, None, Draws(1, 0, 6), steps=1, sampler="euler", **how)
    with torch.no_grad():
        a, b = draw(strong), draw(weak)
        torch.testing.assert_close(draw(strong, guidance=2.5, weak=weak), b + 2.5 * (a - b))


# training


@pytest.mark.parametrize("schedule", [Rectified(), VP(), EDM(), Table.linear(), SubVP()])
@pytest.mark.parametrize("weighting", ["noise", "v", "data", "min-snr", "p2"])
def test_the_loss_is_the_weighted_distance_to_what_is_predicted(schedule: Schedule, weighting: str) -> None:
    """With zeros for v of normal data, E|v − 0|² = 1 on the circle at every t: the loss is the mean weight over the times."""
    n = 20_000
    times = "log-normal" if isinstance(schedule, EDM) else "uniform"
    model = build(Given(zero), schedule=schedule, weighting=weighting, times=times)
    with torch.no_grad():
        found = model(Batch(Draws(9, 0, n).normal(2, dtype=WIDE), Draws(1, 0, n)))["loss"]
    u = (torch.arange(20_000, dtype=WIDE) + 0.5) / 20_000
    truth = float(WEIGHTINGS[weighting](schedule, SAMPLINGS[times](schedule, u)).mean())
    assert float(found.mean()) == pytest.approx(truth, abs=5 * float(found.std()) / n**0.5)


@settings
def test_a_network_that_knows_the_data_has_the_least_loss(schedule: Schedule, prediction: str) -> None:
    """E w |P̂ − P|² by the loss, and by E w Var[P | x_t] from the closed form of one normal."""
    n = 20_000
    net = knowing(ONE, schedule, prediction)
    times = "log-normal" if isinstance(schedule, EDM) else "uniform"
    model = build(net, schedule=schedule, prediction=prediction, weighting="v", times=times)
    with torch.no_grad():
        found = model(Batch(ONE.sample(n, seed=2), Draws(1, 0, n)))["loss"]
    u = (torch.arange(20_000, dtype=WIDE) + 0.5) / 20_000
    t = SAMPLINGS[times](schedule, u)
    alpha2, sigma2 = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
    # Var[x_0 | x] = s² σ²/(α² s² + σ²) for data of variance s², and v errs (s_t/σ) times as much as x_0
    truth = float((0.36 * (alpha2 + sigma2) / (alpha2 * 0.36 + sigma2)).mean())
    assert float(found.mean()) == pytest.approx(truth, abs=5 * float(found.std()) / n**0.5)


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


# the variational bound


def chain(model: Diffusion, y: Tensor) -> Tensor:
    """log p(y) of DDPM's own chain for normal data, whose steps are affine: its last state is normal."""
    schedule = model.schedule
    assert isinstance(schedule, Table)
    mean, variance = torch.zeros(2, dtype=WIDE), torch.ones((), dtype=WIDE)
    for i in range(schedule.steps, 0, -1):
        t, s = (torch.tensor([k / schedule.steps], dtype=WIDE) for k in (i, i - 1))
        q = schedule.alpha(t) / schedule.alpha(s)
        v = schedule.sigma(t) ** 2 - q**2 * schedule.sigma(s) ** 2
        share = q * schedule.sigma(s) ** 2 / schedule.sigma(t) ** 2
        add = schedule.alpha(s) * v / schedule.sigma(t) ** 2
        gain = schedule.alpha(t) * 0.36 / (schedule.alpha(t) ** 2 * 0.36 + schedule.sigma(t) ** 2)
        slope = share + add * gain
        offset = add * (1 - gain * schedule.alpha(t)) * ONE.means[0]
        mean, variance = slope * mean + offset, slope**2 * variance + v
    return torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).sum(1)


@pytest.mark.parametrize("steps", [5, 40])
def test_the_bound_bounds_the_chains_own_density(steps: int) -> None:
    table = Table.linear(steps)
    net = knowing(ONE, table, "noise")
    model = build(net, schedule=table, prediction="noise", scoring=Scoring(bound=steps))
    assert model.density_kind == "lower_bound"
    y, n = ONE.sample(3, seed=4), 3000
    with torch.no_grad():
        found = torch.stack([model.log_prob(row.expand(n, -1), None, Draws(2, 0, n)) for row in y])
    truth, error = chain(model, y), found.std(1) / n**0.5
    gap = truth - found.mean(1)
    # data of this width leave the posterior of a step nearly normal, so that the bound is near; it is never above
    assert (gap > -4 * error).all()
    assert (gap < 0.25).all()


def test_some_terms_of_the_bound_estimate_all_of_them() -> None:
    table = Table.linear(60)
    net = knowing(THREE, table, "noise")
    every, some = (build(net, schedule=table, prediction="noise", scoring=Scoring(bound=k)) for k in (60, 7))
    y, n = THREE.sample(1, seed=4), 4000
    with torch.no_grad():
        whole, part = (m.log_prob(y.expand(n, -1), None, Draws(2, 0, n)) for m in (every, some))
    error = math.hypot(float(whole.std()), float(part.std())) / n**0.5
    assert float(part.mean()) == pytest.approx(float(whole.mean()), abs=5 * error)
    assert not some.weights_are_exact


def test_learned_variances_lower_the_bound() -> None:
    """The bound is least where the variance is that of x_s given x_t, between the posterior's and v."""
    from pushforward.paths.posterior import posterior, step_bound

    table, n = Table.linear(20), 40_000
    t, s = torch.full((n,), 0.5, dtype=WIDE), torch.full((n,), 0.45, dtype=WIDE)
    y, noise = ONE.sample(n, seed=1), torch.randn(n, 2, dtype=WIDE)
    x = table.alpha(t)[:, None] * y + table.sigma(t)[:, None] * noise
    guess = ONE.denoise(x, table.alpha(t), table.sigma(t))
    _, add, least, most = (p[0] for p in posterior(table, s, t))
    known = table.sigma(t[0]) ** 2 * 0.36 / (table.alpha(t[0]) ** 2 * 0.36 + table.sigma(t[0]) ** 2)  # Var[x_0 | x_t]
    best = float(((least + add**2 * known).log() - least.log()) / (most.log() - least.log()))
    assert 0.01 < best < 0.99
    of = lambda w: float(step_bound(table, s, t, y, x, guess, torch.full_like(y, w)).mean())
    assert of(best) < min(of(best - 0.05), of(best + 0.05), of(0.0), of(1.0))
    assert of(1.0) == pytest.approx(float(step_bound(table, s, t, y, x, guess).mean()))


def test_a_network_with_variances_samples_and_scores(tiny: Any) -> None:
    torch.manual_seed(0)
    net = TimeMLP(2, hidden=(16, 16), outputs=4, scale=3.0)
    tiny.perturb(net, 0.6)
    table = Table.cosine(20)
    model = build(net, schedule=table, variance=True, weighting="noise", scoring=Scoring(bound=20))
    batch = Batch(torch.randn(30, 2, dtype=WIDE), Draws(0, 0, 30))
    terms = model(batch)
    assert set(terms) == {"loss", "simple"}
    terms["loss"].mean().backward()
    last = net.last.weight.grad
    assert last is not None
    assert float(last[2:].abs().max()) > 0
    with torch.no_grad():
        one = model.sample(5, None, Draws(0, 0, 5), sampler="ddpm", steps=20)
        net.last.bias[2:] += 1.0  # wider steps
        two = model.sample(5, None, Draws(0, 0, 5), sampler="ddpm", steps=20)
        assert not torch.isclose(one, two).any()
        assert model.log_prob(batch.x).isfinite().all()
    # the mean is trained by the simple loss alone
    model.zero_grad()
    half = model(batch)
    (half["loss"] - half["simple"]).mean().backward()


@pytest.mark.parametrize("kind", ["vector", "table", "image", "signal", "points"])
def test_variances_are_learned_of_every_kind(tiny: Any, kind: str) -> None:
    model = tiny.model("ddpm", kind, variance="learned", trained_steps=20, sampler="ddpm", bound_terms=2)
    terms = model(tiny.batch(model.schema, kind, 12))
    terms["loss"].mean().backward()
    with torch.no_grad():
        drawn = model.sample(6, None, Draws(0, 0, 6))
        assert drawn.double().nan_to_num().isfinite().all()
        assert model.log_prob(tiny.codes(kind, 5), None, Draws(1, 0, 5)).isfinite().all()


# completion


def test_completion_comes_close_to_the_conditional_of_normal_data() -> None:
    cov = torch.tensor([[1.6, 0.9], [0.9, 0.8]], dtype=WIDE)
    path, eye = Rectified(), torch.eye(2, dtype=WIDE)

    def correlated(seen: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        x = seen * over((alpha**2 + sigma**2).sqrt(), seen)
        total = alpha[:, None, None] ** 2 * cov + sigma[:, None, None] ** 2 * eye
        inner = torch.linalg.solve(total, x[..., None])
        data, noise = alpha[:, None] * (cov @ inner)[..., 0], sigma[:, None] * inner[..., 0]
        return from_pair("v", data, noise, path, t)

    n, mean, variance = 3000, 0.9 / 1.6 * 1.5, 0.8 - 0.81 / 1.6
    model = build(Given(correlated))
    x = torch.tensor([[1.5, 9.0]], dtype=WIDE).expand(n, -1)
    seen = torch.tensor([[True, False]]).expand(n, -1)
    found = {}
    for method in ("particles", "repaint", "replace", "posterior"):
        with torch.no_grad():
            drawn = model.complete(x, seen, None, Draws(0, 0, n), steps=200, method=method, repeats=10)
        assert torch.equal(drawn[:, 0], x[:, 0])
        found[method] = float(drawn[:, 1].mean()), float(drawn[:, 1].var())
    assert found["particles"] == pytest.approx((mean, variance), abs=0.05)
    assert found["repaint"] == pytest.approx((mean, variance), abs=0.08)
    assert found["posterior"] == pytest.approx((mean, variance), abs=0.15)
    # without going back, what is drawn hardly hears of what is held
    assert found["replace"][0] < found["repaint"][0] - 0.1
    with pytest.raises(RecipeError, match="method is particles, repaint, replace, posterior, found 'paint'"):
        model.complete(x, seen, None, Draws(0, 0, n), method="paint")
    with pytest.raises(RecipeError, match="found 0 repeats"):
        model.complete(x, seen, None, Draws(0, 0, n), repeats=0)


@pytest.mark.parametrize("given", [-1.0, 0.3, 1.5])
def test_particles_choose_between_modes_as_the_conditional_does(given: float) -> None:
    """p(x_2 | x_1) of a mixture is one again, with each part weighed by how well it explains x_1."""
    m, v = THREE.means, THREE.stds.square()
    weights = THREE.weights * (-0.5 * (given - m[:, 0]).square() / v).exp() / v.sqrt()
    weights = weights / weights.sum()
    mean = float((weights * m[:, 1]).sum())
    deviation = float((weights * (v + m[:, 1].square())).sum() - mean**2) ** 0.5
    n, model = 3000, build(knowing(THREE, Rectified(), "v"))
    x = torch.tensor([[given, 0.0]], dtype=WIDE).expand(n, -1)
    seen = torch.tensor([[True, False]]).expand(n, -1)
    with torch.no_grad():
        drawn = model.complete(x, seen, None, Draws(0, 0, n), steps=100, particles=32)
        few = model.complete(x[:9], seen[:9], None, Draws(0, 0, 9, n), steps=100, particles=32)
    assert torch.equal(drawn[:, 0], x[:, 0])
    assert float(drawn[:, 1].mean()) == pytest.approx(mean, abs=4 * deviation / n**0.5 + 0.02)
    assert float(drawn[:, 1].std()) == pytest.approx(deviation, rel=0.07)
    torch.testing.assert_close(few, drawn[:9])


def test_restoring_draws_from_the_posterior_of_normal_data() -> None:
    """y = x_1 + x_2 of standard normals: x_1 + x_2 is known, x_1 − x_2 is as before."""
    n, net = 3000, Given(zero)
    model = build(net)
    measured = torch.full((n, 1), 1.7, dtype=WIDE)
    drawn = model.restore(measured, lambda x: x.sum(1, keepdim=True), None, Draws(0, 0, n), steps=60)
    torch.testing.assert_close(drawn.sum(1), measured[:, 0], atol=0.05, rtol=0)
    apart = drawn[:, 0] - drawn[:, 1]
    assert float(apart.mean()) == pytest.approx(0, abs=5 * math.sqrt(2 / n))
    assert float(apart.var()) == pytest.approx(2, rel=0.1)
