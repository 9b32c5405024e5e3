"""Generative adversarial networks: a generator y = G(z), z ~ N(0, 1), trained against a critic D that tells y from G(z).

    critic:     min_D  E ℓ_D(D(y), D(G(z))) + Σ λ_k E price_k(‖∇D‖²)
    generator:  min_G  E ℓ_G(D(y), D(G(z)))

The pairs (ℓ_D, ℓ_G) and the penalties are values (models/adversarial_losses): a paper is a choice of them. There is no density.

With Wasserstein losses and a D of slope 1 at most the critic's gap E D(y) − E D(G(z)) estimates the Wasserstein-1 distance
(Arjovsky et al. 2017, arXiv:1701.07875). What keeps D's slope down is a penalty, weights clipped to [−c, c] or weights
normalised by their largest singular value (nets/spectral).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from pushforward.models.adversarial_losses import Objective, Penalty
from pushforward.models.collapse import DualBound, dual_bound, symptoms
from pushforward.nets.spectral import advance

Head = Callable[[Tensor, Draws, bool], Tensor]
"""What the generator gives (B, R), random numbers and whether categories shall be decided, to y (B, …)."""


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No gradients are recorded for the parameters of ``modules``."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class GAN(Model, Samples):
    """``generator``(B, latent + context) → raw, y = ``head``(raw); ``critic``(y, context) → (B, 1).

    y = ``preprocess``.pull(x) of ``shape``. ``clip`` c keeps the critic's weights in [−c, c]; None does not. Both players take
    the share ``pace`` of the learning rate.
    """

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
        objective: Objective,
        penalties: Sequence[Penalty] = (),
        clip: float | None = None,
        critic_steps: int = 1,
        betas: tuple[float, float] = (0.0, 0.9),
        head: Head | None = None,
        pace: float = 1.0,
    ) -> None:
        super().__init__(schema)
        self.preprocess, self.generator, self.critic = preprocess, generator, critic
        self.generator_conditioner, self.critic_conditioner = conditioners
        self.shape, self.latent, self.head = tuple(shape), latent, head
        self.objective, self.clip = objective, clip
        self.penalties = tuple(penalty for penalty in penalties if penalty.weight)
        self.turns = (
            Turn("critic", ("critic", "critic_conditioner"), critic_steps, pace, betas),
            Turn("generator", ("generator", "generator_conditioner"), 1, pace, betas),
        )

    def prepare(self, x: Tensor) -> None:
        self.preprocess.prepare(x)

    def generate(self, draws: Draws, condition: Condition | None, *, temperature: float = 1.0, decided: bool = False) -> Tensor:
        """y (B, *shape); with ``decided`` categories are one-hot, else as soft as the head makes them."""
        z = temperature * draws.normal(self.latent, dtype=self.dtype)
        vector = self.generator_conditioner(condition, len(z)).vector
        y = self.generator(z if vector is None else torch.cat([z, vector], 1)).to(self.dtype)
        return (y if self.head is None else self.head(y, draws, decided)).view(len(z), *self.shape)

    def seen(self, x: Tensor, draws: Draws) -> Tensor:
        """Codes (B, …) as the critic sees them, y (B, *shape); a missing number is a 0 beside its indicator."""
        return self.preprocess.pull(x, None, draws)[0].to(self.dtype).view(len(x), *self.shape).nan_to_num()

    def compile_parts(self) -> None:
        """The generator alone: the penalty differentiates the critic's gradient, which compiled code cannot."""
        self.generator.compile()

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        return {"critic": self._critic_loss, "generator": self._generator_loss}[turn](batch, batch.condition or None)

    def _generator_loss(self, batch: Batch, condition: Condition | None) -> dict[str, Tensor]:
        with frozen(self.critic, self.critic_conditioner):
            context = self.critic_conditioner(condition, len(batch.x))
            fake = self._judge(self.generate(batch.draws, condition), context)
            # an unpaired loss looks at the generated ones alone
            real = self._judge(self.seen(batch.x, batch.draws), context) if self.objective.paired else fake
            return {"loss": self.objective.generator(real, fake)}

    def _critic_loss(self, batch: Batch, condition: Condition | None) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generate(batch.draws, condition)
            places = {"real": self.seen(batch.x, batch.draws), "fake": fake}
        steep = {penalty.place for penalty in self.penalties}
        if "between" in steep:
            mix = over(batch.draws.uniform(dtype=self.dtype), fake)
            places["between"] = mix * places["real"] + (1 - mix) * fake
        context = self.critic_conditioner(condition, len(fake))
        # the critic runs once over what needs no slope and once over what does: fewer and larger products
        scores = self._judge_all({name: y for name, y in places.items() if name not in steep}, context)
        slopes: dict[str, Tensor] = {}
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            sloped = {name: places[name].requires_grad_() for name in places if name in steep}
            found = self._judge_all(sloped, context)
            if sloped:
                total = torch.stack(list(found.values())).sum()
                each = torch.autograd.grad(total, list(sloped.values()), create_graph=wanted)
                slopes = dict(zip(sloped, each, strict=True))
        scores |= found
        real, fake = scores["real"], scores["fake"]
        terms = {"loss": self.objective.critic(real, fake), self.objective.gap: real - fake}
        for penalty in self.penalties:
            price = penalty.price(slopes[penalty.place].flatten(1).square().sum(1))
            terms["loss"] = terms["loss"] + penalty.weight * price
            terms[penalty.name] = price
        return terms if wanted else {name: term.detach() for name, term in terms.items()}

    def _judge(self, y: Tensor, context: Context) -> Tensor:
        return self.critic(y, context).to(self.dtype)[:, 0]

    def _judge_all(self, places: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        """Scores (B,) of several batches of the same ``context`` in one run of the critic."""
        if not places:
            return {}
        scores = self._judge(torch.cat(list(places.values())), Context.cat([context] * len(places)))
        return dict(zip(places, scores.chunk(len(places)), strict=True))

    @torch.no_grad()
    def after_step(self, turn: str) -> None:
        """Clips the critic's weights and brings its singular values up to date."""
        if turn != "critic":
            return
        if self.clip is not None:
            for part in (self.critic, self.critic_conditioner):
                for p in part.parameters():
                    p.clamp_(-self.clip, self.clip)
        advance(self.critic)

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        return self.preprocess.push(self.generate(draws, condition, temperature=temperature, decided=True))

    @torch.no_grad()
    def critic_distance(self, x: Tensor, draws: Draws, condition: Condition | None = None) -> DualBound:
        """What the critic knows of the Wasserstein-1 distance of the model from the data, in the geometry of y.

        Codes ``x`` (B, …) are compared with as many generated examples of the same ``condition``s. The gap of the mean
        scores is divided by the critic's Lipschitz constant, estimated as its steepest rise between any generated and any real
        example; so it is never more than the exact distance of the two sets (see ``dual_bound``).
        """
        real, fake = self.seen(x, draws), self.generate(draws, condition, decided=True)
        scores = self._judge_all({"real": real, "fake": fake}, self.critic_conditioner(condition, len(x)))
        return dual_bound(real, fake, scores["real"], scores["fake"])

    def warnings(self, x: Tensor, draws: Draws, condition: Condition | None = None) -> list[str]:
        """Sentences for the report: modes left out, samples all alike, a critic that has won; each says what to try next."""
        with torch.no_grad():
            real, fake = self.seen(x, draws), self.generate(draws, condition, decided=True)
            scores = self._judge_all({"real": real, "fake": fake}, self.critic_conditioner(condition, len(x)))
        return symptoms(real, fake, scores["real"], scores["fake"], self.objective)
