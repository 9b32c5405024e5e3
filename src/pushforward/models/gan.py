"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028).

    critic:     min_D  E D(G(z)) − E D(y) + λ E (‖∇_ŷ D(ŷ)‖ − 1)²,     ŷ on the line between y and G(z)
    generator:  min_G  −E D(G(z))

The critic's gap E D(y) − E D(G(z)) estimates the Wasserstein-1 distance. There is no density.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.model import Batch, Model, Samples, Turn
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import over
from pushforward.core.transform import Transform


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients are recorded for the parameters of ``module``."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class WGAN(Model, Samples):
    """``generator``(B, latent + context) → y, ``critic``(y, context) → (B, 1), y = ``preprocess``.pull(x) of ``shape``."""

    comparable = False

    def __init__(
        self,
        schema: Schema,
        preprocess: Transform,
        generator: nn.Module,
        critic: nn.Module,
        conditioners: tuple[Conditioner, Conditioner],
        shape: tuple[int, ...],
        *,
        latent: int,
        penalty: float = 10.0,
        critic_steps: int = 5,
    ) -> None:
        super().__init__(schema)
        self.preprocess, self.generator, self.critic = preprocess, generator, critic
        self.generator_conditioner, self.critic_conditioner = conditioners
        self.shape, self.latent, self.penalty = tuple(shape), latent, penalty
        betas = (0.0, 0.9)
        self.turns = (
            Turn("critic", ("critic", "critic_conditioner"), critic_steps, betas=betas),
            Turn("generator", ("generator", "generator_conditioner"), 1, betas=betas),
        )

    def prepare(self, x: Tensor) -> None:
        self.preprocess.prepare(x)

    def generate(self, z: Tensor, condition: Condition | None) -> Tensor:
        """Latents (B, L) → y (B, *shape)."""
        vector = self.generator_conditioner(condition, len(z)).vector
        y = self.generator(z if vector is None else torch.cat([z, vector], 1))
        return y.to(self.dtype).view(len(z), *self.shape)

    def compile_parts(self) -> None:
        """The generator alone: the penalty differentiates the critic's gradient, which compiled code cannot."""
        self.generator.compile()

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        z = batch.draws.normal(self.latent, dtype=self.dtype)
        if turn == "generator":
            with frozen(self.critic), frozen(self.critic_conditioner):
                context = self.critic_conditioner(condition, len(z))
                return {"loss": -self._judge(self.generate(z, condition), context)}
        with torch.no_grad():
            fake = self.generate(z, condition)
            real = self.preprocess.pull(batch.x, None, batch.draws)[0].to(self.dtype).view_as(fake)
        context = self.critic_conditioner(condition, len(z))
        gap = self._judge(real, context) - self._judge(fake, context)
        with torch.enable_grad():
            mix = over(batch.draws.uniform(dtype=real.dtype), real)
            between = (mix * real + (1 - mix) * fake).requires_grad_()
            score = self._judge(between, context)
            (slope,) = torch.autograd.grad(score.sum(), between, create_graph=torch.is_grad_enabled() and self.training)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square()
        return {"loss": self.penalty * penalty - gap, "wasserstein": gap, "penalty": penalty}

    def _judge(self, y: Tensor, context: Context) -> Tensor:
        return self.critic(y, context).to(self.dtype)[:, 0]

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        z = temperature * draws.normal(self.latent, dtype=self.dtype)
        return self.preprocess.push(self.generate(z, condition))
