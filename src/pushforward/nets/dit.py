"""Transformers as fields in time: images and signals in patches, sets of points, sequences of tokens.

One trunk of blocks (Peebles & Xie 2023, arXiv:2212.09748) serves them all. With an embedding e of the time and of
``Context.vector``, every block is

    h ← h + g₁(e) · attention((1 + s₁(e)) · norm(h) + b₁(e))
    h ← h + g₂(e) · MLP((1 + s₂(e)) · norm(h) + b₂(e))

whose scales, shifts and gates come from a layer that starts at zero, so that a new block is the identity (adaLN-zero).
Queries and keys are normalised (Dehghani et al. 2023, arXiv:2302.05442), which keeps attention from saturating. A net with
neither time nor context has plain blocks without scales and gates. Tokens of a condition (B, T, D) are looked at by
cross-attention in every block.

Every net is called as net(x, t (B,), context); one built with ``time`` False takes t = None. ``zero_last`` starts it as the
zero function. ``checkpoint`` computes the blocks again on the way back instead of keeping what is inside them (Chen et al.
2016, arXiv:1604.06174).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pushforward.core.context import Context
from pushforward.nets.attention import attend
from pushforward.nets.common import context_tokens, zeroed
from pushforward.nets.embed import Steering, sinusoids

if TYPE_CHECKING:
    from typing_extensions import Unpack

_WIDTH = 128


class RMSNorm(nn.Module):
    """x / √mean(x²) · weight over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()  # squares of bfloat16 have three digits
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype) * self.weight


