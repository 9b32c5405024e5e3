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
from pushforward.models.elements import elements
from pushforward.models.vae import VAE, warn_if_collapsed
from pushforward.nets.mlp import MLP

WIDE = torch.float64


def build(tiny: Any, kind: str, *, conditions: bool = False, beta: float = 1.0, latent: int = 1) -> VAE:
    schema = tiny.schema(kind, conditions=conditions)
    parts, conditioner = elements(schema.example, components=2), Conditioner(schema.conditions, 5)
    torch.manual_seed(0)
    encoder = MLP(len(parts.feature_element), 2 * latent, (8,), context=conditioner.width)
    decoder = MLP(latent + conditioner.width, len(parts.param_element), (8,))
    model = VAE(schema, parts, parts, encoder, decoder, conditioner, latent=latent, beta=beta)
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
    decoder = torch.nn.Linear(1, 4).double()
    torch.nn.init.zeros_(decoder.weight)
    decoder.bias.copy_(torch.tensor([0.0, 1.0, 0.0, -2.0]))
    model = VAE(Schema(parts.kind), parts, parts, Truth(), decoder, Conditioner(()), latent=1).double()
    n = 4000
    x = torch.ones(n, 1, 1, 2, dtype=torch.uint8)
    observed = torch.tensor([True, False]).view(1, 1, 1, 2).expand(n, -1, -1, -1)
    drawn = model.complete(x, observed, None, Draws(0, 0, n))
    assert torch.equal(drawn[..., 0], x[..., 0])
    share = 1 / (1 + math.exp(2))
    assert float(drawn[..., 1].double().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


def test_a_collapsed_posterior_is_told() -> None:
    assert warn_if_collapsed(0.01, 16) is not None
    assert warn_if_collapsed(5.0, 16) is None
    assert warn_if_collapsed(math.nan, 16) is None
