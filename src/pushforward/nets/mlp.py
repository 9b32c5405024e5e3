"""Nets of plain vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.shapes import over
from pushforward.nets.common import activation_named, context_vector, zeroed
from pushforward.nets.embed import TimeEmbedding
from pushforward.nets.linear import Linear, rectified
from pushforward.nets.modulated import Modulated


class MLP(nn.Module):
    """Vectors (B, inputs) to vectors (B, outputs).

    ``context`` is the width of ``Context.vector``, which enters the first layer through a linear map of its own: the
    same function as concatenating it to the input. ``residual`` adds a skip around every hidden layer whose width is
    that of the layer before it. ``zero_last`` starts the net as the zero function.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (128, 128),
        *,
        context: int = 0,
        activation: str = "silu",
        residual: bool = False,
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.context, self.residual = inputs, outputs, context, residual
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(widths))
        self.from_context = nn.Linear(context, widths[1], bias=False) if context else None
        self.activation = activation_named(activation)
        if zero_last:
            zeroed(self.layers[-1])
            if self.from_context is not None and not hidden:  # then the context enters the last layer
                zeroed(self.from_context)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        vector = context_vector(context, self.context)
        shift = self.from_context(vector) if self.from_context is not None and vector is not None else None
        if isinstance(self.activation, nn.ReLU) and not self.residual:
            layers = [cast(nn.Linear, layer) for layer in self.layers]
            return rectified(x, [layer.weight for layer in layers], [layer.bias for layer in layers], shift=shift)
        h = self.layers[0](x)
        h = h if shift is None else h + shift
        skip: Tensor | None = None
        for layer in self.layers[1:]:
            a = self.activation(h)
            if self.residual:
                skip = a = a + skip if skip is not None and skip.shape == a.shape else a
            h = layer(a)
        return h


class TimeMLP(nn.Module):
    """A field over vectors: x (B, size) at times t (B,) in [0, 1] to (B, outputs), outputs = size unless given.

    A residual net whose every layer is scaled and shifted by an embedding of time and ``Context.vector``
    (Perez et al. 2018, arXiv:1709.07871). ``zero_last`` starts it as the zero field. ``scale`` is the highest
    frequency of the time features: on a plane of points 100 fits as well as 1000, and 50 solver steps err a quarter as much.
    """

    def __init__(
        self,
        size: int,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        context: int = 0,
        outputs: int | None = None,
        zero_last: bool = True,
        embedding: int = 64,
        scale: float = 100.0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("found no hidden layer: TimeMLP needs one at least, where time enters")
        self.size, self.outputs, self.context = size, size if outputs is None else outputs, context
        widths = [size, *hidden]
        self.time = TimeEmbedding(embedding, scale)
        self.from_context = nn.Linear(context, embedding, bias=False) if context else None
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(widths))
        self.modulation = nn.ModuleList(nn.Linear(embedding, 2 * b) for b in hidden)
        last = Linear(widths[-1], self.outputs)
        self.last = zeroed(last) if zero_last else last

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        added = self.conditions(context)
        # solvers ask for one time for all rows, and what follows from it is worked out once
        embedding = self.time(t[:1] if t.dim() == 1 and t.stride(0) == 0 else over(t, x).flatten())
        embedding = embedding if added is None else embedding + added
        embedding, h = nn.functional.silu(embedding), x
        for index, (layer, modulation) in enumerate(zip(self.layers, self.modulation, strict=True)):
            scale, shift = modulation(embedding).chunk(2, -1)
            a = nn.functional.silu(layer(h) * (1 + scale) + shift)
            h = h + a if index and h.shape == a.shape else a
        return self.last(h)

    def modulated(self) -> Modulated:
        """The same function with its divergence, for as long as the weights stay as they are and without gradients."""
        return Modulated.of(self.time, list(self.layers), list(self.modulation), self.last)

    def conditions(self, context: Context | None) -> Tensor | None:
        """What the ``context`` adds to the embedding of time, (B, E)."""
        vector = context_vector(context, self.context)
        return None if self.from_context is None or vector is None else self.from_context(vector)


class SteeredMLP(nn.Module):
    """A function of one number, steered by ``signal`` numbers: t (n, N) and signals (N, signal) to (n, N), smooth in t.

    The signal enters the first layer, whose share of it is computed once for all n.
    """

    def __init__(self, signal: int, hidden: Sequence[int] = (32, 32)) -> None:
        super().__init__()
        self.of_number, self.of_signal = nn.Linear(1, hidden[0]), nn.Linear(signal, hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise([*hidden, 1]))

    def forward(self, t: Tensor, signal: Tensor) -> Tensor:
        h = self.of_number(t[..., None]) + self.of_signal(signal)
        for layer in self.layers:
            h = layer(h.tanh())
        return h[..., 0]
