"""Draws of whole examples given something measured of them: small or blurred pictures, or any differentiable function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, RecipeError, Unsupported
from pushforward.core.random import Draws, mix
from pushforward.core.schema import Image
from pushforward.data.dataset import Rows
from pushforward.fitting.loop import place
from pushforward.fitting.progress import Progress
from pushforward.guidance.measurements import measurement

if TYPE_CHECKING:
    from pushforward.fitting.fitted import Fitted

_STREAM = 0x4E57
_HALF_A_LEVEL = 0.5  # what rounding leaves uncertain of a picture's levels


def restore(
    fitted: Fitted,
    measured: Any,
    measure: str | Callable[[Tensor], Tensor],
    *,
    noise: float | None = None,
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
    chunk: int | None = None,
    **options: Any,
) -> Rows:
    """Codes drawn from p(x | ``measure``(x) = ``measured`` with noise of deviation ``noise``, by default half a level of
    images).

    ``measured``: pictures (n, h, w) or (n, h, w, C), or for a function whatever it gives, (n, …), in the user's units.
    ``options``: steps, sampler, strength. Raises Unsupported for a family that cannot, DataError for shapes that do not fit.
    """
    model: Any = fitted.model
    if not hasattr(model, "restore"):
        raise Unsupported(f"{fitted.family.name} cannot restore: ddpm, edm, rectified-flow … can")
    fitted.check_options(options, "restore")
    kind, run = fitted.schema.example, measurement(measure) if isinstance(measure, str) else measure
    if isinstance(measure, str) and not isinstance(kind, Image):
        raise RecipeError(f"'{measure}' is measured of images: give a function of tensors for {kind.name} data")
    given = torch.from_numpy(np.asarray(measured, dtype=np.float64))
    if isinstance(measure, str):
        given = given[:, None] if given.dim() == 3 else given.permute(0, 3, 1, 2) if given.dim() == 4 else given
    wanted = tuple(run(torch.zeros(1, *kind.shape)).shape[1:])
    if given.dim() < 2 or tuple(given.shape[1:]) != wanted:
        raise DataError(f"found measurements of shape {tuple(given.shape[1:])}: expected {wanted} of each example")
    n, size = len(given), fitted._chunk(chunk, 2)
    codes = fitted.conditions(condition, n, seed)
    spread = (_HALF_A_LEVEL if isinstance(kind, Image) else 0.0) if noise is None else noise
    parts = []
    with Progress("restore") as progress, torch.no_grad():
        for start in range(0, n, size):
            stop = min(start + size, n)
            draws = Draws(mix(seed, _STREAM), start, stop, n, fitted.device)
            own = {name: place(c[start:stop], fitted.device) for name, c in codes.items()} if codes else None
            drawn = model.restore(given[start:stop].to(fitted.device), run, own, draws, noise=spread, **options)
            parts.append(fitted._codes(drawn))
            progress.update(stop / n)
    return Rows(torch.cat(parts), codes or {})
