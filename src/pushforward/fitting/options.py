"""How to train: one frozen dataclass, the same on the command line and in Python. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from pushforward.core.errors import RecipeError, did_you_mean

Precision = Literal["auto", "float32", "medium", "bf16"]


@dataclass(frozen=True)
class Training:
    """Options of the trainer. None means: what the family likes."""

    steps: int | None = None
    """Rounds of optimiser steps. Without steps and minutes the family's own default."""
    minutes: float | None = None
    """Time to train; the learning rate follows the clock."""
    batch_size: int | None = None
    """Examples a step over all processes (default 256, at most the training rows)."""
    seed: int = 0
    """Fixes the split, the start, the order and every random number."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; the best there is when not given."""
    precision: Precision = "auto"
    """Of training only. auto takes bf16 for convolutional nets on hardware that multiplies it faster, else float32. medium is
    float32 in which torch may round the factors of matrix products where that is quicker: log densities are off by 1e-5 to
    4e-5 nats as in float32 on CPUs that do not round (all measured), by about 0.01 with TF32 (CUDA) and 0.1 with bf16 factors
    (AMX), both simulated; with bf16 by 0.04 to 0.2."""
    learning_rate: float | None = None
    """Peak learning rate (default 1e-3)."""
    weight_decay: float | None = None
    """Decoupled decay of weights, not of biases and norms (default 0.01)."""
    warmup: float = 0.02
    """Share of the budget in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    average: float = 0.999
    """Decay of the averaged weights, which are what is kept; 0 keeps the raw ones."""
    validate: int = 40
    """How many times to validate in the whole budget."""
    patience: int = 10
    """Stop after so many validations without a better one; 0 never stops early."""
    snapshots: int = 6
    """How many times to keep some samples in the whole budget, with the same noise each time, for the report; fewer where they
    would take more than 3 % of the time, 0 none."""
    save_every: float = 60.0
    """Seconds between checkpoints in the run folder (at least one each validation)."""
    compile: bool = False
    """Have torch compile what is computed most: minutes before the first step, for fewer of them after."""
    tensorboard: bool = False
    """Write TensorBoard logs into the run folder."""

    def __post_init__(self) -> None:
        at_least: dict[str, float] = {"steps": 1, "batch_size": 1, "accumulate": 1, "validate": 1, "patience": 0, "clip": 0}
        at_least |= {"snapshots": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} must be at least {least:g}, found {value}")
        if self.minutes is not None and not self.minutes > 0:
            raise RecipeError(f"minutes must be above 0, found {self.minutes}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise RecipeError(f"learning_rate must be above 0, found {self.learning_rate}")
        if not 0 <= self.average < 1:
            raise RecipeError(f"average must be in [0, 1), found {self.average}")
        *most, last = get_args(Precision)
        if self.precision not in (*most, last):
            raise RecipeError(f"precision is {', '.join(most)} or {last}, found {self.precision!r}")

    def with_defaults(self, defaults: Mapping[str, Any]) -> Training:
        """What is None filled in from ``defaults`` of a family and then from the trainer's own."""
        own: dict[str, Any] = {"batch_size": 256, "learning_rate": 1e-3, "weight_decay": 0.01}
        own.update(defaults)
        if self.minutes is not None:
            own.pop("steps", None)
        else:
            own.setdefault("steps", 3000)
        return replace(self, **{n: v for n, v in own.items() if getattr(self, n) is None})


TRAINING_NAMES = tuple(f.name for f in fields(Training))


def split_options(values: Mapping[str, Any], family_names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword options sorted into those of training and those of the family. Raises RecipeError for unknown ones."""
    training, own = {}, {}
    for name, value in values.items():
        if name in TRAINING_NAMES:
            training[name] = value
        elif name in family_names:
            own[name] = value
        else:
            raise RecipeError(f"no option is called '{name}': {did_you_mean(name, (*family_names, *TRAINING_NAMES))}")
    return training, own
