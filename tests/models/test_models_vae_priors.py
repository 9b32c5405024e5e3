"""Priors and posteriors of the VAE against their own definitions: mixtures, Jacobians, quadrature over two numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pushforward.core.context import Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Tokens, Vector
from pushforward.models.latent_prior import VampPrior
from pushforward.models.vae import VAE

WIDE = torch.float64


def build(tiny: Any, kind: str = "binary", *, conditions: bool = False, **options: Any) -> VAE:
    model = tiny.model("vae", kind, conditions=conditions, latent=2, transforms=2, pseudo=4, **options).double()
    with torch.no_grad():
        for part in ("encoder", "decoder"):  # a posterior near the prior, so that importance weights have a variance
            getattr(model, part).layers[-1].weight.mul_(0.4)
        model.encoder.layers[-1].bias.mul_(0.4)
    return model


def grid(reach: float = 8.0, points: int = 161) -> tuple[Tensor, float]:
    line = torch.linspace(-reach, reach, points, dtype=WIDE)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


def explicit_vamp(model: VAE) -> MixtureSameFamily:
    assert isinstance(model.prior, VampPrior)
    means, log_stds, _ = model._head(model.prior.pseudo)
    each = Independent(Normal(means, log_stds.exp()), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(means), dtype=WIDE)), each)


@torch.no_grad()
@pytest.mark.parametrize("conditions", [False, True])
def test_the_vamp_prior_is_the_mixture_of_the_encoders_answers(tiny: Any, conditions: bool) -> None:
    model = build(tiny, "vector", prior="vamp", conditions=conditions)
    truth, z = explicit_vamp(model), 2 * torch.randn(50, 2, dtype=WIDE)
    torch.testing.assert_close(model._density().log_prob(z), truth.log_prob(z))
    drawn = model.dream(Draws(0, 0, 20_000))
    error = truth.variance.sqrt() / 20_000**0.5
    assert ((drawn.mean(0) - truth.mean).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.var(0), truth.variance, rtol=0.05, atol=0)
    spread = model.dream(Draws(0, 0, 4000), 0.0).unique(dim=0)
    assert len(spread) == 4  # without spread only the means are left


@torch.no_grad()
def test_pseudo_examples_start_at_examples(tiny: Any) -> None:
    model = tiny.model("vae", "vector", latent=2, prior="vamp", pseudo=4, perturb=0.0, rows=50)
    x = tiny.codes("vector", 50, seed=11)
    torch.testing.assert_close(model.prior.pseudo.detach(), model.look(x)[[0, 12, 24, 36]])


def test_the_flow_prior_is_a_change_of_variables(tiny: Any) -> None:
    model = build(tiny, prior="flow")
    z = torch.randn(6, 2, dtype=WIDE)
    u = model.prior.transform.pull(z)[0].detach()
    for i in range(6):
        slope = torch.autograd.functional.jacobian(lambda v: model.prior.transform.push(v[None])[0], u[i])
        truth = Normal(0.0, 1.0).log_prob(u[i]).sum() - slope.det().abs().log()
        torch.testing.assert_close(model.prior.log_prob(z)[i], truth)
    assert (u - z).abs().max() > 0.05
    points, area = grid()
    assert float(model.prior.log_prob(points).exp().detach().sum()) * area == pytest.approx(1, abs=5e-4)


def test_the_flow_posterior_is_a_change_of_variables(tiny: Any) -> None:
    model = build(tiny, "vector", posterior="flow", conditions=True)
    x, condition, noise = tiny.codes("vector", 3), tiny.condition(3), torch.randn(3, 2, dtype=WIDE)
    seen = model.see(x, condition)
    found = model.infer(seen, noise)
    mean, log_std, steering = seen
    assert steering.shape == (3, 4)
    for i in range(3):
        start = Normal(mean[i], log_std[i].exp())
        push = lambda v, i=i: model.flow.transform.push(v[None], Context(steering[i : i + 1]))[0]
        u = mean[i] + log_std[i].exp() * noise[i]
        slope = torch.autograd.functional.jacobian(push, u)
        log_q = start.log_prob(u).sum() - slope.det().abs().log()
        torch.testing.assert_close(found.z[i], push(u))
        torch.testing.assert_close(found.log_ratio[i], Normal(0.0, 1.0).log_prob(push(u)).sum() - log_q)
        assert slope[0, 1] == 0 or slope[1, 0] == 0 or len(model.flow.transform.parts) > 1
    torch.testing.assert_close(found.rates.sum(1), -found.log_ratio)


CASES = [c for c in itertools.product(("normal", "mixture", "vamp", "flow"), ("normal", "flow")) if c != ("normal", "normal")]


@torch.no_grad()
@pytest.mark.parametrize(("prior", "posterior"), CASES)
def test_weights_average_to_the_marginal(tiny: Any, prior: str, posterior: str) -> None:
    model, rows, draws = build(tiny, "binary", prior=prior, posterior=posterior), 3, 4000
    x = tiny.codes("binary", rows, seed=4)
    z, area = grid()
    density = explicit_vamp(model) if prior == "vamp" else model._density()
    params, log_prior = model.params(z), density.log_prob(z)
    truth = [(model.elements.log_prob(params, x[i : i + 1].expand(len(z), -1, -1, -1)) + log_prior) for i in range(rows)]
    marginal = torch.stack([t.logsumexp(0) + math.log(area) for t in truth])
    weights = (model.log_weights(x, draws, None, Draws(1, 0, rows)) - marginal[:, None]).exp()
    assert ((weights.mean(1) - 1).abs() < 5 * weights.std(1) / draws**0.5).all()
    assert (weights.std(1) / draws**0.5 < 0.1).all()
    many = x.repeat_interleave(draws, 0)
    terms = model(Batch(many, Draws(2, 0, len(many))))
    loss = terms["loss"].view(rows, draws)
    bound = model.log_weights(x, draws, None, Draws(3, 0, rows))
    error = ((loss.var(1) + bound.var(1)) / draws).sqrt()
    assert ((-loss.mean(1) - bound.mean(1)).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "options", [{"prior": "vamp"}, {"prior": "flow", "posterior": "flow"}, {"samples": 3, "gradient": "dreg"}]
)
def test_all_of_it_learns(tiny: Any, options: dict[str, Any]) -> None:
    model = tiny.model("vae", "vector", latent=2, transforms=2, pseudo=4, **options).train()
    model(tiny.batch(model.schema, "vector", 24))["loss"].mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


# observation models


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "likelihood"), [("binary", "bernoulli"), ("binary", "categorical"), ("small", "logistic"), ("small", "normal"),
                             ("small", "categorical"), ("letters", "auto")]
)  # fmt: skip
def test_masses_of_discrete_data_sum_to_one_given_the_code(tiny: Any, kind: str, likelihood: str) -> None:
    from pushforward.catalog import FAMILIES
    from pushforward.core.schema import Image

    kinds: dict[str, Any] = {"binary": Image(1, 2, 3, 2), "small": Image(1, 1, 3, 5), "letters": Tokens(("a", "b", "c"), 4)}
    what = kinds[kind]
    levels = what.levels if isinstance(what, Image) else 3
    states = torch.tensor(list(itertools.product(range(levels), repeat=what.size))).view(-1, *what.shape)
    states = states.to(torch.uint8) if isinstance(what, Image) else states
    family = FAMILIES["vae"]
    model = family.build(Schema(what), tiny.config(family, likelihood=likelihood)).double()
    model.prepare(states[torch.randint(0, len(states), (200,))])
    tiny.perturb(model, 1.0)
    for z in torch.randn(3, 3, dtype=WIDE):
        params = model.params(z.expand(len(states), -1))
        mass = model.elements.log_prob(params, states).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        assert float(mass.max()) < 0.9


def test_observation_models_that_do_not_fit_are_refused(tiny: Any) -> None:
    def refused(kind: str, text: str, **options: Any) -> None:
        with pytest.raises(RecipeError, match=text):
            tiny.model("vae", kind, **options)

    refused("image", "of 17 levels", likelihood="bernoulli")
    refused("vector", "vector data have numbers", likelihood="categorical")
    refused("tokens", "tokens data have none", likelihood="normal")
    refused("binary", "image data have none", likelihood="logistic")
    refused("binary", "one of auto, bernoulli", likelihood="poisson")
    refused("vector", "net='conv' is for images", net="conv")
    refused("vector", "prior is one of", prior="vampire")
    refused("vector", "take posterior='normal'", posterior="flow", gradient="dreg")
    refused("vector", "samples=1", samples=4, free_bits=0.1)
    refused("vector", "share of training", beta_warmup=2.0)
    assert tiny.model("vae", "plane", likelihood="normal", components=1).elements.blocks[0].bell == "normal"


@torch.no_grad()
def test_a_normal_observation_model_is_a_normal(tiny: Any) -> None:
    model = tiny.model("vae", "vector", likelihood="normal", components=1).double()
    assert isinstance(model.schema.example, Vector)
    x, z = tiny.codes("vector", 20), torch.randn(20, 3, dtype=WIDE)
    block = model.elements.blocks[0]
    _, mean, log_std = (model.params(z).view(20, 3, 3) + block.default).unbind(-1)
    truth = Normal(block.mean + block.std * mean, block.std * log_std.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_likelihood(z, model.parts(x), None), truth)
