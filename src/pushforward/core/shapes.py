"""The one helper for broadcasting per-example values over examples, its inverse, and the way between two examples."""

from __future__ import annotations

import torch
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


def spherical(z0: Tensor, z1: Tensor, t: float) -> Tensor:
    """The way from z0 to z1 (B, …) along an arc; straight where the two are parallel or one is nothing."""
    a, b = z0.flatten(1), z1.flatten(1)
    lengths = (a.norm(dim=1) * b.norm(dim=1))[:, None]
    cosine = torch.where(lengths > 0, (a * b).sum(1, keepdim=True) / lengths, 1.0)
    angle = cosine.clamp(-1, 1).acos()
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin() > 1e-3, arc, torch.lerp(a, b, t)).view_as(z0)
