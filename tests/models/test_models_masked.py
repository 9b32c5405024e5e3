"""Masked and uniform diffusion against enumeration of orders, of chains and of every state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from pushforward.catalog import FAMILIES
from pushforward.core.context import Conditioner, Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Schema, Table, Tokens
from pushforward.models.elements import elements
from pushforward.models.masked import MaskedDiffusion
from pushforward.models.uniform import UniformDiffusion
from pushforward.nets.dit import DiT, SequenceTransformer

WIDE = torch.float64
GAPPED = Table(
    (
        Column("n", ColumnKind.INTEGER, resolution=1.0, missing=True),
        Column("b", ColumnKind.CATEGORY, categories=("x", "y", "z")),
    )
)
WORDS, PIXELS = Tokens(("a", "b", "c"), 3), Image(1, 2, 2, levels=2)
LONG = Tokens(("a", "b"), 9)
kinds = pytest.mark.parametrize("kind", [WORDS, PIXELS], ids=["tokens", "binary"])


def codes(kind: Kind, n: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(kind, Table):
        number = torch.randint(-3, 4, (n,), generator=generator).double()
        number[torch.rand(n, generator=generator) < 0.3] = math.nan
        return torch.stack([number, torch.randint(0, 3, (n,), generator=generator).double()], 1)
    if isinstance(kind, Image):
        return torch.randint(0, kind.levels, (n, *kind.shape), generator=generator, dtype=torch.uint8)
    assert isinstance(kind, Tokens)
    # the later symbols of the vocabulary are the rarer ones
    return torch.randint(0, len(kind.vocabulary) ** 2, (n, kind.length), generator=generator).double().sqrt().long()


def build(tiny: Any, kind: Kind, name_of_path: str = "masked", conditions: bool = False, **options: Any) -> Any:
    family = FAMILIES["masked-diffusion"]
    torch.manual_seed(0)
    small = {"hidden": (12, 12), "components": 2, "width": 8, "depth": 1, "heads": 2, "path": name_of_path}
    schema = Schema(kind, tiny.conditions if conditions else ())
    model = family.build(schema, family.configure({**small, **options}))
    model.prepare(codes(kind))
    tiny.perturb(model, 1.0)
    return model.eval().double()


def states(kind: Kind) -> Tensor:
    if isinstance(kind, Image):
        rows = list(itertools.product(range(kind.levels), repeat=kind.size))
        return torch.tensor(rows, dtype=torch.uint8).view(-1, *kind.shape)
    assert isinstance(kind, Tokens)
    return torch.tensor(list(itertools.product(range(len(kind.vocabulary)), repeat=kind.length)))


def index_of(x: Tensor, every: Tensor) -> Tensor:
    same = (x.flatten(1)[:, None] == every.flatten(1)[None]).all(2)
    assert same.any(1).all()
    return same.to(torch.uint8).argmax(1)


def orders(kind: Kind) -> Iterator[tuple[float, list[set[int]]]]:
    """Every order with its probability, as the sets of elements revealed one after another."""
    if kind is not GAPPED:
        for order in itertools.permutations(range(kind.size)):
            yield 1 / math.factorial(kind.size), [{i} for i in order]
        return
    for order in ([{0, 1}, {2}], [{2}, {0, 1}]):  # element 0 says whether 1 is missing
        yield 0.5 / 2, order
    for order in ([0, 1, 2], [0, 2, 1], [2, 0, 1]):
        yield 0.5 / 3, [{i} for i in order]


@torch.no_grad()
def along(model: MaskedDiffusion, x: Tensor, order: list[set[int]], steps: int) -> Tensor:
    """log Π p(e | before) of one order in ``steps`` shares, (B,), set by set."""
    e = model.elements.take_apart(x)
    total, visible = torch.zeros(len(x), dtype=WIDE), torch.zeros(model.elements.count, dtype=torch.bool)
    for step in range(steps):
        now = [i for place, part in enumerate(order) if place * steps // len(order) == step for i in part]
        seen = model.elements.look(torch.where(visible, e, torch.zeros_like(e)))
        seen = seen * visible[model.elements.feature_element]
        params = model.net(seen, ~visible.expand(len(x), -1), Context())
        total += model.elements.log_prob_elements(params, e)[:, now].sum(1)
        visible[now] = True
    return total


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0) / len(values) ** 0.5


@pytest.mark.parametrize("kind", [WORDS, PIXELS, GAPPED], ids=["tokens", "binary", "gaps"])
def test_loss_and_scores_have_the_mean_over_orders(tiny: Any, kind: Kind) -> None:
    model = build(tiny, kind)
    x = codes(kind, 16)[-6:]
    assert kind is not GAPPED or 0 < x[:, 0].isnan().sum() < 6
    bound = sum(chance * along(model, x, order, model.score_steps) for chance, order in orders(kind))
    n = 6000
    many = x.repeat(n, *(1,) * (x.dim() - 1))
    with torch.no_grad():
        loss = model(Batch(many, Draws(3, 0, len(many))))["loss"].view(n, 6)
        score = model.log_prob(many, None, Draws(4, 0, len(many))).view(n, 6)
    for found in (-loss, score):
        mean, error = mean_and_error(found)
        assert ((mean - bound).abs() < 4 * error + 1e-9).all()
    if kind is not GAPPED:  # without gaps each draw is one of the orders
        every = torch.stack([along(model, x, order, model.score_steps) for _, order in orders(kind)])
        assert ((score[:50, None] - every).abs().amin(1) < 1e-9).all()


def test_the_number_hidden_is_less_noisy_than_a_time(tiny: Any) -> None:
    """The loss against the bound of the path at random times, D/k against 1/t: the same mean, and less variance."""
    model, n = build(tiny, WORDS), 8000
    x = torch.tensor([[0, 1, 2]]).repeat(n, 1)
    with torch.no_grad():
        counted = model(Batch(x, Draws(3, 0, n)))["loss"]
        t = Draws(5, 0, n).stratified(WIDE)
        hidden = Draws(6, 0, n).uniform(3, dtype=WIDE) < t[:, None]
        e = model.elements.take_apart(x)
        seen = model.elements.look(e).masked_fill(hidden[:, model.elements.feature_element], 0)
        nats = -model.elements.log_prob_elements(model.net(seen, hidden, Context()), e)
        timed = (hidden * nats).sum(1) / t
    assert float(counted.mean()) == pytest.approx(float(timed.mean()), abs=4 * float(timed.std() / n**0.5))
    assert counted.std() < 0.8 * timed.std()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_weights_average_to_the_density_of_the_samples(tiny: Any, steps: int) -> None:
    model, every, n = build(tiny, WORDS, score_steps=steps), states(WORDS), 10_000
    mass = sum(chance * along(model, every, order, steps).exp() for chance, order in orders(WORDS))
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    drawn = model.sample(n, None, Draws(5, 0, n), steps=steps)
    counts = torch.bincount(index_of(drawn, every), minlength=len(every)).double()
    assert chisquare(counts, n * mass).pvalue > 1e-3
    with torch.no_grad():
        weights = torch.stack([model.log_prob(every, None, Draws(s, 0, len(every))) for s in range(400)]).exp()
    mean, error = mean_and_error(weights)
    assert ((mean - mass).abs() < 4.5 * error + 1e-9).all()
    assert model.weights_are_exact
    assert model.random


def test_masses_of_a_table_with_gaps_sum_to_one_and_are_those_of_samples(tiny: Any) -> None:
    model, n = build(tiny, GAPPED), 12_000
    numbers = torch.cat([torch.arange(-500.0, 501.0, dtype=WIDE), torch.tensor([math.nan], dtype=WIDE)])
    every = torch.stack([numbers.repeat(3), torch.arange(3.0, dtype=WIDE).repeat_interleave(1002)], 1)
    mass = sum(chance * along(model, every, order, 3).exp() for chance, order in orders(GAPPED)).view(3, -1)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)  # logistics have tails
    drawn = model.sample(n, None, Draws(2, 0, n))
    gap = drawn[:, 0].isnan()
    cells = [((drawn[:, 1] == b) & c).sum() for b in range(3) for c in (gap, drawn[:, 0] < 0, drawn[:, 0] >= 0)]
    below = numbers[:-1] < 0
    expected = [m for row in mass for m in (row[-1], row[:-1][below].sum(), row[:-1][~below].sum())]
    expected = torch.stack(expected) / mass.sum() * n
    assert chisquare(torch.stack(cells).double(), expected).pvalue > 1e-3


class Exact(nn.Module):
    """The true conditionals of ``mass`` (K, …) over D elements, as a network."""

    def __init__(self, mass: Tensor) -> None:
        super().__init__()
        self.mass, self.every = mass.flatten(), torch.tensor(list(itertools.product(*(range(k) for k in mass.shape))))

    def forward(self, seen: Tensor, hidden: Tensor, context: Context) -> Tensor:
        x = seen.view(*hidden.shape, -1).argmax(-1)
        fits = ((x[:, None] == self.every) | hidden[:, None]).all(2)  # (B, S)
        weight = fits * self.mass
        one_hot = torch.nn.functional.one_hot(self.every).to(WIDE)  # (S, D, K)
        return torch.einsum("bs,sdk->bdk", weight, one_hot).clamp_min(1e-300).log().flatten(1)


@pytest.fixture
def exact() -> tuple[MaskedDiffusion, Tensor, Tensor]:
    mass = (
        (1.2 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=WIDE)).flatten().softmax(0).view(3, 3, 3)
    )
    model = MaskedDiffusion(Schema(WORDS), elements(WORDS), Exact(mass), Conditioner(())).double()
    return model, mass.flatten(), states(WORDS)


def test_with_true_conditionals_every_order_scores_the_truth(exact: tuple[MaskedDiffusion, Tensor, Tensor]) -> None:
    model, mass, every = exact
    for seed in range(5):
        torch.testing.assert_close(model.log_prob(every, None, Draws(seed, 0, 27)), mass.log())
    n = 10_000
    counts = torch.bincount(index_of(model.sample(n, None, Draws(1, 0, n)), every), minlength=27).double()
    assert chisquare(counts, n * mass).pvalue > 1e-3
    # fewer passes know less: the errors fall to nothing as there are more
    errors = []
    for steps in (1, 2, 3):
        found = sum(chance * along(model, every, order, steps).exp() for chance, order in orders(WORDS))
        errors.append(0.5 * float((found - mass).abs().sum()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


def test_completion_follows_the_true_conditional(exact: tuple[MaskedDiffusion, Tensor, Tensor]) -> None:
    model, mass, every = exact
    n, observed = 8000, torch.tensor([False, True, False])
    fits = every[:, 1] == 2
    conditional = mass[fits] / mass[fits].sum()
    x = torch.tensor([[0, 2, 1]]).repeat(n, 1)
    drawn = model.complete(x, observed.expand(n, -1), None, Draws(3, 0, n))
    assert drawn.dtype == torch.int64
    counts = torch.bincount(index_of(drawn, every[fits]), minlength=9).double()
    assert chisquare(counts, n * conditional).pvalue > 1e-3


def test_completing_a_gap_knows_that_there_is_a_number(tiny: Any) -> None:
    """p(n | there is one, b), by the net's own parameters."""
    model, n = build(tiny, GAPPED), 8000
    x = torch.tensor([[math.nan, 1.0]], dtype=WIDE).repeat(n, 1)
    drawn = model.complete(x, ~x.isnan(), None, Draws(1, 0, n))
    assert not drawn.isnan().any()
    assert (drawn[:, 1] == 1).all()
    e = torch.tensor([[0.0, 0.0, 1.0]], dtype=WIDE)
    hidden = torch.tensor([[False, True, False]])
    seen = model.elements.look(e).masked_fill(hidden[:, model.elements.feature_element], 0)
    line = torch.arange(-300.0, 301.0, dtype=WIDE)
    tried = torch.stack([torch.zeros(601), line, torch.ones(601)], 1)
    with torch.no_grad():
        params = model.net(seen, hidden, Context()).expand(601, -1)
        mass = model.elements.log_prob_elements(params, tried)[:, 1].exp()
    cut = [-math.inf, -2, 0, 1, 3, math.inf]
    found, expected = [], []
    for a, b in itertools.pairwise(cut):
        found.append(((drawn[:, 0] > a) & (drawn[:, 0] <= b)).sum())
        expected.append(mass[(line > a) & (line <= b)].sum())
    assert chisquare(torch.stack(found).double(), torch.stack(expected) / sum(expected) * n).pvalue > 1e-3


