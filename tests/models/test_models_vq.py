"""The VQ-VAE: its codebook against the averages written out, its bound against enumeration of all codes and all data."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.core.context import Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.models.latent_prior import CodePrior
from pushforward.models.vq import VQVAE, Codebook

WIDE = torch.float64


def build(tiny: Any, kind: str = "binary", *, conditions: bool = False, **options: Any) -> VQVAE:
    options = {"codes": 4, "size": 3, "places": 2, "prior_hidden": (12,), **options}
    return tiny.model("vq-vae", kind, conditions=conditions, perturb=0.7, **options).double()


# the prior over codes


@torch.no_grad()
@pytest.mark.parametrize("context", [0, 3])
def test_masses_of_codes_sum_to_one_and_are_sampled(context: int) -> None:
    torch.manual_seed(0)
    prior = CodePrior(3, 4, (10, 10), width=5, context=context).double()
    for p in prior.parameters():
        p.add_(0.5 * torch.randn_like(p))
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    given = Context(torch.randn(1, context, dtype=WIDE).expand(64, -1)) if context else None
    mass = prior.log_prob(every, given).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    n = 20_000
    many = Context(given.vector[:1].expand(n, -1)) if given is not None and given.vector is not None else None
    drawn = prior.sample(Draws(1, 0, n), many)
    share = torch.bincount((drawn * torch.tensor([16, 4, 1])).sum(1), minlength=64).double() / n
    assert ((share - mass).abs() < 5 * (mass * (1 - mass) / n).sqrt() + 1e-4).all()
    assert mass.max() < 0.5
    few = Context(many.vector[:5]) if many is not None and many.vector is not None else None
    likeliest = [prior.sample(Draws(seed, 0, 5), few, 0.0) for seed in (1, 2)]
    assert torch.equal(*likeliest)


# the codebook


def test_the_nearest_vector_is_the_nearest() -> None:
    torch.manual_seed(0)
    book = Codebook(9, 4, 0.9, 0.0).double()
    y = torch.randn(5, 7, 4, dtype=WIDE)
    assert torch.equal(book.nearest(y), torch.cdist(y, book.vectors.expand(5, -1, -1)).argmin(-1))


def test_a_step_is_the_running_average_of_what_chose_each_vector() -> None:
    torch.manual_seed(0)
    book, decay = Codebook(4, 3, 0.8, 0.0).double(), 0.8
    book.start(torch.randn(50, 3, dtype=WIDE))
    sizes, sums = torch.ones(4, dtype=WIDE), book.vectors.clone()
    for _ in range(3):
        y = torch.randn(20, 3, dtype=WIDE) + 0.5
        codes = torch.cdist(y, book.vectors).argmin(1)
        for k in range(4):
            mine = y[codes == k]
            sizes[k] = decay * sizes[k] + (1 - decay) * len(mine)
            sums[k] = decay * sums[k] + (1 - decay) * mine.sum(0)
        book.average(book.tally(y, codes), y, torch.zeros((), dtype=WIDE))
        torch.testing.assert_close(book.vectors, sums / sizes[:, None])
        p = sizes / sizes.sum()
        assert float(book.perplexity()) == pytest.approx(math.exp(-float((p * p.log()).sum())))


def test_vectors_that_nothing_chooses_start_anew() -> None:
    book = Codebook(4, 2, 0.5, 0.1).double()
    book.sizes.copy_(torch.tensor([8.0, 0.05, 6.0, 0.01]))
    book.sums.copy_(book.vectors * book.sizes[:, None])
    before, fresh = book.vectors.clone(), torch.randn(5, 2, dtype=WIDE)
    tally = book.tally(before[[0, 0, 2]], torch.tensor([0, 0, 2]))
    quiet = Codebook(4, 2, 0.5, 0.1).double()
    quiet.load_state_dict(book.state_dict())
    book.average(tally, fresh, torch.ones((), dtype=WIDE))
    torch.testing.assert_close(book.vectors, torch.stack([before[0], fresh[0], before[2], fresh[1]]))
    fair = (5.0 + 0.025 + 3.5 + 0.005) / 4
    torch.testing.assert_close(book.sizes, torch.tensor([5.0, fair, 3.5, fair], dtype=WIDE))
    quiet.average(tally, fresh, torch.zeros((), dtype=WIDE))
    torch.testing.assert_close(quiet.vectors, before)


# the model


@torch.no_grad()
def test_the_bound_is_one_term_of_the_sum_over_all_codes(tiny: Any) -> None:
    family, kind = FAMILIES["vq-vae"], Image(1, 2, 3, 2)
    torch.manual_seed(0)
    options = {"codes": 3, "size": 2, "places": 2, "prior_hidden": (8,)}
    model = family.build(Schema(kind), tiny.config(family, **options)).double().eval()
    assert isinstance(model, VQVAE)
    every = torch.tensor(list(itertools.product(range(2), repeat=6)), dtype=torch.uint8).view(-1, 1, 2, 3)
    model.prepare(every)
    tiny.perturb(model, 1.0)
    model.codebook.start(model._encoded(every, None).flatten(0, 1))
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    joint = torch.stack([sum(model.given_codes(every, c.expand(64, 2))) for c in codes], 1)  # type: ignore[arg-type]
    exact = joint.logsumexp(1)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-12)
    bound, chosen = model.log_prob(every), model.codes(every)
    assert len(chosen.unique(dim=0)) > 2
    assert (bound < exact).all()
    place = chosen[:, 0] * 3 + chosen[:, 1]
    torch.testing.assert_close(bound, joint.gather(1, place[:, None])[:, 0])
    assert not model.random
    n = 20_000
    drawn = (model.sample(n, None, Draws(0, 0, n)).flatten(1).long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    p = exact.exp()
    assert ((torch.bincount(drawn, minlength=64) / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


@torch.no_grad()
def test_completion_draws_the_rest_given_what_is_seen(tiny: Any) -> None:
    """Of pictures of three pixels, the last two given the first, by enumeration of all codes and pictures."""
    family = FAMILIES["vq-vae"]
    torch.manual_seed(0)
    options = {"codes": 3, "size": 2, "places": 2, "prior_hidden": (8,)}
    model = family.build(Schema(Image(1, 1, 3, 2)), tiny.config(family, **options)).double().eval()
    assert isinstance(model, VQVAE)
    tiny.perturb(model, 1.0)
    model.prior.often.zero_()
    model.codebook.vectors.copy_(torch.tensor([[1.0, 0.3], [-1.0, 0.5], [0.2, -1.0]]))
    model.decoder = torch.nn.Linear(4, 3, bias=False).double()  # all three pixels depend on the first code
    model.decoder.weight.copy_(torch.tensor([[1.5, 0.2, 0.3, 0.0], [1.2, 0.0, 0.9, 0.4], [-1.4, 0.3, 0.0, 0.8]]))
    every = torch.tensor(list(itertools.product(range(2), repeat=3)), dtype=torch.uint8).view(-1, 1, 1, 3)
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    joint = torch.stack([sum(model.given_codes(every, c.expand(8, 2))) for c in codes]).exp().sum(0)  # type: ignore[arg-type]
    n = 8000
    for first in (0, 1):
        share = joint[4 * first : 4 * first + 4] / joint[4 * first : 4 * first + 4].sum()
        x, observed = torch.full((n, 1, 1, 3), first, dtype=torch.uint8), torch.tensor([True, False, False]).expand(n, 1, 1, 3)
        drawn = model.complete(x, observed, None, Draws(first, 0, n)).flatten(1).long()
        found = torch.bincount(2 * drawn[:, 1] + drawn[:, 2], minlength=4) / n
        assert ((found - share).abs() < 5 * (share * (1 - share) / n).sqrt() + 0.005).all()
    halves = joint.view(2, 4) / joint.view(2, 4).sum(1, keepdim=True)
    assert (halves[0] - halves[1]).abs().max() > 0.05


def test_gradients_pass_the_codes_as_if_they_were_not_there(tiny: Any) -> None:
    model, x = build(tiny, "vector", commitment=0.7), tiny.codes("vector", 10)
    y = model._encoded(x, None)
    codes = model.codebook.nearest(y)
    z = model.codebook.vectors[codes].clone().requires_grad_()
    (through,) = torch.autograd.grad(-model.elements.log_prob(model.params(z), x).sum(), z)
    direction = through + 0.7 * 2 * (y - z).detach() / y.shape[1]
    truth = torch.autograd.grad(y, list(model.encoder.parameters()), direction)
    terms = model(Batch(x, Draws(0, 0, 10)))
    found = torch.autograd.grad(terms["loss"].sum(), list(model.encoder.parameters()), retain_graph=True)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b)
    prior = torch.autograd.grad(terms["rate"].sum(), list(model.encoder.parameters()), allow_unused=True)
    assert all(g is None for g in prior)  # codes are data to their prior
    torch.testing.assert_close(-(terms["distortion"] + terms["rate"]), model.log_prob(x))
    torch.testing.assert_close(terms["loss"], terms["distortion"] + terms["rate"] + 0.7 * terms["commitment"])


def test_training_moves_the_codebook_and_validation_does_not(tiny: Any) -> None:
    model, x = build(tiny, "vector", decay=0.6, revive=0.0), tiny.codes("vector", 12)
    before = model.codebook.vectors.clone()
    model(Batch(x, Draws(0, 0, 12)))
    model.after_step("model")
    assert torch.equal(model.codebook.vectors, before)
    model.train()
    y, sizes, sums = model._encoded(x, None).detach().flatten(0, 1), model.codebook.sizes, model.codebook.sums.clone()
    codes = model.codebook.nearest(y)
    expected = []
    for k in range(4):
        mine = y[codes == k]
        expected.append((0.6 * sums[k] + 0.4 * mine.sum(0)) / (0.6 * sizes[k] + 0.4 * len(mine)))
    model(Batch(x, Draws(0, 0, 12)))
    assert torch.equal(model.codebook.vectors, before)
    model.after_step("model")
    torch.testing.assert_close(model.codebook.vectors, torch.stack(expected))
    after = model.codebook.vectors.clone()
    model.after_step("model")
    assert torch.equal(model.codebook.vectors, after)


def test_vectors_start_anew_in_the_first_three_quarters_only(tiny: Any) -> None:
    x = tiny.codes("vector", 12)
    for done, anew in ((0.1, True), (0.9, False)):
        model = build(tiny, "vector", revive=0.5).train()
        with torch.no_grad():
            model.codebook.vectors[0] += 100.0
            model.codebook.sums[0] += 100.0
            model.codebook.sizes[0] = 1e-6
        model.before_round(done)
        model(Batch(x, Draws(0, 0, 12)))
        model.after_step("model")
        y = model._encoded(x, None).flatten(0, 1)
        back = bool((torch.cdist(model.codebook.vectors[:1], y) < 1e-9).any())
        assert back == anew


def test_it_learns_a_prior_over_its_codes(tiny: Any) -> None:
    """Three pictures of unequal frequency: their entropy is about what the bound comes to, and samples are these pictures."""
    torch.manual_seed(0)
    model = build(tiny).float().train()
    kinds = (torch.rand(3, 1, 4, 4) < 0.5).to(torch.uint8)
    x = kinds[torch.tensor([0] * 16 + [1] * 8 + [2] * 8)]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(250):
        model.before_round(step / 250)
        optimiser.zero_grad()
        model(Batch(x, Draws(step, 0, 32)))["loss"].mean().backward()
        optimiser.step()
        model.after_step("model")
    model.eval()
    with torch.no_grad():
        entropy = 1.5 * math.log(2)
        assert entropy - 1e-3 < -float(model.log_prob(x).mean()) < entropy + 0.3
        drawn = model.sample(500, None, Draws(0, 0, 500))
    same: Tensor = (drawn[:, None] == kinds).flatten(2).all(2)
    assert same.any(1).float().mean() > 0.9
    assert float(same[:, 0].float().mean()) == pytest.approx(0.5, abs=0.12)


def test_large_pictures_have_a_grid_of_codes(tiny: Any) -> None:
    family = FAMILIES["vq-vae"]
    schema = Schema(Image(3, 18, 21, 256), tiny.conditions)
    model = family.build(schema, tiny.config(family))
    assert isinstance(model, VQVAE)
    x = torch.randint(0, 256, (6, 3, 18, 21), dtype=torch.uint8)
    model.prepare(x)
    tiny.perturb(model)
    assert model.codes(x, tiny.condition(6)).shape == (6, 5 * 6)
    model.train()(Batch(x, Draws(0, 0, 6), tiny.condition(6)))["loss"].mean().backward()
    assert not {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} - {"conditioner.null"}
    with torch.no_grad():
        assert model.eval().sample(2, tiny.condition(2), Draws(0, 0, 2)).shape == (2, 3, 18, 21)
        moved = x.clone()
        moved[:, :, :6, :6] = 255 - moved[:, :, :6, :6]
        y, other = (model._encoded(v, tiny.condition(6)) for v in (x, moved))
        assert not torch.allclose(y[:, 0], other[:, 0])


def test_options_that_make_no_sense_are_refused(tiny: Any) -> None:
    for text, options in (("1 codes", {"codes": 1}), ("decay 1.0", {"decay": 1.0}), ("places must be", {"places": 0}),
                          ("commitment must be", {"commitment": -1.0})):  # fmt: skip
        with pytest.raises(RecipeError, match=text):
            tiny.model("vq-vae", "vector", **options)