class MultiHead(nn.Module):
    """Attention of (B, N, width) to itself or, with ``tokens`` > 0, to tokens (B, T, tokens): (B, N, width)."""

    def __init__(self, width: int, heads: int, tokens: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.pair = nn.Linear(width, width), nn.Linear(tokens or width, 2 * width)
        self.query_norm, self.key_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q = self.query(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.pair(h if tokens is None else tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(self.query_norm(q), self.key_norm(k), v, mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """(B, N, width) → (B, N, width), modulated by an embedding (B, embedding) where ``embedding`` > 0."""

    def __init__(self, width: int, heads: int, embedding: int, tokens: int = 0, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * width)
        feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        parts: list[nn.Module] = [MultiHead(width, heads), *([MultiHead(width, heads, tokens)] if tokens else []), feed]
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not embedding) for _ in parts)
        self.modulation = zeroed(nn.Linear(embedding, 3 * width * len(parts))) if embedding else None
        self.cross = bool(tokens)

    def forward(self, h: Tensor, embedding: Tensor | None, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.modulation is None or embedding is None:
            modulations: list[Tensor | None] = [None] * len(self.parts)
        else:
            modulations = list(self.modulation(embedding)[:, None].chunk(len(self.parts), -1))
        for index, (part, norm, modulation) in enumerate(zip(self.parts, self.norms, modulations, strict=True)):
            given = (tokens, mask) if index == 1 and self.cross else ()
            if modulation is None:
                h = h + part(norm(h), *given)
            else:
                scale, shift, gate = modulation.chunk(3, -1)
                h = h + gate * part(norm(h) * (1 + scale) + shift, *given)
        return h


class Sizes(TypedDict, total=False):
    """What every net below takes besides its own options, as ``Trunk`` has it."""

    width: int
    depth: int
    heads: int
    context: int
    tokens: int
    time: bool
    zero_last: bool
    checkpoint: bool


class Trunk(nn.Module):
    """What the nets below share: (B, N, inputs) to (B, N, outputs), with everything but positions and patches.

    ``inputs`` 0 takes what is as wide as the blocks already. ``context`` is the width of ``Context.vector`` and ``tokens`` that
    of ``Context.tokens``; 0 takes none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = _WIDTH,
        depth: int = 4,
        heads: int = 4,
        context: int = 0,
        tokens: int = 0,
        time: bool = True,
        zero_last: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"found width {width} and {heads} heads: the heads must divide the width")
        embedding = width if time or context else 0
        self.width, self.tokens, self.checkpoint = width, tokens, checkpoint
        self.steering = Steering(embedding, context=context, time=time)
        self.first = nn.Linear(inputs, width) if inputs else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, embedding, tokens) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=not embedding)
        self.modulation = zeroed(nn.Linear(embedding, 2 * width)) if embedding else None
        self.last = nn.Linear(width, outputs)
        if zero_last:
            zeroed(self.last)

    def forward(self, x: Tensor, t: Tensor | None, context: Context | None, positions: Tensor | None = None) -> Tensor:
        """x (B, N, inputs) and ``positions`` (N, width), if there are any."""
        embedding = self.steering(x, t, context)
        tokens, mask = context_tokens(context, self.tokens)
        h = self.first(x)
        if positions is not None:
            h = h + positions.to(h.dtype)
        again = self.checkpoint and torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        for block in self.blocks:
            if again:
                h = checkpoint(block, h, embedding, tokens, mask, use_reentrant=False)
            else:
                h = block(h, embedding, tokens, mask)
        h = self.norm(h)
        if self.modulation is not None and embedding is not None:
            scale, shift = self.modulation(embedding)[:, None].chunk(2, -1)
            h = h * (1 + scale) + shift
        return self.last(h)


def grid_positions(counts: tuple[int, ...], width: int, like: Tensor) -> Tensor:
    """Cosines and sines of the places of a grid, (∏ counts, width): each axis has an equal share of the width."""
    share = width // len(counts)
    axes = [sinusoids(torch.arange(n, device=like.device).to(like.dtype), share, scale=1.0) for n in counts]
    spread = [a.view(*(-1 if i == axis else 1 for i in range(len(counts))), share) for axis, a in enumerate(axes)]
    grid = torch.cat([s.expand(*counts, share) for s in spread], -1).flatten(0, -2)
    return F.pad(grid, (0, width - share * len(counts)))


class DiT(nn.Module):
    """Images x (B, channels, H, W), or signals (B, channels, L) with ``dims`` 1, at times t (B,) to (B, outputs, …).

    Squares (or stretches) of side ``patch`` are the tokens of the trunk; sides that it does not divide are padded with zeros
    inside. ``spatial`` channels of ``Context.spatial`` (B, spatial, H, W) are stacked on the input.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        patch: int = 2,
        spatial: int = 0,
        dims: int = 2,
        **sizes: Unpack[Sizes],
    ) -> None:
        super().__init__()
        if dims not in (1, 2):
            raise ValueError(f"found {dims} dims: expected 1 (signals) or 2 (images)")
        self.channels, self.outputs, self.patch, self.dims, self.spatial = channels, outputs, patch, dims, spatial
        size = patch**dims
        self.trunk = Trunk((channels + spatial) * size, outputs * size, **sizes)

    def forward(self, x: Tensor, t: Tensor | None = None, context: Context | None = None) -> Tensor:
        side, sides = self.patch, x.shape[2:]
        if len(sides) != self.dims:
            raise ValueError(f"found an input of shape {tuple(x.shape)}: expected (B, C, {'H, W' if self.dims == 2 else 'L'})")
        x = self._with_spatial(x, context)
        x = F.pad(x, [p for n in reversed(sides) for p in (0, -n % side)])
        counts = tuple(n // side for n in x.shape[2:])
        for axis in range(self.dims):  # (B, C, H, W) → (B, C, h, p, w, p)
            x = x.unflatten(2 + 2 * axis, (counts[axis], side))
        places, inside = list(range(2, 2 + 2 * self.dims, 2)), list(range(3, 3 + 2 * self.dims, 2))
        patches = x.permute(0, *places, 1, *inside).flatten(1 + self.dims).flatten(1, self.dims)
        y = self.trunk(patches, t, context, grid_positions(counts, self.trunk.width, patches))
        y = y.unflatten(1, counts).unflatten(-1, (self.outputs, *(side,) * self.dims))
        back = [1 + self.dims] + [axis for i in range(self.dims) for axis in (1 + i, 2 + self.dims + i)]
        y = y.permute(0, *back)
        for axis in range(self.dims):
            y = y.flatten(2 + axis, 3 + axis)
        return y[(..., *(slice(n) for n in sides))]

    def _with_spatial(self, x: Tensor, context: Context | None) -> Tensor:
        spatial = None if context is None else context.spatial
        found = 0 if spatial is None else spatial.shape[1]
        if found != self.spatial or (spatial is not None and spatial.shape[2:] != x.shape[2:]):
            shape = None if spatial is None else tuple(spatial.shape)
            raise ValueError(
                f"found a spatial context of shape {shape} for an input of shape {tuple(x.shape)}: "
                f"this net was built for {self.spatial} channels of the input's size"
            )
        return x if spatial is None else torch.cat([x, spatial.to(x.dtype)], 1)


class SetTransformer(nn.Module):
    """Sets of points x (B, N, size), of any N, at times t (B,) to (B, N, outputs), outputs = size unless given.

    Nothing tells the points' places, so a change of their order changes that of the outputs alike (Lee et al. 2019,
    arXiv:1810.00825).
    """

    def __init__(self, size: int, outputs: int | None = None, **sizes: Unpack[Sizes]) -> None:
        super().__init__()
        self.size, self.outputs = size, size if outputs is None else outputs
        self.trunk = Trunk(size, self.outputs, **sizes)

    def forward(self, x: Tensor, t: Tensor | None = None, context: Context | None = None) -> Tensor:
        return self.trunk(x, t, context)


class SequenceTransformer(nn.Module):
    """Sequences of symbols x (B, T), int64 in {0 … vocabulary − 1}, to (B, T, outputs); every place sees every other.

    ``length`` > 0 learns a position for each of that many places, from sines on; 0 keeps to sines, for any T. It takes no time
    unless told.
    """

    def __init__(self, vocabulary: int, outputs: int, *, length: int = 0, **sizes: Unpack[Sizes]) -> None:
        super().__init__()
        self.vocabulary, self.outputs, self.length = vocabulary, outputs, length
        sizes.setdefault("time", False)
        width = sizes.setdefault("width", _WIDTH)
        self.embed = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(grid_positions((length,), width, self.embed.weight.detach())) if length else None
        self.trunk = Trunk(0, outputs, **sizes)

    def forward(self, x: Tensor, t: Tensor | None = None, context: Context | None = None) -> Tensor:
        h = self.embed(x)
        if self.places is None:
            return self.trunk(h, t, context, grid_positions((x.shape[1],), self.trunk.width, h))
        if x.shape[1] > self.length:
            raise ValueError(f"found {x.shape[1]} places: this net has learned positions for {self.length}")
        return self.trunk(h, t, context, self.places[: x.shape[1]])
