"""The contract itself: a final forward, checked losses, verbs by class; conditions; schemas; errors; shapes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pushforward.core.context import Conditioner
from pushforward.core.errors import DataError, PushforwardError, RecipeError, did_you_mean
from pushforward.core.gather import all_rows, alone, rank
from pushforward.core.model import Batch, Encodes, Model, Samples, Turn, verbs
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table, Tokens, Vector, from_json, to_json
from pushforward.core.shapes import over, per_example


class Told(Model, Encodes):
    """A model whose loss terms are whatever it is told."""

    def __init__(self, terms: dict[str, Tensor]) -> None:
        super().__init__(Schema(Vector(2)))
        self.terms = terms
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return self.terms

    def encode(self, x: Tensor, condition: Any = None) -> Tensor:
        return x


BATCH = Batch(torch.zeros(4, 2), Draws(0, 0, 4))


def test_forward_is_final() -> None:
    with pytest.raises(TypeError, match="forward, which is final: implement _loss"):
        type("Sly", (Told,), {"forward": lambda self, batch, turn="model": {}})


def test_a_model_without_a_loss_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="_loss"):
        type("Empty", (Model,), {})(Schema(Vector(2)))


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"other": torch.zeros(4)},
        {"loss": torch.zeros(())},
        {"loss": torch.zeros(4, 1)},
        {"loss": torch.zeros(3)},
        {"loss": torch.zeros(4), "term": torch.zeros(1)},
    ],
)
def test_losses_that_are_not_per_example_are_refused(terms: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="expected per-example terms with the key 'loss'"):
        Told(terms)(BATCH)


def test_good_losses_pass_through() -> None:
    terms = {"loss": torch.randn(4), "rate": torch.randn(4)}
    assert Told(terms)(BATCH) is terms


def test_verbs_are_the_classes() -> None:
    assert verbs(Told) == ("encode",) == verbs(Told({}))
    assert verbs(Model) == ()
    assert verbs(type("Both", (Told, Samples), {"sample": lambda self, *a: None})) == ("sample", "encode")


def test_turns_name_their_parameters() -> None:
    model = Told({})
    assert {n for n, _ in model.turn_parameters(Turn())} == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert {n for n, _ in model.turn_parameters(Turn("x", ("b",)))} == {"b.weight", "b.bias"}


# conditions


def test_conditioner_drops_rows_to_the_null_condition(tiny: Any) -> None:
    conditioner = Conditioner(tiny.conditions, 6)
    condition = tiny.condition(10)
    given_, null = conditioner(condition, 10).vector, conditioner(None, 10).vector
    assert given_.shape == null.shape == (10, 6)
    assert conditioner.width == 6
    assert torch.equal(null, conditioner.null.expand(10, -1))
    drop = torch.arange(10) % 3 == 0
    mixed = conditioner(condition, 10, drop).vector
    assert torch.equal(mixed[drop], null[drop])
    assert torch.equal(mixed[~drop], given_[~drop])
    assert not torch.isclose(given_, null).all(1).any()


def test_conditioner_is_the_sum_of_an_embedding_and_an_affine_map(tiny: Any) -> None:
    conditioner = Conditioner(tiny.conditions, 6).double()
    condition = tiny.condition(10)
    table, line = conditioner.embed[0].weight, conditioner.embed[1]
    missing = condition["age"].isnan()
    assert missing.any()
    age = ((condition["age"] - 30) / 10).nan_to_num()
    expected = table[condition["season"].long()] + age[:, None] * line.weight[:, 0] + line.bias
    expected = expected + torch.where(missing, 0.0, 1.0)[:, None] * line.weight[:, 1]
    torch.testing.assert_close(conditioner(condition, 10).vector, expected)


def test_conditioner_names_what_is_missing(tiny: Any) -> None:
    conditioner = Conditioner(tiny.conditions, 6)
    with pytest.raises(DataError, match=r"lacks \['age'\]: give \['season', 'age'\]"):
        conditioner({"season": torch.zeros(2)}, 2)


def test_without_conditions_there_is_no_context() -> None:
    conditioner = Conditioner(())
    assert conditioner.width == 0
    assert conditioner(None, 3).vector is None
    assert not list(conditioner.parameters())


# schemas

names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
columns = st.builds(
    Column,
    name=names,
    kind=st.sampled_from(ColumnKind),
    categories=st.lists(st.one_of(names, st.integers(-5, 5), st.booleans()), max_size=3).map(tuple),
    resolution=st.one_of(st.none(), st.floats(0.001, 10)),
    missing=st.booleans(),
    lower=st.one_of(st.just(-math.inf), numbers),
    upper=st.one_of(st.just(math.inf), numbers),
    mean=numbers,
    std=st.floats(0.1, 10),
    dtype=st.sampled_from(["", "int64", "category"]),
    constant=st.one_of(st.none(), names, numbers),
)
kinds = st.one_of(
    st.builds(Vector, st.integers(1, 9)),
    st.builds(Table, st.lists(columns, min_size=1, max_size=3).map(tuple)),
    st.builds(Image, st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(2, 256)),
    st.builds(Tokens, st.lists(names, min_size=1, max_size=4).map(tuple), st.integers(1, 9)),
)
schemas = st.builds(
    Schema,
    kinds,
    conditions=st.lists(columns, max_size=2).map(tuple),
    target=st.one_of(st.none(), columns),
    extra=st.dictionaries(names, st.one_of(names, numbers), max_size=2),
)


@given(schemas)
def test_schemas_survive_json(schema: Schema) -> None:
    assert from_json(json.loads(json.dumps(to_json(schema)))) == schema


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"example": {"kind": "cube", "length": 2}},
        {"example": {"kind": "vector"}},
        {"example": {"kind": "vector", "length": 2, "colour": 1}},
        {"example": {"kind": "table", "columns": [{"name": "a", "kind": "nope"}]}},
        {"example": {"kind": "table", "columns": [{"name": "a", "nope": 1}]}},
        {"example": None},
        {"example": {"kind": "vector", "length": 2}, "conditions": [3]},
    ],
)
def test_damaged_schemas_are_told(plain: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        from_json(plain)
    assert "\n" not in str(caught.value)


def test_columns_count_their_levels() -> None:
    column = Column("a", ColumnKind.CATEGORY, categories=("x", "y"), missing=True)
    assert (column.levels, column.discrete, column.learned) == (3, True, True)
    table = Table((column, Column("id", ColumnKind.IDENTIFIER), Column("n"), Column("k", ColumnKind.CONSTANT)))
    assert [c.name for c in table.learned] == ["a", "n"]
    assert (table.shape, table.size, Image(3, 4, 5).size) == ((2,), 2, 60)


# errors and shapes


def test_hints_name_the_nearest_or_all() -> None:
    assert did_you_mean("niec", ["nice", "gmm"]) == "did you mean 'nice'?"
    assert did_you_mean("zzz", ["nice", "gmm"]) == "choose from: nice, gmm"
    assert issubclass(DataError, PushforwardError)


def test_over_refuses_to_broadcast_by_accident() -> None:
    like = torch.zeros(3, 2, 4)
    assert over(torch.arange(3.0), like).shape == (3, 1, 1)
    assert over(torch.arange(3.0), torch.zeros(3)).shape == (3,)
    for wrong in (torch.zeros(()), torch.zeros(1), torch.zeros(4), torch.zeros(3, 1), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"expected \(3,\), one value per example"):
            over(wrong, like)


def test_per_example_sums_all_but_the_batch() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(per_example(x), torch.einsum("bij->b", x))
    assert torch.equal(per_example(x[:, 0, 0]), x[:, 0, 0])


def test_one_process_gathers_its_own_rows() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert all_rows(x) is x
    assert rank() == 0
    with alone():
        assert all_rows(x) is x
