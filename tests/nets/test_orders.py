"""Many orders on one set of weights: what each output sees, by autograd; members by themselves; and the mixture they make."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.core.context import Context
from pushforward.core.errors import RecipeError
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table
from pushforward.models.autoregressive import log_conditionals
from pushforward.models.elements import elements
from pushforward.models.orders import OrderMixture
from pushforward.nets.orders import ManyOrders, Orders

WIDE = torch.float64
PIXELS = Image(1, 2, 3, levels=2)
EVERY = torch.tensor(list(itertools.product(range(2), repeat=6)), dtype=torch.uint8).view(-1, 1, 2, 3)


def net(context: int = 0) -> ManyOrders:
    torch.manual_seed(0)
    features = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4])
    many = ManyOrders(features, torch.tensor([0, 0, 1, 2, 3, 3, 4]), Orders(5), 0, (40, 30), context=context)
    for p in many.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return many.double()


def test_outputs_see_what_comes_before_in_their_order() -> None:
    many = net()
    orders = set()
    for k in range(4):
        place = {element: i for i, element in enumerate(many.order(k))}
        orders.add(tuple(many.order(k)))
        x = torch.randn(20, 8, dtype=WIDE, requires_grad=True)
        y = many(x, k=k)
        for p, element in enumerate(many.params.tolist()):
            (slope,) = torch.autograd.grad(y[:, p].sum(), x, retain_graph=True, allow_unused=True)
            for f, other in enumerate(many.features.tolist()):
                assert bool(slope[:, f].ne(0).any()) == (place[other] < place[element])
    assert len(orders) == 4


@pytest.mark.parametrize("context", [0, 3])
@torch.no_grad()
def test_a_member_is_the_network_under_its_order(context: int) -> None:
    many, x = net(context), torch.randn(6, 8, dtype=WIDE)
    told = Context(torch.randn(6, context, dtype=WIDE)) if context else None
    for k in (0, 5):
        alone, order = many.member(k)
        assert order == many.order(k)
        torch.testing.assert_close(alone(x, told), many(x, told, k=k))


def test_elements_stay_behind_those_they_need() -> None:
    orders = Orders(6, after={1: 0, 4: 3})
    swapped = 0
    for k in range(30):
        order = orders(k)
        assert sorted(order) == list(range(6))
        assert order.index(0) < order.index(1)
        assert order.index(3) < order.index(4)
        swapped += order.index(3) < order.index(0)
        known = orders(k, known=[3, 5])
        assert set(known[:2]) == {3, 5}
    assert 5 < swapped < 25


def test_masks_that_mean_nothing_are_refused() -> None:
    family = FAMILIES["made"]
    wrong = (
        ({"masks": 0}, "at least 1"),
        ({"masks": 2, "orders": 0}, "new masks"),
        ({"ensemble": True}, "orders=2 or more"),
        ({"ensemble": True, "orders": 2, "masks": 2}, "no masks"),
        ({"orders": 2, "dropout": 0.5}, "own"),
        ({"dropout": 1.0}, "below 1"),
    )
    for options, message in wrong:
        with pytest.raises((ValueError, RecipeError), match=message):
            family.build(Schema(PIXELS), family.configure(options))


def build(tiny: Any, **options: Any) -> OrderMixture:
    family = FAMILIES["made"]
    torch.manual_seed(0)
    model = family.build(Schema(PIXELS), family.configure({"hidden": (24, 24), **options}))
    assert isinstance(model, OrderMixture)
    tiny.perturb(model, 1.5)
    return model.eval().double()


def counted(drawn: Tensor, mass: Tensor) -> None:
    powers = 2 ** torch.arange(5, -1, -1)
    counts = torch.bincount((drawn.flatten(1).long() * powers).sum(1), minlength=64).double()
    expected = mass * len(drawn)
    rare = expected < 5
    pool = lambda v: torch.cat([v[~rare], v[rare].sum()[None]]) if float(expected[rare].sum()) > 0 else v[~rare]
    assert chisquare(pool(counts).numpy(), pool(expected).numpy(), sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "orders"),
    [({"orders": 3}, 3), ({"masks": 3}, 1), ({"orders": 2, "masks": 2, "mixture": 3}, 2), ({"orders": 3, "ensemble": True}, 3)],
)
@torch.no_grad()
def test_the_mixture_is_the_mean_of_its_members(tiny: Any, options: dict[str, int], orders: int) -> None:
    model = build(tiny, **options)
    taken = [model.net.member(k)[1] for k in range(3)]
    assert len({tuple(order) for order in taken}) == orders
    assert taken[0] == list(range(6))
    mass = model.log_prob(EVERY).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    e = model.elements.take_apart(EVERY)
    members = [log_conditionals(model.elements, model.net.member(k)[0], e, Context()).sum(1).exp() for k in range(3)]
    assert all(float(m.sum()) == pytest.approx(1, abs=1e-12) for m in members)
    torch.testing.assert_close(mass, torch.stack(members).mean(0))
    assert float((members[0] - members[1]).abs().max()) > 1e-3
    counted(model.sample(20_000, None, Draws(1, 0, 20_000)), mass)


@torch.no_grad()
def test_any_part_completes_any_other_where_any_order_is_known(tiny: Any) -> None:
    model, n = build(tiny, orders=0, mixture=2), 8000
    observed = torch.tensor([0, 1, 0, 0, 1, 1], dtype=torch.bool)
    x = torch.tensor([0, 1, 0, 0, 0, 1], dtype=torch.uint8)
    drawn = model.complete(x.expand(n, -1).view(n, 1, 2, 3), observed.expand(n, -1).view(n, 1, 2, 3), None, Draws(3, 0, n))
    alone, order = model.net.member(0, [1, 4, 5])
    assert set(order[:3]) == {1, 4, 5}
    fits = (EVERY.flatten(1)[:, observed] == x[observed]).all(1)
    e = model.elements.take_apart(EVERY)
    mass = log_conditionals(model.elements, alone, e, Context()).sum(1).exp() * fits
    counted(drawn, mass / mass.sum())


@torch.no_grad()
def test_a_cycle_of_orders_completes_by_resampling(tiny: Any) -> None:
    model, n = build(tiny, orders=2), 1500
    model.particles = 64
    observed = torch.tensor([0, 1, 0, 0, 1, 1], dtype=torch.bool)
    x = torch.tensor([0, 1, 0, 0, 0, 1], dtype=torch.uint8)
    drawn = model.complete(x.expand(n, -1).view(n, 1, 2, 3), observed.expand(n, -1).view(n, 1, 2, 3), None, Draws(3, 0, n))
    fits = (EVERY.flatten(1)[:, observed] == x[observed]).all(1)
    mass = model.log_prob(EVERY).exp() * fits
    mass = mass / mass.sum()
    powers = 2 ** torch.arange(5, -1, -1)
    found = torch.bincount((drawn.flatten(1).long() * powers).sum(1), minlength=64).double() / n
    assert 0.5 * float((found - mass).abs().sum()) < 0.06


@torch.no_grad()
def test_gaps_keep_the_masses_of_every_order_normalised(tiny: Any) -> None:
    columns = (
        Column("n", ColumnKind.INTEGER, resolution=1.0, missing=True),
        Column("b", ColumnKind.BOOLEAN, categories=(0, 1)),
    )
    family = FAMILIES["made"]
    torch.manual_seed(0)
    model = family.build(Schema(Table(columns)), family.configure({"hidden": (24,), "orders": 0, "components": 2}))
    tiny.perturb(model, 1.5)
    model.double()
    numbers = torch.cat([torch.arange(-4000.0, 4000.0, dtype=WIDE), torch.tensor([torch.nan], dtype=WIDE)])
    every = torch.stack([numbers.repeat(2), torch.tensor([0.0, 1.0], dtype=WIDE).repeat_interleave(8001)], 1)
    assert float(model.log_prob(every).exp().sum()) == pytest.approx(1, abs=1e-6)  # type: ignore[operator]


def test_orders_that_cannot_be_are_refused() -> None:
    family = FAMILIES["made"]
    for wrong in ({"orders": -1}, {"orders": 2, "mixture": 3}, {"mixture": 4}, {"orders": 0, "mixture": 0}):
        with pytest.raises(RecipeError):
            family.build(Schema(PIXELS), family.configure(wrong))


def test_pictures_are_read_from_every_corner() -> None:
    family = FAMILIES["made"]
    model = family.build(Schema(PIXELS), family.configure({"hidden": (8,), "orders": 9}))
    assert isinstance(model, OrderMixture)
    assert isinstance(model.net, ManyOrders)
    taken = [model.net.order(k) for k in range(9)]
    across, down = [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]
    mirrored = [[2, 1, 0, 5, 4, 3], [2, 5, 1, 4, 0, 3], [3, 4, 5, 0, 1, 2], [3, 0, 4, 1, 5, 2]]
    assert sorted(taken[:8]) == sorted([across, across[::-1], down, down[::-1], *mirrored])
    assert taken[8] not in taken[:8]


@pytest.mark.parametrize("conditions", [False, True])
def test_an_ensemble_learns_as_its_nets_would_alone(tiny: Any, conditions: bool) -> None:
    """Every net gets its share of the rows, in one process or two, and drops what those rows' random numbers say."""
    from pushforward.core.model import Batch

    family = FAMILIES["made"]
    torch.manual_seed(0)
    schema = Schema(PIXELS, tiny.conditions if conditions else ())
    model = family.build(schema, family.configure({"hidden": (24, 24), "orders": 3, "ensemble": True, "dropout": 0.5}))
    assert isinstance(model, OrderMixture)
    tiny.perturb(model, 1.0)
    model.double().train()
    x = (torch.rand(11, 1, 2, 3) < 0.5).to(torch.uint8)
    c = tiny.condition(11) if conditions else {}
    part = lambda a, b: Batch(x[a:b], Draws(7, a, b, 11), {n: v[a:b] for n, v in c.items()})
    loss = model(part(0, 11))["loss"]
    alone = []
    for k, (a, b) in enumerate([(0, 3), (3, 7), (7, 11)]):
        net, e = model.net.member(k)[0], model.elements.take_apart(x[a:b])
        params = net(model.elements.look(e), model.conditioner(part(a, b).condition or None, b - a), Draws(7, a, b, 11))
        alone.append(-model.elements.log_prob_elements(params, e).sum(1))
    torch.testing.assert_close(loss, torch.cat(alone))
    torch.testing.assert_close(torch.cat([model(part(0, 5))["loss"], model(part(5, 11))["loss"]]), loss)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.net.parameters())
    other = model(Batch(x, Draws(8, 0, 11), c))["loss"]
    assert not torch.allclose(loss, other)  # other units were dropped


def test_steps_of_training_take_their_orders_in_turn(tiny: Any) -> None:
    model = build(tiny, orders=3)
    x = (torch.rand(8, 1, 2, 3) < 0.5).to(torch.uint8)
    from pushforward.core.model import Batch

    with torch.no_grad():
        losses = {round(float(model(Batch(x, Draws(seed, 0, 8)))["loss"].sum()), 9) for seed in range(40)}
        wanted = set()
        for k in range(3):
            params = model.net(model.elements(x), k=k)
            wanted.add(round(-float(model.elements.log_prob(params, x).sum()), 9))
    assert losses == wanted
    assert elements(PIXELS).count == 6
