"""What the single elements of an example are distributed as, given parameters.

Three kinds of ``Block``, each of ``count`` alike elements:

* ``Binary``: a Bernoulli, log p(1) = log σ(a).
* ``Levels``: a categorical over K levels, log-softmax of K parameters.
* ``Mixture``: a mixture of logistics (Salimans et al. 2017, arXiv:1701.05517) or normals, log Σ_k π_k p((e − μ_k)/s_k), on a
  grid of step δ the mass of the cell per step, log Σ_k π_k [F((e + δ/2 − μ_k)/s_k) − F((e − δ/2 − μ_k)/s_k)] − log δ, open at
  the bounds.

``draw`` pushes one uniform number through the quantile function of each element. ``prepare`` sets default parameters from data,
to which a network's are added: a network of zeros is the independent model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.errors import RecipeError
from pushforward.nets.norm import as_it_runs

SHOWN = ("onehot", "scaled", "code")


@dataclass(frozen=True)
class Sharpening:
    """How draws depart from the model: ``temperature`` ≥ 0 divides logits and widens numbers (0 takes the likeliest); of
    levels only the ``top_k`` likeliest are kept, and the fewest whose masses reach ``top_p`` (Holtzman et al. 2019,
    arXiv:1904.09751)."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise RecipeError(f"temperature is a number of at least 0, found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise RecipeError(f"top_k must be at least 1, found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RecipeError(f"top_p lies in (0, 1], found {self.top_p}")

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self == Sharpening()

    def logits(self, logits: Tensor) -> Tensor:
        """Logits (…, K) of levels as they are to be drawn from."""
        logits = logits / max(self.temperature, 1e-6)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p is not None:
            ordered, place = logits.sort(-1, descending=True)
            mass = ordered.softmax(-1)
            beyond = mass.cumsum(-1) - mass >= self.top_p  # what is likelier reaches top_p by itself
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, place, beyond), -math.inf)
        return logits


PLAIN = Sharpening()


class Block(nn.Module, ABC):
    """``count`` elements of one kind, each with ``params`` parameters and ``features`` features."""

    count: int
    params: int
    features: int

    @abstractmethod
    def prepare(self, e: Tensor) -> None:
        """Default parameters from elements (B, count); NaN are unknown."""

    @abstractmethod
    def look(self, e: Tensor) -> Tensor:
        """Elements (B, count) → features (B, count, features); unknown elements are zeros."""

    @abstractmethod
    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        """Parameters (B, count, params) and elements (B, count) → nats (B, count); unknown elements count 0."""

    def log_likelihood(self, params: Tensor, e: Tensor) -> Tensor:
        """Nats (B·K,) of all elements of an example, under K rows of ``params`` (B·K, count, params) for each row of ``e``."""
        repeats = len(params) // max(1, len(e))
        return self.log_prob(params, e if repeats <= 1 else e.repeat_interleave(repeats, 0)).sum(1)

    @abstractmethod
    def draw(self, params: Tensor, u: Tensor, how: Sharpening = PLAIN) -> Tensor:
        """Parameters (B, count, params) and float64 uniform numbers ``u`` (B, count) → elements (B, count)."""

    @abstractmethod
    def part(self, i: int) -> Block:
        """The block of element ``i`` alone, sharing statistics."""


class Binary(Block):
    """Bernoullis over {0, 1}, which a network sees as they are."""

    default: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.params, self.features = count, 1, 1
        self.register_buffer("default", torch.zeros(count))

    def prepare(self, e: Tensor) -> None:
        ones = e.double().sum(0)
        self.default.copy_((ones + 0.1).log() - (len(e) - ones + 0.1).log())

    def look(self, e: Tensor) -> Tensor:
        return e.to(self.default.dtype)[..., None]

    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        logit = params[..., 0].to(self.default.dtype) + self.default
        return -F.softplus((1 - 2 * e.to(logit.dtype)) * logit)

    def log_likelihood(self, params: Tensor, e: Tensor) -> Tensor:
        logits, small = params[..., 0], (torch.float32, torch.bfloat16)
        if (
            len(e)
            and logits.device.type == "cpu"
            and logits.dtype in small
            and self.default.dtype == torch.float32
            and as_it_runs()
        ):
            from pushforward.kernels import bernoulli

            return bernoulli.log_prob(logits, self.default, e.float())
        return super().log_likelihood(params, e)

    def draw(self, params: Tensor, u: Tensor, how: Sharpening = PLAIN) -> Tensor:
        logit = params[..., 0].to(self.default.dtype) + self.default
        if not how.plain:
            pair = how.logits(torch.stack([torch.zeros_like(logit), logit], -1))
            logit = pair[..., 1] - pair[..., 0]
        return (u < logit.double().sigmoid()).double()

    def part(self, i: int) -> Binary:
        one = Binary(1)
        one.default = self.default[i : i + 1]
        return one


