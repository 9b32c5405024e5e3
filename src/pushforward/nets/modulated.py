"""A residual net of SiLU units scaled and shifted by a moment (nets.mlp.TimeMLP), with its divergence in closed form.

    u_l = g_l ∘ (W_l h) + s_l,    a_l = u_l σ(u_l),    h ← [h +] a_l,    F = W h + b,    y = skip x + out F(scale x)
    ∂h ← [∂h +] φ'(u_l) ∘ g_l ∘ (W_l ∂h),    φ'(u) = σ(u) + u σ(u) (1 − σ(u)),    tr ∂y/∂x = skip D + out Σ_d W_d · ∂h/∂x_d

g_l = 1 + the layer's scale, and s_l = g_l b_l + its shift, are linear in the moment's embedding: those of all layers, at all
times that a solver is about to ask for, are one product. scale, skip and out make a network's output a velocity
(paths.denoiser): the first is part of g_1, the others stand behind the last layer's. Derivatives by D coordinates go through
the layers together with the values, D + 1 rows for one: as many products of matrices as the way back by autograd, and no graph.

In float32 on the CPU all of it is one kernel (``kernels.modulated``), whose reference is ``_plain``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.nets.linear import kernels_pay
from pushforward.nets.norm import as_it_runs

if TYPE_CHECKING:
    from pushforward.kernels.modulated import Weights

GROUP = 16  # columns of a moment belong to layers in whole groups of so many, as the kernel reads them


def _whole(n: int) -> int:
    return -(-n // GROUP) * GROUP


@dataclass(frozen=True)
class Modulated:
    """A net as it is between two changes of its weights; no gradient is kept.

    ``time`` embeds times (N,) as (N, E); ``of_moment`` (·, E) and ``bias_of_moment`` make a moment of the activated embedding.
    ``added`` says which layers have a skip around them.
    """

    time: nn.Module
    of_moment: Tensor
    bias_of_moment: Tensor
    weights: tuple[Tensor, ...]
    added: tuple[bool, ...]
    last: Tensor
    bias: Tensor
    kernel: Weights | None

    @classmethod
    @torch.no_grad()
    def of(cls, time: nn.Module, layers: Sequence[Any], modulation: Sequence[Any], last: Any) -> Modulated:
        """Of linear ``layers``, each with its ``modulation``, and the ``last``."""
        parts, constants = [], []
        for layer, m in zip(layers, modulation, strict=True):
            scale, shift = m.weight.chunk(2)
            scale_bias, shift_bias = m.bias.chunk(2)
            more = _whole(len(scale)) - len(scale)
            parts += [F.pad(v, (0, 0, 0, more)) for v in (scale, layer.bias[:, None] * scale + shift)]
            constants += [F.pad(v, (0, more)) for v in (1 + scale_bias, layer.bias * (1 + scale_bias) + shift_bias)]
        parts.append(last.weight.new_zeros(GROUP, parts[0].shape[1]))  # for skip and out
        constants.append(last.weight.new_zeros(GROUP))
        of_moment, constant = torch.cat(parts), torch.cat(constants)
        weights = tuple(layer.weight.detach() for layer in layers)
        added = tuple(i > 0 and w.shape[0] == w.shape[1] for i, w in enumerate(weights))
        w, b = last.weight.detach(), last.bias.detach()
        kernel = None
        if w.device.type == "cpu" and all(t.dtype == torch.float32 for t in (*weights, of_moment)) and kernels_pay():
            from pushforward.kernels.modulated import Weights

            kernel = Weights.of(weights, added, w, b, of_moment, constant)
        return cls(time, of_moment, constant, weights, added, w, b, kernel)

    @torch.no_grad()
    def moments(self, embedding: Tensor, scale: Tensor, skip: Tensor, out: Tensor) -> Tensor:
        """What layers need to know of the ``embedding`` (N, E) of times and conditions, and of numbers (N,): (N, ·)."""
        numbers = scale, skip, out
        if self.kernel is not None and all(t.dtype == torch.float32 for t in (embedding, *numbers)) and as_it_runs():
            from pushforward.kernels import modulated

            return modulated.moments(self.kernel, embedding, *numbers)
        found = torch.addmm(self.bias_of_moment, F.silu(embedding), self.of_moment.T)
        found[:, : _whole(len(self.weights[0]))] *= scale[:, None]
        found[:, -GROUP], found[:, 1 - GROUP] = skip, out
        return found

    @torch.no_grad()
    def __call__(
        self, x: Tensor, moments: Tensor, of: Tensor, *, value: bool = True, trace: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """y (B, outputs) if ``value``, and tr ∂y/∂x (B,) if ``trace``, of x (B, D) at ``moments``[``of``[i]], ``of`` (B,)."""
        if self.kernel is not None and x.dtype == moments.dtype == torch.float32 and as_it_runs():
            from pushforward.kernels import modulated

            return modulated.forward(self.kernel, x, moments, of, value=value, trace=trace)
        return self._plain(x, moments[of], value, trace)

    def _plain(self, x: Tensor, moments: Tensor, value: bool, trace: bool) -> tuple[Tensor | None, Tensor | None]:
        h, slopes, place = x, x.new_zeros(0), 0  # slopes: ∂h/∂x_d, (D, B, H)
        for i, (w, added) in enumerate(zip(self.weights, self.added, strict=True)):
            g, s = (moments[:, at : at + len(w)] for at in (place, place + _whole(len(w))))
            place += 2 * _whole(len(w))
            u = torch.addcmul(s, h @ w.T, g)
            sigma = torch.sigmoid(u)
            a = u * sigma
            if trace:
                through = w.T[:, None] if i == 0 else slopes @ w.T
                moved = torch.addcmul(sigma, a, 1 - sigma) * g * through
                slopes = slopes + moved if added else moved
            h = h + a if added else a
        skip, out = moments[:, -GROUP], moments[:, 1 - GROUP]
        y = out[:, None] * F.linear(h, self.last, self.bias) if value else None
        if y is not None and y.shape == x.shape:
            y = torch.addcmul(y, skip[:, None], x)
        total = torch.einsum("dbh,dh->b", slopes, self.last) if trace else None
        return y, None if total is None else torch.addcmul(skip * x.shape[1], out, total)
