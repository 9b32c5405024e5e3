"""Published test log-likelihoods of binarised MNIST, reached again: python recipes/nats.py NAME … [--minutes M] [--out FOLDER].

Each recipe fits one family on the training rows (54 000 of the 60 000; the rest choose the best weights), scores all 10 000
test rows and prints the mean −log p in nats with its standard error beside the published figure. Without a name it lists them.
docs/benchmarks.md has the figures found and what they were found on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pushforward as pf


@dataclass(frozen=True)
class Recipe:
    """What to fit and what was published: ``nats`` in ``source``, to be met within ``within``; ``minutes`` on two cores."""

    data: str
    family: str
    nats: float
    source: str
    minutes: float
    options: dict[str, Any] = field(default_factory=dict)
    within: float = 1.0
    samples: int = 1


FIXED, DRAWN = "binarized-mnist", "dynamic-mnist"
_IWAE = "Burda et al. 2015, arXiv:1509.00519, table 1"
_MADE = "Germain et al. 2015, arXiv:1502.03509, table 6"
_NETS = {
    **{"net": "mlp", "activation": "silu", "latent": 50, "beta_warmup": 0.3},
    **{"learning_rate": 2e-3, "batch_size": 256, "weight_decay": 0.0, "precision": "bf16"},
}
RECIPES = {
    "nade": Recipe(
        *(FIXED, "nade", 88.33, "Larochelle & Murray 2011, as in arXiv:1502.03509, table 6", 15),
        {"units": 500, "learning_rate": 1e-3, "batch_size": 64, "weight_decay": 0.0},
    ),
    "made": Recipe(
        *(FIXED, "made", 88.40, _MADE, 8),
        {"hidden": (2000,), "learning_rate": 1e-3, "batch_size": 128, "weight_decay": 0.0},
    ),
    "made-32": Recipe(  # the paper averages 32 masks of one net, this nets that read from each corner, across and down
        *(FIXED, "made", 86.64, _MADE, 48),
        {
            **{"hidden": (1500, 1500), "orders": 8, "ensemble": True, "dropout": 0.4, "learning_rate": 2e-3},
            **{"batch_size": 2048, "weight_decay": 0.0, "precision": "bf16"},
        },
    ),
    "vae": Recipe(*(DRAWN, "vae", 86.76, _IWAE, 12), {**_NETS, "hidden": (600, 600), "samples": 1}, samples=5000),
    "iwae": Recipe(*(DRAWN, "vae", 84.78, _IWAE, 30), {**_NETS, "hidden": (400, 400), "samples": 50}, within=2.0, samples=5000),
}


def cook(name: str, minutes: float | None, out: Path | None, seed: int) -> dict[str, Any]:
    """Fit, score, and what was found as plain JSON."""
    recipe = RECIPES[name]
    began = time.monotonic()
    fitted = pf.fit(
        recipe.data,
        recipe.family,
        minutes=minutes or recipe.minutes,
        patience=0,
        seed=seed,
        out=out / name if out else None,
        force=True,
        **recipe.options,
    )
    trained = time.monotonic()
    data = pf.open_data(recipe.data)
    scored = fitted.score(data.split(seed).test, samples=recipe.samples)
    mean = -float(scored.log_prob.mean())
    return {
        "recipe": name,
        "nats": mean,
        "standard_error": float(scored.log_prob.std(ddof=1) / len(scored.log_prob) ** 0.5),
        "kind": scored.kind,
        "samples": recipe.samples,
        "published": recipe.nats,
        "reached": mean <= recipe.nats + recipe.within,
        "training_minutes": (trained - began) / 60,
        "scoring_minutes": (time.monotonic() - trained) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--minutes", type=float, help="time to train, instead of each recipe's own")
    parser.add_argument("--out", type=Path, help="folder to keep the runs in")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.names:
        print(json.dumps(cook(name, given.minutes, given.out, given.seed)), flush=True)
    if not given.names:
        for name, recipe in RECIPES.items():
            print(f"{name:<10} {recipe.nats:.2f} nats within {recipe.within:g}, {recipe.minutes:g} min  ({recipe.source})")


if __name__ == "__main__":
    main()
