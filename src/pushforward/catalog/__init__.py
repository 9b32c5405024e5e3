"""The papers as recipes: name → ``build(schema, config)``, with defaults per kind of data.

``FAMILIES`` lists what there is without importing torch, so that help texts and ``pushforward models`` are quick; a recipe's
module holds its options, a frozen dataclass, and the function that builds the model. Lives here: which parts make which
paper, and which net suits which data. Never here: losses, layers, training loops.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    variational,
)
from pushforward.core.errors import RecipeError, did_you_mean

__all__ = ["FAMILIES", "Family", "family"]

_LISTINGS = (baselines, flows, mixtures, variational, diffusion, autoregressive, adversarial, representation, perception)
FAMILIES: Mapping[str, Family] = MappingProxyType({one.name: one for listing in _LISTINGS for one in listing.FAMILIES})


def family(name: str) -> Family:
    """The family of that name. Raises RecipeError with the nearest name where there is none."""
    if name not in FAMILIES:
        raise RecipeError(f"no family is called '{name}': {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]
