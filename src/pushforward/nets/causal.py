"""A causal transformer, in the style of LLaMA or of GPT-2.

    x ← x + attention(norm(x)),    x ← x + feed(norm(x)),    at last norm(x)

where a place looks at those up to its own, softmax_j(q_i · k_j / √d) v_j over j ≤ i (Vaswani et al. 2017, arXiv:1706.03762; the
order of norms of Radford et al. 2019). ``gpt2``: LayerNorm, a layer of 4 · width with GELU, biases, and places known by what is
added to the tokens. ``llama`` (Touvron et al. 2023, arXiv:2302.13971): RMSNorm (arXiv:1910.07467), SwiGLU (Shazeer 2020,
arXiv:2002.05202), no biases, and rotary places (Su et al. 2021, arXiv:2104.09864): queries and keys are turned by an angle that
grows with the place i,

    (x_m, x_{m+d/2}) as a complex number times e^{i · ω_m √−1},    ω_m = 10000^{−2m/d},

so that their product depends on the distance alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.nets.linear import kernels_pay, rectified
from pushforward.nets.norm import as_it_runs

_CACHED = 2**22  # numbers


class Product(nn.Linear):
    """A linear layer of tokens (…, inputs), all of them rows of one product."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias
        return rectified(x.reshape(-1, x.shape[-1]), [self.weight], [bias]).view(*x.shape[:-1], -1)


class Gelu(nn.Module):
    """W₂ gelu(W₁ x), 4 · width wide inside, with GPT-2's formula for gelu by tanh."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.up, self.down = Product(width, 4 * width, bias=bias), Product(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def small(self) -> Callable[[Tensor], Tensor]:
        """The same for a few rows."""
        w, b, w_, b_ = self.up.weight, self.up.bias, self.down.weight, self.down.bias
        return lambda x: F.linear(F.gelu(F.linear(x, w, b), approximate="tanh"), w_, b_)


class SwiGlu(nn.Module):
    """W₂ (silu(W₁ x) · W₃ x), 8/3 · width wide inside, up to a multiple of 8; W₁ and W₃ are one product."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        inside = -(-8 * width // 24) * 8
        self.up, self.down = Product(width, 2 * inside, bias=bias), Product(inside, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)

    def small(self) -> Callable[[Tensor], Tensor]:
        w, b, w_, b_ = self.up.weight, self.up.bias, self.down.weight, self.down.bias

        def feed(x: Tensor) -> Tensor:
            gate, value = F.linear(x, w, b).chunk(2, -1)
            return F.linear(F.silu(gate).mul_(value), w_, b_)

        return feed


@dataclass(frozen=True)
class Style:
    """The parts of a transformer: its norms, its layers between them, whether they have biases, whether places are turned."""

    norm: Callable[[int], nn.RMSNorm | nn.LayerNorm]
    feed: Callable[[int, bool], Gelu | SwiGlu]
    bias: bool
    rotary: bool


STYLES = {
    "llama": Style(lambda width: nn.RMSNorm(width, eps=1e-5), SwiGlu, bias=False, rotary=True),
    "gpt2": Style(nn.LayerNorm, Gelu, bias=True, rotary=False),
}


def angles(length: int, size: int, like: Tensor, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, size/2) of the places' angles."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    rate = base ** (-2 * torch.arange(size // 2, device=like.device, dtype=wide) / size)
    angle = torch.arange(length, device=like.device, dtype=wide)[:, None] * rate
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (…, d), the number m and the number m + d/2 turned by the angle m."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


Step = Callable[[Tensor, int], Tensor]


class Layer(nn.Module):
    """Attention to the places before and a layer for each place, both added to what came in."""

    def __init__(self, width: int, heads: int, style: Style) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = style.norm(width), style.norm(width)
        self.qkv, self.out = Product(width, 3 * width, bias=style.bias), Product(width, width, bias=style.bias)
        self.feed = style.feed(width, style.bias)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, d) each
        if turns is not None:
            q, k = turned(q, *turns), turned(k, *turns)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.second(x))

    def stepping(self, batch: int, length: int, turns: tuple[Tensor, Tensor] | None) -> Step:
        """(x (B, width), place) → what the layer makes of it, for places one after the other; keys and values are kept.

        What does not change from place to place is looked up once: at one row the look-ups would take a third of the time.
        """
        heads, width = self.heads, self.out.out_features
        size = width // heads
        first, second, feed, linear = self.first.forward, self.second.forward, self.feed.small(), F.linear
        w, b, w_, b_ = self.qkv.weight, self.qkv.bias, self.out.weight, self.out.bias
        keys, values = w.new_zeros(batch * heads, size, length), w.new_zeros(batch * heads, length, size)
        scale = size**-0.5

        def step(x: Tensor, place: int) -> Tensor:
            q, k, v = linear(first(x), w, b).view(batch, 3, heads, size).unbind(1)
            if turns is not None:
                q, k = turned(q, turns[0][place], turns[1][place]), turned(k, turns[0][place], turns[1][place])
            keys[:, :, place] = k.reshape(-1, size)
            values[:, place] = v.reshape(-1, size)
            upto = place + 1
            score = torch.bmm((q * scale).view(-1, 1, size), keys[:, :, :upto])
            mixed = torch.bmm(score.softmax(-1), values[:, :upto])
            x = x + linear(mixed.view(batch, width), w_, b_)
            return x + feed(second(x))

        return step


