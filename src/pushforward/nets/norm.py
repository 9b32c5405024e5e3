"""Normalisation of feature maps, one example at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018, arXiv:1803.08494) of (B, channels, H, W).

    ``groups`` is an upper bound: the groups divide the channels and hold four or more where there are that many, since
    a group of one channel would erase a map of one pixel.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        groups = max(1, min(groups, channels // 4))
        while channels % groups:
            groups -= 1
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        # torch's CPU kernel for bfloat16 with channels last takes several times that of the dense layout, so two
        # copies and the dense kernel are the quicker way; the stride is asked, not the layout, which vmap cannot tell
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.dim() == 4 and x.stride(1) == 1 < x.shape[1]:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x)
