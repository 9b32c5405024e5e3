"""The VAE's bounds against quadrature over its one latent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.core.context import Conditioner
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.bound import Slope, active_units, warn_if_collapsed
from pushforward.models.elements import elements
from pushforward.models.vae import VAE
from pushforward.nets.mlp import MLP

WIDE = torch.float64


def build(tiny: Any, kind: str, *, conditions: bool = False, beta: float = 1.0, latent: int = 1) -> VAE:
    schema = tiny.schema(kind, conditions=conditions)
    parts, conditioner = elements(schema.example, components=2), Conditioner(schema.conditions, 5)
    torch.manual_seed(0)
    encoder = MLP(len(parts.feature_element), 2 * latent, (8,), context=conditioner.width)
    decoder = MLP(latent + conditioner.width, len(parts.param_element), (8,))
    model = VAE(schema, parts, parts, encoder, decoder, conditioner, latent=latent, slope=Slope(beta))
    model.prepare(tiny.codes(kind, 200))
    tiny.perturb(model, 0.7)
    with torch.no_grad():  # a posterior near the prior and a little wider, so that importance weights have a variance
        encoder.layers[-1].weight.mul_(0.2)
        decoder.layers[-1].weight.mul_(0.5)
        encoder.layers[-1].bias.copy_(torch.tensor([0.3] * latent + [0.1] * latent))
    return model.double().eval()


def integrals(model: VAE, x: Tensor, condition: dict[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """log ∫ p(x|z) φ(z) dz, and the evidence lower bound ∫ q (log p(x|z) + log φ − log q) dz, by the trapezoid rule."""
    z = torch.linspace(-9, 9, 1801, dtype=WIDE)
    normal = torch.distributions.Normal(torch.zeros((), dtype=WIDE), 1)
    marginal, bound = [], []
    for i in range(len(x)):
        row = x[i : i + 1].expand(len(z), *x.shape[1:])
        one = {n: v[i : i + 1].expand(len(z)) for n, v in condition.items()} if condition else None
        likelihood = model.elements.log_prob(model.params(z[:, None], one), row)
        mean, log_std = model.posterior(x[i : i + 1], {n: v[i : i + 1] for n, v in condition.items()} if condition else None)
        q = torch.distributions.Normal(mean[0, 0], log_std[0, 0].exp()).log_prob(z)
        marginal.append(torch.trapezoid((likelihood + normal.log_prob(z)).exp(), z).log())
        bound.append(torch.trapezoid(q.exp() * (likelihood + normal.log_prob(z) - q), z))
    return torch.stack(marginal), torch.stack(bound)


@pytest.mark.parametrize(("kind", "conditions"), [("vector", False), ("table", True), ("binary", False), ("tokens", True)])
@torch.no_grad()
def test_bounds_are_what_quadrature_says(tiny: Any, kind: str, conditions: bool) -> None:
    model, rows, draws = build(tiny, kind, conditions=conditions), 4, 6000
    x = tiny.codes(kind, rows, seed=4)
    condition = tiny.condition(rows) if conditions else None
    marginal, bound = integrals(model, x, condition)
    many = x.repeat_interleave(draws, 0)
    each = {n: v.repeat_interleave(draws) for n, v in condition.items()} if condition else {}
    log_w = model.log_prob(many, each or None, Draws(1, 0, len(many))).view(rows, draws)
    terms = model(Batch(many, Draws(2, 0, len(many)), each))
    losses = terms["loss"].view(rows, draws)
    error = lambda v: 5 * v.std(1) / draws**0.5 + 1e-6
    weights = (log_w - marginal[:, None]).exp()
    assert ((weights.mean(1) - 1).abs() < error(weights)).all()
    assert ((log_w.mean(1) - bound).abs() < error(log_w)).all()
    assert ((-losses.mean(1) - bound).abs() < error(losses)).all()
    assert (bound < marginal).all()


@torch.no_grad()
def test_beta_weighs_the_rate_in_training_only(tiny: Any) -> None:
    plain, heavy = build(tiny, "vector"), build(tiny, "vector", beta=4.0)
    x = tiny.codes("vector", 30)
    one, four = plain(Batch(x, Draws(1, 0, 30))), heavy(Batch(x, Draws(1, 0, 30)))
    torch.testing.assert_close(one["rate"], four["rate"])
    torch.testing.assert_close(four["loss"], one["distortion"] + 4 * one["rate"])
    torch.testing.assert_close(plain.log_prob(x, None, Draws(1, 0, 30)), heavy.log_prob(x, None, Draws(1, 0, 30)))


@torch.no_grad()
def test_the_rate_is_the_divergence_of_the_posterior(tiny: Any) -> None:
    model = build(tiny, "vector", latent=3)
    x = tiny.codes("vector", 30)
    mean, log_std = model.posterior(x)
    q = torch.distributions.Normal(mean, log_std.exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    truth = torch.distributions.kl_divergence(q, prior).sum(1)
    torch.testing.assert_close(model(Batch(x, Draws(0, 0, 30)))["rate"], truth)
    torch.testing.assert_close(model.encode(x), mean)


@torch.no_grad()
def test_completion_draws_the_rest_given_the_latent(tiny: Any) -> None:
    """Gibbs sampling's stationary distribution is p(missing | seen) when q is the true posterior: of a two-pixel picture."""
    torch.manual_seed(0)
    from pushforward.core.schema import Image

    class Truth(torch.nn.Module):
        """q(z | x): the decoder ignores z, so the posterior is the prior and the missing pixel has its own frequency."""

        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            return torch.zeros(len(x), 2, dtype=WIDE)

    parts = elements(Image(1, 1, 2, levels=2))
    decoder = torch.nn.Linear(1, 2).double()
    torch.nn.init.zeros_(decoder.weight)
    decoder.bias.copy_(torch.tensor([1.0, -2.0]))
    model = VAE(Schema(parts.kind), parts, parts, Truth(), decoder, Conditioner(()), latent=1).double()
    n = 4000
    x = torch.ones(n, 1, 1, 2, dtype=torch.uint8)
    observed = torch.tensor([True, False]).view(1, 1, 1, 2).expand(n, -1, -1, -1)
    drawn = model.complete(x, observed, None, Draws(0, 0, n))
    assert torch.equal(drawn[..., 0], x[..., 0])
    share = 1 / (1 + math.exp(2))
    assert float(drawn[..., 1].double().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


# schedules


def trained(model: VAE, done: float) -> VAE:
    """In training, with the share ``done`` of it done."""
    model.train()
    model.before_round(done)
    return model


def test_beta_rises_and_free_bits_fall(tiny: Any) -> None:
    model, x = build(tiny, "vector", latent=3), tiny.codes("vector", 40)
    model.slope = Slope(beta=0.8, beta_warmup=0.5, free_bits=0.3, free_until=0.6)
    with torch.no_grad():
        model.encoder.layers[-1].bias[:3] = torch.tensor([1.0, 0.5, 0.1])
    mean, log_std = model.posterior(x)
    q = torch.distributions.Normal(mean, log_std.exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(mean), 1.0)).detach()
    assert (kl.mean(0) > 0.3).any()
    assert (kl.mean(0) < 0.3).any()
    for done, beta, free in ((0.0, 0.0, 0.3), (0.25, 0.4, 0.3 * 35 / 60), (0.5, 0.8, 0.05), (0.9, 0.8, 0.0)):
        terms = trained(model, done)(Batch(x, Draws(1, 0, 40)))
        paid = (terms["loss"] - terms["distortion"]).mean()
        torch.testing.assert_close(paid, beta * kl.mean(0).clamp(min=free).sum())
        torch.testing.assert_close(terms["rate"], kl.sum(1))
    terms = model.eval()(Batch(x, Draws(1, 0, 40)))  # validation does not change its measure
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 0.8 * kl.sum(1))


