"""Random numbers that belong to rows, not to calls.

A ``Draws`` gives row i of a stream the same numbers however the rows are cut into chunks, batches or processes:
the stream is divided into blocks of ``BLOCK`` rows, each with its own generator seeded by (seed, block), and a
chunk that covers part of a block draws the whole block and keeps its part. Sampling 1000 rows at once or 7 at a time,
on one process or on two, therefore gives the same rows. Numbers are drawn on the CPU, so devices agree too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 64
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Hash integers to a 63-bit seed (splitmix64 finaliser, Steele et al. 2014), so near seeds give unrelated streams."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


class Draws:
    """Draws for rows ``start … stop-1`` of the stream ``seed``; ``total`` rows share stratified numbers.

    Every method returns a tensor whose first dimension is ``len(self)`` rows, on ``device``.
    """

    def __init__(self, seed: int, start: int, stop: int, total: int | None = None, device: torch.device | str = "cpu") -> None:
        if not 0 <= start <= stop:
            raise ValueError(f"found rows {start}…{stop}: expected 0 ≤ start ≤ stop")
        self.seed, self.start, self.stop = int(seed), start, stop
        self.total = total if total is not None else stop
        self.device = torch.device(device)
        first = start // BLOCK
        self._offset = start - first * BLOCK
        self._blocks = range(first, max(first + 1, -(-stop // BLOCK)))
        self._generators: list[torch.Generator] = []  # made when first needed: many losses draw nothing
        self._shared = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def fork(self, stream: int) -> Draws:
        """An independent stream for the same rows (the k-th of K samples, say)."""
        return Draws(mix(self.seed, stream, 0x5EED), self.start, self.stop, self.total, self.device)

    def part(self, a: int, b: int) -> Draws:
        """The draws of rows ``a`` … ``b − 1`` of these, from the beginning of the stream."""
        return Draws(self.seed, self.start + a, self.start + b, self.total, self.device)

    def _rows(self, tail: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor, torch.Generator], object]) -> Tensor:
        if not self._generators:
            for block in self._blocks:
                self._generators.append(torch.Generator())
                self._generators[-1].manual_seed(mix(self.seed, block))
        whole = torch.empty(len(self._generators) * BLOCK, *tail, dtype=dtype)
        for part, generator in zip(whole.split(BLOCK), self._generators, strict=True):
            fill(part, generator)
        return whole[self._offset : self._offset + len(self)].to(self.device)

    def normal(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, (B, *tail)."""
        return self._rows(tail, dtype, lambda part, generator: part.normal_(generator=generator))

    def uniform(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), (B, *tail)."""
        return self._rows(tail, dtype, lambda part, generator: part.uniform_(generator=generator))

    def integers(self, high: int, *tail: int) -> Tensor:
        """Uniform integers in {0 … high-1}, int64 (B, *tail)."""
        return self._rows(tail, torch.int64, lambda part, generator: part.random_(0, high, generator=generator))

    def signs(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """±1 with equal probability (Rademacher), (B, *tail)."""
        return self.integers(2, *tail).to(dtype).mul_(2).sub_(1)

    def stratified(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), (B,), one in each of ``total`` equal cells (Kingma et al. 2021, arXiv:2107.00630).

        The cells are dealt to rows by a random shift with a stride coprime to ``total``, so neighbours differ.
        """
        self._shared += 1
        shift = mix(self.seed, self._shared, 0x57A7)
        stride = max(1, round(self.total * (math.sqrt(5) - 1) / 2))
        while math.gcd(stride, self.total) != 1:
            stride += 1
        cell = (torch.arange(self.start, self.stop) * stride + shift % self.total) % self.total
        jitter = self.uniform(dtype=torch.float64).cpu()
        # float32 rounds the last cell's end up to 1; the largest number below 1 keeps the interval half open
        values = ((cell + jitter) / self.total).to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2)
        return values.to(self.device)

    def categorical(self, logits: Tensor) -> Tensor:
        """Indices drawn from softmax(``logits``) (B, …, K) by the Gumbel-max trick: int64 (B, …)."""
        uniform = self.uniform(*logits.shape[1:], dtype=torch.float64).clamp_(min=1e-300)
        return (logits.double() - (-uniform.log()).log()).argmax(-1)
