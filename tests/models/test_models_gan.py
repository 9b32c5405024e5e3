"""Adversarial losses, penalties and turns, each against an explicit computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema, Vector
from pushforward.core.transform import Compose
from pushforward.models.adversarial_losses import OBJECTIVES, Penalty, gradient_penalty, objective, r1, r2
from pushforward.models.gan import GAN
from pushforward.nets.adversarial import FlatBody, Projection
from pushforward.nets.spectral import spectral

WIDE = torch.float64


class Bowl(nn.Module):
    """D(y) = ½ yᵀ A y + bᵀ y, whose gradient is (A + Aᵀ) y / 2 + b."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(size, size)), nn.Parameter(torch.randn(size))

    def forward(self, y: Tensor, context: Context | None = None) -> Tensor:
        return (0.5 * ((y @ self.a) * y).sum(1) + y @ self.b)[:, None]

    def slope(self, y: Tensor) -> Tensor:
        return y @ (self.a + self.a.T) / 2 + self.b


def gan(loss: str = "wasserstein", penalties: tuple[Penalty, ...] = (), **options: Any) -> GAN:
    torch.manual_seed(0)
    nothing = Conditioner(()), Conditioner(())
    model = GAN(
        Schema(Vector(3)),
        Compose([]),
        nn.Linear(4, 3),
        options.pop("critic", None) or Bowl(3),
        nothing,
        (3,),
        latent=4,
        objective=objective(loss),
        penalties=penalties,
        **options,
    )
    return model.double()


def batch(n: int = 12, seed: int = 5) -> Batch:
    return Batch(torch.randn(n, 3, dtype=WIDE), Draws(seed, 0, n))


# losses

_ONE, _ZERO = torch.ones(9, dtype=WIDE), torch.zeros(9, dtype=WIDE)


def bce(logit: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, label, reduction="none")


TRUTH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "minimax": (lambda r, f: bce(r, _ONE) + bce(f, _ZERO), lambda r, f: -bce(f, _ZERO)),
    "non-saturating": (lambda r, f: bce(r, _ONE) + bce(f, _ZERO), lambda r, f: bce(f, _ONE)),
    "hinge": (
        lambda r, f: F.hinge_embedding_loss(r, -_ONE, reduction="none") + F.hinge_embedding_loss(-f, -_ONE, reduction="none"),
        lambda r, f: -f,
    ),
    "least-squares": (
        lambda r, f: (F.mse_loss(r, _ONE, reduction="none") + F.mse_loss(f, _ZERO, reduction="none")) / 2,
        lambda r, f: F.mse_loss(f, _ONE, reduction="none") / 2,
    ),
    "relativistic": (lambda r, f: bce(r - f, _ONE), lambda r, f: bce(f - r, _ONE)),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
}


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("player", ["critic", "generator"])
def test_losses_and_their_slopes_are_those_of_torchs_own(name: str, player: str) -> None:
    r, f = (torch.randn(9, dtype=WIDE).mul(3).requires_grad_() for _ in range(2))
    found = getattr(OBJECTIVES[name], player)(r, f)
    expected = TRUTH[name][player == "generator"](r, f)
    torch.testing.assert_close(found, expected)
    for side in (r, f):
        slopes = [torch.autograd.grad(loss.sum(), side, retain_graph=True, allow_unused=True)[0] for loss in (found, expected)]
        assert (slopes[0] is None) == (slopes[1] is None)
        if slopes[0] is not None:
            torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_generator_loss_falls_where_the_critic_believes_more(name: str) -> None:
    f = torch.linspace(-4, 0.9, 9, dtype=WIDE).requires_grad_()
    (slope,) = torch.autograd.grad(OBJECTIVES[name].generator(torch.randn(9, dtype=WIDE), f).sum(), f)
    assert (slope < 0).all()
    assert OBJECTIVES[name].paired == (name == "relativistic")


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="found loss 'least': expected one of minimax"):
        objective("least")


