"""Generators trained against a critic."""

from __future__ import annotations

from pushforward.catalog.family import CONTINUOUS, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "wgan-gp",
        "Wasserstein GAN with gradient penalty",
        "Gulrajani et al. 2017, arXiv:1704.00028",
        "adversarial:WganGpOptions:wgan_gp",
        "sample",
        "",
        CONTINUOUS,
        conditions=True,
        training={"learning_rate": 1e-3, "steps": 4000, "batch_size": 64, "weight_decay": 0.0},
    ),
)
