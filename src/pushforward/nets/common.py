"""What several nets need: activations by name, what they see of a context, a zero start."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from pushforward.core.context import Context

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}

Layer = TypeVar("Layer", bound=nn.Module)


def activation_named(name: str) -> nn.Module:
    """The activation of that name; ValueError names the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"found activation {name!r}: expected one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def context_vector(context: Context | None, size: int) -> Tensor | None:
    """``context.vector`` (B, size), or None for a net built with ``size`` 0.

    Raises ValueError where the two disagree: a condition must never be dropped, or made up, in silence.
    """
    vector = None if context is None else context.vector
    found = 0 if vector is None else vector.shape[-1]
    if found != size:
        raise ValueError(f"found a context vector of width {found}: this net was built for width {size}")
    return vector if size else None


def context_tokens(context: Context | None, size: int) -> tuple[Tensor | None, Tensor | None]:
    """``context.tokens`` (B, T, size) and the mask (B, T) that goes with them; ValueError as in ``context_vector``."""
    tokens, mask = (None, None) if context is None else (context.tokens, context.mask)
    found = 0 if tokens is None else tokens.shape[-1]
    if found != size:
        raise ValueError(f"found context tokens of width {found}: this net was built for width {size}")
    if mask is not None and (tokens is None or mask.dtype != torch.bool or mask.shape != tokens.shape[:2]):
        given = "no tokens" if tokens is None else f"tokens of shape {tuple(tokens.shape)}"
        raise ValueError(f"found a mask of {mask.dtype} of shape {tuple(mask.shape)} for {given}: expected bool (B, T)")
    return tokens, mask


def zeroed(layer: Layer) -> Layer:
    """``layer`` with every parameter set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
