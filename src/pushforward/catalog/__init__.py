"""The papers as recipes: name → ``build(schema, config)``, with defaults per kind of data.

``FAMILIES`` lists what there is without importing torch, so that help texts and ``pushforward models`` are quick; a recipe's
module holds its options, a frozen dataclass, and the function that builds the model. Lives here: which parts make which
paper, and which net suits which data. Never here: losses, layers, training loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pushforward.catalog.family import Family
from pushforward.catalog.listing import (
    adversarial,
    autoregressive,
    baselines,
    diffusion,
    flows,
    mixtures,
    perception,
    representation,
    sequences,
    variational,
)
from pushforward.core.errors import RecipeError, did_you_mean

__all__ = ["EVERY", "FAMILIES", "Family", "chosen", "family"]

EVERY = "all"

_LISTINGS = (
    baselines,
    flows,
    mixtures,
    variational,
    diffusion,
    autoregressive,
    sequences,
    adversarial,
    representation,
    perception,
)
FAMILIES: Mapping[str, Family] = MappingProxyType({one.name: one for listing in _LISTINGS for one in listing.FAMILIES})


def family(name: str) -> Family:
    """The family of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in FAMILIES:
        raise RecipeError(f"no family is called '{name}': {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def chosen(names: Iterable[str], kind: str | None = None, *, target: bool = False) -> list[Family]:
    """The families of those names, each once; ``all`` stands for every one that learns a distribution of data of ``kind``, and
    where there is a ``target`` for those that predict it too. Raises as ``family``."""
    found: dict[str, Family] = {}
    for name in names:
        fit = [f for f in FAMILIES.values() if kind in f.kinds and not f.source_data and (target or not f.target)]
        found |= {f.name: f for f in (fit if name == EVERY else [family(name)])}
    return list(found.values())
