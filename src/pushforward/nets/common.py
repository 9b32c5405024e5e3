"""What several nets need: activations by name, the context vector, a zero start."""

from __future__ import annotations

from typing import TypeVar

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


def zeroed(layer: Layer) -> Layer:
    """``layer`` with every parameter set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
