"""The VAE with categorical codes against enumeration of every code."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.models.bound import active_units
from pushforward.models.discrete_vae import ESTIMATORS, GumbelVAE

WIDE = torch.float64


def build(tiny: Any, kind: str = "binary", *, conditions: bool = False, **options: Any) -> GumbelVAE:
    return tiny.model("gumbel-vae", kind, conditions=conditions, variables=2, classes=3, perturb=0.8, **options).double()


CODES = torch.tensor(list(itertools.product(range(3), repeat=2)))


def enumerated(model: GumbelVAE, x: Tensor, condition: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x | c), log p(c) and log q(c | x), each (rows, 9), for every code."""
    (logits,) = model.see(x, condition)
    z = torch.nn.functional.one_hot(CODES, 3).double()
    log_q = Categorical(logits=logits[:, None]).log_prob(CODES).sum(-1)
    log_p = Categorical(logits=model.prior).log_prob(CODES).sum(-1).expand(len(x), -1)
    of_x = []
    for i in range(len(x)):
        each = {n: v[i : i + 1].expand(9) for n, v in condition.items()} if condition else None
        of_x.append(model.elements.log_prob(model.params(z, each), x[i : i + 1].expand(9, *x.shape[1:])))
    return torch.stack(of_x), log_p, log_q


@torch.no_grad()
@pytest.mark.parametrize(("kind", "conditions"), [("binary", False), ("table", True)])
def test_weights_and_bounds_are_what_enumeration_says(tiny: Any, kind: str, conditions: bool) -> None:
    model, rows, draws = build(tiny, kind, conditions=conditions), 4, 4000
    x, condition = tiny.codes(kind, rows, seed=4), tiny.condition(rows) if conditions else None
    likelihood, log_p, log_q = enumerated(model, x, condition)
    marginal = (likelihood + log_p).logsumexp(1)
    bound = (log_q.exp() * (likelihood + log_p - log_q)).sum(1)
    log_w = model.log_weights(x, draws, condition, Draws(1, 0, rows))
    weights = (log_w - marginal[:, None]).exp()
    error = lambda v: 5 * v.std(1) / draws**0.5 + 1e-9
    assert ((weights.mean(1) - 1).abs() < error(weights)).all()
    assert ((log_w.mean(1) - bound).abs() < error(log_w)).all()
    assert (bound < marginal).all()
    many = {n: v.repeat_interleave(draws) for n, v in condition.items()} if condition else {}
    terms = model(Batch(x.repeat_interleave(draws, 0), Draws(2, 0, rows * draws), many))
    loss = terms["loss"].view(rows, draws)
    assert ((-loss.mean(1) - bound).abs() < error(loss)).all()
    possible = likelihood + log_p - log_q
    assert ((log_w[:, :50, None] - possible[:, None]).abs().amin(2) < 1e-9).all()  # every weight is that of some code


@torch.no_grad()
def test_the_rate_is_the_divergence_of_the_posterior(tiny: Any) -> None:
    model, x = build(tiny, "vector"), tiny.codes("vector", 30)
    (logits,) = model.see(x)
    truth = kl_divergence(Categorical(logits=logits), Categorical(logits=model.prior.expand_as(logits)))
    terms = model(Batch(x, Draws(0, 0, 30)))
    torch.testing.assert_close(terms["rate"], truth.sum(1))
    torch.testing.assert_close(model.encode(x), logits.softmax(-1).flatten(1))
    model.train().before_round(0.5)
    model.slope = type(model.slope)(free_bits=float(truth.mean(0).mean()))
    terms = model(Batch(x, Draws(0, 0, 30)))
    paid = (terms["loss"] - terms["distortion"]).mean()
    torch.testing.assert_close(paid, truth.mean(0).clamp(min=float(truth.mean(0).mean())).sum())


