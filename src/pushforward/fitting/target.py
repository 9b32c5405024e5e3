"""An unnormalised density p̃ given as a function: checked at every call, and where about on the line it is.

A flow is fitted from a start that has the right place and scale, and along a bridge r^{1−β} p̃^β from a wide normal r to p̃,
which keeps it from settling on the first high place it meets. Place and scale are moments of p by importance weights of draws
from normals near it, which the reverse KL finds (Kucukelbir et al. 2016, arXiv:1603.00788).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pushforward.core.errors import DataError
from pushforward.core.random import Draws, mix
from pushforward.metrics.importance import Importance, importance
from pushforward.models.flow import Flow
from pushforward.transforms.support import Support

LogDensity = Callable[[Tensor], Tensor]
FLAT = 0.3  # the power of p̃ at the start of the bridge
_SEARCH = 300  # steps of a search
_SPREAD = 4000  # points that stand for a normal distribution
_WIDE = 30.0  # deviation of the normal at the far end of the bridge in the search


class Target:
    """``log_density`` of points (B, D) of type ``dtype`` on ``device``, with its results checked."""

    def __init__(self, log_density: LogDensity, dtype: torch.dtype, device: torch.device) -> None:
        self.log_density, self.dtype, self.device = log_density, dtype, device

    def __call__(self, x: Tensor) -> Tensor:
        """log p̃ (B,); −∞ where there is none. Raises DataError for another shape, and with the point for NaN and +∞."""
        found = self.log_density(x.to(self.device, self.dtype))
        if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise DataError(
                f"log_density gave {what} for points of shape {tuple(x.shape)}: expected a tensor of shape ({len(x)},)"
            )
        self._refuse(x, found, found.isnan() | (found == math.inf))
        return found

    def learn(self, x: Tensor) -> Tensor:
        """log p̃ (B,), finite and with a gradient. Raises DataError where it is not."""
        found = self(x)
        if not found.requires_grad:
            raise DataError(
                "log_density gave numbers that do not depend on the points by torch operations: there is no gradient to follow"
            )
        self._refuse(x, found, found == -math.inf)
        return found

    def _refuse(self, x: Tensor, found: Tensor, bad: Tensor) -> None:
        if not bool(bad.any()):
            return
        at = int(bad.nonzero()[0])
        values = x[at].detach().flatten()
        point = ", ".join(f"{v:.4g}" for v in values[:6].tolist()) + (", …" if len(values) > 6 else "")
        raise DataError(
            f"log_density is {float(found[at].detach())} at ({point}), and as bad at {int(bad.sum())} of {len(x)} points: say "
            "where it is positive with bounds=, start nearer with points=, or give a finite low number there"
        )


class Place:
    """Where p is: mean and deviation of its coordinates u, in which the flow's bounds, if it has any, are at infinity."""

    def __init__(self, flow: Flow) -> None:
        self.size = flow.schema.example.size
        self.support = next((copy.deepcopy(m) for m in flow.modules() if isinstance(m, Support)), None)
        self.mean = torch.zeros(self.size, dtype=torch.float64, device=flow.device)
        self.std = torch.ones_like(self.mean)
        self.seen: Importance | None = None  # what the search saw of p

    def _push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return (u, torch.zeros_like(u[:, 0])) if self.support is None else self.support.push_scored(u)

    def _pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x, torch.zeros_like(x[:, 0])) if self.support is None else self.support.pull(x)

    def log_wide(self, x: Tensor) -> Tensor:
        """log r(x) of x (B, D), (B,), up to a constant: independent normals twice as wide as p."""
        u, score = self._pull(x)
        return score - 0.125 * ((u - self.mean) / self.std).square().sum(1)

    def take(self, points: Tensor) -> None:
        """The moments of ``points`` (N, D)."""
        u, _ = self._pull(points)
        std = u.std(0, unbiased=False)
        self.mean, self.std = u.mean(0), torch.where(std > 0, std, 1.0)

    def search(self, target: Target, seed: int) -> None:
        """The moments of p, by importance weights of draws from two normals: the one nearest to p, which may be at no more than
        its highest place, and the one nearest to a bridge between p and a very wide normal.

        The weights are flattened as far as it takes to leave a tenth of the draws effective. ``seen`` is what they say of Z.
        """
        wide = lambda u: 0.5 * (u / _WIDE).square().sum(1)
        normals = [
            self._nearest(lambda x, u: target.learn(x), mix(seed, 1)),
            self._nearest(lambda x, u: FLAT * target.learn(x) - (1 - FLAT) * wide(u), mix(seed, 2)),
        ]
        draws = Draws(mix(seed, 3), 0, _SPREAD, device=self.mean.device)
        with torch.no_grad():
            noise = [draws.fork(k).normal(self.size, dtype=torch.float64) for k in range(2)]
            u = torch.cat([mean + e @ factor.T for e, (mean, factor) in zip(noise, normals, strict=True)])
            log_q = torch.stack([_log_normal(u, mean, factor) for mean, factor in normals]).logsumexp(0) - math.log(2)
            x, score = self._push(u)
            log_w = target(x).double() - score - log_q
            self.seen = importance(log_w)
            weight, power = log_w.softmax(0), 1.0
            while 1 / weight.square().sum() < 0.1 * len(u):
                power *= 0.8
                weight = (power * log_w).softmax(0)
            self.mean = weight @ u
            self.std = (weight @ (u - self.mean).square()).sqrt()

    def _nearest(self, log_target: Callable[[Tensor, Tensor], Tensor], seed: int) -> tuple[Tensor, Tensor]:
        """Mean m and Cholesky factor L of the normal nearest to ``log_target``(x, u) by the reverse KL. The mean is sinh θ, so
        that far places are reached in few steps."""
        theta, log_diagonal = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        lower = torch.zeros_like(self.mean.diag())
        learned = [t.requires_grad_() for t in (theta, log_diagonal, lower)]
        optimiser = torch.optim.Adam(learned, lr=0.1)
        for step in range(_SEARCH):
            for group in optimiser.param_groups:
                group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / _SEARCH))
            noise = Draws(mix(seed, step), 0, 64, device=theta.device).normal(self.size, dtype=torch.float64)
            u = theta.sinh() + noise @ (lower.tril(-1) + log_diagonal.exp().diag()).T
            x, score = self._push(u)
            loss = (score - log_target(x, u).double()).mean() - log_diagonal.sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if bool(nn.utils.clip_grad_norm_(learned, 10.0).isfinite()):
                optimiser.step()
        with torch.no_grad():
            return theta.sinh(), lower.tril(-1) + log_diagonal.exp().diag()

    def points(self) -> Tensor:
        """x (N, D) whose u have exactly the quantiles of a normal in every coordinate, in an order of its own."""
        z = torch.special.ndtri((torch.arange(_SPREAD, dtype=torch.float64, device=self.mean.device) + 0.5) / _SPREAD)
        orders = Draws(0x0DE4, 0, _SPREAD, device=z.device).uniform(self.size).argsort(0)
        return self._push(self.mean + self.std * z[orders])[0]


def _log_normal(u: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """log N(u; m, LLᵀ) of u (B, D), (B,)."""
    noise = torch.linalg.solve_triangular(factor, (u - mean).T, upper=False)
    return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(0) - factor.diag().log().sum()
