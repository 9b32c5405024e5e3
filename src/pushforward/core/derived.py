"""Conditions that are made from the example itself: what is drawn given them is a picture coloured, enlarged or completed.

| recipe | what the model is given |
|---|---|
| ``grey`` | the picture without its colours |
| ``small:k`` | the mean over squares of k × k pixels |
| ``visible`` | the picture where it is not hidden, and a channel that says where that is |

Nothing of it is stored: it is computed from x when a batch is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.errors import DataError
from pushforward.core.random import Draws
from pushforward.core.schema import Column, Image, Kind, Part

_STREAM = 0xDE12  # of a row's draws
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
RECIPES = ("grey", "small:2", "small:4", "visible")


def made(name: str, example: Kind) -> Part | None:
    """The condition that the recipe ``name`` makes of an ``example``; None where it is no recipe.

    Raises DataError where the recipe does not suit the example.
    """
    word, colon, factor = name.partition(":")
    if name not in ("grey", "visible") and not (word == "small" and colon):
        return None
    if not isinstance(example, Image):
        raise DataError(f"the condition '{name}' is made from images: found {example.name} data")
    channels, height, width, levels = example.channels, example.height, example.width, example.levels
    if name == "grey":
        if channels < 3:
            raise DataError("the condition 'grey' is made from images in colour: these have one channel")
        return Part(name, Image(1, height, width, levels), name)
    if name == "visible":
        return Part(name, Image(channels + 1, height, width, levels), name)
    k = int(factor) if factor.isascii() and factor.isdigit() else 0
    if k < 2 or height % k or width % k:
        raise DataError(f"the condition '{name}' needs a whole number from 2 that divides {height}×{width} pixels")
    return Part(name, Image(channels, height // k, width // k, levels), name)


def derive(part: Part, x: Tensor, draws: Draws | None = None) -> Tensor:
    """Codes uint8 (B, *part.kind.shape) of the images x (B, C, H, W), by the recipe ``part.made``.

    What is hidden from ``visible`` is drawn for each row: one half of the picture, or a rectangle; without ``draws`` it is the
    middle of the picture.
    """
    assert isinstance(part.kind, Image)
    if part.made == "grey":
        return grey(x)
    if part.made.startswith("small:"):
        found = F.avg_pool2d(x.to(torch.float32), int(part.made[6:]))
        return found.round().to(torch.uint8)
    if part.made == "visible":
        return visible(part, x, _seen(x, draws))
    raise DataError(f"the condition '{part.name}' is made by '{part.made}': expected one of {', '.join(RECIPES)}")


def grey(x: Tensor) -> Tensor:
    """Luminance uint8 (B, 1, H, W) of colours (B, C, H, W); a fourth channel is passed over."""
    weight = torch.tensor(_LUMA, device=x.device).view(3, 1, 1)
    return (x[:, :3].to(torch.float32) * weight).sum(1, keepdim=True).round().to(torch.uint8)


def visible(part: Part, x: Tensor, seen: Tensor) -> Tensor:
    """Codes of ``part`` for images x (B, C, H, W) seen where ``seen`` (B, 1, H, W) is true: hidden pixels are 0."""
    assert isinstance(part.kind, Image)
    x = x.to(torch.uint8)
    return torch.cat([x * seen, seen.to(torch.uint8) * (part.kind.levels - 1)], 1)


def _seen(x: Tensor, draws: Draws | None) -> Tensor:
    """(B, 1, H, W) bool: half of the rows lose one of the four halves of the picture, the others a rectangle."""
    rows, _, height, width = x.shape
    if draws is None:
        ends = x.new_tensor([0.25, 0.75, 0.25, 0.75], dtype=torch.float32).expand(rows, 4)
    else:
        u = draws.fork(_STREAM).uniform(5).to(x.device)
        half = u.new_tensor([[0, 0.5, 0, 1], [0.5, 1, 0, 1], [0, 1, 0, 0.5], [0, 1, 0.5, 1]])[(u[:, 1] * 4).long()]
        long, wide = 0.25 + 0.5 * u[:, 1], 0.25 + 0.5 * u[:, 2]
        top, left = u[:, 3] * (1 - long), u[:, 4] * (1 - wide)
        ends = torch.where(u[:, :1] < 0.5, half, torch.stack([top, top + long, left, left + wide], 1))
    down, across = (torch.arange(n, device=x.device) + 0.5 for n in (height, width))
    inside = lambda at, n, a, b: (at >= a[:, None] * n) & (at < b[:, None] * n)
    hidden = inside(down, height, ends[:, 0], ends[:, 1])[:, :, None] & inside(across, width, ends[:, 2], ends[:, 3])[:, None]
    return ~hidden[:, None]


def with_derived(
    conditions: Sequence[Column | Part], x: Tensor, given: Mapping[str, Tensor], draws: Draws | None = None
) -> dict[str, Tensor]:
    """``given`` {name: codes} and what is made of x besides; {} where a condition that the data hold is not given."""
    found = {c.name: given[c.name] for c in conditions if c.name in given}
    wanted = [c for c in conditions if isinstance(c, Part) and c.made and c.name not in given]
    if len(found) + len(wanted) < len(conditions) and not found:
        return {}
    return found | {c.name: derive(c, x, draws) for c in wanted}