class CausalTransformer(nn.Module):
    """Tokens (B, T, width) → (B, T, width), ``depth`` layers of ``heads`` heads in the parts of ``style``."""

    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, style: str = "llama") -> None:
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"style is one of {', '.join(STYLES)}, found {style!r}")
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"found width {width} and {heads} heads: expected heads that divide the width")
        if STYLES[style].rotary and width // heads % 2:
            raise ValueError(
                f"found heads of {width // heads} numbers: {style} turns pairs of them, so expected an even number"
            )
        if depth < 1:
            raise ValueError(f"depth must be at least 1, found {depth}")
        self.width, self.heads, self.rotary = width, heads, STYLES[style].rotary
        self.layers = nn.ModuleList(Layer(width, heads, STYLES[style]) for _ in range(depth))
        self.last = STYLES[style].norm(width)
        with torch.no_grad():  # the sum over layers starts with the variance of one (Radford et al. 2019)
            for layer in self._layers():
                for end in (layer.out.weight, layer.feed.down.weight):
                    cast(Tensor, end).mul_((2 * depth) ** -0.5)

    def _layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers]

    def _turns(self, length: int) -> tuple[Tensor, Tensor] | None:
        return angles(length, self.width // self.heads, self._layers()[0].qkv.weight) if self.rotary else None

    def forward(self, tokens: Tensor) -> Tensor:
        x, turns = tokens, self._turns(tokens.shape[1])
        for layer in self._layers():
            x = layer(x, turns)
        return self.last(x)

    def together(self, length: int) -> int:
        """Rows whose keys and values stay in the caches of a processor."""
        return max(16, _CACHED // (2 * length * self.width * len(self.layers)))

    def start(self, batch: int, length: int) -> tuple[int, list[Step]]:
        """The place of the next token, and the layers with room for the keys and values of ``length`` places."""
        turns = self._turns(length)
        return 0, [layer.stepping(batch, length, turns) for layer in self._layers()]

    def step(self, kept: tuple[int, list[Step]], token: Tensor) -> tuple[tuple[int, list[Step]], Tensor]:
        place, layers = kept
        x = token
        for layer in layers:
            x = layer(x, place)
        return (place + 1, layers), self.last(x)

    def draw(
        self,
        u: Tensor,
        table: Tensor,
        added: Tensor,
        condition: Tensor | None,
        head: tuple[Tensor, Tensor],
        held: Tensor,
        how: Any = None,
    ) -> Tensor | None:
        """Codes (B, T) at the uniform numbers u (B, T) by one kernel, in float32 on the CPU; None where it does not apply.

        ``table`` (symbols + 1, width) are the tokens of symbols and of the start, ``added`` (T, width) and ``condition``
        (B, width) what is added to them, ``head`` weight and bias. Codes in ``held``, (B, T) or (0, T), are taken as they are,
        but for those that are not a number. ``how``: a ``models.blocks.Sharpening``.
        """
        layers = self._layers()
        first, wide = layers[0], layers[0].feed.up.out_features
        plain = table.device.type == "cpu" and table.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (plain and as_it_runs() and kernels_pay()):
            return None
        from pushforward.kernels import causal

        if not causal.fits(self.width, self.heads, wide):
            return None
        size, length = self.width // self.heads, u.shape[1]
        none = torch.zeros(wide)

        def stacked(name: str) -> Tensor:
            return torch.stack([layer.get_submodule(name).weight.t() for layer in layers]).contiguous()  # type: ignore[union-attr,operator]

        def filled(bias: Tensor | None) -> Tensor:
            return none if bias is None else F.pad(bias, (0, wide - len(bias)))

        names = ("qkv", "out", "feed.up", "feed.down")
        biases = [torch.stack([filled(layer.get_submodule(n).bias) for n in names]) for layer in layers]  # type: ignore[arg-type]
        every = [norm for layer in layers for norm in (layer.first, layer.second)] + [self.last]
        norms = [torch.stack([n.weight, n.bias if isinstance(n, nn.LayerNorm) else torch.zeros_like(n.weight)]) for n in every]
        turns = self._turns(length) or (torch.ones(length, size // 2), torch.zeros(length, size // 2))
        told = torch.zeros(0, self.width) if condition is None else condition
        drawn = causal.draw(
            u.float(),
            held.float(),
            *(told, table, added, torch.stack(turns), torch.stack(norms)),
            *(stacked(name) for name in names),
            torch.stack(biases),
            *causal.padded(*head),
            gated=isinstance(first.feed, SwiGlu),
            centred=isinstance(self.last, nn.LayerNorm),
            eps=float(self.last.eps or 0.0),
            how=(1.0, 0, 1.0) if how is None else (max(how.temperature, 1e-6), how.top_k or 0, how.top_p or 1.0),
        )
        return drawn.to(u.dtype)
