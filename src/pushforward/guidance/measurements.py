"""What can be measured of images (B, C, H, W), as functions of their levels: what completion is to be true to.

| name | what it is |
|---|---|
| ``small:k`` | the mean over squares of k × k pixels: down-sampling |
| ``blur:s`` | the mean around each pixel with weights of a normal of deviation s pixels |
| ``grey`` | the luminance of colours |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.core.errors import RecipeError

_LUMA = (0.299, 0.587, 0.114)


def measurement(name: str) -> Callable[[Tensor], Tensor]:
    """The measurement of that name. Raises RecipeError where there is none."""
    word, _, number = name.partition(":")
    try:
        if word == "small" and int(number) > 1:
            return lambda x, k=int(number): F.avg_pool2d(x, k)  # type: ignore[misc]
        if word == "blur" and 0 < float(number) < 100:
            return lambda x, s=float(number): blur(x, s)  # type: ignore[misc]
    except ValueError:
        pass
    if name == "grey":
        return lambda x: (x[:, :3] * x.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    raise RecipeError(f"no measurement is called '{name}': use small:2, blur:1.5, grey or a function of tensors")


def blur(x: Tensor, deviation: float) -> Tensor:
    """x (B, C, H, W) under a normal of that deviation in pixels, one direction after the other; edges are repeated."""
    reach = max(1, math.ceil(3 * deviation))
    place = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weight = (-0.5 * (place / deviation).square()).exp()
    weight = (weight / weight.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, weight[..., None, :], groups=x.shape[1])
    return F.conv2d(rows, weight[..., None], groups=x.shape[1])
