"""p(y | x) for a discrete target y: softmax of a network's logits, trained by cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Condition
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch, Encodes, Model, Predicts, Prepares
from pushforward.core.schema import Schema


class Classifier(Model, Predicts, Encodes):
    """``look`` gives floats, ``body`` features (B, F), ``head`` logits (B, K). ``smoothing`` is label smoothing in training."""

    def __init__(self, schema: Schema, look: nn.Module, body: nn.Module, head: nn.Module, *, smoothing: float = 0.0) -> None:
        super().__init__(schema)
        if schema.target is None or not schema.target.discrete:
            raise RecipeError("a classifier needs a target that is a category: name one with target= (--target)")
        self.look, self.body, self.head, self.smoothing = look, body, head, smoothing

    def prepare(self, x: Tensor) -> None:
        if isinstance(self.look, Prepares):
            self.look.prepare(x)

    def logits(self, x: Tensor) -> Tensor:
        """(B, K)."""
        return self.head(F.silu(self.body(self.look(x)))).to(self.dtype)

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        if batch.target is None:
            raise ValueError("a classifier's batch needs a target")
        logits, target = self.logits(batch.x), batch.target.long()
        smoothing = self.smoothing if self.training else 0.0
        loss = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        return {"loss": loss, "error": (logits.argmax(1) != target).to(loss.dtype)}

    def predict(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Class probabilities, (B, K)."""
        return self.logits(x).softmax(1)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The features before the logits, (B, F)."""
        return torch.as_tensor(self.body(self.look(x))).to(self.dtype)