@pytest.mark.parametrize("name_of_path", ["masked", "uniform"])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_steps_are_network_passes(tiny: Any, name_of_path: str, steps: int) -> None:
    model, calls = build(tiny, LONG, name_of_path, score_steps=steps, sampling_steps=steps), []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    model.sample(5, None, Draws(0, 0, 5), steps=steps)
    assert len(calls) == steps
    model.sample(5, None, Draws(0, 0, 5))
    with torch.no_grad():
        model.log_prob(codes(LONG, 5), None, Draws(0, 0, 5))
    assert len(calls) == 3 * steps
    if name_of_path == "masked":
        model.sample(5, None, Draws(0, 0, 5), steps=99)
        assert len(calls) == 3 * steps + 9  # no more than there is to reveal


def test_hidden_values_are_not_looked_at(tiny: Any) -> None:
    for kind in (LONG, Image(1, 9, 8, levels=3), Image(3, 5, 5, levels=256), GAPPED):
        model = build(tiny, kind)
        e = model.elements.take_apart(codes(kind, 2)).nan_to_num()
        hidden = torch.rand(e.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        with torch.no_grad():
            first = model._params(e, hidden, None)
            assert torch.equal(model._params(torch.where(hidden, 1.0, e), hidden, None), first)
            assert not torch.equal(model._params(torch.where(hidden, e, 1 - e.clamp(0, 1)), hidden, None), first)
            assert not torch.equal(model._params(e, ~hidden, None), first)


def test_parameters_of_an_image_belong_to_their_pixels(tiny: Any) -> None:
    """Without blocks, a patch of the transformer sees itself only, and so must the parameters of its pixels."""
    kind = Image(3, 6, 4, levels=256)
    model = build(tiny, kind, depth=0)
    e = torch.randint(0, 256, (1, kind.size)).double()
    moved = e.view(1, 3, 6, 4).clone()
    moved[0, 1, 2:4, 0:2] = 255 - moved[0, 1, 2:4, 0:2]
    nothing = torch.zeros(1, kind.size, dtype=torch.bool)
    with torch.no_grad():
        a, b = (model._params(v.flatten(1), nothing, None) for v in (e, moved))
    changed = torch.zeros(kind.size, dtype=torch.bool).index_fill(0, model.elements.param_element[(a != b)[0]], True)
    expected = torch.zeros(3, 6, 4, dtype=torch.bool)
    expected[:, 2:4, 0:2] = True
    assert torch.equal(changed.view(3, 6, 4), expected)


def test_a_net_that_learned_nothing_knows_the_marginals(tiny: Any) -> None:
    for kind in (WORDS, LONG, GAPPED, PIXELS):
        x = codes(kind, 200)
        model = FAMILIES["masked-diffusion"].build(Schema(kind), FAMILIES["masked-diffusion"].configure({}))
        model.prepare(x)
        with torch.no_grad():
            found = model.log_prob(x, None, Draws(0, 0, 200))
            expected = model.elements.log_prob(torch.zeros(200, len(model.elements.param_element)), x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# the uniform path

PAIR = Tokens(("a", "b", "c"), 2)


@torch.no_grad()
def enumerated(model: UniformDiffusion, steps: int) -> Tensor:
    """What ``sample(steps=…)`` draws, (S,), by products of transition matrices over all states."""
    every = states(model.schema.example)
    mass = torch.full((len(every),), 1 / len(every), dtype=WIDE)
    for k in range(steps, 0, -1):
        s, t = (torch.full((len(every),), v / steps, dtype=WIDE) for v in (k - 1, k))
        p = model._log_p(every, t, Context()).exp()
        chance = model.path.posterior(every, p, s, t)
        step = torch.stack([chance.gather(2, x.expand(len(every), -1)[..., None])[..., 0].prod(1) for x in every], 1)
        mass = mass @ step
    return mass


def test_chains_are_importance_weights_of_what_is_sampled(tiny: Any) -> None:
    steps, n = 3, 10_000
    model, every = build(tiny, PAIR, "uniform", score_steps=steps), states(PAIR)
    mass = enumerated(model, steps)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    assert float(mass.max() / mass.min()) > 3
    drawn = model.sample(n, None, Draws(5, 0, n), steps=steps)
    counts = torch.bincount(index_of(drawn, every), minlength=9).double()
    assert chisquare(counts, n * mass).pvalue > 1e-3
    many = every.repeat(4000, 1)
    with torch.no_grad():
        weights = model.log_prob(many, None, Draws(1, 0, len(many))).view(4000, 9)
    mean, error = mean_and_error(weights.exp())
    assert ((mean - mass).abs() < 4.5 * error).all()
    assert (weights.mean(0) < mass.log()).all()


def test_the_loss_of_the_uniform_path_is_its_bound(tiny: Any) -> None:
    model, every = build(tiny, PAIR, "uniform", score_steps=200), states(PAIR)
    nodes, rule = np.polynomial.legendre.leggauss(40)
    bound = torch.zeros(9, dtype=WIDE)
    with torch.no_grad():
        for u, weight in zip(0.5 + 0.5 * nodes, 0.5 * rule, strict=True):
            t = torch.full((9,), u**2, dtype=WIDE)
            one = model.path.marginal(torch.eye(3, dtype=WIDE), t[:3])
            chance = torch.kron(one, one)  # (x, z)
            log_p = model._log_p(every, t, Context())
            each = torch.stack([model.path.bound(every, x.expand(9, -1), log_p, t).sum(1) for x in every])
            bound += 2 * u * weight * (chance * each).sum(1)
        n = 6000
        many = every.repeat(n, 1)
        loss = model(Batch(many, Draws(3, 0, len(many))))["loss"].view(n, 9)
        chains = -model.log_prob(every.repeat(500, 1), None, Draws(2, 0, 4500)).view(500, 9)
    mean, error = mean_and_error(loss)
    assert ((mean - bound).abs() < 4.5 * error).all()
    # many small steps are scored as the loss is, with an error of the first order in their number
    mean, error = mean_and_error(chains)
    assert ((mean - bound).abs() < 4.5 * error + 0.03 * bound).all()


def test_a_uniform_net_that_learned_nothing_knows_the_marginals(tiny: Any) -> None:
    x = codes(PAIR, 300)
    model = build(tiny, PAIR, "uniform")
    with torch.no_grad():
        for p in model.net.parameters():
            p.zero_()
    model.prepare(x)
    expected = -model.symbols.log_prob(torch.zeros(9, 2, 3), states(PAIR)).sum(1)
    many = states(PAIR).repeat(8000, 1)
    with torch.no_grad():
        loss = model(Batch(many, Draws(3, 0, len(many))))["loss"].view(8000, 9)
    mean, error = mean_and_error(loss)
    assert ((mean - expected).abs() < 4.5 * error).all()


class ExactUniform(nn.Module):
    """The net that makes ``UniformDiffusion`` predict p(x_i | z) of the joint p(x) = ``mass`` (3, 3)."""

    def __init__(self, mass: Tensor) -> None:
        super().__init__()
        self.mass = nn.Parameter(mass)

    def forward(self, z: Tensor, t: Tensor, context: Context) -> Tensor:
        # given p(x), the other symbol's likelihood is what a symbol's own prior lacks
        first, second = self.path.evidence(z, t).exp().unbind(1)
        return torch.stack([(second @ self.mass.T).log(), (first @ self.mass).log()], 1) - self.default


def test_with_true_predictions_the_uniform_path_scores_and_completes_the_truth() -> None:
    mass = (1.5 * torch.randn(9, generator=torch.Generator().manual_seed(2), dtype=WIDE)).softmax(0).view(3, 3)
    net = ExactUniform(mass)
    model = UniformDiffusion(Schema(PAIR), net, Conditioner(()), steps=24, score_steps=24, particles=32).double()
    net.path, net.default = model.path, model.symbols.default
    every, n = states(PAIR), 3000
    mass = mass.detach()
    assert 0.5 * float((enumerated(model, 24) - mass.flatten()).abs().sum()) < 0.03
    with torch.no_grad():
        loss = model(Batch(every.repeat(3000, 1), Draws(3, 0, 27_000)))["loss"].view(3000, 9)
    mean, error = mean_and_error(loss)
    assert ((mean + mass.flatten().log()).abs() < 4.5 * error).all()
    x = torch.tensor([[0, 2]]).repeat(n, 1)
    drawn = model.complete(x, torch.tensor([[False, True]]).expand(n, -1), None, Draws(3, 0, n))
    assert (drawn[:, 1] == 2).all()
    share = torch.bincount(drawn[:, 0], minlength=3).double() / n
    conditional = mass[:, 2] / mass[:, 2].sum()
    assert 0.5 * float((share - conditional).abs().sum()) < 0.04
    assert 0.5 * float((mass.sum(1) - conditional).abs().sum()) > 0.1  # ignoring the second symbol would not do


def test_the_recipe_takes_the_net_that_suits_the_data(tiny: Any) -> None:
    assert isinstance(build(tiny, LONG).net.net, SequenceTransformer)
    assert isinstance(build(tiny, Image(1, 9, 8, levels=3)).net.net, DiT)
    model = build(tiny, LONG, "uniform", conditions=True)
    condition = tiny.condition(6)
    terms = model(Batch(codes(LONG, 6), Draws(0, 0, 6), condition))
    terms["loss"].sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} <= {"conditioner.null"}
    assert model.sample(6, condition, Draws(0, 0, 6)).shape == (6, 9)
    with pytest.raises(RecipeError, match="path uniform is for texts, found table"):
        build(tiny, GAPPED, "uniform")
    with pytest.raises(RecipeError, match="path is one of masked, uniform"):
        build(tiny, LONG, "mask")


def test_a_dependence_is_learned(tiny: Any) -> None:
    """The second element repeats the first but one time in ten."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 3, (2000,), generator=generator)
    second = torch.where(torch.rand(2000, generator=generator) < 0.9, first, torch.randint(0, 3, (2000,), generator=generator))
    x = torch.stack([first, second], 1)
    counts = torch.bincount(first * 3 + second, minlength=9).double() / 2000
    entropy = -float((counts * counts.log()).sum())
    for name_of_path in ("masked", "uniform"):
        model = build(tiny, PAIR, name_of_path, width=16, hidden=(32, 32)).float().train()
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for step in range(250):
            rows = torch.randint(0, 2000, (128,), generator=generator)
            loss = model(Batch(x[rows], Draws(step, 0, 128)))["loss"].mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            found = model.eval()(Batch(x, Draws(99, 0, 2000)))["loss"].mean()
        assert entropy - 0.1 < float(found) < entropy + 0.2, name_of_path
        drawn = model.sample(2000, None, Draws(1, 0, 2000))
        assert 0.85 < float((drawn[:, 0] == drawn[:, 1]).double().mean()) < 0.98, name_of_path
