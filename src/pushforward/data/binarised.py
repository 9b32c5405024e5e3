"""Grey pictures as bits drawn with the pixels' intensities as chances, anew each time that a row is trained on (Salakhutdinov
& Murray 2008; the protocol of Burda et al. 2015, arXiv:1509.00519)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pushforward.core.random import Draws
from pushforward.core.schema import Image
from pushforward.data.dataset import Data, Rows, TensorStore

_SEED = 0xB175  # of the bits that rows have where they are looked at, not trained on
_AT_ONCE = 4096


@dataclass(frozen=True)
class BitStore:
    """``chances`` (N, C, H, W) in {0 … 255}, in 255ths, and the ``bits`` drawn of them once; ``redraw`` draws others."""

    chances: Tensor
    bits: TensorStore

    def __len__(self) -> int:
        return len(self.bits)

    def take(self, index: np.ndarray) -> Rows:
        return self.bits.take(index)

    def redraw(self, index: np.ndarray, draws: Draws) -> Rows:
        """Rows with bits of their own, from ``draws``."""
        at = torch.from_numpy(np.ascontiguousarray(index))
        chances = self.chances[at].to(draws.device)
        bits = draws.uniform(*chances.shape[1:]) * 255 < chances
        return Rows(bits.to(torch.uint8).cpu(), self.bits.take(index).columns)


def binarised(data: Data) -> Data:
    """Images of 256 levels as bits whose chances are their intensities."""
    kind, rows = data.schema.example, data.store.take(np.arange(len(data.store)))
    assert isinstance(kind, Image)
    drawn = [
        (Draws(_SEED, start, start + len(part)).uniform(*kind.shape) * 255 < part).to(torch.uint8)
        for start, part in zip(range(0, len(rows.x), _AT_ONCE), rows.x.split(_AT_ONCE), strict=True)
    ]
    store = BitStore(rows.x, TensorStore(torch.cat(drawn), rows.columns))
    return replace(data, schema=replace(data.schema, example=replace(kind, levels=2)), store=store)
