"""The description of one example: what kind of thing it is, in the user's terms. Frozen, and plain JSON when stored.

In tensors an example is made of *codes*, in the user's own units so that densities are in them too:

| kind | tensor |
|---|---|
| ``Vector(size)`` | float64 (B, size) |
| ``Table(columns)`` | float64 (B, C): numbers, dates in days since 1970, booleans 0/1, categories by index; gaps NaN |
| ``Image(c, h, w, levels)`` | uint8 (B, c, h, w) in {0 … levels-1} |
| ``Tokens(vocabulary, length)`` | int64 (B, length) |
| ``Signal(channels, length)`` | float64 (B, channels, length) |
| ``Points(count, dims)`` | float64 (B, count, dims), in no order that means anything |
"""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pushforward.core.errors import RecipeError

PAD = "\x00"  # the symbol that fills texts up to their length


class ColumnKind(str, enum.Enum):
    """What a column holds. ``IDENTIFIER`` and ``CONSTANT`` columns are carried along, not learned."""

    NUMBER = "number"
    INTEGER = "integer"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATE = "date"
    IDENTIFIER = "identifier"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Column:
    """One column of a table, a condition or a target.

    ``categories`` are the levels in the order of their codes; a missing category is the code ``len(categories)``.
    ``resolution`` is the step of the grid the numbers lie on (1 for integers, 0.01 for prices, None for continuous ones):
    a density on a grid is the mass of a cell divided by the step. ``dtype`` is the type to give back. ``lower`` and ``upper``
    are what was seen; ``bounds``, both ends included and either infinite, what the user declares that there can be.
    """

    name: str
    kind: ColumnKind = ColumnKind.NUMBER
    categories: tuple[Any, ...] = ()
    resolution: float | None = None
    missing: bool = False
    lower: float = -math.inf
    upper: float = math.inf
    mean: float = 0.0
    std: float = 1.0
    dtype: str = ""
    constant: Any = None
    bounds: tuple[float, float] | None = None

    @property
    def discrete(self) -> bool:
        """Whether the codes are unordered levels."""
        return self.kind in (ColumnKind.CATEGORY, ColumnKind.BOOLEAN)

    @property
    def learned(self) -> bool:
        """Whether a model sees this column."""
        return self.kind not in (ColumnKind.IDENTIFIER, ColumnKind.CONSTANT)

    @property
    def levels(self) -> int:
        """How many codes a discrete column has, the one for missing values included."""
        return len(self.categories) + self.missing

    @property
    def slot(self) -> str:
        """Where of a ``Context`` it is seen as a condition."""
        return "vector"


@dataclass(frozen=True)
class Kind:
    """Base of the kinds of data."""

    name: ClassVar[str] = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's codes."""
        raise TypeError(f"{type(self).__name__} has no shape")

    @property
    def size(self) -> int:
        """Number of codes of one example."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Vector(Kind):
    """``length`` real numbers. ``bounds`` are the ends that each may have, as in ``Column``."""

    length: int
    container: str = "numpy"
    dtype: str = "float64"
    bounds: tuple[tuple[float, float], ...] | None = None
    name: ClassVar[str] = "vector"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


@dataclass(frozen=True)
class Table(Kind):
    """Typed columns. ``columns`` holds all of them, in the user's order; ``learned`` those a model sees."""

    columns: tuple[Column, ...]
    container: str = "pandas"
    name: ClassVar[str] = "table"

    @property
    def learned(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.learned)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.learned),)


@dataclass(frozen=True)
class Image(Kind):
    """Images whose pixels take ``levels`` values 0 … levels-1."""

    channels: int
    height: int
    width: int
    levels: int = 256
    name: ClassVar[str] = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)


@dataclass(frozen=True)
class Tokens(Kind):
    """``length`` symbols out of ``vocabulary``."""

    vocabulary: tuple[str, ...]
    length: int
    name: ClassVar[str] = "tokens"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def pad(self) -> int:
        """The code of ``PAD``; -1 where no text was ever filled up."""
        return self.vocabulary.index(PAD) if PAD in self.vocabulary else -1


@dataclass(frozen=True)
class Signal(Kind):
    """``length`` samples in time of ``channels`` channels, ``rate`` of them a second where that is known.

    ``flat`` signals have one channel, and the user's arrays no axis for it.
    """

    channels: int
    length: int
    rate: int | None = None
    flat: bool = False
    container: str = "numpy"
    dtype: str = "float64"
    name: ClassVar[str] = "signal"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.length)


