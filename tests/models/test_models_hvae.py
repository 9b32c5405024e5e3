"""The hierarchical VAE against quadrature over two levels of one number each, and its rates against torch's divergences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pushforward.catalog import FAMILIES
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.models.hierarchical import HVAE

WIDE = torch.float64


def build(tiny: Any, kind: str, *, conditions: bool = False, latents: tuple[int, ...] = (1, 1)) -> HVAE:
    return tiny.model("hvae", kind, conditions=conditions, latents=latents, state=6, perturb=0.4).double()


@torch.no_grad()
@pytest.mark.parametrize(("kind", "conditions"), [("binary", False), ("table", True)])
def test_weights_average_to_the_marginal(tiny: Any, kind: str, conditions: bool) -> None:
    model, rows, draws = build(tiny, kind, conditions=conditions), 3, 4000
    x, condition = tiny.codes(kind, rows, seed=4), tiny.condition(rows) if conditions else None
    line = torch.linspace(-8, 8, 161, dtype=WIDE)
    top, bottom = torch.cartesian_prod(line, line).unbind(1)
    s = model.top.expand(len(top), -1)
    codes = []
    for level, u in ((model.levels[1], top), (model.levels[0], bottom)):  # written out: z = μ(s) + σ(s) u, s + A z, s + mix(s)
        mean, log_std = level.prior(s).chunk(2, 1)
        z = mean + log_std.exp() * u[:, None]
        s = s + z @ level.into.weight.T + level.into.bias
        s = s + level.mix(s)
        codes.append(z)
    log_prior = Normal(0.0, 1.0).log_prob(top) + Normal(0.0, 1.0).log_prob(bottom)
    marginal = []
    for i in range(rows):
        each = {n: v[i : i + 1].expand(len(top)) for n, v in condition.items()} if condition else None
        row = x[i : i + 1].expand(len(top), *x.shape[1:])
        log_joint = model.elements.log_prob(model.params(s, each), row) + log_prior
        marginal.append(log_joint.logsumexp(0) + 2 * math.log(line[1] - line[0]))
    log_w = model.log_weights(x, draws, condition, Draws(1, 0, rows))
    weights = (log_w - torch.stack(marginal)[:, None]).exp()
    assert ((weights.mean(1) - 1).abs() < 5 * weights.std(1) / draws**0.5).all()
    many = {n: v.repeat_interleave(draws) for n, v in condition.items()} if condition else {}
    loss = model(Batch(x.repeat_interleave(draws, 0), Draws(2, 0, rows * draws), many))["loss"].view(rows, draws)
    error = ((loss.var(1) + log_w.var(1)) / draws).sqrt()
    assert ((-loss.mean(1) - log_w.mean(1)).abs() < 5 * error).all()
    assert (log_w.mean(1) < torch.stack(marginal)).all()


@torch.no_grad()
def test_rates_are_divergences_in_the_codes_own_units(tiny: Any) -> None:
    model, x = build(tiny, "vector", latents=(3, 2)), tiny.codes("vector", 20)
    noise = torch.randn(20, 5, dtype=WIDE)
    seen = model.see(x)
    found = model.infer(seen, noise)
    s, rates, log_ratio, codes = model.top.expand(20, -1), [], torch.zeros(20, dtype=WIDE), []
    for level, h, epsilon in ((model.levels[1], seen[1], noise[:, 3:]), (model.levels[0], seen[0], noise[:, :3])):
        mean, log_std = level.prior(s).chunk(2, 1)
        shift, stretch = level.posterior(torch.cat([s, h], 1)).chunk(2, 1)
        prior = Normal(mean, log_std.exp())
        q = Normal(mean + log_std.exp() * shift, (log_std + stretch).exp())
        z = q.mean + q.stddev * epsilon
        rates.insert(0, kl_divergence(q, prior))
        log_ratio = log_ratio + (prior.log_prob(z) - q.log_prob(z)).sum(1)
        s = s + z @ level.into.weight.T + level.into.bias
        s = s + level.mix(s)
        codes.insert(0, z)
    torch.testing.assert_close(found.rates, torch.cat(rates, 1))
    torch.testing.assert_close(found.log_ratio, log_ratio)
    torch.testing.assert_close(found.z, s)
    terms = model(Batch(x, Draws(0, 0, 20)))
    torch.testing.assert_close(terms["rate_1"] + terms["rate_2"], terms["rate"])
    torch.testing.assert_close(model._down(seen, noise).z, torch.cat(codes, 1))


@torch.no_grad()
def test_samples_are_those_of_the_prior(tiny: Any) -> None:
    """The share of each picture among samples is its probability, by quadrature over both levels."""
    family = FAMILIES["hvae"]
    model = family.build(Schema(Image(1, 1, 2, 2)), tiny.config(family, latents=(1, 1), state=6)).double().eval()
    assert isinstance(model, HVAE)
    tiny.perturb(model, 1.5)
    line = torch.linspace(-7, 7, 141, dtype=WIDE)
    u = torch.cartesian_prod(line, line)
    log_prior = Normal(0.0, 1.0).log_prob(u).sum(1) + 2 * math.log(line[1] - line[0])
    s = model.top.expand(len(u), -1)
    for level, part in ((model.levels[1], u[:, :1]), (model.levels[0], u[:, 1:])):
        s, _ = level.step(s, part)
    params = model.params(s)
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.uint8).view(4, 1, 1, 2)
    log_joint = [model.elements.log_prob(params, x.expand(len(u), -1, -1, -1)) + log_prior for x in states]
    share = torch.stack(log_joint).exp().sum(1)
    assert float(share.sum()) == pytest.approx(1, abs=1e-6)
    n = 20_000
    drawn = model.sample(n, None, Draws(0, 0, n)).flatten(1).long()
    found: Tensor = torch.bincount(2 * drawn[:, 0] + drawn[:, 1], minlength=4).double() / n
    assert ((found - share).abs() < 5 * (share * (1 - share) / n).sqrt()).all()
