"""Conditions of every kind as one context, the null condition of all slots together, and conditions made from the example."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.catalog import FAMILIES
from pushforward.core.context import Conditioner, Context
from pushforward.core.derived import derive, made, visible, with_derived
from pushforward.core.errors import DataError, Unsupported
from pushforward.core.random import Draws
from pushforward.core.schema import PAD, Column, Image, Part, Points, Schema, Signal, Table, Tokens, Vector, from_json, to_json

TEXT = Part("caption", Tokens((PAD, "<unknown>", "red", "cat"), 3))
OTHER = Part("other", Image(2, 6, 6, 9))
WHERE = Part("place", Vector(2), "", (1.0, -2.0), (2.0, 0.5))


def slots(context: Context) -> list[Tensor]:
    return [t for t in (context.vector, context.tokens, context.mask, context.spatial) if t is not None]


def test_schemas_with_parts_survive_json(tiny: Any) -> None:
    for kind in ("vector", "image", "photo", "signal"):
        schema = tiny.rich(kind)
        assert from_json(json.loads(json.dumps(to_json(schema)))) == schema


def test_a_part_is_of_few_kinds() -> None:
    with pytest.raises(ValueError, match="is of kind points: expected one of vector, tokens, image, signal"):
        Part("cloud", Points(3, 2))


def test_columns_alone_keep_their_parameters(tiny: Any) -> None:
    conditioner = Conditioner(tiny.conditions, 6)
    assert set(conditioner.state_dict()) == {"null", "embed.0.weight", "embed.1.weight", "embed.1.bias"}
    context = conditioner(tiny.condition(5), 5)
    assert context.tokens is None
    assert context.mask is None
    assert context.spatial is None
    assert (conditioner.width, conditioner.tokens, conditioner.spatial) == (6, 0, 0)


def test_every_slot_has_its_shape(tiny: Any) -> None:
    schema = tiny.rich("image")
    conditioner = Conditioner(schema.conditions, 8)
    given = with_derived(schema.conditions, tiny.codes("image", 5), tiny.told(schema, 5))
    context = conditioner(given, 5)
    assert context.vector.shape == (5, conditioner.width) == (5, 8)
    assert context.tokens.shape == (5, 4, conditioner.tokens) == (5, 4, 8)
    assert context.mask.shape == (5, 4)
    assert context.spatial.shape == (5, conditioner.spatial, 6, 6) == (5, 3, 6, 6)
    assert context.spatial.abs().max() <= 1
    for a, b in zip(slots(conditioner(None, 5)), slots(context), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype


def test_the_null_condition_replaces_all_slots_of_a_row(tiny: Any) -> None:
    schema = tiny.rich("photo")
    conditioner = Conditioner(schema.conditions, 8)
    given = with_derived(schema.conditions, tiny.codes("photo", 9), tiny.told(schema, 9))
    drop = torch.arange(9) % 3 == 0
    for mixed, null, whole in zip(
        *(slots(c) for c in (conditioner(given, 9, drop), conditioner(None, 9), conditioner(given, 9))), strict=True
    ):
        assert torch.equal(mixed[drop], null[drop])
        assert torch.equal(mixed[~drop], whole[~drop])
        assert not torch.equal(whole[drop], null[drop])
    nothing = conditioner(None, 9)
    assert torch.equal(nothing.tokens[:, 0], nothing.vector)
    assert nothing.mask.sum(1).tolist() == [1] * 9
    assert not nothing.spatial.any()


def test_vectors_are_standardised() -> None:
    conditioner = Conditioner([WHERE], 4).double()
    code = torch.randn(7, 2, dtype=torch.float64)
    z = (code - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    torch.testing.assert_close(
        conditioner({"place": code}, 7).vector, F.linear(z, conditioner.embed[0].weight, conditioner.embed[0].bias)
    )


def test_texts_are_tokens_and_their_mean() -> None:
    conditioner = Conditioner([TEXT], 4)
    code = torch.tensor([[2, 3, 0], [3, 0, 0], [0, 0, 0]])
    context = conditioner({"caption": code}, 3)
    assert context.mask.tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    words = conditioner.embed[0]
    expected = words.symbols.weight[code] + words.places
    torch.testing.assert_close(context.tokens, expected)
    torch.testing.assert_close(context.vector[0], expected[0, :2].mean(0))
    torch.testing.assert_close(context.vector[1], expected[1, 0])


def test_small_pictures_and_short_signals_get_the_size_of_the_example() -> None:
    small = made("small:3", Image(1, 6, 9, 256))
    assert small is not None
    context = Conditioner([small], 4)({"small:3": torch.full((2, 1, 2, 3), 255, dtype=torch.uint8)}, 2)
    assert torch.equal(context.spatial, torch.ones(2, 1, 6, 9))
    wave = Part("wave", Signal(1, 4), "", (1.0,), (2.0,))
    context = Conditioner([wave], 4, shape=(2, 8))({"wave": torch.full((2, 1, 4), 3.0, dtype=torch.float64)}, 2)
    assert torch.equal(context.spatial, torch.ones(2, 1, 8))
    with pytest.raises(ValueError, match="expected images, or signals, only"):
        Conditioner([OTHER, wave])


def test_wrong_shapes_and_missing_names_are_told() -> None:
    conditioner = Conditioner([TEXT, WHERE], 4)
    words = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(DataError, match=r"lacks \['place'\]"):
        conditioner({"caption": words}, 2)
    with pytest.raises(DataError, match=r"'place' has shape \(2, 3\): expected \(2, 2\)"):
        conditioner({"caption": words, "place": torch.zeros(2, 3)}, 2)


# conditions made from the example


def test_grey_is_the_luminance() -> None:
    part = made("grey", Image(3, 2, 2, 256))
    assert part == Part("grey", Image(1, 2, 2, 256), "grey")
    x = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    for channel in range(3):
        x[channel, channel] = 200
    assert derive(part, x)[:, 0, 0, 0].tolist() == [60, 117, 23]


def test_small_is_the_mean_of_squares() -> None:
    part = made("small:2", Image(1, 4, 6, 17))
    assert part is not None
    x = torch.randint(0, 17, (5, 1, 4, 6), dtype=torch.uint8)
    expected = x.double().view(5, 1, 2, 2, 3, 2).mean((3, 5)).round()
    assert torch.equal(derive(part, x).double(), expected)


def test_what_is_visible_is_drawn_row_by_row() -> None:
    part = made("visible", Image(3, 8, 10, 256))
    assert part is not None
    x = torch.randint(1, 256, (40, 3, 8, 10), dtype=torch.uint8)
    whole = derive(part, x, Draws(3, 0, 40))
    assert whole.shape == (40, 4, 8, 10)
    seen = whole[:, 3:] == 255
    assert torch.equal(whole[:, :3], x * seen)
    share = seen.double().mean((1, 2, 3))
    assert ((share > 0.3) & (share < 1)).all()
    assert len(share.unique()) > 5
    assert torch.equal(derive(part, x[11:], Draws(3, 11, 40)), whole[11:])
    always = derive(part, x)
    assert torch.equal(always, derive(part, x))
    assert 0.7 < float((always[:, 3] == 255).double().mean()) < 0.8
    mask = torch.rand(40, 1, 8, 10) < 0.5
    context = Conditioner([part], 4)({"visible": visible(part, x, mask)}, 40)
    assert not context.spatial[:, :3][~mask.expand(-1, 3, -1, -1)].any()
    assert torch.equal(context.spatial[:, 3:] > 0, mask)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("grey", Image(1, 4, 4), "these have one channel"),
        ("small:3", Image(1, 4, 6), "divides 4×6 pixels"),
        ("small:x", Image(1, 4, 6), "a whole number from 2"),
        ("visible", Vector(3), "made from images: found vector data"),
    ],
)
def test_recipes_that_do_not_suit_are_refused(name: str, kind: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(name, kind)


def test_derived_conditions_are_only_added_to_what_is_given(tiny: Any) -> None:
    schema = tiny.rich("photo")
    x, told = tiny.codes("photo", 4), tiny.told(schema, 4)
    assert set(with_derived(schema.conditions, x, told)) == {c.name for c in schema.conditions}
    assert with_derived(schema.conditions, x, {}) == {}
    own = torch.zeros(4, 1, 5, 4, dtype=torch.uint8)
    assert with_derived(schema.conditions, x, {**told, "grey": own})["grey"] is own


# what families take


def test_families_refuse_what_their_networks_cannot_see(tiny: Any) -> None:
    with pytest.raises(Unsupported, match=r"nsf takes no text \('caption'\) as a condition: ddpm.*rectified-flow.* do"):
        FAMILIES["nsf"].check(Schema(Vector(3), (TEXT,)))
    with pytest.raises(Unsupported, match=r"vae takes no image or signal \('other'\)"):
        FAMILIES["vae"].check(Schema(Image(1, 6, 6), (OTHER,)))
    with pytest.raises(Unsupported, match="'other' is of kind image, which vector data cannot have"):
        FAMILIES["edm"].check(Schema(Vector(3), (OTHER,)))
    FAMILIES["nsf"].check(Schema(Vector(3), (WHERE, *tiny.conditions)))
    FAMILIES["edm"].check(Schema(Table((Column("a"),)), (WHERE, TEXT)))
