"""Families refuse what they cannot do in one line, and their options are checked by name and type."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from pushforward.catalog import FAMILIES, family
from pushforward.core.distribution import BASES
from pushforward.core.errors import PushforwardError, RecipeError, Unsupported
from pushforward.core.model import VERBS
from pushforward.core.random import Draws
from pushforward.core.schema import KINDS


def one_line(caught: pytest.ExceptionInfo[PushforwardError]) -> str:
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


def test_unknown_names_are_told_the_nearest() -> None:
    assert family("nice") is FAMILIES["nice"]
    with pytest.raises(RecipeError) as caught:
        family("rectifed-flow")
    assert "did you mean 'rectified-flow'?" in one_line(caught)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_describe_themselves(name: str) -> None:
    f = FAMILIES[name]
    assert f.name == name
    assert set(f.verbs) <= set(VERBS)
    assert set(f.kinds) <= set(KINDS)
    assert f.density in (("exact", "ode", "lower_bound") if "score" in f.verbs else ("",))
    assert dataclasses.is_dataclass(f.options)
    assert f.options.__dataclass_params__.frozen
    assert f.configure({}) == f.options()
    text = " ".join(" ".join((inspect.getdoc(base) or "").split()) for base in f.options.__mro__)
    for field in dataclasses.fields(f.options):
        assert field.name in text, f"{f.options.__name__} says nothing of {field.name}"


@pytest.mark.parametrize("name", FAMILIES)
def test_options_are_checked(name: str, tiny: Any) -> None:
    f = FAMILIES[name]
    with pytest.raises(RecipeError) as caught:
        f.configure({"nonsense": 1})
    assert f"{name} has no option 'nonsense'" in one_line(caught)
    defaults = f.options()
    for field in dataclasses.fields(f.options):
        value = getattr(defaults, field.name)
        as_json = list(value) if isinstance(value, tuple) else value
        assert getattr(f.configure({field.name: as_json}), field.name) == value
        with pytest.raises(RecipeError) as caught:
            f.configure({field.name: object()})
        assert field.name in one_line(caught)


def test_values_of_the_wrong_type_are_refused() -> None:
    nice, flow = FAMILIES["nice"], FAMILIES["rectified-flow"]
    for values in ({"transforms": "six"}, {"transforms": 2.5}, {"transforms": True}, {"hidden": 16}, {"hidden": [16, "a"]}):
        with pytest.raises(RecipeError, match="is of type"):
            nice.configure(values)
    assert nice.configure({"hidden": [16]}).hidden == (16,)
    assert flow.configure({"condition_drop": 0}).condition_drop == 0
    assert FAMILIES["made"].configure({"hidden": None}).hidden is None


@pytest.mark.parametrize("name", FAMILIES)
def test_schemas_it_cannot_learn_are_refused(name: str, tiny: Any) -> None:
    f = FAMILIES[name]
    for kind in ("vector", "table", "image", "tokens"):
        schema = tiny.schema(kind, target=f.target)
        if kind in f.kinds:
            f.check(schema)
            continue
        for call in (lambda s=schema: f.check(s), lambda s=schema: f.build(s, f.configure({}))):
            with pytest.raises(Unsupported) as caught:
                call()
            text = one_line(caught)
            assert f"found {kind} data" in text
            able = [other for other, g in FAMILIES.items() if kind in g.kinds and not g.baseline]
            assert all(other in text for other in able[:6])
            assert f"and {len(able) - 6} more" in text


@pytest.mark.parametrize("name", FAMILIES)
def test_conditions_and_targets_it_cannot_take_are_refused(name: str, tiny: Any) -> None:
    f = FAMILIES[name]
    kind = "vector" if "vector" in f.kinds else f.kinds[0]
    conditional = tiny.schema(kind, conditions=True, target=f.target)
    if f.conditions:
        f.check(conditional)
    else:
        with pytest.raises(Unsupported, match="takes no conditions") as caught:
            f.check(conditional)
        able = [other for other, g in FAMILIES.items() if kind in g.kinds and g.conditions]
        assert all(other in one_line(caught) for other in able[:6])
    if f.target:
        with pytest.raises(RecipeError, match="name one with target=") as missing:
            f.check(tiny.schema(kind))
        one_line(missing)
    else:
        with pytest.raises(Unsupported, match="predicts no target") as caught:
            f.check(tiny.schema(kind, target=True))
        one_line(caught)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("nice", {"base": "cauchy"}),
        ("gmm", {"components": 0}),
        ("gmm", {"covariance": "round"}),
        ("rectified-flow", {"sampler": "eul"}),
        ("ddpm", {"prediction": "noises"}),
        ("ddpm", {"betas": "round"}),
        ("ddpm", {"zero_terminal": True, "prediction": "noise"}),
        ("score-sde", {"sde": "vpp"}),
        ("edm", {"sigma_min": 2.0, "sigma_max": 1.0}),
        ("flow-matching", {"coupling": "optimal"}),
        ("flow-matching", {"net": "unet"}),
        ("rectified-flow", {"weighting": "heavy"}),
        ("rectified-flow", {"times": "sometimes"}),
    ],
)
def test_values_that_mean_nothing_are_refused(name: str, values: dict[str, Any], tiny: Any) -> None:
    f = FAMILIES[name]
    with pytest.raises(RecipeError) as caught:
        f.build(tiny.schema("vector"), f.configure(values))
    one_line(caught)


def test_unknown_solvers_are_refused_when_sampling(tiny: Any) -> None:
    from pushforward.core.random import Draws

    model = tiny.model("rectified-flow", "vector")
    with pytest.raises(RecipeError, match="did you mean 'heun'"):
        model.sample(2, None, Draws(0, 0, 2), sampler="huen")


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("name", ["nsf", "glow"])
def test_every_base_is_learned_on(tiny: Any, base: str, name: str) -> None:
    model = tiny.model(name, "vector", base=base).train()
    terms = model(tiny.batch(model.schema, "vector", 32))
    terms["loss"].mean().backward()
    assert terms["loss"].isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    drawn = model.eval().sample(200, None, Draws(0, 0, 200))
    assert drawn.isfinite().all()
    # scores are those of the base: its samples pulled back have its density
    z, _ = model.transform.pull(drawn.double())
    assert model.base.log_prob(z.to(model.dtype)).isfinite().all()
