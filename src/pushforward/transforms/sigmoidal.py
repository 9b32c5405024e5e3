"""Sums of sigmoids: the deep sigmoidal flow of neural autoregressive flows (Huang et al. 2018, arXiv:1804.00779).

    S(x) = logit Σ_k w_k σ(u_k),   u_k = a_k x + b_k,   a_k > 0,  Σ_k w_k = 1,      z = (1 − ε) S(x) + ε x

Under a logistic base S alone is a mixture of logistics, and with more components it comes near any increasing function.
Between steep sigmoids far from each other S is flat to the last digit, which no inverse can undo: ε gives a least slope.

With log P = log Σ w σ(u) and log Q = log Σ w σ(−u) everything is finite: S = log P − log Q, and

    S' = Σ_k a_k p_k q_k / w_k,   p_k = w_k σ(u_k) / P,   q_k = w_k σ(−u_k) / Q,

products of shares, which lose nothing in the tails, where log σ(u) + log σ(−u) − log P − log Q would be a difference of huge
numbers. There S becomes a straight line. As P is an average of the
σ(u_k), S lies between the smallest and the largest u_k, which brackets the inverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pushforward.transforms.monotone import Monotone, soft_clip
from pushforward.transforms.rootfinding import Increasing, invert


def _shares(terms: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_k exp ``terms`` (B, D), and the logarithm of each term's share in it (B, K, D), exact where the terms are huge."""
    top = terms.detach().amax(1, keepdim=True)
    rest = terms - top
    whole = rest.logsumexp(1, keepdim=True)
    return (top + whole)[:, 0], rest - whole


class Sigmoids(Monotone):
    """K ``components``, P = 3K: K scales (log a, clipped), K shifts b, K logits of w. Slopes are between ε = ``slope`` and 1/ε.

    Parameters of zero make every sigmoid the same one. So that training can tell them apart, a parameter shifts its sigmoid
    the further the higher its number: ½ to 4 times.
    """

    gain: Tensor

    def __init__(self, components: int = 8, slope: float = 1e-2) -> None:
        super().__init__()
        if components < 1 or not 0 < slope < 1:
            raise ValueError(
                f"found {components} components and slope {slope}: expected 1 or more, and a slope between 0 and 1"
            )
        self.components, self.slope, self.params = components, slope, 3 * components
        self.register_buffer("gain", torch.linspace(0.5, 4.0, components)[:, None], persistent=False)

    def _weights(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log a, b and log w, (B, K, D) each."""
        log_a, b, w = params.split(self.components, 1)
        return soft_clip(log_a, -math.log(self.slope)), b * self.gain.to(b), F.log_softmax(w, 1)

    def _map(self, log_a: Tensor, b: Tensor, log_w: Tensor) -> Increasing:
        a = log_a.exp()

        def f(x: Tensor) -> tuple[Tensor, Tensor]:
            u = a * x[:, None] + b
            log_up = F.logsigmoid(u)
            whole_p, log_p = _shares(log_w + log_up)
            whole_q, log_q = _shares(log_w + (log_up - u))
            z = (1 - self.slope) * (whole_p - whole_q) + self.slope * x
            log_slope = (log_a + log_p + log_q - log_w).logsumexp(1)
            return z, torch.logaddexp(math.log1p(-self.slope) + log_slope, torch.full_like(x, math.log(self.slope)))

        return f

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        z, log_slope = self._map(*self._weights(params))(x)
        return z, log_slope.sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        log_a, b, log_w = self._weights(params)
        with torch.no_grad():
            crossings = (z[:, None] - (1 - self.slope) * b) / (self.slope + (1 - self.slope) * log_a.exp())
        return invert(self._map(log_a, b, log_w), z, crossings.amin(1), crossings.amax(1))