# penalties


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic"])
@pytest.mark.parametrize("which", [("penalty",), ("r1",), ("r2",), ("r1", "r2"), ("r1", "penalty"), ()])
def test_penalties_and_gap_are_what_the_closed_form_says(loss: str, which: tuple[str, ...]) -> None:
    weights = {"penalty": 7.0, "r1": 0.3, "r2": 1.7}
    makers = {"penalty": gradient_penalty, "r1": r1, "r2": r2}
    model, n = gan(loss, tuple(makers[name](weights[name]) for name in which)), 12
    given = batch(n)
    terms = model(given, "critic")
    draws = Draws(5, 0, n)
    fake = model.generator(draws.normal(4, dtype=WIDE)).detach()
    x, critic = given.x, model.critic
    prices = {"r1": 0.5 * critic.slope(x).square().sum(1), "r2": 0.5 * critic.slope(fake).square().sum(1)}
    if "penalty" in which:
        mix = draws.uniform(dtype=WIDE)[:, None]
        prices["penalty"] = (critic.slope(mix * x + (1 - mix) * fake).norm(dim=1) - 1) ** 2
    gap = (critic(x) - critic(fake))[:, 0]
    torch.testing.assert_close(terms["wasserstein" if loss == "wasserstein" else "gap"], gap)
    expected = -gap if loss == "wasserstein" else F.softplus(-gap)
    for name in which:
        torch.testing.assert_close(terms[name], prices[name])
        expected = expected + weights[name] * prices[name]
    torch.testing.assert_close(terms["loss"], expected)
    # and the gradient with respect to the critic is that of the formula, second derivatives included
    names = list(critic.parameters())
    found = torch.autograd.grad(terms["loss"].mean(), names, retain_graph=True)
    for a, b in zip(found, torch.autograd.grad(expected.mean(), names), strict=True):
        torch.testing.assert_close(a, b)


def test_a_critic_of_slope_one_pays_nothing_and_a_flat_one_has_a_gradient() -> None:
    model = gan(penalties=(gradient_penalty(10.0),))
    with torch.no_grad():
        model.critic.a.zero_()
        model.critic.b.copy_(torch.tensor([0.6, 0.0, 0.8]))
    assert float(model(batch(), "critic")["penalty"].detach().abs().max()) < 1e-12
    with torch.no_grad():
        model.critic.b.zero_()
    terms = model(batch(), "critic")
    torch.testing.assert_close(terms["penalty"].detach(), torch.ones(12, dtype=WIDE))
    terms["loss"].mean().backward()
    assert all(p.grad.isfinite().all() for p in model.critic.parameters())


