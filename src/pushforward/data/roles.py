"""Which columns are the example, which the target and which conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pushforward.core.derived import made
from pushforward.core.errors import DataError, did_you_mean
from pushforward.core.schema import Column, Kind, Part, Schema, Table
from pushforward.data import captions, stream
from pushforward.data.dataset import Data, Store, TensorStore


def listed(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def role_columns(schema: Schema) -> list[Column | Part]:
    """All columns that may take a role, in the user's order."""
    own = schema.example.columns if isinstance(schema.example, Table) else tuple(schema.extra.get("columns", ()))
    roles = [*schema.conditions, *([schema.target] if schema.target else [])]
    order = {name: i for i, name in enumerate(schema.extra.get("order", ()))}
    return sorted([*own, *roles], key=lambda c: order.get(c.name, len(order)))


def assign_roles(
    data: Data, target: str | None = None, condition: str | Sequence[str] = (), types: Mapping[str, str] | None = None
) -> Data:
    """``data`` with its ``target`` and ``condition`` columns taken out of the example into the schema's roles.

    A condition of strings is a text where ``types`` says so or they are many; of images, conditions can also be made
    (core/derived.py) by the name of a recipe. Side columns of images and arrays that get no role leave the schema; their codes
    stay in ``Rows.columns``. Without any roles given, those there are stay.
    Raises DataError for an unknown column, one named twice, and one that is not learned.
    """
    conditions = listed(condition)
    schema = data.schema
    texts = {name for name, kind in (types or {}).items() if kind == "text"}
    for name in texts - set(conditions):
        raise DataError(f"column '{name}' of {data.name} is typed as text, which only a condition can be: name it as one")
    if target is None and not conditions:
        if "columns" not in schema.extra:
            return data
        taken = [*schema.conditions, *([schema.target] if schema.target else [])]
        spare = [c for c in schema.extra["columns"] if c not in taken]
        offers = tuple(f"column '{c.name}' is not part of the example: it can be a --condition or the --target" for c in spare)
        return replace(_with_roles(data, schema.target, tuple(schema.conditions), taken), notes=(*data.notes, *offers))
    pool = {c.name: c for c in role_columns(schema)}
    pool |= {name: part for name in conditions if name not in pool and (part := made(name, schema.example)) is not None}
    named = [*conditions, *([target] if target is not None else [])]
    for name in named:
        _check(data, pool, name, "target" if name == target else "condition")
        if named.count(name) > 1:
            raise DataError(f"column '{name}' of {data.name} is named twice: it can be the target or one condition")
    chosen = tuple(pool[name] for name in conditions)
    aim = pool[target] if target is not None else None
    assert not isinstance(aim, Part)
    data = _with_roles(data, aim, chosen, [pool[name] for name in named])
    wanted = [c for c in chosen if isinstance(c, Column) and (c.name in texts or _many(c, types))]
    return _with_texts(data, wanted) if wanted else data


def _check(data: Data, pool: Mapping[str, Column | Part], name: str, role: str) -> None:
    if not pool:
        raise DataError(f"{data.name} has no columns, so '{name}' cannot be its {role}")
    if name not in pool:
        raise DataError(f"{data.name} has no column '{name}' for the {role}: {did_you_mean(name, pool)}")
    column = pool[name]
    if isinstance(column, Part):
        if role == "target":
            raise DataError(f"'{name}' of {data.name} is of kind {column.kind.name}: a target is a category")
    elif not column.learned:
        raise DataError(
            f"column '{name}' of {data.name} is of type {column.kind.value}, so it cannot be the {role}: "
            f"choose another, or set its type (--types {name}=category{', or text' if role == 'condition' else ''})"
        )


def _many(column: Column, types: Mapping[str, str] | None) -> bool:
    return column.name not in (types or {}) and captions.is_text(column)


def _with_texts(data: Data, wanted: Sequence[Column]) -> Data:
    """The conditions ``wanted`` as texts instead of categories."""
    held = getattr(data.store, "columns", None)
    if held is None:
        raise DataError(f"{data.name} stays on disk, where conditions cannot be texts: raise memory_limit=, or drop columns")
    parts, codes, notes = {}, {}, []
    for column in wanted:
        parts[column.name], codes[column.name] = captions.as_text(column, held[column.name])
        kind = parts[column.name].kind
        known = len(kind.vocabulary) - 2  # type: ignore[attr-defined]
        notes.append(f"condition '{column.name}' is read as text: {known} words, the first {kind.size} of each")
    schema = replace(data.schema, conditions=tuple(parts.get(c.name, c) for c in data.schema.conditions))
    store = replace(data.store, columns={**held, **codes})  # type: ignore[type-var]
    return replace(data, schema=schema, store=store, notes=(*data.notes, *notes))


def _with_roles(
    data: Data, target: Column | None, conditions: tuple[Column | Part, ...], side: Sequence[Column | Part]
) -> Data:
    schema = data.schema
    extra = {key: value for key, value in schema.extra.items() if key != "columns"}
    example: Kind = schema.example
    learned: list[Column] = []
    if isinstance(example, Table):
        names = {c.name for c in side}
        own = tuple(c for c in role_columns(schema) if isinstance(c, Column) and c.name not in names)
        example = replace(example, columns=own)
        learned = list(example.learned)
        if not learned:
            raise DataError(f"{data.name} has no column left to learn besides {', '.join(sorted(names))}")
    store = arranged(data, learned, side)
    return replace(data, schema=Schema(example, conditions, target, extra), store=store)


def arranged(data: Data, learned: Sequence[Column], side: Sequence[Column | Part]) -> Store:
    """The store with the columns ``learned`` in x and ``side`` apart."""
    store, example = data.store, data.schema.example
    if isinstance(store, stream.ArrowStore):
        return store.with_columns(learned, [c for c in side if isinstance(c, Column)])
    if isinstance(example, Table) and isinstance(store, TensorStore):
        codes = {c.name: store.x[:, i] for i, c in enumerate(example.learned)} | store.columns
        return tensor_store(codes, learned, side)
    return store  # side columns without a role stay readable: probes of representations want labels


def tensor_store(codes: Mapping[str, Tensor], learned: Sequence[Column], side: Sequence[Column | Part]) -> TensorStore:
    """``codes`` {name: (N, …)} held in memory: ``learned`` as x, ``side`` apart."""
    x = torch.stack([codes[c.name] for c in learned], dim=1)
    return TensorStore(x, {c.name: codes[c.name].clone() for c in side})


def without(data: Data, drop: Sequence[str]) -> Data:
    """A table without the columns ``drop``. Raises DataError for an unknown column and where none is left to learn."""
    kind = data.schema.example
    if not isinstance(kind, Table):
        raise DataError(f"{data.name} is no table: drop does not apply")
    names = [c.name for c in kind.columns]
    for name in drop:
        if name not in names:
            raise DataError(f"{data.name} has no column '{name}' to drop: {did_you_mean(name, names)}")
    kept = tuple(c for c in kind.columns if c.name not in drop)
    if not any(c.learned for c in kept):
        raise DataError(f"{data.name} has no column left to learn")
    extra = dict(data.schema.extra)
    extra["order"] = [name for name in names if name not in drop]
    extra["missing"] = {name: n for name, n in extra.get("missing", {}).items() if name not in drop}
    schema = replace(data.schema, example=replace(kind, columns=kept), extra=extra)
    notes = tuple(note for note in data.notes if not any(f"'{name}'" in note for name in drop))
    return replace(data, schema=schema, store=arranged(data, [c for c in kept if c.learned], []), notes=notes)