def test_what_is_free_has_no_gradient(tiny: Any) -> None:
    model, x = build(tiny, "vector", latent=2), tiny.codes("vector", 40)
    model.slope = Slope(free_bits=0.3)
    with torch.no_grad():  # the first dimension is nearly the prior, the second is not
        model.encoder.layers[-1].weight.mul_(0.05)
        model.encoder.layers[-1].bias.copy_(torch.tensor([0.1, 2.0, 0.0, 0.0]))
        model.decoder.layers[-1].weight.zero_()
    trained(model, 0.5)(Batch(x, Draws(1, 0, 40)))["loss"].mean().backward()
    slope = model.encoder.layers[-1].bias.grad
    assert slope[0] == slope[2] == 0
    torch.testing.assert_close(slope[1], model.posterior(x)[0][:, 1].mean())


# the linear model


def linear(tiny: Any, *, wrong: float = 0.0, **options: Any) -> tuple[VAE, torch.distributions.MultivariateNormal, Tensor]:
    """x = W z + b + noise of the deviations d, its marginal, and how far q(z | x) is from the posterior: not at all, or with
    means ``wrong`` deviations off and deviations exp(``wrong``) times too large."""
    size, latent = 3, 2
    schema = tiny.schema("vector")
    parts = elements(schema.example, components=1, numbers="normal")
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(size, latent, generator=generator, dtype=WIDE)
    b, d = torch.randn(size, generator=generator, dtype=WIDE), torch.tensor([0.5, 0.8, 1.1], dtype=WIDE)
    precision = torch.eye(latent, dtype=WIDE) + weight.T @ torch.diag(d**-2) @ weight
    # turned so that the posterior has independent coordinates, which is what q can say
    turn = torch.linalg.eigh(precision).eigenvectors
    weight, spread = weight @ turn, torch.linalg.eigh(precision).eigenvalues.rsqrt()
    to_mean = torch.diag(spread**2) @ weight.T @ torch.diag(d**-2)

    encoder, decoder = torch.nn.Linear(size, 2 * latent).double(), torch.nn.Linear(latent, 3 * size).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        encoder.bias.copy_(torch.cat([-to_mean @ b + wrong * spread, spread.log() + wrong]))
        rows = torch.zeros(size, 3, latent, dtype=WIDE)
        rows[:, 1] = weight
        decoder.weight.copy_(rows.flatten(0, 1))
        decoder.bias.copy_(torch.stack([torch.zeros(size, dtype=WIDE), b, d.log()], 1).flatten())

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = encoder

        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            return self.net(x)

    model = VAE(schema, parts, torch.nn.Identity(), Seen(), decoder, Conditioner(()), latent=latent, **options).double()
    marginal = torch.distributions.MultivariateNormal(b, weight @ weight.T + torch.diag(d**2))
    gap = torch.tensor(latent * (0.5 * (wrong**2 + math.exp(2 * wrong) - 1) - wrong), dtype=WIDE)
    return model.eval(), marginal, gap


