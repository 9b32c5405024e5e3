"""The one helper for broadcasting per-example values over examples, and its inverse, the sum over an example."""

from __future__ import annotations

from torch import Tensor


def over(values: Tensor, like: Tensor) -> Tensor:
    """View per-example ``values`` (B,) as (B, 1, …, 1) so that they broadcast over ``like`` (B, …).

    Raises ValueError where ``values`` is not one value per example: a time tensor of the wrong shape must
    never broadcast by accident.
    """
    if values.shape != like.shape[:1]:
        raise ValueError(
            f"found per-example values of shape {tuple(values.shape)} for a batch of shape {tuple(like.shape)}: "
            f"expected ({like.shape[0]},), one value per example"
        )
    return values.view(-1, *(1,) * (like.dim() - 1))


def per_example(values: Tensor) -> Tensor:
    """Sum ``values`` (B, …) over everything but the batch: (B,)."""
    return values.flatten(1).sum(1) if values.dim() > 1 else values