@dataclass(frozen=True)
class Points(Kind):
    """A set of ``count`` points in ``dims`` dimensions; the order of its rows says nothing."""

    count: int
    dims: int
    container: str = "numpy"
    dtype: str = "float64"
    name: ClassVar[str] = "points"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, self.dims)


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Vector, Table, Image, Tokens, Signal, Points)}


_SLOTS = {"vector": "vector", "tokens": "tokens", "image": "spatial", "signal": "spatial"}


@dataclass(frozen=True)
class Part:
    """A condition that is itself of a kind: a vector, a text, an image or a signal. Its codes are (B, *kind.shape).

    ``made`` is the recipe by which it is derived from the example (core/derived.py), "" where the data hold it. ``mean`` and
    ``std`` are those of each number of a vector or each channel of a signal; none given are 0 and 1.
    """

    name: str
    kind: Kind
    made: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind.name not in _SLOTS:
            raise ValueError(f"condition '{self.name}' is of kind {self.kind.name}: expected one of {', '.join(_SLOTS)}")

    @property
    def slot(self) -> str:
        """Where of a ``Context`` it is seen: as ``vector``, ``tokens`` or ``spatial``."""
        return _SLOTS[self.kind.name]


@dataclass(frozen=True)
class Schema:
    """All a model must know of its data: one example, its conditions and, for predictors, the target."""

    example: Kind
    conditions: tuple[Column | Part, ...] = ()
    target: Column | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        """Whether the user declared bounds of what is learned."""
        if isinstance(self.example, Table):
            return any(c.bounds is not None for c in self.example.learned)
        return isinstance(self.example, Vector) and self.example.bounds is not None


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Kind):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": value.name} | {name: v for name, v in fields.items() if v is not None}
    if isinstance(value, (Column, Part)):
        changed = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if getattr(value, f.name) != f.default}
        return {name: _plain(v) for name, v in changed.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return None  # an end that bounds nothing: JSON knows no infinity
    return value


def _bounds(plain: Any) -> tuple[float, float]:
    lower, upper = plain
    return (-math.inf if lower is None else float(lower), math.inf if upper is None else float(upper))


def to_json(schema: Schema) -> dict[str, Any]:
    """``schema`` as plain JSON values."""
    return {f.name: _plain(getattr(schema, f.name)) for f in dataclasses.fields(schema)}


def _column(plain: dict[str, Any]) -> Column:
    known = {f.name for f in dataclasses.fields(Column)}
    if set(plain) - known:
        raise RecipeError(f"column {plain.get('name')!r} has unknown fields {sorted(set(plain) - known)}")
    values = dict(plain)
    values["kind"] = ColumnKind(values.get("kind", "number"))
    values["categories"] = tuple(values.get("categories", ()))
    if values.get("bounds") is not None:
        values["bounds"] = _bounds(values["bounds"])
    return Column(**values)


def _kind(plain: dict[str, Any]) -> Kind:
    values = dict(plain)
    cls = KINDS[values.pop("kind")]
    if "columns" in values:
        values["columns"] = tuple(_column(c) for c in values["columns"])
    if "vocabulary" in values:
        values["vocabulary"] = tuple(values["vocabulary"])
    if values.get("bounds") is not None:
        values["bounds"] = tuple(_bounds(b) for b in values["bounds"])
    return cls(**values)


def _condition(plain: dict[str, Any]) -> Column | Part:
    """A column, or a part: its kind is a description, not a word."""
    if not isinstance(plain.get("kind"), dict):
        return _column(plain)
    values = dict(plain) | {"kind": _kind(plain["kind"])}
    return Part(**(values | {name: tuple(values[name]) for name in ("mean", "std") if name in values}))


def from_json(plain: dict[str, Any]) -> Schema:
    """The schema that ``to_json`` wrote. Raises RecipeError where it is damaged."""
    try:
        return Schema(
            example=_kind(plain["example"]),
            conditions=tuple(_condition(c) for c in plain.get("conditions", ())),
            target=_column(plain["target"]) if plain.get("target") else None,
            extra=dict(plain.get("extra") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"the stored schema is damaged ({error!r}): restore recipe.json or fit again") from error
