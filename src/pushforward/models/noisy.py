"""p(y | x_t) of noisy data, which steers diffusion models towards a label (Dhariwal & Nichol 2021, arXiv:2105.05233).

    x = cos θ · preprocess.pull(x_0) + sin θ · ε,    log p(y | x, θ) = log softmax F(x, 2θ/π)_y

Every Gaussian path is this one up to the scale of x and the clock, so one classifier serves models of every schedule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Condition
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch, Model, Predicts
from pushforward.core.schema import Schema
from pushforward.core.shapes import over
from pushforward.core.transform import Compose
from pushforward.guidance.classifier import LogLikelihood


class NoisyClassifier(Model, Predicts):
    """``net``(x, t) gives features of x (B, *shape), whose mean over the dimensions ``places`` ``head`` turns into logits (B,
    K)."""

    def __init__(
        self,
        schema: Schema,
        preprocess: Compose,
        net: nn.Module,
        head: nn.Module,
        shape: tuple[int, ...],
        places: tuple[int, ...] = (),
    ) -> None:
        super().__init__(schema)
        if schema.target is None or not schema.target.discrete:
            raise RecipeError("a classifier needs a target that is a category: name one with target= (--target)")
        self.preprocess, self.net, self.head = preprocess, net, head
        self.shape, self.places = tuple(shape), places

    def prepare(self, x: Tensor) -> None:
        self.preprocess.prepare(x)

    def logits(self, x: Tensor, clock: Tensor) -> Tensor:
        """(B, K) of x (B, *shape) on the circle at ``clock`` (B,) = 2θ/π."""
        features = self.net(x, clock)
        features = features.mean(self.places) if self.places else features
        return self.head(F.silu(features)).to(self.dtype)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        if batch.target is None:
            raise ValueError("a classifier's batch needs a target")
        y = self.preprocess.pull(batch.x, None, batch.draws)[0].to(self.dtype)
        clock = batch.draws.stratified(dtype=y.dtype)
        angle = over(0.5 * math.pi * clock, y)
        x = angle.cos() * y + angle.sin() * batch.draws.normal(*self.shape, dtype=y.dtype)
        logits, target = self.logits(x, clock), batch.target.long()
        return {
            "loss": F.cross_entropy(logits, target, reduction="none"),
            "error": (logits.argmax(1) != target).to(logits.dtype),
        }

    def predict(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Class probabilities (B, K) of clean data."""
        y = self.preprocess.pull(x)[0].to(self.dtype)
        return self.logits(y, torch.zeros(len(y), dtype=y.dtype, device=y.device)).softmax(1)

    def log_likelihood(self, target: Tensor) -> LogLikelihood:
        """(x, α, σ) → log p(y | x), (B,), for the labels ``target`` (B,)."""

        def found(x: Tensor, alpha: float, sigma: float) -> Tensor:
            clock = torch.full((len(x),), 2 / math.pi * math.atan2(sigma, alpha), dtype=x.dtype, device=x.device)
            logits = self.logits(x / math.hypot(alpha, sigma), clock)
            return logits.log_softmax(1).gather(1, target.long()[:, None])[:, 0]

        return found