@pytest.mark.parametrize("estimator", ["reinforce", "leave-one-out"])
def test_gradients_of_the_score_function_are_those_of_enumeration(tiny: Any, estimator: str) -> None:
    model, rows, repeats = build(tiny, estimator=estimator, samples=3).train(), 4, 6000
    x = tiny.codes("binary", rows, seed=4)
    model.spent.fill_(8.0)
    model.counted.fill_(1.0)
    names = [n for n, _ in model.named_parameters()]
    likelihood, log_p, log_q = enumerated(model, x)
    bound = (log_q.exp() * (likelihood + log_p - log_q)).sum(1)
    truth = torch.autograd.grad(-bound.mean(), list(model.parameters()))
    batches = 12
    found = []
    for seed in range(batches):
        loss = model(Batch(x.repeat(repeats // batches, 1, 1, 1), Draws(seed, 0, rows * repeats // batches)))["loss"].mean()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for name, exact, several in zip(names, truth, zip(*found, strict=True), strict=True):
        each = torch.stack(several)
        error = each.std(0) / batches**0.5
        assert ((each.mean(0) - exact).abs() < 7 * error + 1e-9).all(), name  # of eleven degrees of freedom
    assert truth[names.index("encoder.layers.0.weight")].abs().max() > 1e-3


def test_the_relaxed_loss_is_that_of_relaxed_codes(tiny: Any) -> None:
    model, x = build(tiny, "vector", temperature=1.0, final_temperature=0.25).train(), tiny.codes("vector", 20)
    for done, tau in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.25)):
        model.before_round(done)
        assert float(model.tau()) == pytest.approx(tau)
        u = Draws(3, 0, 20).uniform(2, 3, dtype=WIDE)
        (logits,) = model.see(x)
        z = ((logits - (-u.log()).log()) / tau).softmax(-1)
        truth = -model.elements.log_prob(model.params(z), x)
        torch.testing.assert_close(model(Batch(x, Draws(3, 0, 20)))["distortion"], truth)
    model.estimator = "straight-through"
    corner = torch.nn.functional.one_hot(z.argmax(-1), 3).double()
    truth = -model.elements.log_prob(model.params(corner), x)
    torch.testing.assert_close(model(Batch(x, Draws(3, 0, 20)))["distortion"], truth)


def test_the_baseline_is_a_running_mean(tiny: Any) -> None:
    model = build(tiny, "vector", estimator="reinforce").train()
    total, weight = 0.0, 0.0
    for seed in range(3):
        x = tiny.codes("vector", 16, seed=seed)
        distortion = model(Batch(x, Draws(seed, 0, 16)))["distortion"]
        model.after_step("model")
        total, weight = 0.99 * total + float(distortion.detach().mean()), 0.99 * weight + 1
        assert float(model.baseline()) == pytest.approx(total / weight)
    model.eval()(Batch(x, Draws(9, 0, 16)))
    model.after_step("model")
    assert float(model.baseline()) == pytest.approx(total / weight)  # validation leaves it alone


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_every_estimator_trains_every_parameter(tiny: Any, estimator: str) -> None:
    model = build(tiny, "vector", estimator=estimator).train()
    model(tiny.batch(tiny.schema("vector"), "vector", 24))["loss"].mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_every_estimator_learns_the_codes_of_two_pictures(tiny: Any, estimator: str) -> None:
    """Two equally frequent pictures of 16 pixels: log 2 nats, 16 log 2 without a code."""
    model = build(tiny, estimator=estimator).float().train()
    x = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]).repeat(16, 1, 1, 1).to(torch.uint8)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(250):
        model.before_round(step / 250)
        optimiser.zero_grad()
        model(Batch(x, Draws(step, 0, 32)))["loss"].mean().backward()
        optimiser.step()
        model.after_step("model")
    with torch.no_grad():
        found = -model.eval().log_marginal(x[:2], 64, None, Draws(0, 0, 2)).mean()
        assert active_units(model.signals(x)).any()
    assert math.log(2) - 0.02 < float(found) < 2.0


def test_samples_follow_the_prior_over_codes(tiny: Any) -> None:
    model = build(tiny)
    z = model.dream(Draws(0, 0, 20_000))
    share, p = z.mean(0), model.prior.softmax(-1).detach()
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()
    assert len(model.dream(Draws(0, 0, 100), 0.0).flatten(1).unique(dim=0)) == 1


def test_options_that_make_no_sense_are_refused(tiny: Any) -> None:
    for text, options in (
        ("one of gumbel, straight-through", {"estimator": "vimco"}),
        ("two numbers above 0", {"temperature": 0.0}),
        ("at least 2", {"samples": 1}),
        ("1 variables of 1 classes", {"variables": 1, "classes": 1}),
    ):
        with pytest.raises(RecipeError, match=text):
            tiny.model("gumbel-vae", "vector", **options)
