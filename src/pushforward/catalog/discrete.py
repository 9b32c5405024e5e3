"""Diffusion of discrete data, and of anything made of elements, as recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.schema import Image, Schema, Tokens
from pushforward.models.elements import Elements, elements
from pushforward.models.masked import MaskedDiffusion
from pushforward.models.uniform import UniformDiffusion
from pushforward.nets.dit import DiT, SequenceTransformer
from pushforward.nets.mlp import MLP
from pushforward.paths.discrete import PATHS

_LONG = 8  # symbols from which a transformer reads them
_LARGE = 64  # numbers in an image from which a transformer looks at it


@dataclass(frozen=True)
class MaskedDiffusionOptions:
    """Options of masked diffusion.

    path: masked (values are hidden), or uniform (symbols of a text are replaced by random ones). hidden: widths of the net for
    vectors, tables and short texts. width, depth, heads, patch: of the transformer for longer texts and images. components:
    logistics in the mixture of a number or 8-bit pixel. sampling_steps and score_steps: default network passes; None takes one
    for each value, 64 at most.
    """

    path: str = "masked"
    hidden: tuple[int, ...] = (256, 256, 256)
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 2
    components: int = 5
    sampling_steps: int | None = None
    score_steps: int | None = None


class FromHidden(nn.Module):
    """A net of vectors that sees features (B, F) and which elements are hidden, (B, E)."""

    def __init__(self, parts: Elements, hidden: tuple[int, ...], context: int) -> None:
        super().__init__()
        features, params = len(parts.feature_element), len(parts.param_element)
        self.net = MLP(features + parts.count, params, hidden, context=context, residual=True, zero_last=True)

    def forward(self, seen: Tensor, hidden: Tensor, context: Context | None = None) -> Tensor:
        return self.net(torch.cat([seen, hidden.to(seen.dtype)], 1), context)


class HiddenSymbols(nn.Module):
    """A transformer that reads one-hot symbols (B, T·V), hidden where ``hidden`` (B, T)."""

    def __init__(self, net: SequenceTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, seen: Tensor, hidden: Tensor, context: Context | None = None) -> Tensor:
        symbols = seen.view(*hidden.shape, -1)
        read = torch.where(hidden, symbols.shape[-1], symbols.argmax(-1))
        return self.net(read, None, context).flatten(1)


class HiddenPixels(nn.Module):
    """A transformer that sees pixels (B, C·H·W) and which of them are hidden, as an image of two channels for each."""

    def __init__(self, net: DiT, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, seen: Tensor, hidden: Tensor, context: Context | None = None) -> Tensor:
        maps = torch.cat([p.view(-1, *self.shape) for p in (seen, hidden.to(seen.dtype))], 1)
        y = self.net(maps, None, context).unflatten(1, (self.shape[0], -1))  # (B, C, p, H, W)
        return y.movedim(2, -1).flatten(1)


def masked_diffusion(schema: Schema, config: MaskedDiffusionOptions) -> MaskedDiffusion | UniformDiffusion:
    """Values hidden and revealed in random order (Sahoo et al. 2024, arXiv:2406.07524); or symbols that change at random."""
    if config.path not in PATHS:
        raise ValueError(f"path is one of {', '.join(PATHS)}, found {config.path!r}")
    kind, conditioner = schema.example, Conditioner(schema.conditions)
    sizes: dict[str, Any] = {"width": config.width, "depth": config.depth, "heads": config.heads, "context": conditioner.width}
    if config.path == "uniform":
        if not isinstance(kind, Tokens):
            raise ValueError(f"path uniform is for texts, found {kind.name} data")
        levels = len(kind.vocabulary)
        reader = SequenceTransformer(levels, levels, length=kind.length, **sizes, time=True)
        steps, score_steps = (k or 64 for k in (config.sampling_steps, config.score_steps))
        return UniformDiffusion(schema, reader, conditioner, steps=steps, score_steps=score_steps)
    parts = elements(kind, config.components)
    if isinstance(kind, Tokens) and kind.length > _LONG:
        levels = len(kind.vocabulary)
        net: nn.Module = HiddenSymbols(SequenceTransformer(levels + 1, levels, length=kind.length, **sizes))
    elif isinstance(kind, Image) and kind.size > _LARGE:
        outputs = len(parts.param_element) // (kind.height * kind.width)
        net = HiddenPixels(DiT(2 * kind.channels, outputs, patch=config.patch, **sizes, time=False), kind.shape)
    else:
        net = FromHidden(parts, config.hidden, conditioner.width)
    return MaskedDiffusion(schema, parts, net, conditioner, steps=config.sampling_steps, score_steps=config.score_steps)