# turns


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic", "hinge"])
@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_each_turn_trains_its_own_player(loss: str, turn: str) -> None:
    model = gan(loss, (r1(1.0), r2(1.0), gradient_penalty(1.0)))
    model(batch(), turn)["loss"].mean().backward()
    mine, other = (model.critic, model.generator) if turn == "critic" else (model.generator, model.critic)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mine.parameters())
    assert all(p.grad is None for p in other.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("loss", list(OBJECTIVES))
def test_the_generator_climbs_the_critic(loss: str) -> None:
    model, given = gan(loss), batch(8, seed=2)
    fake = model.generator(Draws(2, 0, 8).normal(4, dtype=WIDE))
    expected = TRUTH[loss][1](*(F.pad(model.critic(y)[:, 0], (0, 1)) for y in (given.x, fake)))[:8]
    found = model(given, "generator")["loss"]
    torch.testing.assert_close(found, expected)
    names = list(model.generator.parameters())
    for a, b in zip(torch.autograd.grad(found.sum(), names), torch.autograd.grad(expected.sum(), names), strict=True):
        torch.testing.assert_close(a, b)


def test_the_critic_can_be_judged_without_gradients() -> None:
    model = gan(penalties=(r1(1.0), gradient_penalty(1.0))).eval()
    wanted = model(batch(), "critic")["loss"]
    given = batch()
    with torch.no_grad():
        terms = model(Batch(given.x, given.draws), "critic")
    assert wanted.requires_grad
    assert not any(term.requires_grad for term in terms.values())
    assert not given.x.requires_grad


def test_clipping_is_of_the_critic_and_after_its_turns_only(tiny: Any) -> None:
    model = tiny.model("wgan", "plane", conditions=True, clip=0.02)
    model.after_step("generator")
    assert float(next(model.critic.parameters()).detach().abs().max()) > 0.02
    before = [p.detach().clone() for p in model.generator.parameters()]
    wide = {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith("critic")}
    model.after_step("critic")
    for n, p in model.named_parameters():
        if n.startswith("critic"):
            assert torch.equal(p, wide[n].clamp(-0.02, 0.02)), n
    assert all(torch.equal(a, b) for a, b in zip(before, model.generator.parameters(), strict=True))


def test_singular_values_are_followed_after_the_critics_steps_only() -> None:
    torch.manual_seed(1)
    model = gan("hinge", critic=spectral(Projection(FlatBody(nn.Linear(3, 5), 5), 5)))
    weight = model.critic.body.net.parametrizations.weight.original
    with torch.no_grad():
        weight.copy_(torch.randn(5, 3, dtype=WIDE))
    before = {n: b.clone() for n, b in model.named_buffers()}
    model.after_step("generator")
    model(batch(), "critic")
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    for _ in range(100):
        model.after_step("critic")
    top = torch.linalg.svdvals(weight.detach())[0]
    torch.testing.assert_close(model.critic.body.net.weight.detach(), weight.detach() / top)


# conditions


def test_the_critic_sees_a_condition_through_a_projection_of_its_features(tiny: Any) -> None:
    model = tiny.model("gan", "vector", conditions=True).double()
    y, c = torch.randn(6, 3, dtype=WIDE), tiny.condition(6)
    other = {k: v.roll(1, 0) for k, v in c.items()}
    with torch.no_grad():
        vectors = [model.critic_conditioner(told, 6).vector for told in (c, other)]
        phi = model.critic.body(y)
        rise = [model.critic(y, model.critic_conditioner(told, 6))[:, 0] for told in (c, other)]
    v = model.critic.embed.weight.detach()
    torch.testing.assert_close(rise[0] - rise[1], torch.einsum("bd,fd,bf->b", vectors[0] - vectors[1], v, phi))
    zero = torch.zeros_like(vectors[0])
    psi = model.critic.last.weight.detach()[0]
    torch.testing.assert_close(model.critic(y, Context(vector=zero)).detach()[:, 0], phi @ psi)


# recipes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gan", {"loss": "wasserstein"}, "for Wasserstein's take wgan-gp or wgan"),
        ("gan", {"loss": "bce"}, "found loss 'bce': expected one of"),
        ("gan", {"hidden": ()}, "found no hidden layer"),
        ("wgan", {"clip": 0.0}, "found clip 0.0: expected a positive number"),
        ("wgan-gp", {"net": "unet"}, "net is one of dcgan, resnet, found 'unet'"),
        ("wgan-gp", {"softness": 0.0}, "found a temperature of 0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny: Any, name: str, options: dict[str, Any], message: str) -> None:
    kind = "image" if "net" in options else "table" if "softness" in options else "vector"
    with pytest.raises(RecipeError, match=message):
        tiny.model(name, kind, **options)


@pytest.mark.parametrize("loss", [n for n in OBJECTIVES if n != "wasserstein"])
@pytest.mark.parametrize("normalised", [False, True])
def test_every_loss_trains_every_parameter(tiny: Any, loss: str, normalised: bool) -> None:
    model = tiny.model("gan", "table", conditions=True, loss=loss, spectral=normalised).train()
    learned = set()
    for turn in model.turns:
        model.zero_grad(set_to_none=True)
        model(tiny.batch(model.schema, "table", 24), turn.name)["loss"].mean().backward()
        learned |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {n for n, _ in model.named_parameters()} - learned <= {
        "generator_conditioner.null",
        "critic_conditioner.null",
    }


@pytest.mark.parametrize("net", ["resnet", "dcgan"])
def test_both_nets_for_images_of_any_size(tiny: Any, net: str) -> None:
    for height, width in ((4, 4), (5, 9), (17, 12)):
        schema = Schema(Image(2, height, width, levels=256), tiny.conditions)
        torch.manual_seed(0)
        from pushforward.catalog import FAMILIES

        family = FAMILIES["wgan-gp"]
        model = family.build(schema, tiny.config(family, net=net))
        x = torch.randint(0, 256, (6, 2, height, width), dtype=torch.uint8)
        model.prepare(x)
        for turn in model.turns:
            model(Batch(x, Draws(0, 0, 6), tiny.condition(6)), turn.name)["loss"].mean().backward()
        assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} <= {
            "generator_conditioner.null",
            "critic_conditioner.null",
            *(n for n, _ in model.generator.named_parameters(prefix="generator") if ".second." not in n and net == "resnet"),
        }
        drawn = model.sample(6, tiny.condition(6), Draws(0, 0, 6))
        assert drawn.shape == x.shape
        assert torch.equal(drawn, drawn.round())
        y = model.seen(x, Draws(1, 0, 6))  # pixels are shown as they are, in [−1, 1]
        torch.testing.assert_close(y, (x.float() / 127.5 - 1))
