"""A U-Net of residual blocks, for fields over images and signals of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as checkpointed

from pushforward.core.context import Context
from pushforward.nets.blocks import Attention, ResidualBlock
from pushforward.nets.common import context_tokens, zeroed
from pushforward.nets.embed import Steering
from pushforward.nets.norm import GroupNorm, as_it_runs

Layout = Literal["lean", "ddpm"]
_MANY = 1024  # places, from which on adding up weights costs less than it saves


def default_multipliers(height: int, width: int) -> tuple[int, ...]:
    """Levels that bring an image down to 4 to 8 pixels a side at the sizes in common use, and the width of each level."""
    side = max(height, width)
    if side < 16:
        return (1, 2)
    return (1, 2, 2) if side <= 32 else (1, 2, 2, 4)


class Cell(nn.Module):
    """A residual block and the attentions behind it, to the places themselves and to tokens."""

    def __init__(self, block: ResidualBlock, attention: Attention | None, cross: Attention | None) -> None:
        super().__init__()
        self.block, self.attention, self.cross = block, attention, cross

    def forward(self, x: Tensor, embedding: Tensor | None, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.block(x, embedding)
        h = h if self.attention is None else self.attention(h)
        return h if self.cross is None else self.cross(h, tokens, mask)


class UNet(nn.Module):
    """Images x (B, channels, H, W) at times t (B,) in [0, 1] to (B, outputs, H, W), for any H and W of 4 or more.

    With ``dims`` 1, signals (B, channels, L) to (B, outputs, L): maps of one row, under convolutions one place high.

    Level l has ``width · multipliers[l]`` channels and half the side of the level before, with ``blocks`` residual
    blocks going down and as many going up, joined by concatenation (Ronneberger et al. 2015, arXiv:1505.04597). The layout
    "ddpm" is that of Ho et al. 2020 (arXiv:2006.11239) and of the networks published in diffusers' format: sides are halved
    by a convolution and convolved after they are doubled, and all maps on the way down are joined, the first and the halved
    ones too, for which every level has one block more going up.

    ``attention`` puts self-attention at the lowest level; given as levels, also behind every block of these. Heads are
    ``head_size`` wide. Time and ``Context.vector`` (B, context) scale and shift every block, or shift it only (see
    ``ResidualBlock``); a net built with ``time`` False takes t = None, and one time (1,) serves all examples.
    ``Context.tokens`` (B, T, tokens) are attended to behind every self-attention, where ``Context.mask`` (B, T) is true.
    ``Context.spatial`` (B, spatial, H, W) is seen beside x.

    Sides that 2^(levels - 1) does not divide are padded with zeros inside. ``checkpoint`` keeps of every block its inputs
    only and computes it once more for the gradient. ``zero_last`` starts the net as the zero field. Who samples under bf16
    autocast enters it once for all steps: then weights are cast once.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: bool | Sequence[int] = True,
        head_size: int = 16,
        context: int = 0,
        tokens: int = 0,
        spatial: int = 0,
        time: bool = True,
        dims: Literal[1, 2] = 2,
        layout: Layout = "lean",
        shift_only: bool = False,
        groups: int = 8,
        checkpoint: bool = False,
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        levels = () if isinstance(attention, bool) else tuple(attention)
        lowest = attention if isinstance(attention, bool) else bool(levels)
        _check(levels, lowest, tokens, dims, layout, len(multipliers))
        self.channels, self.outputs, self.dims, self.checkpoint = channels, outputs, dims, checkpoint
        self.tokens, self.spatial = tokens, spatial
        # one row of places is not halved, doubled or padded
        self.factor = (2, 2) if dims == 2 else (1, 2)
        self.multiple = tuple(f ** (len(multipliers) - 1) for f in self.factor)
        kernel = (3, 3) if dims == 2 else (1, 3)
        pad = (kernel[0] // 2, 1)
        embedding = 4 * width if time or context else 0

        def cell(inputs: int, outputs: int, attends: bool) -> Cell:
            block = ResidualBlock(inputs, outputs, embedding, groups=groups, shift_only=shift_only, kernel=kernel)
            own = Attention(outputs, head_size, groups=groups) if attends else None
            return Cell(block, own, Attention(outputs, head_size, tokens=tokens, groups=groups) if attends and tokens else None)

        def convolution(inputs: int, outputs: int, stride: tuple[int, ...] | int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, stride, pad)  # type: ignore[arg-type]

        self.steering = Steering(embedding, context=context, time=time, features=width)
        widths = [width * m for m in multipliers]
        self.stem = convolution(channels + spatial, widths[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.lower, self.lift = nn.ModuleList(), nn.ModuleList()
        now, kept, self.all_joined = widths[0], [], layout == "ddpm"
        if self.all_joined:
            kept.append(now)
        for index, level in enumerate(widths):
            if self.all_joined and index:
                self.lower.append(convolution(now, now, self.factor))
                kept.append(now)
            cells = nn.ModuleList()
            for _ in range(blocks):
                cells.append(cell(now, level, index in levels))
                now = level
                kept.append(now)
            self.down.append(cells)
        self.middle_in, self.middle_out = cell(now, now, lowest), cell(now, now, False)
        for index, level in reversed(list(enumerate(widths))):
            cells = nn.ModuleList()
            for _ in range(blocks + self.all_joined):
                cells.append(cell(now + kept.pop(), level, index in levels))
                now = level
            self.up.append(cells)
            if index:
                # the lean conv of an up-step runs before the enlargement, at a quarter of the cost of running after it
                now = now if self.all_joined else widths[index - 1]
                self.lift.append(convolution(level, now))
        self.norm = GroupNorm(now, groups)
        self.last = convolution(now, outputs)
        if zero_last:
            zeroed(self.last)

    def _seen(self, x: Tensor, context: Context | None) -> Tensor:
        """x and what is seen beside it, (B, channels + spatial, H, W), padded."""
        found = None if context is None else context.spatial
        if self.spatial:
            if found is None or found.shape[1:] != (self.spatial, *x.shape[2:]):
                shape = "none" if found is None else f"one of shape {tuple(found.shape)}"
                size = ", ".join("HW"[: self.dims]) if self.dims == 2 else "L"
                raise ValueError(f"found {shape}: this net takes a spatial context (B, {self.spatial}, {size}) of x's size")
            x = torch.cat([x, found.expand(len(x), *found.shape[1:])], 1)
        elif found is not None:
            raise ValueError(f"found a spatial context of shape {tuple(found.shape)}: this net was built without one")
        h = x.unsqueeze(2) if self.dims == 1 else x
        bottom, right = (-size % multiple for size, multiple in zip(h.shape[2:], self.multiple, strict=True))
        h = F.pad(h, (0, right, 0, bottom)) if bottom or right else h
        if h.device.type == "cpu" and h.dtype in (torch.float32, torch.bfloat16) and as_it_runs():
            # convolutions and norms are quickest with channels last; one channel alone has both layouts, and a copy says which
            return h.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
        return h

    def _run(self, cell: nn.Module, *given: Any) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled() and as_it_runs():
            return cast(Tensor, checkpointed(cell, *given, use_reentrant=False))
        return cell(*given)

    def forward(self, x: Tensor, t: Tensor | None = None, context: Context | None = None) -> Tensor:
        steer = (self.steering(x, t, context), *context_tokens(context, self.tokens))
        h = self.stem(self._seen(x, context))
        kept = [h] if self.all_joined else []
        for level, cells in enumerate(self.down):
            if level:
                h = self.lower[level - 1](h) if self.all_joined else F.avg_pool2d(h, self.factor)
                if self.all_joined:
                    kept.append(h)
            for cell in _each(cells):
                h = self._run(cell, h, *steer)
                kept.append(h)
        h = self._run(self.middle_out, self._run(self.middle_in, h, *steer), steer[0], None, None)
        for level, cells in enumerate(self.up):
            if level:
                h = self._doubled(h, cast(nn.Conv2d, self.lift[level - 1]))
            for cell in _each(cells):
                h = self._run(cell, torch.cat([h, kept.pop()], 1), *steer)
        h = self.last(self.norm(h, silu=True))
        height, width = (1, x.shape[2]) if self.dims == 1 else x.shape[2:]
        h = h[:, :, :height, :width]
        return h.squeeze(2) if self.dims == 1 else h

    def _doubled(self, h: Tensor, convolution: nn.Conv2d) -> Tensor:
        larger = [float(f) for f in self.factor]
        if not self.all_joined:
            return F.interpolate(convolution(h), scale_factor=larger, mode="nearest")
        if h.shape[0] * h.shape[2] * h.shape[3] >= _MANY:
            return doubled_convolved(h, convolution, self.factor)
        return convolution(F.interpolate(h, scale_factor=larger, mode="nearest"))


def doubled_convolved(h: Tensor, convolution: nn.Conv2d, factor: tuple[int, ...]) -> Tensor:
    """``convolution`` of h (B, C, H, W) with every place repeated ``factor`` times: (B, C', factor[0] · H, factor[1] · W).

    Of the three places that a weight in a row meets, two are the same one. Added up beforehand, nine products for each place
    are four: a transposed convolution whose k-th weight in a row is the sum of those that meet a place k - 1 to its left.
    """
    weight = convolution.weight
    for dim in (2, 3):
        if factor[dim - 2] == 2:
            first, middle, last = weight.unbind(dim)
            weight = torch.stack([last, middle + last, first + middle, first], dim)
    pad, weight, bias = [f - 1 for f in factor], weight.transpose(0, 1), convolution.bias
    if torch.is_grad_enabled() and bias is not None:
        # torch takes longer for the gradient by the bias of a transposed convolution than for the others together
        return F.conv_transpose2d(h, weight, None, factor, pad) + bias.to(h.dtype)[:, None, None]
    return F.conv_transpose2d(h, weight, bias, factor, pad)


def _each(cells: nn.Module) -> Iterator[nn.Module]:
    return iter(cast(nn.ModuleList, cells))


def _check(levels: Sequence[int], lowest: bool, tokens: int, dims: int, layout: str, count: int) -> None:
    if not all(0 <= level < count for level in levels):
        raise ValueError(f"found attention at levels {levels}: this net has levels 0 to {count - 1}")
    if tokens and not lowest:
        raise ValueError("found tokens without attention: tokens are seen at the levels with attention")
    if dims not in (1, 2):
        raise ValueError(f"found dims={dims}: expected 1 for signals or 2 for images")
    if layout not in ("lean", "ddpm"):
        raise ValueError(f"found layout {layout!r}: expected 'lean' or 'ddpm'")
