"""What a family of the catalog is: where its recipe is, what it offers, what it takes. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from pushforward.core.errors import RecipeError, Unsupported, did_you_mean

if TYPE_CHECKING:
    from pushforward.core.model import Model
    from pushforward.core.schema import Schema

_SEEN = {"tokens": "text", "spatial": "image or signal"}
_NAMED = 6  # families that a message names
_FLOW_MODULES = ("flows", "glow", "continuous")


@dataclass(frozen=True)
class Family:
    """A recipe: where it is built, what it offers, what it takes, and the training it likes.

    ``place`` is "module:Options:build" under ``pushforward.catalog``. ``training`` overrides the trainer's defaults, and
    ``training_of``, by the name of a kind of data, overrides that. ``slots`` are those of a ``Context`` that its networks see:
    vector (numbers, categories and vectors), tokens (texts), spatial (images and signals). ``source_data`` says that it
    starts from data too, whose number of rows is its option ``source_rows``.
    """

    name: str
    title: str
    source: str
    place: str
    verbs: tuple[str, ...]
    density: str
    kinds: tuple[str, ...]
    conditions: bool = False
    target: bool = False
    source_data: bool = False
    baseline: bool = False
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    training_of: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    slots: tuple[str, ...] = ("vector",)

    def training_for(self, schema: Schema) -> dict[str, Any]:
        """The trainer's defaults for data of this schema."""
        return {**self.training, **self.training_of.get(schema.example.name, {})}

    def _parts(self) -> tuple[type, Callable[..., Model]]:
        module, options, build = self.place.split(":")
        loaded = importlib.import_module(f"pushforward.catalog.{module}")
        return getattr(loaded, options), getattr(loaded, build)

    @property
    def options(self) -> type:
        """The frozen dataclass of this family's own options."""
        return self._parts()[0]

    @property
    def flow(self) -> bool:
        """Whether it is a flow: a base distribution pushed through a transform, and more than independent marginals."""
        return self.place.split(":")[0] in _FLOW_MODULES

    def configure(self, values: Mapping[str, Any]) -> Any:
        """Options from names and values. Raises RecipeError for an unknown name or a value of the wrong type."""
        options = self.options
        assert is_dataclass(options)
        names = {f.name: f for f in fields(options)}
        hints = get_type_hints(options)
        chosen = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        for name, value in chosen.items():
            if name not in names:
                raise RecipeError(f"{self.name} has no option '{name}': {did_you_mean(name, names)}")
            if not _fits(value, hints[name]):
                raise RecipeError(f"{self.name}: {name} is of type {names[name].type}, found {value!r}")
        try:
            return options(**chosen)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.name}: {error}") from error

    def check(self, schema: Schema) -> None:
        """Raises Unsupported where the family cannot learn data of this schema."""
        from pushforward.catalog import FAMILIES

        kind = schema.example.name
        if kind not in self.kinds:
            able = [f.name for f in FAMILIES.values() if kind in f.kinds and not f.baseline]
            raise Unsupported(f"{self.name} learns {_join(self.kinds)}, found {kind} data: {_others(able)} can")
        if schema.conditions and not self.conditions:
            able = [f.name for f in FAMILIES.values() if f.conditions and kind in f.kinds]
            raise Unsupported(f"{self.name} takes no conditions: {_others(able)} do")
        for c in schema.conditions:
            if c.slot not in self.slots:
                able = [f.name for f in FAMILIES.values() if c.slot in f.slots and kind in f.kinds]
                raise Unsupported(f"{self.name} takes no {_SEEN[c.slot]} ('{c.name}') as a condition: {_others(able)} do")
            if c.slot == "spatial" and c.kind.name != kind:
                raise Unsupported(f"the condition '{c.name}' is of kind {c.kind.name}, which {kind} data cannot have")
        if self.target and schema.target is None:
            raise RecipeError(f"{self.name} predicts a target: name one with target= (--target)")
        if schema.target is not None and not self.target:
            raise Unsupported(
                f"{self.name} predicts no target: use condition= (--condition) for p(x | c), or the family classifier"
            )

    def build(self, schema: Schema, config: Any) -> Model:
        """The model, untrained. Raises as ``check``, and Unsupported where the data have bounds that it does not keep."""
        self.check(schema)
        try:
            model = self._parts()[1](schema, config)
        except ValueError as error:
            raise RecipeError(f"{self.name}: {error}") from error
        if schema.bounded and "sample" in self.verbs:
            from pushforward.transforms.support import Support

            if not any(isinstance(part, Support) for part in model.modules()):
                able = "nice, gmm, rectified-flow do"
                raise Unsupported(f"{self.name} does not keep within bounds: {able}; or fit without them")
        return model


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type: int, float, str, bool, None, a tuple of one of them, or a union."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def _join(names: Any) -> str:
    return ", ".join(names) or "no family"


def _others(names: Sequence[str]) -> str:
    """Some of the families that can."""
    more = f" and {len(names) - _NAMED} more (pushforward models)" if len(names) > _NAMED + 1 else ""
    return _join(names[:_NAMED] if more else names) + more


ALL = ("vector", "table", "image", "tokens")
CONTINUOUS = ("vector", "table", "image")
SHAPED = (*CONTINUOUS, "signal", "points")


def listed(
    name: str, title: str, source: str, place: str, verbs: str, density: str, kinds: tuple[str, ...], **rest: Any
) -> Family:
    """A family whose verbs are given as one line of words."""
    return Family(name, title, source, place, tuple(verbs.split()), density, kinds, **rest)
