"""The families gpt and rnn as distributions: draws against enumerated probabilities, sharpening, completion, learning."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema, Tokens, Vector
from pushforward.models.autoregressive import Autoregressive, ancestral
from pushforward.nets.causal import STYLES
from pushforward.nets.recurrent import CELLS

EVERY = [*(("gpt", {"style": style}) for style in STYLES), *(("rnn", {"cell": cell}) for cell in CELLS)]
every = pytest.mark.parametrize(("name", "how"), EVERY, ids=[next(iter(how.values())) for _, how in EVERY])
TEXT = Tokens(("a", "b", "c"), 4)


def model(tiny: Any, name: str, how: dict[str, Any], kind: Any = TEXT, scale: float = 1.0) -> Autoregressive:
    """One of random weights in float64."""
    family = FAMILIES[name]
    found = family.build(Schema(kind), tiny.config(family, depth=2, **how))
    assert isinstance(found, Autoregressive)
    if isinstance(kind, Tokens):
        found.prepare(torch.randint(0, len(kind.vocabulary), (50, kind.length)))
    tiny.perturb(found, scale)
    return found.double().eval()


def texts(kind: Tokens = TEXT) -> Tensor:
    return torch.tensor(list(itertools.product(range(len(kind.vocabulary)), repeat=kind.length)))


def index(x: Tensor) -> Tensor:
    """Which row of ``texts`` each row of x is."""
    return (x * 3 ** torch.arange(3, -1, -1)).sum(1)


@every
@torch.no_grad()
def test_draws_have_the_probabilities_of_the_density(tiny: Any, name: str, how: dict[str, Any]) -> None:
    one, n = model(tiny, name, how), 6000
    chance = one.log_prob(texts()).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-12)
    assert chance.max() > 2 * chance.min()
    seen = torch.bincount(index(one.sample(n, None, Draws(1, 0, n))), minlength=81)
    chi_square = float(((seen - n * chance).square() / (n * chance)).sum())
    assert chi_square < 80 + 5 * 160**0.5


@every
@torch.no_grad()
def test_the_quick_way_draws_what_the_elements_draw(tiny: Any, name: str, how: dict[str, Any]) -> None:
    kind = Tokens(tuple("abcdefg"), 11)  # in float64 no kernel applies
    one, u = model(tiny, name, how, kind), torch.rand(40, 11, dtype=torch.float64)
    context, known = one.conditioner(None, 40), torch.rand(40, 11) < 0.4
    held = torch.randint(0, 7, (40, 11)).double(), known
    for given in (None, held):
        quick = one.net.draw(one.elements, u, context, given)
        draw, one.net.draw = one.net.draw, lambda *rest: None  # type: ignore[method-assign]
        slow = ancestral(one.elements, one.net, one.order, context, u, held=given)
        one.net.draw = draw  # type: ignore[method-assign]
        assert torch.equal(quick, slow)
        assert given is None or torch.equal(quick[known], held[0][known])


@torch.no_grad()
def test_only_texts_are_drawn_the_quick_way(tiny: Any) -> None:
    for kind in (Image(1, 2, 2, levels=2), Image(1, 2, 2, levels=9), Vector(3)):
        one = model(tiny, "gpt", {}, kind)
        u = torch.rand(5, one.elements.count, dtype=torch.float64)
        assert one.net.draw(one.elements, u, one.conditioner(None, 5), None) is None


def stepwise(one: Autoregressive, x: Tensor) -> Tensor:
    """p(symbol | those before) at every place of x (B, T): (B, T, K)."""
    logits = one.net(one.elements.look(x.double()), None).view(*x.shape, -1) + one.elements.blocks[0].default
    return logits.softmax(-1)


@every
@torch.no_grad()
def test_no_temperature_takes_the_likeliest_symbol(tiny: Any, name: str, how: dict[str, Any]) -> None:
    x = (one := model(tiny, name, how)).sample(10, None, Draws(1, 0, 10), temperature=0.0)
    assert torch.equal(stepwise(one, x).argmax(-1), x)
    assert len(x.unique(dim=0)) == 1


@every
@torch.no_grad()
def test_top_k_and_top_p_leave_out_what_they_should(tiny: Any, name: str, how: dict[str, Any]) -> None:
    """What is drawn is what brute force allows at each place: no more, and in many draws nearly no less."""
    one, n = model(tiny, name, how), 2000

    def largest(place: list[float], k: int) -> set[int]:
        return set(sorted(range(3), key=lambda symbol: -place[symbol])[:k])

    def nucleus(place: list[float]) -> set[int]:
        return next(largest(place, k) for k in (1, 2, 3) if k == 3 or sum(sorted(place)[-k:]) >= 0.7)

    for sharper, allowed in (({"top_k": 2}, lambda place: largest(place, 2)), ({"top_p": 0.7}, nucleus)):
        x = one.sample(n, None, Draws(1, 0, n), **sharper)
        after: dict[tuple[int, ...], set[int]] = {}
        may: dict[tuple[int, ...], set[int]] = {}
        for row, symbols in zip(stepwise(one, x).tolist(), x.tolist(), strict=True):
            for place, symbol in enumerate(symbols):
                before = tuple(symbols[:place])
                after.setdefault(before, set()).add(symbol)
                may[before] = allowed(row[place])
        assert all(after[before] <= may[before] for before in after)
        assert after[()] == may[()]
        assert sum(map(len, after.values())) >= 0.8 * sum(map(len, may.values()))
    warm, plain = (one.sample(n, None, Draws(1, 0, n), temperature=t) for t in (3.0, 1.0))
    assert one.log_prob(warm).mean() < one.log_prob(plain).mean()


@every
@torch.no_grad()
def test_the_rest_of_a_text_has_its_conditional_probability(tiny: Any, name: str, how: dict[str, Any]) -> None:
    one, n = model(tiny, name, how), 3000
    x, observed = torch.tensor([[1, 2, 0, 0]]).expand(n, -1), torch.tensor([[True, True, False, False]]).expand(n, -1)
    filled = one.complete(x, observed, None, Draws(2, 0, n))
    assert torch.equal(filled[:, :2], x[:, :2])
    every_text = texts()
    fits = (every_text[:, :2] == x[0, :2]).all(1)
    chance = one.log_prob(every_text[fits]).softmax(0)
    seen = torch.bincount(index(filled), minlength=81)[fits]
    assert float(((seen - n * chance).square() / (n * chance)).sum()) < 8 + 5 * 16**0.5


@pytest.mark.parametrize(("name", "how"), [("gpt", {}), ("rnn", {"cell": "gru"})])
@torch.no_grad()
def test_gaps_are_filled_by_what_surrounds_them(tiny: Any, name: str, how: dict[str, Any]) -> None:
    one, n = model(tiny, name, how), 2000
    one.particles = 40
    x, observed = torch.tensor([[0, 1, 0, 2]]).expand(n, -1), torch.tensor([[False, True, False, True]]).expand(n, -1)
    filled = one.complete(x, observed, None, Draws(2, 0, n))
    every_text = texts()
    fits = (every_text[:, [1, 3]] == x[0, [1, 3]]).all(1)
    chance = one.log_prob(every_text[fits]).softmax(0)
    found = torch.bincount(index(filled), minlength=81)[fits].double() / n
    assert float(found.sum()) == pytest.approx(1)
    torch.testing.assert_close(found, chance, rtol=0, atol=0.05)


def test_dropout_is_of_training_alone_and_belongs_to_rows(tiny: Any) -> None:
    one = model(tiny, "gpt", {"dropout": 0.3}).train()
    x = torch.randint(0, 3, (9, 4))
    loss = one(Batch(x, Draws(1, 0, 9)))["loss"]
    assert torch.equal(one(Batch(x, Draws(1, 0, 9)))["loss"], loss)
    assert not torch.isclose(one(Batch(x, Draws(2, 0, 9)))["loss"], loss).any()
    torch.testing.assert_close(one(Batch(x[4:], Draws(1, 4, 9)))["loss"], loss[4:])
    torch.testing.assert_close(-one.log_prob(x), one.eval()(Batch(x, Draws(1, 0, 9)))["loss"])


@pytest.mark.parametrize(("name", "how"), [("gpt", {}), ("gpt", {"style": "gpt2"}), ("rnn", {}), ("rnn", {"cell": "gru"})])
def test_an_untrained_model_counts_and_a_trained_one_sees_the_past(tiny: Any, name: str, how: dict[str, Any]) -> None:
    """Texts that repeat their first two symbols, each pair equally likely: 2 log 3 nats, against 8 log 3 of counting."""
    family, kind = FAMILIES[name], Tokens(("x", "y", "z"), 8)
    one = family.build(Schema(kind), family.configure({"width": 32, "depth": 2, "dropout": 0.0, **how}))
    x = torch.randint(0, 3, (300, 2)).repeat(1, 4)
    one.prepare(x)
    counts = torch.bincount(x.flatten()).double()
    expected = -4 * 2 * ((counts / counts.sum()) * (counts / counts.sum()).log()).sum()
    assert float(one(Batch(x, Draws(0, 0, 300)))["loss"].mean().detach()) == pytest.approx(float(expected), abs=1e-3)
    optimiser = torch.optim.Adam(one.parameters(), lr=1e-2)
    for step in range(140):
        loss = one(Batch(x[:100].roll(step, 0), Draws(step, 0, 100)))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = float(one.eval()(Batch(x[100:], Draws(0, 0, 200)))["loss"].mean().detach())
    assert found == pytest.approx(2 * math.log(3), abs=0.2)
