"""A network, a schedule and a prediction make a denoiser: E[x_0 | α x_0 + σ ε = x] for every α and σ.

The network F sees x scaled to the circle, x/s with s² = α² + σ², and its schedule's clock:

    P = F(x/s, clock(t)),   x_0 = skip · x + out · P,   ε = noise_skip · x + noise_out · P      (paths/prediction)

What it knows is a function of log α/σ alone. A solver therefore asks ``denoise``(x, α, σ) on any path it likes, and the times
the network was trained at are found by equal log-SNR. A level beyond the noisiest one trained is taken for that one.

Solvers ask at few levels, one for all rows: what depends on them is worked out in float64 for a whole grid at once
(``expect``), so that a step costs its tensor operations and a look into a dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.core.shapes import over
from pushforward.paths.prediction import coefficients, to_pair
from pushforward.paths.schedule import Schedule
from pushforward.solvers import divergence
from pushforward.solvers.dyadic import Shared

Network = Callable[[Tensor, Tensor], Tensor]  # (x on the circle (B, …), clock (B,)) → P (B, …)
Denoise = Callable[[Tensor, float, float], Tensor]  # (x, α, σ) → E[x_0 | x]
Velocity = Callable[[float, Tensor], Tensor]  # (t, x) → dx/dt
_CLEANEST = 1e-4  # σ/α below which what a network says of the data says nothing of the noise


@dataclass(frozen=True)
class _Level:
    """y = skip · x + out · F(scale · x, clock) for one level of noise; ``clock`` is a tensor of shape (1,)."""

    scale: float
    skip: float
    out: float
    clock: Tensor


def spread(output: Tensor) -> Tensor:
    """What a network says of variances, around 0 when it is new, as a number in [0, 1]: it goes from −1 to 1 there."""
    return (0.5 * (output + 1)).clamp(0, 1)


class Denoiser:
    """``network`` under the ``schedule`` and ``prediction`` it was trained with. Works in the dtype of x.

    A network that also learned variances gives them in the second half of its channels, the dimension ``variance``; 0 says that
    it did not.
    """

    def __init__(self, network: Network, schedule: Schedule, prediction: str, variance: int = 0) -> None:
        self.network, self.schedule, self.prediction, self.variance = network, schedule, prediction, variance
        self._levels: dict[tuple[float, float], _Level] = {}

    def predict(self, x: Tensor, clock: Tensor) -> Tensor:
        """P, in the dtype of x, of x on the circle."""
        output = self.network(x, clock)
        return (output.chunk(2, self.variance)[0] if self.variance else output).to(x.dtype)

    def _combined(self, x: Tensor, level: _Level) -> Tensor:
        seen = x if level.scale == 1.0 else level.scale * x
        return torch.add(level.skip * x, self.predict(seen, level.clock.expand(len(x))), alpha=level.out)

    def expect(self, levels: Iterable[tuple[float, float]], like: Tensor) -> Denoiser:
        """Get ready for the levels (α, σ) of noise of tensors such as ``like``."""
        fresh = [level for level in levels if level not in self._levels]
        if fresh:
            alpha, sigma = torch.tensor(fresh, dtype=torch.float64).T
            scale, cos, sin, keep, gain, clock = self.circle(alpha, sigma)
            # D = c x̂ − r v
            rows = zip(fresh, *(v.tolist() for v in (scale, (cos - sin * keep) * scale, -sin * gain)), strict=True)
            clocks = clock.to(like.device, like.dtype).split(1)
            self._levels |= {at: _Level(a, b, c, one) for (at, a, b, c), one in zip(rows, clocks, strict=True)}
        return self

    def circle(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        """Of levels (α, σ), float64: 1/s, c = α/s, r = σ/s, the k and g with v = k x̂ + g F(x̂), and the clock F is told.

        v is what F says of c ε − r x_0 at the nearest level that was trained; x_0 = c x̂ − r v and ε = r x̂ + c v are then of
        the level asked for, and finite however near an end it is.
        """
        schedule, scale = self.schedule, (alpha.square() + sigma.square()).rsqrt()
        cos, sin = alpha * scale, sigma * scale
        t = schedule.time(2 * (cos.log() - sin.log())).clamp(max=schedule.stop)
        t = torch.where(cos > 0, t, schedule.stop)
        if self.prediction == "data":  # which says nothing of the noise at σ = 0
            cleanest = schedule.time(torch.tensor(-2 * math.log(_CLEANEST), dtype=torch.float64))
            t = t.clamp(min=float(cleanest))
        own_alpha, own_sigma = schedule.alpha(t), schedule.sigma(t)
        own = (own_alpha.square() + own_sigma.square()).sqrt()
        c = coefficients(self.prediction, schedule, t)
        own_cos, own_sin = own_alpha / own, own_sigma / own
        keep = (own_cos * c.noise_skip - own_sin * c.skip) * own
        return scale, cos, sin, keep, own_cos * c.noise_out - own_sin * c.out, schedule.clock(t)

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x (B, …)] at one level of noise."""
        return self._combined(x, self._level(x, alpha, sigma))

    def _level(self, x: Tensor, alpha: float, sigma: float) -> _Level:
        level = self._levels.get((alpha, sigma))
        return self.expect([(alpha, sigma)], x)._levels[alpha, sigma] if level is None else level

    def with_variance(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """As a call, and the second half of the output as a number in [0, 1]."""
        level = self._level(x, alpha, sigma)
        output, other = self.network(level.scale * x, level.clock.expand(len(x))).to(x.dtype).chunk(2, self.variance)
        return torch.add(level.skip * x, output, alpha=level.out), spread(other)

    def pair(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and ε that the network sees in x (B, …) at times t (B,) of its own schedule."""
        s = (self.schedule.alpha(t).square() + self.schedule.sigma(t).square()).sqrt()
        value = self.predict(x / over(s, x).to(x.dtype), self.schedule.clock(t).to(x.dtype))
        return to_pair(self.prediction, value, x, self.schedule, t)

    def velocity(self, path: Schedule) -> PathVelocity:
        """dx/dt of the flow that carries noise to data along ``path``, which is to be regular."""
        return PathVelocity(self, path)


class PathVelocity:
    """v(t, x) = α' x_0 + σ' ε along ``path`` in terms of the network's output: no division by a small σ."""

    def __init__(self, denoiser: Denoiser, path: Schedule) -> None:
        self.denoiser, self.path = denoiser, path
        self._levels: dict[float, _Level] = {}

    def _numbers(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """scale, skip, out and clock at times t (any shape) of the path, in float64."""
        path, t = self.path, t.double()
        d_alpha, d_sigma = path.d_alpha(t), path.d_sigma(t)
        scale, cos, sin, keep, gain, clock = self.denoiser.circle(path.alpha(t), path.sigma(t))
        # α' x_0 + σ' ε = (α' c + σ' r) x̂ + (σ' c − α' r) v
        turn = d_sigma * cos - d_alpha * sin
        return scale, (d_alpha * cos + d_sigma * sin + turn * keep) * scale, turn * gain, clock

    def expect(self, times: Sequence[float], like: Tensor) -> PathVelocity:
        """Get ready for ``times`` and tensors such as ``like``."""
        fresh = [t for t in dict.fromkeys(times) if t not in self._levels]
        if fresh:
            scale, skip, out, clock = self._numbers(torch.tensor(fresh, dtype=torch.float64))
            parts = clock.to(like.device, like.dtype).split(1)
            rows = zip(fresh, scale.tolist(), skip.tolist(), out.tolist(), strict=True)
            self._levels |= {t: _Level(a, b, c, one) for (t, a, b, c), one in zip(rows, parts, strict=True)}
        return self

    def __call__(self, t: float, x: Tensor) -> Tensor:
        """At one time for all rows."""
        level = self._levels.get(t)
        if level is None:
            level = self.expect([t], x)._levels[t]
        return self.denoiser._combined(x, level)

    def at(self, t: Tensor, x: Tensor) -> Tensor:
        """At times t () or (B,) and points x (B, …), differentiable in all of them."""
        scale, skip, out, clock = (v.to(x.dtype).expand(len(x)) for v in self._numbers(t))
        value = self.denoiser.predict(over(scale, x) * x, clock)
        return over(skip, x) * x + over(out, x) * value


class Modulated(Protocol):
    """A network that knows its divergence, as nets.modulated has it."""

    @property
    def time(self) -> Callable[[Tensor], Tensor]: ...

    def moments(self, embedding: Tensor, scale: Tensor, skip: Tensor, out: Tensor) -> Tensor: ...

    def __call__(
        self, x: Tensor, moments: Tensor, of: Tensor, *, value: bool = True, trace: bool = False
    ) -> tuple[Tensor | None, Tensor | None]: ...


class PathField:
    """``PathVelocity.at`` as a field f(t, x, context) of ``denoiser_in``(context), for equations that are solved for densities.

    Where the network ``net`` can say its divergence itself, by a method ``modulated``, and no gradients are wanted, it does.
    """

    def __init__(self, denoiser_in: Callable[[Context], Denoiser], net: object, path: Schedule) -> None:
        self.denoiser_in, self.net, self.path = denoiser_in, net, path

    def __call__(self, t: Tensor, x: Tensor, context: Context | None) -> Tensor:
        return self._velocity(context).at(t, x)

    def _velocity(self, context: Context | None) -> PathVelocity:
        return self.denoiser_in(context or Context()).velocity(self.path)

    def prepared(self, context: Context | None = None) -> PreparedVelocity | None:
        velocity, net = self._velocity(context), self.net
        other = torch.is_grad_enabled() or torch.is_autocast_enabled() or torch.is_autocast_enabled("cpu")
        if other or velocity.denoiser.variance or not isinstance(net, Modulates):
            return None
        added = net.conditions(context)
        return PreparedVelocity(velocity, net.modulated(), () if added is None else (added,))


@runtime_checkable
class Modulates(Protocol):
    def modulated(self) -> Modulated: ...

    def conditions(self, context: Context | None) -> Tensor | None: ...


@dataclass(frozen=True)
class PreparedVelocity:
    """A ``velocity`` in closed form, for one solve; ``given`` is what conditions add to the network's embedding, (B, E).

    No gradient is kept, so there is nothing that it could be ``rebuilt`` of.
    """

    velocity: PathVelocity
    net: Modulated
    given: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...] = ()

    def rebuilt(self, tensors: tuple[Tensor, ...]) -> PreparedVelocity:
        return self

    def beforehand(self, times: Tensor) -> tuple[Tensor, ...]:
        """Of times (N,): the network's moments (N, ·), or where conditions have a say in them (N, E) and thrice (N,)."""
        scale, skip, out, clock = (v.to(times.dtype) for v in self.velocity._numbers(times))
        known = (self.net.time(clock), scale, skip, out)
        return known if self.given else (self.net.moments(*known),)

    def _found(
        self, t: Tensor | Shared, x: Tensor, given: tuple[Tensor, ...], value: bool, trace: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        if not isinstance(t, Shared):
            of = torch.arange(len(x), device=x.device) if t.dim() else torch.zeros(len(x), dtype=torch.long, device=x.device)
            t = Shared(t, of, self.beforehand(t.reshape(-1)))
        moments, of = t.known[0], t.of
        if given:
            embedding, scale, skip, out = (v[of] for v in t.known)
            moments, of = self.net.moments(embedding + given[0], scale, skip, out), torch.arange(len(x), device=x.device)
        return self.net(x, moments, of, value=value, trace=trace)

    def __call__(self, t: Tensor | Shared, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        """dx/dt at times (), (B,) or shared, and points x (B, D)."""
        return cast(Tensor, self._found(t, x, given, True, False)[0])

    def derivatives(
        self,
        t: Tensor | Shared,
        x: Tensor,
        given: tuple[Tensor, ...],
        probe: Tensor | None = None,
        *,
        value: bool = True,
        trace: bool = True,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """f (B, D) if ``value``, tr ∂f/∂x (B,) if ``trace``, and eᵀ ∂f/∂x for a ``probe`` e (B, P, D), by autograd."""
        product = None
        if probe is not None:
            times = t.times[t.of] if isinstance(t, Shared) else t
            _, product = divergence.product(lambda x: self.velocity.at(times, x), x, probe)
        found, divergent = self._found(t, x, given, value, trace) if value or trace else (None, None)
        return found, divergent, product


def velocity_of(denoise: Denoise, path: Schedule) -> Velocity:
    """dx/dt along ``path`` of any denoiser, α' D + σ' (x − α D)/σ; very near σ = 0 it is that of a σ a little larger."""
    known: dict[float, tuple[float, float, float, float]] = {}

    def field(t: float, x: Tensor) -> Tensor:
        if t not in known:
            least = torch.finfo(x.dtype).eps ** 0.5
            later = max(t, path.start + least * (path.stop - path.start))
            at = torch.tensor(later, dtype=torch.float64)
            known[t] = tuple(float(f(at)) for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))  # type: ignore[assignment]
        alpha, sigma, d_alpha, d_sigma = known[t]
        ratio = d_sigma / sigma
        return torch.add(ratio * x, denoise(x, alpha, sigma), alpha=d_alpha - alpha * ratio)

    return field
