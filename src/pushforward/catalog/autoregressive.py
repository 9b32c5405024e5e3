"""Autoregressive models as recipes."""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.core.context import Conditioner
from pushforward.core.schema import Schema
from pushforward.models.autoregressive import Autoregressive
from pushforward.models.elements import elements
from pushforward.nets.masked import MaskedMLP


@dataclass(frozen=True)
class MadeOptions:
    """Options of MADE.

    hidden: widths of the masked net; None takes (256, 256), or (512, 512) above 256 elements. components: logistics in the
    mixture of a number or 8-bit pixel.
    """

    hidden: tuple[int, ...] | None = None
    components: int = 5


def made(schema: Schema, config: MadeOptions) -> Autoregressive:
    """One ordering, the order of the data: columns, pixels row by row, characters from left to right."""
    parts, conditioner = elements(schema.example, config.components), Conditioner(schema.conditions)
    hidden = config.hidden or ((512, 512) if parts.count > 256 else (256, 256))
    net = MaskedMLP(
        parts.feature_element + 1,
        parts.param_element + 1,
        hidden,
        context=conditioner.width,
        direct=parts.count <= 256,
        zero_last=True,
    )
    return Autoregressive(schema, parts, net, conditioner)
