"""Vector-quantised variational autoencoders (van den Oord et al. 2017, arXiv:1711.00937).

    y = encoder(x) (n, D);   c_i = argmin_k ‖y_i − e_k‖²;   z_i = e_{c_i};   x ~ p(x | z), c ~ p(c)
    loss = −log p(x | z) − log p(c) + β · mean_i ‖y_i − z_i‖²           gradients pass from z to y as if they were one

p(x) = Σ_c p(c) p(x | c) over all Kⁿ codes, of which the encoder names one: each term is positive, so

    log p(x) ≥ log p(c(x)) + log p(x | c(x))

is a lower bound, without randomness and of one term; more draws do not tighten it. The prior p(c) is an autoregressive model of
the codes, learned at the same time; to it the codes are data, through which nothing flows back.

The vectors e_k are not learned by gradients: each is the running mean of the y that chose it (appendix A.1; Razavi et al. 2019,
arXiv:1906.00446),

    N_k ← γ N_k + (1 − γ) n_k,    m_k ← γ m_k + (1 − γ) Σ y_i,    e_k = m_k / N_k

and one that hardly any y chooses starts anew at some y of the batch (Dhariwal et al. 2020, arXiv:2005.00341). The perplexity
exp(−Σ_k p_k log p_k) of the shares p = N/Σ N says how many are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition, Conditioner
from pushforward.core.gather import all_rows
from pushforward.core.model import Batch, Completes, Encodes, Model, Prepares, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.models.autoregressive import resampled
from pushforward.models.elements import Elements
from pushforward.models.latent_prior import CodePrior

_SETTLED = 0.75  # share of training after which no vector starts anew: the prior must know its codes


class Codebook(nn.Module):
    """``count`` K vectors of ``size`` D, averages with ``decay`` γ; one with less than ``revive`` times its fair share of the y
    starts anew."""

    vectors: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(self, count: int, size: int, decay: float, revive: float) -> None:
        super().__init__()
        if count < 2:
            raise ValueError(f"found {count} codes: expected at least 2")
        if not 0 <= decay < 1 or not 0 <= revive < 1:
            raise ValueError(f"found decay {decay} and revive {revive}: expected numbers in [0, 1)")
        self.decay, self.revive = decay, revive
        self.register_buffer("vectors", torch.randn(count, size))
        self.register_buffer("sizes", torch.ones(count))
        self.register_buffer("sums", self.vectors.clone())

    def start(self, y: Tensor) -> None:
        """Vectors at places spread over y (N, D)."""
        places = torch.arange(len(self.vectors), device=y.device) * max(1, len(y) // len(self.vectors)) % len(y)
        self.vectors.copy_(y[places])
        self.sizes.fill_(1.0)
        self.sums.copy_(self.vectors)

    def nearest(self, y: Tensor) -> Tensor:
        """The code of each y (…, D): int64 (…)."""
        with torch.autocast(y.device.type, enabled=False):  # half precision would choose otherwise than later, without it
            # ‖y − e‖² without what is the same for all e
            return (self.vectors.square().sum(1) - 2 * y @ self.vectors.T).argmin(-1)

    def tally(self, y: Tensor, codes: Tensor) -> Tensor:
        """How many y (N, D) chose each code, and their sum: (K, 1 + D)."""
        found = y.new_zeros(len(self.vectors), 1 + y.shape[1])
        return found.index_add_(0, codes, torch.cat([y.new_ones(len(y), 1), y], 1))

    def average(self, tally: Tensor, fresh: Tensor, reviving: Tensor) -> None:
        """One step with the ``tally`` of a batch; where ``reviving`` is 1, not 0, the j-th vector that is hardly used starts
        anew at row j of ``fresh``."""
        self.sizes.lerp_(tally[:, 0], 1 - self.decay)
        self.sums.lerp_(tally[:, 1:], 1 - self.decay)
        fair = self.sizes.mean()
        idle = self.sizes < reviving * self.revive * fair
        chosen = fresh[(idle.long().cumsum(0) - 1).clamp(min=0) % len(fresh)]
        self.sizes.copy_(torch.where(idle, fair, self.sizes))
        self.sums.copy_(torch.where(idle[:, None], fair * chosen, self.sums))
        # one that was never chosen has no mean: it stays where it is
        seen = (self.sizes > 1e-12)[:, None]
        self.vectors.copy_(torch.where(seen, self.sums / self.sizes.clamp(min=1e-12)[:, None], self.vectors))

    def perplexity(self) -> Tensor:
        """How many codes are used, in [1, K]."""
        shares = self.sizes / self.sizes.sum()
        return (-(shares * shares.clamp(min=1e-30).log()).sum()).exp()


class VQVAE(Model, Samples, Scores, Encodes, Completes):
    """``encoder``(input, context) → (B, n·D) or (B, n, D); ``decoder``(z (B, n·D), and the context) → (B, P); ``prior`` over
    the n codes. ``commitment`` is the weight β of the encoder's distance from its codes."""

    density_kind = "lower_bound"
    weights_are_exact = False
    done: Tensor

    def __init__(
        self,
        schema: Schema,
        elements: Elements,
        look: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        conditioner: Conditioner,
        codebook: Codebook,
        prior: CodePrior,
        *,
        commitment: float = 0.25,
        particles: int = 64,
    ) -> None:
        super().__init__(schema)
        if commitment < 0:
            raise ValueError(f"commitment must be at least 0, found {commitment}")
        self.elements, self.look, self.encoder, self.decoder = elements, look, encoder, decoder
        self.conditioner, self.codebook, self.prior, self.commitment = conditioner, codebook, prior, commitment
        self.particles = particles
        self.register_buffer("done", torch.ones(()), persistent=False)
        self._pending: tuple[Tensor, Tensor] | None = None

    @property
    def random(self) -> bool:
        """The bound is a function of x alone."""
        return False

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        self.elements.prepare(x)
        if isinstance(self.look, Prepares):
            self.look.prepare(x)
        some = x[:: max(1, len(x) // 1024)]
        self.codebook.start(self._encoded(some, None).flatten(0, 1))

    def before_round(self, done: float) -> None:
        self.done.fill_(done)

    # codes

    def _encoded(self, x: Tensor, condition: Condition | None) -> Tensor:
        """y, (B, n, D)."""
        y = self.encoder(self.look(x), self.conditioner(condition, len(x))).to(self.dtype)
        return y.reshape(len(x), self.prior.places, -1)

    def codes(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The codes of x, int64 (B, n)."""
        return self.codebook.nearest(self._encoded(x, condition))

    def params(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Parameters (B, P) of p(x | z), z (B, n, D)."""
        vector, z = self.conditioner(condition, len(z)).vector, z.flatten(1)
        return self.decoder(z if vector is None else torch.cat([z, vector], 1)).to(self.dtype)

    def given_codes(self, x: Tensor, codes: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """log p(x | c) and log p(c), each (B,)."""
        log_likelihood = self.elements.log_prob(self.params(self.codebook.vectors[codes], condition), x)
        return log_likelihood, self.prior.log_prob(codes, self.conditioner(condition, len(x)))

    # learning

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        condition = batch.condition or None
        y = self._encoded(batch.x, condition)
        with torch.no_grad():
            codes = self.codebook.nearest(y)
            z = self.codebook.vectors[codes]
            if self.training:
                self._remember(y, codes, batch.draws)
        distortion = -self.elements.log_prob(self.params(y + (z - y).detach(), condition), batch.x)
        rate = -self.prior.log_prob(codes, self.conditioner(condition, len(y)))
        commitment = (y - z).square().sum(2).mean(1)
        terms = {"distortion": distortion, "rate": rate, "commitment": commitment}
        perplexity = self.codebook.perplexity().to(rate.dtype).expand(len(y))
        return {"loss": distortion + rate + self.commitment * commitment, **terms, "perplexity": perplexity}

    def _remember(self, y: Tensor, codes: Tensor, draws: Draws) -> None:
        """What ``after_step`` averages, of all processes; and rows of y in random order, the same on each of them."""
        tally = all_rows(self.codebook.tally(y.flatten(0, 1), codes.flatten())[None]).sum(0)
        # numbers that belong to rows choose one y of each example, and the examples
        lot = draws.fork(0xDEAD).uniform(2, dtype=torch.float64)
        places = (lot[:, 0] * y.shape[1]).long()
        chosen = y[torch.arange(len(y), device=y.device), places]
        order = all_rows(lot[:, 1].contiguous()).argsort()
        fresh = all_rows(chosen)[order]
        if self._pending is not None:  # batches whose gradients are added up before a step
            tally = tally + self._pending[0]
        self._pending = tally, fresh

    @torch.no_grad()
    def after_step(self, turn: str) -> None:
        if self._pending is not None:
            tally, fresh = self._pending
            self.codebook.average(tally, fresh, (self.done < _SETTLED).to(tally.dtype))
            self._pending = None

    # verbs

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        log_likelihood, log_prior = self.given_codes(x, self.codes(x, condition), condition)
        return log_likelihood + log_prior

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        """``n`` examples; a ``temperature`` below 1 prefers likely codes, 0 takes the likeliest one by one."""
        codes = self.prior.sample(draws.fork(0), self.conditioner(condition, n), temperature)
        return self.elements.sample(self.params(self.codebook.vectors[codes], condition), draws)

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """y, before it is rounded to codes (``codes`` says to which): (B, n·D)."""
        return self._encoded(x, condition).flatten(1)

    @torch.no_grad()
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """One of ``particles`` codes drawn from their prior is kept, each as likely as it makes what is observed, and the rest
        drawn given that: importance resampling, which is p(rest | observed) as the particles grow in number."""
        e, known = self.elements.take_apart(torch.where(observed, x, torch.zeros_like(x))), self.elements.spread(observed)
        context = self.conditioner(condition, len(x))

        def propose(stream: Draws) -> tuple[Tensor, Tensor]:
            codes = self.prior.sample(stream, context)
            return codes, self.elements.log_prob_elements(self.params(self.codebook.vectors[codes], condition), e)

        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        best = resampled(propose, known, draws, self.particles, none)
        guess = self.elements.sample_present(self.params(self.codebook.vectors[best], condition), draws, observed)
        return torch.where(observed, x, guess.to(x.dtype))
