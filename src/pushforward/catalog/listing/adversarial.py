"""Generators trained against a critic."""

from __future__ import annotations

from typing import Any

from pushforward.catalog.family import CONTINUOUS, Family, listed

_TRAINING: dict[str, Any] = {"weight_decay": 0.0, "batch_size": 256}
_IMAGES = {"image": {"batch_size": 64, "learning_rate": 3e-3}}  # for the nets of images, many small steps beat few good ones

FAMILIES: tuple[Family, ...] = (
    listed(
        "gan",
        "generative adversarial network, relativistic with R1 and R2 unless told otherwise",
        "Goodfellow et al. 2014, arXiv:1406.2661; Huang et al. 2024, arXiv:2501.05441",
        "adversarial:GanOptions:gan",
        "sample",
        "",
        CONTINUOUS,
        conditions=True,
        training={**_TRAINING, "learning_rate": 2e-3, "steps": 6000},
        training_of=_IMAGES,
    ),
    listed(
        "wgan",
        "Wasserstein GAN with clipped weights",
        "Arjovsky et al. 2017, arXiv:1701.07875",
        "adversarial:WganOptions:wgan",
        "sample",
        "",
        CONTINUOUS,
        conditions=True,
        training={**_TRAINING, "learning_rate": 2e-3, "steps": 4000},
        training_of=_IMAGES,
    ),
    listed(
        "wgan-gp",
        "Wasserstein GAN with gradient penalty",
        "Gulrajani et al. 2017, arXiv:1704.00028",
        "adversarial:WganGpOptions:wgan_gp",
        "sample",
        "",
        CONTINUOUS,
        conditions=True,
        training={**_TRAINING, "learning_rate": 3e-3, "steps": 4000},
        training_of=_IMAGES,
    ),
)