class Levels(Block):
    """Categoricals over ``levels`` codes, which a network sees as ``shown``: one-hot, as one number in [−1, 1] (``scaled``, for
    pixels), or as the code itself, for networks that look it up; then all elements share their defaults (symbols of a text)."""

    default: Tensor

    def __init__(self, count: int, levels: int, shown: str = "onehot") -> None:
        super().__init__()
        if shown not in SHOWN:
            raise ValueError(f"shown is one of {', '.join(SHOWN)}, found {shown!r}")
        self.count, self.params, self.shown = count, levels, shown
        self.features = levels if shown == "onehot" else 1
        self.register_buffer("default", torch.zeros(1 if shown == "code" else count, levels))

    def prepare(self, e: Tensor) -> None:
        if len(self.default) < self.count:
            seen = torch.bincount(e.long().flatten(), minlength=self.params)[None].double()
        else:
            seen = torch.stack([(e == k).sum(0) for k in range(self.params)], -1).double()
        self.default.copy_(((seen + 0.1) / (seen + 0.1).sum(-1, keepdim=True)).log())

    def look(self, e: Tensor) -> Tensor:
        if self.shown == "onehot":
            return F.one_hot(e.long(), self.params).to(self.default.dtype)
        scaled = e * (2 / max(1, self.params - 1)) - 1 if self.shown == "scaled" else e
        return scaled.to(self.default.dtype)[..., None]

    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        logits = params.to(self.default.dtype) + self.default
        return logits.gather(-1, e.long()[..., None])[..., 0] - logits.logsumexp(-1)

    def draw(self, params: Tensor, u: Tensor, how: Sharpening = PLAIN) -> Tensor:
        logits = params.to(self.default.dtype) + self.default
        if not how.plain:
            logits = how.logits(logits)
        mass = logits.double().softmax(-1).cumsum(-1)
        # of the likeliest levels alone the sum may stay a last bit below 1
        return (u[..., None] * mass[..., -1:] >= mass).sum(-1).clamp(max=self.params - 1).double()

    def part(self, i: int) -> Levels:
        one = Levels(1, self.params, self.shown)
        one.default = self.default[i : i + 1] if len(self.default) == self.count else self.default
        return one


