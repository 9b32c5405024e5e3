"""Recurrent networks, which carry all they know of the past in a state h (and c).

    rnn:   h' = tanh(W x + U h + b)                                         (Elman 1990)
    gru:   h' = (1 − z) n + z h,  n = tanh(W_n x + r (U_n h))               (Cho et al. 2014, arXiv:1406.1078)
    lstm:  c' = f c + i g,  h' = o tanh(c')                                 (Hochreiter & Schmidhuber 1997)

with gates r, z, i, f, o = σ(W x + U h + b). Training runs torch's fused layers over all places; a step computes one with the
same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cell:
    """The fused layers, what one layer does in one step, and of how many tensors its state is; h is the first."""

    layers: Callable[..., nn.RNNBase]
    step: Callable[[Tensor, State, Weights], State]
    parts: int = 1


CELLS = {
    "rnn": Cell(nn.RNN, lambda x, s, w: (torch.rnn_tanh_cell(x, *s, *w),)),
    "gru": Cell(nn.GRU, lambda x, s, w: (torch.gru_cell(x, *s, *w),)),
    "lstm": Cell(nn.LSTM, lambda x, s, w: torch.lstm_cell(x, s, *w), parts=2),
}


class Recurrent(nn.Module):
    """Tokens (B, T, width) → (B, T, width), ``depth`` layers of ``cell``."""

    def __init__(self, width: int = 256, depth: int = 2, cell: str = "lstm") -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell is one of {', '.join(CELLS)}, found {cell!r}")
        if width < 1 or depth < 1:
            raise ValueError(f"found width {width} and depth {depth}: expected both at least 1")
        self.width, self.depth, self.cell = width, depth, CELLS[cell]
        self.layers = self.cell.layers(width, width, depth, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)[0]

    def together(self, length: int) -> int:
        """Rows that are enough for the products to run at full speed."""
        return 512

    def start(self, batch: int, length: int) -> tuple[list[Weights], list[State]]:
        """The weights and the state of each layer."""
        weights: list[Weights] = [tuple(w) for w in self.layers.all_weights]
        none = weights[0][0].new_zeros(batch, self.width)
        return weights, [(none,) * self.cell.parts for _ in weights]

    def step(self, kept: tuple[list[Weights], list[State]], token: Tensor) -> tuple[tuple[list[Weights], list[State]], Tensor]:
        weights, states = kept
        found, h = [], token
        for w, state in zip(weights, states, strict=True):
            found.append(self.cell.step(h, state, w))
            h = found[-1][0]
        return (weights, found), h
