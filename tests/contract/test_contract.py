"""Every family of the catalog, on every kind of data it takes, with and without conditions, keeps the contract."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.core.derived import with_derived
from pushforward.core.model import VERBS, Batch, Completes, Encodes, FitsDirectly, Model, Predicts, Samples, Scores, verbs
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Part, Points, Schema, Signal, Table, Tokens

DIFFUSION = [f for f in FAMILIES.values() if f.place.startswith("diffusion:")]
TRIED = {
    "vector": ("vector", "plane"),
    "table": ("table",),
    "image": ("image", "photo"),
    "tokens": ("tokens",),
    "signal": ("signal",),
    "points": ("points",),
}
CASES = [
    (name, kind, conditions)
    for name, family in FAMILIES.items()
    for sort in family.kinds
    for kind in TRIED[sort]
    for conditions in ((False, True) if family.conditions else (False,))
]
every = pytest.mark.parametrize(
    ("name", "kind", "conditions"), [pytest.param(*c, id=f"{c[0]}-{c[1]}{'-conditions' if c[2] else ''}") for c in CASES]
)


def some(*verb: str) -> pytest.MarkDecorator:
    """The cases whose family declares one of the verbs."""
    chosen = [c for c in CASES if set(verb) & set(FAMILIES[c[0]].verbs)]
    ids = [f"{c[0]}-{c[1]}{'-conditions' if c[2] else ''}" for c in chosen]
    return pytest.mark.parametrize(("name", "kind", "conditions"), chosen, ids=ids)


def given(tiny: Any, conditions: bool, n: int) -> dict[str, Tensor] | None:
    return tiny.condition(n) if conditions else None


def part(condition: dict[str, Tensor] | None, at: slice) -> dict[str, Tensor] | None:
    return {k: v[at] for k, v in condition.items()} if condition else None


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def valid(schema: Schema, x: Tensor, gaps: bool = True) -> None:
    """Raises where ``x`` are no codes of the schema."""
    kind = schema.example
    assert x.shape[1:] == kind.shape
    if isinstance(kind, (Image, Tokens)):
        top = kind.levels if isinstance(kind, Image) else len(kind.vocabulary)
        assert torch.equal(x.double(), x.double().round())
        assert int(x.min()) >= 0
        assert int(x.max()) < top
        return
    assert x.is_floating_point()
    if isinstance(kind, (Signal, Points)):
        assert x.isfinite().all()
        return
    columns = kind.learned if isinstance(kind, Table) else [Column(str(i)) for i in range(kind.size)]
    for column, code in zip(columns, x.double().unbind(1), strict=True):
        known = code[~code.isnan()]
        assert known.isfinite().all()
        if not (gaps and column.missing and not column.discrete):
            assert len(known) == len(code), f"{column.name} has gaps"
        if column.discrete:
            assert torch.equal(known, known.round())
            assert ((known >= 0) & (known < column.levels)).all()
        elif column.resolution:
            steps = known / column.resolution
            torch.testing.assert_close(steps, steps.round(), rtol=0.0, atol=1e-6)


# what a family declares


@every
def test_declared_verbs_are_the_capabilities(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model, family = tiny.model(name, kind, conditions=conditions), FAMILIES[name]
    assert set(verbs(model)) == set(family.verbs)
    for verb, capability in VERBS.items():
        methods = capability.__abstractmethods__
        assert all(hasattr(model, method) == (verb in family.verbs) for method in methods), f"{name} and {verb}"
    assert hasattr(model, "density_kind") == ("score" in family.verbs)
    if isinstance(model, Scores):
        # dequantised data make a bound of any density; a family never claims more than it declares
        assert model.density_kind in (family.density, "lower_bound")
        if kind in ("vector", "plane"):
            assert model.density_kind == family.density
    assert "forward" not in type(model).__dict__


# training


@every
def test_every_parameter_learns_in_some_turn(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions, condition_drop=0.5).train()
    batch = tiny.batch(model.schema, kind, 24)
    learned: dict[str, bool] = {}
    for turn in model.turns:
        model.zero_grad(set_to_none=True)
        terms = model(batch, turn.name)
        assert all(t.shape == (24,) and t.isfinite().all() for t in terms.values())
        if isinstance(model, FitsDirectly) or not list(model.parameters()):
            continue
        terms["loss"].mean().backward()
        mine = {n for n, _ in model.turn_parameters(turn)}
        for n, p in model.named_parameters():
            touched = p.grad is not None and bool(p.grad.abs().sum() > 0)
            assert not touched or n in mine, f"turn {turn.name} moves {n}, which it does not train"
            assert p.grad is None or p.grad.isfinite().all()
            learned[n] = learned.get(n, False) or touched
    idle = {n for n, moved in learned.items() if not moved}
    if FAMILIES[name] not in DIFFUSION:  # only guidance drops conditions in training
        idle -= {n for n in idle if n.endswith("conditioner.null")}
    assert not idle


@every
def test_the_loss_is_a_function_of_batch_and_draws(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    with torch.no_grad():
        for turn in model.turns:
            first, second = (model(tiny.batch(model.schema, kind, 12), turn.name)["loss"] for _ in range(2))
            assert torch.equal(first, second)
            if name == "simclr" or not getattr(model, "rowwise", True):  # compares rows with one another, or couples them
                continue
            whole = tiny.batch(model.schema, kind, 12)
            pieces = [
                Batch(
                    whole.x[a:b],
                    Draws(7, a, b, 12),
                    part(dict(whole.condition) or None, slice(a, b)) or {},
                    None if whole.target is None else whole.target[a:b],
                )
                for a, b in ((0, 5), (5, 12))
            ]
            close(torch.cat([model(p, turn.name)["loss"] for p in pieces]), first)


# verbs


@some("sample")
def test_samples_belong_to_their_rows_and_are_codes(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    assert isinstance(model, Samples)
    n, condition = 70, given(tiny, conditions, 70)
    with torch.no_grad():
        whole = model.sample(n, condition, Draws(3, 0, n))
        assert torch.equal(whole.nan_to_num(-9), model.sample(n, condition, Draws(3, 0, n)).nan_to_num(-9))
        chunks = [model.sample(b - a, part(condition, slice(a, b)), Draws(3, a, b, n)) for a, b in ((0, 30), (30, 70))]
        other = model.sample(n, condition, Draws(4, 0, n))
    close(torch.cat(chunks), whole)
    assert not torch.equal(other.nan_to_num(-9), whole.nan_to_num(-9))
    assert len(whole.flatten(1).unique(dim=0)) > 20
    valid(model.schema, whole)


@some("score")
def test_scores_belong_to_their_rows(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    assert isinstance(model, Scores)
    x, condition = tiny.codes(kind, 20), given(tiny, conditions, 20)
    with torch.no_grad():
        whole = model.log_prob(x, condition, Draws(3, 0, 20))
        some_rows = model.log_prob(x[8:15], part(condition, slice(8, 15)), Draws(3, 8, 15, 20))
        again = model.log_prob(x, condition, Draws(4, 0, 20))
    assert whole.shape == (20,)
    assert whole.isfinite().all()
    close(some_rows, whole[8:15])
    assert model.random == (not torch.allclose(whole.double(), again.double(), atol=1e-6))
    if conditions:
        moved = {k: v.roll(1, 0) for k, v in condition.items()}
        with torch.no_grad():
            assert not torch.isclose(model.log_prob(x, moved, Draws(3, 0, 20)), whole, rtol=1e-6).all()


class SameNumbers(Draws):
    """Draws that give float32 the rounded numbers of float64, not others."""

    def _rows(self, tail: tuple[int, ...], dtype: torch.dtype, fill: Any) -> Tensor:
        return super()._rows(tail, torch.float64 if dtype.is_floating_point else dtype, fill).to(dtype)


@every
def test_double_precision(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    """A model turned to float64 computes in float64 what it computed in float32."""
    model = tiny.model(name, kind, conditions=conditions)
    condition, found = given(tiny, conditions, 20), []
    for _ in range(2):
        with torch.no_grad():
            for turn in model.turns:
                batch = replace(tiny.batch(model.schema, kind, 20), draws=SameNumbers(7, 0, 20))
                found.append(model(batch, turn.name)["loss"])
            if isinstance(model, Scores):
                found.append(model.log_prob(tiny.codes(kind, 20), condition, SameNumbers(3, 0, 20)))
        model.double()
    half = len(found) // 2
    for single, double in zip(found[:half], found[half:], strict=True):
        assert double.dtype == torch.float64
        assert double.isfinite().all()
        close(single, double, 1e-3)


@some("encode")
def test_codes_belong_to_their_rows(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    assert isinstance(model, Encodes)
    x, condition = tiny.codes(kind, 20), given(tiny, conditions, 20)
    with torch.no_grad():
        whole = model.encode(x, condition)
        close(whole, model.encode(x, condition), 0.0)
        assert whole.dim() == 2
        assert len(whole) == 20
        assert whole.isfinite().all()
        if not getattr(getattr(model, "transform", None) or getattr(model, "preprocess", None), "stochastic", False):
            close(model.encode(x[8:15], part(condition, slice(8, 15))), whole[8:15])
    if "components" not in vars(model) or model.components > 1:  # one component is always responsible
        assert len(whole.unique(dim=0)) > 10


@some("complete")
def test_completion_keeps_what_is_seen_and_fills_the_rest(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    assert isinstance(model, Completes)
    if name == "made":
        model.particles = 3
    if hasattr(model, "completion_steps"):
        model.completion_steps = 8
    x, condition = tiny.codes(kind, 30), given(tiny, conditions, 30)
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    observed[0], observed[1] = True, False
    observed &= ~x.isnan()
    hidden = torch.where(observed, x, torch.zeros_like(x))
    with torch.no_grad():
        filled = model.complete(x, observed, condition, Draws(3, 0, 30))
        blind = model.complete(hidden, observed, condition, Draws(3, 0, 30))
        parts = [
            model.complete(x[a:b], observed[a:b], part(condition, slice(a, b)), Draws(3, a, b, 30))
            for a, b in ((0, 11), (11, 30))
        ]
    assert filled.dtype == x.dtype
    assert torch.equal(filled[observed], x[observed])
    valid(model.schema, filled, gaps=False)
    assert torch.equal(filled, blind), "what is not observed was looked at"
    if name != "vae" and kind not in ("image", "photo"):  # there a last bit may decide a level
        close(torch.cat(parts), filled)
    again = model.complete(x, observed, condition, Draws(4, 0, 30))
    assert not torch.equal(again, filled)


@some("predict")
def test_predictions_are_probabilities(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    assert isinstance(model, Predicts)
    with torch.no_grad():
        chances = model.predict(tiny.codes(kind, 20))
    assert chances.shape == (20, 3)
    torch.testing.assert_close(chances.sum(1), torch.ones(20))
    assert (chances > 0).all()
    assert chances.std(0).max() > 1e-4


# conditions of every kind: vectors, texts, pictures and what is made from the example

RICH = [
    *((name, kind, "auto") for name, f in FAMILIES.items() if "tokens" in f.slots for kind in ("image", "vector")),
    *(("rectified-flow", kind, "auto") for kind in ("table", "photo", "signal", "points")),
    ("rectified-flow", "photo", "dit"),
    ("nsf", "plane", ""),
]
rich = pytest.mark.parametrize(("name", "kind", "net"), RICH, ids=["-".join(c).removesuffix("-auto") for c in RICH])


def rich_model(tiny: Any, name: str, kind: str, net: str, n: int) -> tuple[Model, Tensor, dict[str, Tensor]]:
    """A model of rich conditions (without texts where its networks see none), and n examples with their conditions."""
    schema = tiny.rich(kind)
    schema = replace(schema, conditions=tuple(c for c in schema.conditions if c.slot in FAMILIES[name].slots))
    model = tiny.model(name, kind, schema=schema, condition_drop=0.5, **({"net": net} if net else {}))
    x = tiny.codes(kind, n)
    told = {k: v for k, v in tiny.told(schema, n).items() if k in {c.name for c in schema.conditions}}
    return model, x, with_derived(schema.conditions, x, told)


@rich
def test_rich_conditions_train_every_parameter(tiny: Any, name: str, kind: str, net: str) -> None:
    model, x, condition = rich_model(tiny, name, kind, net, 24)
    stored = {c.name: condition[c.name] for c in model.schema.conditions if not (isinstance(c, Part) and c.made)}
    model.train()
    whole = model(Batch(x, Draws(7, 0, 24), condition))["loss"]
    torch.testing.assert_close(model(Batch(x, Draws(7, 0, 24), stored))["loss"], whole)  # derived ones are made in the loss
    whole.mean().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle <= ({"conditioner.null"} if name == "nsf" else set())


@rich
@torch.no_grad()
def test_rich_conditions_are_heeded_one_by_one(tiny: Any, name: str, kind: str, net: str) -> None:
    model, x, condition = rich_model(tiny, name, kind, net, 6)
    assert isinstance(model, Samples)
    noise = Draws(3, 0, 6).normal(*getattr(model, "shape", ()))

    def says(condition: Any, start: int, stop: int) -> Tensor:
        """log p, or of a model without one what its network says."""
        if isinstance(model, Scores):
            return model.log_prob(x[start:stop], condition, Draws(3, start, stop, 6))
        guess: Any = model.denoiser(condition, stop - start)  # type: ignore[operator]
        return guess(noise[start:stop], 0.6, 0.8).flatten(1).sum(1)

    score, drawn = says(condition, 0, 6), model.sample(6, condition, Draws(3, 0, 6))
    close(says(part(condition, slice(2, 5)), 2, 5), score[2:5], 1e-3)
    valid(model.schema, drawn)
    for named in condition:
        moved = {**condition, named: (condition[named] + 1) % 3 if named == "season" else condition[named].flip(0)}
        rows = (moved[named] != condition[named]).reshape(6, -1).any(1)
        changed = ~torch.isclose(says(moved, 0, 6), score, rtol=1e-6, atol=1e-6)
        assert torch.equal(changed, rows), named


@rich
@torch.no_grad()
def test_rich_conditions_can_be_left_out_or_guide(tiny: Any, name: str, kind: str, net: str) -> None:
    model, _, condition = rich_model(tiny, name, kind, net, 6)
    assert isinstance(model, Samples)
    draw = lambda given, **how: model.sample(6, given, Draws(3, 0, 6), **how).nan_to_num(-9)
    told, null = draw(condition), draw(None)
    valid(model.schema, null, gaps=True)
    assert not torch.equal(told, null)
    if name != "nsf":
        close(draw(condition, guidance=1.0), told)
        assert not torch.equal(draw(condition, guidance=3.0), told)
    state = safetensors.torch.load(safetensors.torch.save({n: t.contiguous() for n, t in model.state_dict().items()}))
    again = FAMILIES[name].build(model.schema, tiny.config(FAMILIES[name], **({"net": net} if net else {}))).eval()
    again.load_state_dict(state)
    assert isinstance(again, Samples)
    assert torch.equal(again.sample(6, condition, Draws(3, 0, 6)).nan_to_num(-9), told)


# state


@every
def test_a_saved_state_is_the_model_to_the_bit(tiny: Any, name: str, kind: str, conditions: bool) -> None:
    model = tiny.model(name, kind, conditions=conditions)
    blank = FAMILIES[name].build(model.schema, tiny.config(FAMILIES[name])).eval()
    with torch.no_grad():
        if isinstance(model, Scores):
            model.log_prob(tiny.codes(kind, 4), given(tiny, conditions, 4), Draws(3, 0, 4))  # so that what is kept is kept
            if isinstance(model, FitsDirectly):
                blank.log_prob(tiny.codes(kind, 4), None, Draws(3, 0, 4))
    state = {n: t.contiguous() for n, t in model.state_dict().items()}
    loaded = safetensors.torch.load(safetensors.torch.save(state))
    blank.load_state_dict(loaded)
    for n, t in blank.state_dict().items():
        assert t.dtype == state[n].dtype
        assert torch.equal(t.nan_to_num(-9), state[n].nan_to_num(-9)), n  # rows that are kept may have gaps
    batch, condition = tiny.batch(model.schema, kind, 20), given(tiny, conditions, 20)
    with torch.no_grad():
        for turn in model.turns:
            a, b = (m(tiny.batch(model.schema, kind, 20), turn.name)["loss"] for m in (model, blank))
            assert torch.equal(a, b)
        if isinstance(model, Scores):
            a, b = (m.log_prob(batch.x, condition, Draws(3, 0, 20)) for m in (model, blank))
            assert torch.equal(a, b)
        if isinstance(model, Samples):
            a, b = (m.sample(20, condition, Draws(3, 0, 20)) for m in (model, blank))
            assert torch.equal(a.nan_to_num(-9), b.nan_to_num(-9))


def test_large_pictures_take_the_convolutional_nets(tiny: Any) -> None:
    schema = Schema(Image(3, 19, 19, levels=4), tiny.conditions)
    family = FAMILIES["vae"]
    model = family.build(schema, tiny.config(family))
    assert any(isinstance(part, torch.nn.Conv2d) for part in model.modules())
    x = torch.randint(0, 4, (6, 3, 19, 19), dtype=torch.uint8)
    model.prepare(x)
    tiny.perturb(model)
    model(Batch(x, Draws(0, 0, 6), tiny.condition(6)))["loss"].mean().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} <= {"conditioner.null"}
    valid(schema, model.eval().sample(6, tiny.condition(6), Draws(0, 0, 6)))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k, c in CASES if not c])
def test_statistics_come_of_any_number_of_rows(tiny: Any, name: str, kind: str) -> None:
    """More than the maps at the end of a preprocessing hand on to those behind them."""
    model = tiny.model(name, kind, rows=4200)
    for turn in model.turns:
        assert model(tiny.batch(model.schema, kind, 20), turn.name)["loss"].isfinite().all()


# densities


def plane(model: Model, condition: dict[str, Tensor] | None, reach: float, points: int) -> tuple[Tensor, Tensor]:
    """log p and the area of each cell on a grid of the plane that thins out, x = c + s u/(1 − u²), with 1 − |u| > 1/reach."""
    u = torch.linspace(-1 + 1 / reach, 1 - 1 / reach, points, dtype=torch.float64)
    line, slope = u / (1 - u**2), (1 + u**2) / (1 - u**2) ** 2
    sample = model.sample(2000, {k: v.expand(2000) for k, v in condition.items()} if condition else None, Draws(8, 0, 2000))
    middle, scale = sample.median(0).values, 2 * (sample.quantile(0.8, 0) - sample.quantile(0.2, 0))
    axes = [middle[d] + scale[d] * line for d in range(2)]
    areas = [scale[d] * slope * (u[1] - u[0]) for d in range(2)]
    grid, area = torch.cartesian_prod(*axes), torch.cartesian_prod(*areas).prod(1)
    chunks = [c.view(-1, 2) for c in grid.split(20_000)]
    scores = [model.log_prob(c, {k: v.expand(len(c)) for k, v in condition.items()} if condition else None) for c in chunks]
    return torch.cat(scores).double(), area


PLANES = [(n, c) for n, k, c in CASES if k == "plane" and FAMILIES[n].density in ("exact", "ode")]
PLANES = [(n, c) for n, c in PLANES if not c or FAMILIES[n] not in DIFFUSION or n == "edm"]  # seconds each


@pytest.mark.parametrize(("name", "conditions"), PLANES)
@torch.no_grad()
def test_densities_integrate_to_one_and_match_their_samples(tiny: Any, name: str, conditions: bool) -> None:
    slow = FAMILIES[name] in DIFFUSION
    # a random net bends in time: many steps of the flow, and one path for all
    options: dict[str, Any] = {"sampler": "heun", "sampling_steps": 64, "path": "angle", "grid": "uniform"} if slow else {}
    options |= {"score_steps": 24} if slow else {}
    model = tiny.model(name, "plane", conditions=conditions, perturb=0.3, rows=600, **options).double()
    condition = tiny.condition(1) if conditions else None
    log_p, area = plane(model, condition, reach=24.0, points=161 if slow else 901)
    mass = log_p.exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=2e-2 if slow else 1e-2)  # of a coarser grid
    n = 3000
    each = {k: v.expand(n) for k, v in condition.items()} if condition else None
    own = model.log_prob(model.sample(n, each, Draws(2, 0, n)), each).double()
    entropy = -float((mass * log_p.clamp(min=-700)).sum())
    assert float(own.mean()) == pytest.approx(-entropy, abs=5 * float(own.std()) / n**0.5 + 0.02)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.density == "exact" and "tokens" in f.kinds])
@pytest.mark.parametrize("kind", ["tokens", "binary", "levels"])
@torch.no_grad()
def test_exact_masses_of_discrete_data_sum_to_one(tiny: Any, name: str, kind: str) -> None:
    if kind == "tokens":
        model = tiny.model(name, kind)
        every_state = torch.tensor(list(itertools.product(range(5), repeat=4)))
    else:
        columns = (
            Column("a", ColumnKind.CATEGORY, categories=("x", "y", "z")),
            Column("b", ColumnKind.BOOLEAN, categories=(False, True), missing=True),
        )
        schema = Schema(Table(columns)) if kind == "levels" else Schema(Image(1, 3, 3, levels=2))
        if schema.example.name not in FAMILIES[name].kinds:
            pytest.skip("of texts only")
        torch.manual_seed(0)
        model = FAMILIES[name].build(schema, tiny.config(FAMILIES[name])).eval()
        counts = [3, 3] if kind == "levels" else [2] * 9
        every_state = torch.tensor(list(itertools.product(*(range(k) for k in counts)))).view(-1, *schema.example.shape)
        every_state = every_state.double() if kind == "levels" else every_state.to(torch.uint8)
        model.prepare(every_state[torch.randint(0, len(every_state), (100,))])
        tiny.perturb(model, 1.0)
    model.double()
    assert model.density_kind == "exact"
    mass = model.log_prob(every_state, None, Draws(1, 0, len(every_state))).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