@torch.no_grad()
def test_with_the_exact_posterior_every_weight_is_the_density(tiny: Any) -> None:
    model, marginal, _ = linear(tiny)
    x = marginal.sample((50,))
    for seed in (1, 2):
        torch.testing.assert_close(model.log_prob(x, None, Draws(seed, 0, 50)), marginal.log_prob(x))
    torch.testing.assert_close(model.log_weights(x, 4, None, Draws(0, 0, 50)), marginal.log_prob(x)[:, None].expand(-1, 4))


@torch.no_grad()
def test_with_another_posterior_the_bound_is_lower_by_the_divergence(tiny: Any) -> None:
    model, marginal, gap = linear(tiny, wrong=0.2)
    x = marginal.sample((20,))
    log_w = model.log_weights(x, 20_000, None, Draws(0, 0, 20))
    error = 5 * log_w.std(1) / 20_000**0.5
    assert ((log_w.mean(1) - (marginal.log_prob(x) - gap)).abs() < error).all()
    assert (gap > 3 * error).all()
    terms = model(Batch(x.repeat_interleave(5000, 0), Draws(0, 0, 100_000)))
    loss = terms["loss"].view(20, 5000)
    assert ((-loss.mean(1) - (marginal.log_prob(x) - gap)).abs() < 5 * loss.std(1) / 5000**0.5).all()


def gradients(model: VAE, x: Tensor, draws: int) -> Tensor:
    """Gradients of the encoder's bias, one row for each of ``draws`` losses."""
    found = []
    for seed in range(draws):
        model.zero_grad()
        model(Batch(x, Draws(seed, 0, len(x))))["loss"].mean().backward()
        found.append(model.encoder.net.bias.grad.clone())
    return torch.stack(found)