class _LogNdtr(torch.autograd.Function):
    """log Φ(x), whose own slope in torch overflows far out: φ(x)/Φ(x) = √(2/π) / erfcx(−x/√2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.special.log_ndtr(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2)))


def log_ndtr(x: Tensor) -> Tensor:
    """log Φ(x), with a slope that is right everywhere."""
    return _LogNdtr.apply(x)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Bell:
    """A symmetric density of location 0 and scale 1: its log, the log of its mass in a cell (of which the middle and half the
    width are given), of that below a point, and its quantile function; ``scale`` is that of deviation 1."""

    log_density: Callable[[Tensor], Tensor]
    log_cell: Callable[[Tensor, Tensor], Tensor]
    log_below: Callable[[Tensor], Tensor]
    quantile: Callable[[Tensor], Tensor]
    scale: float


def _logistic_cell(middle: Tensor, half: Tensor) -> Tensor:
    """log σ(b) − σ(a) as log σ(b) σ(−a) (1 − e^{a−b}), which keeps its precision where both are near 0 or near 1."""
    return F.logsigmoid(middle + half) + F.logsigmoid(half - middle) + torch.log(-torch.expm1(-2 * half))


def _normal_cell(middle: Tensor, half: Tensor) -> Tensor:
    """log Φ(b) − Φ(a) = log Φ(b) + log(1 − e^{−d}) on the side where both are small.

    Far out d drowns in rounding, so it is kept to the bound (b − a) · max(√(2/π), −b), which is tight there.
    """
    middle = -middle.abs()
    high = middle + half
    upper = log_ndtr(high)
    least = 2 * half * (-high).clamp(min=0.797)
    return upper + torch.log(-torch.expm1(-torch.maximum(upper - log_ndtr(middle - half), least)))


BELLS: dict[str, Bell] = {
    "logistic": Bell(
        lambda s: -F.softplus(s) - F.softplus(-s), _logistic_cell, F.logsigmoid, torch.logit, math.sqrt(3) / math.pi
    ),
    "normal": Bell(
        lambda s: -0.5 * s.square() - 0.5 * math.log(2 * math.pi),
        _normal_cell,
        log_ndtr,
        torch.special.ndtri,
        1.0,
    ),
}


class Mixture(Block):
    """Mixtures of ``components`` ``bell``s over numbers; ``resolution`` 0 is continuous, ``bounds`` open the outer cells."""

    mean: Tensor
    std: Tensor
    default: Tensor

    def __init__(
        self,
        count: int,
        resolution: float = 0.0,
        bounds: tuple[float, float] | None = None,
        components: int = 5,
        bell: str = "logistic",
    ) -> None:
        super().__init__()
        if bell not in BELLS:
            raise ValueError(f"numbers are {' or '.join(BELLS)}, found {bell!r}")
        if components < 1:
            raise ValueError(f"components must be at least 1, found {components}")
        self.count, self.params, self.features = count, 3 * components, 1
        self.resolution, self.bounds, self.components = resolution, bounds, components
        self.bell = bell
        self.register_buffer("mean", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("std", torch.ones(count, dtype=torch.float64))
        self.register_buffer("default", torch.zeros(count, 3 * components))

    def prepare(self, e: Tensor) -> None:
        """Means at mid-quantiles of the data, scales from the gaps between them, equal weights; of one component those of the
        data."""
        k = self.components
        p = (torch.arange(k, dtype=torch.float64) + 0.5) / k
        sample = e[:: max(1, len(e) // 20_000)].double()
        known = ~sample.isnan()
        count = known.sum(0).clamp(min=1)
        mean = sample.nan_to_num().sum(0) / count
        std = ((((sample - mean).nan_to_num() * known).square().sum(0)) / count).sqrt()
        floor = torch.full_like(std, self.resolution) if self.resolution else 1e-6 * (1 + mean.abs())
        self.mean.copy_(mean)
        self.std.copy_(torch.maximum(std, floor))
        self.default.zero_()
        if k == 1:
            self.default[:, 2] = math.log(BELLS[self.bell].scale)
            return
        middle = torch.nanquantile(sample, p, 0).nan_to_num().T  # (count, K)
        edge = torch.nanquantile(sample, torch.linspace(0.02, 0.98, k + 1, dtype=torch.float64), 0).nan_to_num().T
        least = max(0.1 * self.resolution, 1e-3)
        scale = (edge.diff(dim=1) / self.std[:, None] / 2.2).clamp(min=0.05 if not self.resolution else least)
        self.default[:, k : 2 * k] = (middle - self.mean[:, None]) / self.std[:, None]
        self.default[:, 2 * k :] = scale.log()

    def look(self, e: Tensor) -> Tensor:
        return ((e - self.mean) / self.std).nan_to_num().to(self.default.dtype)[..., None]

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        params = params.to(self.default.dtype) + self.default
        weight, mean, log_scale = params.split(self.components, -1)
        return weight, mean, log_scale.clamp(-9, 5)

    def log_prob(self, params: Tensor, e: Tensor) -> Tensor:
        weight, mean, log_scale = self._split(params)
        bell, gap = BELLS[self.bell], e.isnan()
        value = ((e - self.mean) / self.std).nan_to_num().to(mean.dtype)[..., None] - mean
        rate = (-log_scale).exp()
        if not self.resolution:
            log_density = bell.log_density(value * rate) - log_scale - self.std.log().to(mean.dtype)[:, None]
        else:
            middle, half = value * rate, (0.5 * self.resolution / self.std).to(mean.dtype)[:, None] * rate
            log_density = bell.log_cell(middle, half)
            if self.bounds is not None:
                first, last = (e <= self.bounds[0])[..., None], (e >= self.bounds[1])[..., None]
                ends = torch.where(last, bell.log_below(half - middle), log_density)
                log_density = torch.where(first, bell.log_below(middle + half), ends)
            log_density = log_density - math.log(self.resolution)
        return ((weight.log_softmax(-1) if self.components > 1 else 0.0) + log_density).logsumexp(-1).masked_fill(gap, 0.0)

    def draw(self, params: Tensor, u: Tensor, how: Sharpening = PLAIN) -> Tensor:
        weight, mean, log_scale = (p.double() for p in self._split(params))
        if self.components > 1:
            # the uniform number chooses the component, and its place within the share of that is uniform again
            mass = (weight / max(how.temperature, 1e-6)).softmax(-1)
            above = mass.cumsum(-1)
            chosen = (u[..., None] >= above).sum(-1, keepdim=True).clamp(max=self.components - 1)
            share = mass.gather(-1, chosen)[..., 0]
            u = (u - above.gather(-1, chosen)[..., 0] + share) / share
            mean, log_scale = mean.gather(-1, chosen), log_scale.gather(-1, chosen)
        spread = how.temperature * log_scale[..., 0].exp()
        return self.unlook(mean[..., 0] + spread * BELLS[self.bell].quantile(u.clamp(1e-9, 1 - 1e-9)))

    def unlook(self, value: Tensor) -> Tensor:
        """Numbers as a network sees them (B, count) → elements, on their grid and within their bounds."""
        e = self.mean + self.std * value
        if self.resolution:
            inverse = round(1 / self.resolution) if self.resolution < 1 else 1 / self.resolution
            e = (e * inverse).round() / inverse
        return e.clamp(*self.bounds) if self.bounds else e

    def grid(self) -> Tensor:
        """What ``unlook`` does beside scaling, float32 (count, 4): the step of the grid (0 for none), its origin, both ends."""
        low, high = self.bounds or (-math.inf, math.inf)
        ends = [(end - self.mean) / self.std for end in (low, high)]
        return torch.stack([self.resolution / self.std, -self.mean / self.std, *ends], 1).float()

    def part(self, i: int) -> Mixture:
        one = Mixture(1, self.resolution, self.bounds, self.components, self.bell)
        one.mean, one.std, one.default = self.mean[i : i + 1], self.std[i : i + 1], self.default[i : i + 1]
        return one
