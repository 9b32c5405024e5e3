"""The contract of a model: one loss, some turns, and exactly the verbs it has.

``forward`` is the loss because that is the only method whose gradients data-parallel wrappers synchronise. A verb is an
abstract class; a family inherits those it offers, and nothing is ever a stub.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core.context import Condition
from pushforward.core.derived import with_derived
from pushforward.core.random import Draws
from pushforward.core.schema import Schema


@dataclass(frozen=True)
class Batch:
    """Examples ``x`` (B, …) as codes, their ``condition`` {name: (B, …)}, ``target`` (B,) and the batch's random numbers."""

    x: Tensor
    draws: Draws
    condition: Condition = field(default_factory=dict)
    target: Tensor | None = None


@dataclass(frozen=True)
class Turn:
    """A player of training: ``repeats`` steps a round on the parameters of ``modules`` (all of them when empty)."""

    name: str = "model"
    modules: tuple[str, ...] = ()
    repeats: int = 1
    learning_rate_scale: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


class Model(nn.Module, ABC):
    """A distribution being learned. ``schema`` says what one example is; ``turns`` who trains, in order.

    ``comparable`` says whether the validation loss can be compared from epoch to epoch (a GAN's cannot).
    """

    turns: tuple[Turn, ...] = (Turn(),)
    comparable: ClassVar[bool] = True

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            raise TypeError(f"{cls.__name__} defines forward, which is final: implement _loss")

    def prepare(self, x: Tensor) -> None:
        """Set statistics (means, quantiles, frequencies) from a sample of training codes. Called once, before training."""

    @abstractmethod
    def _loss(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        """Per-example terms, each (B,), with the key ``loss``."""

    @final  # type: ignore[misc]
    def forward(self, batch: Batch, turn: str = "model") -> dict[str, Tensor]:
        """The terms of ``_loss``; the trainer minimises the mean of ``loss``. Conditions made from x are made here."""
        if len(batch.condition) < len(self.schema.conditions):
            batch = replace(batch, condition=with_derived(self.schema.conditions, batch.x, batch.condition, batch.draws))
        terms = self._loss(batch, turn)
        if "loss" not in terms or any(term.shape != batch.x.shape[:1] for term in terms.values()):
            found = {name: tuple(term.shape) for name, term in terms.items()}
            raise ValueError(f"{type(self).__name__}._loss gave {found}: expected per-example terms with the key 'loss'")
        return terms

    def compile_parts(self) -> None:
        """Have torch compile, in place, what is computed most: here every network. Needs a C++ compiler on the CPU."""
        _compile_networks(self)

    def before_round(self, done: float) -> None:
        """Called before each round of turns with the share of training that is done, in [0, 1), which schedules go by."""

    def after_step(self, turn: str) -> None:
        """Called after each optimiser step (target networks, codebook averages, weight clipping)."""

    def turn_parameters(self, turn: Turn) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that ``turn`` trains."""
        for name, parameter in self.named_parameters():
            if not turn.modules or name.split(".")[0] in turn.modules:
                yield name, parameter

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters; float32 where there are none."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))


def _compile_networks(module: nn.Module) -> None:
    """The outermost modules under ``module`` that can be called: maps, lists and models only hold networks."""
    for child in module.children():
        if type(child).forward is nn.Module.forward or isinstance(child, nn.ModuleList):
            _compile_networks(child)
        else:
            child.compile()


@runtime_checkable
class Prepares(Protocol):
    """A part that sets statistics from a sample of training codes."""

    def prepare(self, x: Tensor) -> None: ...


class Samples(ABC):
    """Draws new examples."""

    @abstractmethod
    def sample(self, n: int, condition: Condition | None, draws: Draws, **options: Any) -> Tensor:
        """``n`` examples as codes, (n, *schema.example.shape)."""


class Scores(ABC):
    """Knows log p(x | condition)."""

    density_kind: str
    """``exact``, ``ode`` (exact up to the solver's tolerance) or ``lower_bound``."""
    weights_are_exact: bool = True
    """Whether exp(log_prob) of one call is unbiased for p(x): an importance weight is, a noisy estimate of the log is not."""

    @property
    def random(self) -> bool:
        """Whether ``log_prob`` depends on ``draws``."""
        return self.density_kind == "lower_bound" or not self.weights_are_exact

    @abstractmethod
    def log_prob(self, x: Tensor, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """log p(x | condition) in nats, (B,), in the units of the codes.

        Where ``density_kind`` is ``lower_bound`` one call is one random draw of a log importance weight log w with
        E[w] = p(x): the mean of log w bounds log p(x) from below, log-mean-exp over several draws does so more tightly.
        """


@runtime_checkable
class Weighs(Protocol):
    """A density that finds many importance weights of a row in less time than one by one."""

    def log_weights(self, x: Tensor, samples: int, condition: Condition | None = None, draws: Draws | None = None) -> Tensor:
        """``log_prob`` with ``draws.fork(k)`` for k = 0 … samples − 1, (B, samples)."""
        ...


class Encodes(ABC):
    """Represents examples."""

    @abstractmethod
    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Codes (B, …) → representations (B, D), deterministic."""


class Completes(ABC):
    """Draws what is missing given what is observed."""

    @abstractmethod
    def complete(self, x: Tensor, observed: Tensor, condition: Condition | None, draws: Draws) -> Tensor:
        """``x`` with the entries where ``observed`` is false replaced by draws from p(rest | observed)."""


class Interpolates(ABC):
    """Knows examples between two; no verb of the contract, but something to ask for in Python."""

    @abstractmethod
    def interpolate(
        self, x0: Tensor, x1: Tensor, steps: int, condition: Condition | None = None, draws: Draws | None = None
    ) -> Tensor:
        """(B, steps, …): examples on the way from each ``x0`` to its ``x1``, both ends included."""


class Predicts(ABC):
    """Knows p(y | x) of a target y."""

    @abstractmethod
    def predict(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """Class probabilities (B, K) where the target is discrete, else the expected value (B,)."""


class FitsDirectly(ABC):
    """Fitted by additive statistics (EM, closed forms) rather than by gradients.

    ``stats`` of batches are summed over batches and processes, then ``update`` makes one step of them.
    """

    @abstractmethod
    def start(self, x: Tensor, draws: Draws) -> None:
        """Initial parameters from a sample of training codes."""

    @abstractmethod
    def stats(self, batch: Batch) -> dict[str, Tensor]:
        """Additive statistics of a batch."""

    @abstractmethod
    def update(self, stats: dict[str, Tensor]) -> float:
        """New parameters from the summed statistics; returns the mean log-likelihood before the update."""


VERBS: dict[str, type] = {"sample": Samples, "score": Scores, "encode": Encodes, "complete": Completes, "predict": Predicts}


def verbs(model: type | object) -> tuple[str, ...]:
    """The verbs a model or model class offers."""
    cls = model if isinstance(model, type) else type(model)
    return tuple(verb for verb, capability in VERBS.items() if issubclass(cls, capability))
