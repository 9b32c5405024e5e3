"""Predictors of labels and numbers."""

from __future__ import annotations

from pushforward.catalog.family import ALL, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "classifier",
        "p(label | x)",
        "",
        "perception:ClassifierOptions:classifier",
        "encode predict",
        "",
        ALL,
        target=True,
        training={"learning_rate": 1e-3, "steps": 2000, "weight_decay": 0.05},
    ),
)
