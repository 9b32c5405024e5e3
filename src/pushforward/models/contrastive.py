"""SimCLR: representations that tell an example's two views apart from all other examples (Chen et al. 2020, arXiv:2002.05709).

    ℓ_i = −log exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ),    s = cosine similarity of projections, j the other view of i

Negatives come from the whole batch of all processes, with gradients, so that two processes train as one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Condition
from pushforward.core.gather import all_rows, rank
from pushforward.core.model import Batch, Encodes, Model, Prepares
from pushforward.core.schema import Schema
from pushforward.models.views import FeatureViews


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The normalised-temperature cross-entropy of views ``a`` and ``b`` (B, D), for each of this process's examples, (B,)."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    every_a, every_b = all_rows(a), all_rows(b)
    n = len(every_a)
    own = rank() * len(a) + torch.arange(len(a), device=a.device)
    every = torch.cat([every_a, every_b])
    total = a.new_zeros(len(a))
    for view, itself, other in ((a, own, own + n), (b, own + n, own)):
        similarity = view @ every.T / temperature
        similarity = similarity.scatter(1, itself[:, None], float("-inf"))
        total = total + F.cross_entropy(similarity, other, reduction="none") / 2
    return total


class SimCLR(Model, Encodes):
    """``look`` gives floats, ``views`` two random views of them, ``encoder`` the representation, ``head`` its projection."""

    def __init__(
        self,
        schema: Schema,
        look: nn.Module,
        views: nn.Module,
        encoder: nn.Module,
        head: nn.Module,
        *,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(schema)
        self.look, self.views, self.encoder, self.head, self.temperature = look, views, encoder, head, temperature

    def prepare(self, x: Tensor) -> None:
        if isinstance(self.look, Prepares):
            self.look.prepare(x)
        if isinstance(self.views, FeatureViews):
            self.views.prepare(self.look(x))

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        x = self.look(batch.x)
        a, b = (self.head(self.encoder(self.views(x, batch.draws))).to(self.dtype) for _ in range(2))
        return {"loss": nt_xent(a, b, self.temperature)}

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.encoder(self.look(x)).to(self.dtype)
