"""Flows: the pushforward of a base distribution through a transform.

    log p(x) = log p_base(z) + V(x, z),   z = pull(x)

trained by maximum likelihood, or by sampling (fitting/density). With bijections the density is exact; an ODE makes it exact up
to its tolerance, stochastic maps (dequantisation) a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pushforward.core.context import Condition, Conditioner, Context
from pushforward.core.distribution import Distribution, Normal
from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch, Completes, Encodes, Interpolates, Model, Samples, Scores
from pushforward.core.random import Draws
from pushforward.core.schema import Schema
from pushforward.core.shapes import spherical
from pushforward.core.transform import Compose, Elementwise, Inverse, Transform
from pushforward.solvers.langevin import mala
from pushforward.transforms.autoregressive import Autoregressive


class Flow(Model, Samples, Scores, Encodes, Completes, Interpolates):
    """``base`` pushed through ``transform`` and then ``preprocess``, given the schema's conditions through ``conditioner``.

    Element-wise maps at the data's end may as well be part of ``transform``. ``density_kind`` says what V is, ``exact`` or
    ``ode``; stochastic maps make either a bound, unless ``tight`` declares that they leave no gap. ``weights_are_exact`` as in
    ``Scores``. ``completion_steps`` are those of the chain that completes.
    """

    def __init__(
        self,
        schema: Schema,
        base: Distribution,
        transform: Transform,
        conditioner: Conditioner,
        *,
        preprocess: Compose | None = None,
        tight: bool = False,
        density_kind: str = "exact",
        weights_are_exact: bool = True,
        completion_steps: int = 200,
    ) -> None:
        super().__init__(schema)
        full = transform if preprocess is None else Compose([*_parts(transform), *preprocess])
        self.base, self.transform, self.conditioner = base, full, conditioner
        self.density_kind = "lower_bound" if full.stochastic and not tight else density_kind
        self.weights_are_exact = weights_are_exact
        self.completion_steps = completion_steps
        self._pull: Callable[[Tensor, Context | None, Draws | None], tuple[Tensor, Tensor]] = self.transform.pull

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        self.transform.prepare(x, self.conditioner(None, 1))

    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        if self.transform.regularised:
            context = self.conditioner(batch.condition, len(batch.x))
            z, score, penalty = self.transform.pull_regularised(batch.x, context, batch.draws)
            surprise = -self.base.log_prob(z) - score
            return {"loss": surprise + penalty, "surprise": surprise}
        return {"loss": -self.log_prob(batch.x, batch.condition, batch.draws)}

    def compile_parts(self) -> None:
        """The flow's maps between the noise and the preprocessing are compiled as one."""
        flow, preprocess = self._split()
        compiled = torch.compile(flow.pull)

        def pull(x: Tensor, context: Context | None, draws: Draws | None) -> tuple[Tensor, Tensor]:
            y, first = preprocess.pull(x, context, draws)
            z, score = compiled(y, context) if not flow.stochastic else compiled(y, context, draws)
            return z, first + score

        self._pull = pull

    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        z, score = self._pull(x, self.conditioner(condition, len(x)), draws)
        return self.base.log_prob(z) + score

    def sample(self, n: int, condition: Condition | None, draws: Draws, *, temperature: float = 1.0, **options: Any) -> Tensor:
        """``n`` examples; ``temperature`` scales the noise about the centre of the base."""
        if not temperature >= 0:
            raise RecipeError(f"temperature must be at least 0, found {temperature}")
        z = self.base.sample(draws, dtype=self.dtype, temperature=temperature)
        return self.transform.push(z, self.conditioner(condition, n))

    def sample_and_log_prob(self, n: int, condition: Condition | None, draws: Draws) -> tuple[Tensor, Tensor]:
        """``n`` examples and log p of each, (n,), in one pass. Gradients flow through both to the parameters.

        Where the map is stochastic, which has no gradients, the second is a draw of ``log_prob``.
        """
        if self.transform.stochastic:
            x = self.sample(n, condition, draws)
            return x, self.log_prob(x, condition, draws)
        z = self.base.sample(draws, dtype=self.dtype)
        x, score = self.transform.push_scored(z, self.conditioner(condition, n))
        return x, self.base.log_prob(z) + score

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        return self.transform.pull(x, self.conditioner(condition, len(x)))[0].flatten(1)

    def interpolate(
        self, x0: Tensor, x1: Tensor, steps: int, condition: Condition | None = None, draws: Draws | None = None
    ) -> Tensor:
        """(B, steps, …): examples on the way from each ``x0`` to its ``x1``, both ends included.

        Under a normal base the way bends, z_t = (sin (1−t)ω z_0 + sin tω z_1) / sin ω with ω the angle between them (White
        2016, arXiv:1609.04468): most noise has about the same length, and a straight way leads through shorter noise, of which
        the flow has seen none. Other bases need not have such a shell, and the way is straight.
        """
        context = self.conditioner(condition, len(x0))
        z0, z1 = (self.transform.pull(x, context, draws)[0] for x in (x0, x1))
        bend = spherical if isinstance(self.base, Normal) else torch.lerp
        ways = [bend(z0, z1, float(t)) for t in torch.linspace(0, 1, steps, dtype=torch.float64)]
        return torch.stack([self.transform.push(z, context) for z in ways], 1)

    # completion

    def _split(self) -> tuple[Compose, Compose]:
        """The transform in two: what mixes coordinates, and the element-wise and stochastic maps between that and the data."""
        parts = _parts(self.transform)
        at = len(parts)
        while at and (isinstance(parts[at - 1], Elementwise) or parts[at - 1].stochastic):
            at -= 1
        return Compose(parts[:at]), Compose(parts[at:])

    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """``x`` with the entries where ``observed`` is false replaced by draws from p(rest | observed).

        Exact where what is observed comes first in the order of every layer, or where nothing is: the latents of what is
        observed are then known, and the others are drawn. Elsewhere a Markov chain moves what is not observed
        (solvers/langevin). Levels and numbers on a grid that are observed are held at one draw of their dequantised values.
        """
        flow, preprocess = self._split()
        context = self.conditioner(condition, len(x))
        y, _ = preprocess.pull(torch.where(observed, x, torch.zeros_like(x)), context, draws)
        y, known = y.to(self.dtype), observed
        for part in reversed(preprocess):  # whatever a dequantiser looks at, its noise belongs to single numbers
            known = part.spread(known) if isinstance(part, Elementwise) else known
        shape = (-1, *[1] * (y.dim() - 1))
        exact = ~known.flatten(1).any(1)
        orders = _orders(flow)
        if orders is not None and self.base.independent:
            exact = exact | torch.stack([_first(known, order) for order in orders] or [torch.ones_like(exact)]).all(0)
        if bool(exact.any()):
            drawn = self.base.sample(draws.fork(0), dtype=self.dtype)
            z = torch.where(known.view_as(drawn), flow.pull(y, context, draws.fork(1))[0], drawn)
            y = torch.where(known | ~exact.view(shape), y, flow.push(z, context))
        if not bool(exact.all()):
            y = self._chain(flow, y, ~known & ~exact.view(shape), context, draws)
        return torch.where(observed, x, preprocess.push(y, context).to(x.dtype))

    def _chain(self, flow: Compose, y: Tensor, free: Tensor, context: Context, draws: Draws) -> Tensor:
        """``y`` with its ``free`` coordinates drawn given the others, by a chain that starts at N(0, 1)."""
        shape, stream = y.shape[1:], draws.fork(2)
        normal = lambda: stream.normal(*shape, dtype=y.dtype).flatten(1)
        uniform = lambda: stream.uniform(dtype=y.dtype)

        def log_density(at: Tensor) -> Tensor:
            # the same noise each time: an estimated V is then one function, not many
            z, score = flow.pull(at.view(-1, *shape), context, draws.fork(1))
            return self.base.log_prob(z) + score

        start = torch.where(free.flatten(1), normal(), y.flatten(1))
        with _frozen(self):
            return mala(log_density, start, free.flatten(1), normal, uniform, self.completion_steps).view_as(y)


def _parts(transform: Transform) -> list[Transform]:
    return list(transform) if isinstance(transform, Compose) else [transform]


def _orders(transform: Transform) -> list[Tensor] | None:
    """The orders (D,) of the autoregressive layers it is made of; None where anything else mixes or moves coordinates."""
    if isinstance(transform, Compose):
        found = [_orders(part) for part in transform]
        return None if None in found else [order for orders in found for order in orders or ()]
    if isinstance(transform, Inverse):
        return _orders(transform.transform)
    if isinstance(transform, Autoregressive):
        degrees = getattr(transform.net, "in_degrees", None)
        return None if degrees is None else [degrees]
    return [] if isinstance(transform, Elementwise) and type(transform).spread is Elementwise.spread else None


def _first(known: Tensor, order: Tensor) -> Tensor:
    """The rows (B,) of ``known`` (B, D) in which no unknown coordinate comes before a known one."""
    beyond = int(order.max()) + 1
    return torch.where(known, order, -1).amax(1) <= torch.where(known, beyond, order).amin(1)


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """Inside, gradients are of inputs only: parameters keep what was computed of them."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