@pytest.mark.parametrize(("samples", "beta"), [(1, 1.0), (3, 1.0), (3, 0.6)])
def test_doubly_reparameterised_gradients_have_the_same_mean(tiny: Any, samples: int, beta: float) -> None:
    options = {"samples": samples, "slope": Slope(beta)}
    (plain, marginal, _), (dreg, _, _) = linear(tiny, wrong=0.4, **options), linear(tiny, wrong=0.4, gradient="dreg", **options)
    x = marginal.sample((8,)).repeat(60, 1)
    a, b = gradients(plain, x, 60), gradients(dreg, x, 60)
    error = ((a.var(0) + b.var(0)) / 60).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all()
    assert (a.mean(0).abs() > 10 * error).any()
    if samples > 1:  # one draw has its rate in closed form
        torch.testing.assert_close(plain(Batch(x, Draws(0, 0, 480)))["loss"], dreg(Batch(x, Draws(0, 0, 480)))["loss"])


def test_doubly_reparameterised_gradients_vanish_at_the_optimum(tiny: Any) -> None:
    for samples in (1, 4):
        (plain, marginal, _), (dreg, _, _) = linear(tiny, samples=samples), linear(tiny, samples=samples, gradient="dreg")
        x = marginal.sample((8,))
        assert gradients(dreg, x, 3).abs().max() < 1e-12
        assert gradients(plain, x, 3).abs().max() > 1e-3


# importance weights


@torch.no_grad()
def test_weighted_bounds_rise_to_the_marginal(tiny: Any) -> None:
    model = build(tiny, "vector")
    x = tiny.codes("vector", 3, seed=4)
    marginal, bound = integrals(model, x, None)
    log_w = model.log_weights(x, 24_000, None, Draws(0, 0, 3))
    before = bound - 1e-3
    for k in (1, 4, 32, 240):
        each = log_w.view(3, -1, k).logsumexp(2) - math.log(k)
        now, error = each.mean(1), each.std(1) / each.shape[1] ** 0.5
        assert (now > before - 4 * error).all()
        assert (now < marginal + 4 * error).all()
        before = now
    torch.testing.assert_close(before, marginal, atol=0.02, rtol=0)
    torch.testing.assert_close(model.log_marginal(x, 24_000, None, Draws(0, 0, 3)), log_w.logsumexp(1) - math.log(24_000))


@torch.no_grad()
@pytest.mark.parametrize("samples", [4, 5])
def test_the_loss_of_several_draws_is_their_bound(tiny: Any, samples: int) -> None:
    model, rows = build(tiny, "vector"), 30
    x = tiny.codes("vector", rows, seed=4)
    mean, log_std = model.posterior(x)
    noise = Draws(3, 0, rows).normal(samples, 1, dtype=WIDE)
    z = mean[:, None] + log_std.exp()[:, None] * noise
    normal = torch.distributions.Normal
    log_q = normal(mean, log_std.exp()).log_prob(z[..., 0])
    likelihood = torch.stack([model.elements.log_prob(model.params(z[:, k]), x) for k in range(samples)], 1)
    log_w = likelihood + normal(torch.zeros((), dtype=WIDE), 1.0).log_prob(z[..., 0]) - log_q
    model.samples = samples
    torch.testing.assert_close(model(Batch(x, Draws(3, 0, rows)))["loss"], math.log(samples) - log_w.logsumexp(1))


@torch.no_grad()
@pytest.mark.parametrize("conditions", [False, True])
def test_many_weights_at_once_are_those_one_by_one(tiny: Any, conditions: bool, monkeypatch: Any) -> None:
    model, x = build(tiny, "table", conditions=conditions, latent=2), tiny.codes("table", 6)
    condition = tiny.condition(6) if conditions else None
    one_by_one = torch.stack([model.log_prob(x, condition, Draws(2, 0, 6).fork(k)) for k in range(7)], 1)
    torch.testing.assert_close(model.log_weights(x, 7, condition, Draws(2, 0, 6)), one_by_one)
    monkeypatch.setattr("pushforward.models.bound._NUMBERS", 2 * 6 * len(model.elements.param_element))
    torch.testing.assert_close(model.log_weights(x, 7, condition, Draws(2, 0, 6)), one_by_one)


# collapse


def test_a_collapsed_posterior_is_told() -> None:
    torch.manual_seed(0)
    signals = torch.randn(4000, 3, 1) * torch.tensor([1.0, 0.2, 0.05])[:, None]
    assert active_units(signals).tolist() == [True, True, False]
    assert "none of 16" in str(warn_if_collapsed(0, 16))
    assert "3 of 16" in str(warn_if_collapsed(3, 16))
    assert warn_if_collapsed(9, 16) is None
