"""Models with latent variables, trained by a bound."""

from __future__ import annotations

from typing import Any

from pushforward.catalog.family import ALL, Family, listed

_TRAINING: dict[str, Any] = {"learning_rate": 3e-3, "steps": 4000}

FAMILIES: tuple[Family, ...] = (
    listed(
        "vae",
        "variational autoencoder",
        "Kingma & Welling 2013, arXiv:1312.6114",
        "variational:VaeOptions:vae",
        "sample score encode complete",
        "lower_bound",
        ALL,
        conditions=True,
        training=_TRAINING,
    ),
    listed(
        "hvae",
        "variational autoencoder with a code of several levels",
        "Sønderby et al. 2016, arXiv:1602.02282",
        "variational:HvaeOptions:hvae",
        "sample score encode complete",
        "lower_bound",
        ALL,
        conditions=True,
        training=_TRAINING,
    ),
    listed(
        "gumbel-vae",
        "variational autoencoder with categorical codes",
        "Jang et al. 2016, arXiv:1611.01144",
        "variational:GumbelVaeOptions:gumbel_vae",
        "sample score encode complete",
        "lower_bound",
        ALL,
        conditions=True,
        training=_TRAINING,
    ),
    listed(
        "vq-vae",
        "variational autoencoder with a codebook and a learned prior over its codes",
        "van den Oord et al. 2017, arXiv:1711.00937",
        "variational:VqVaeOptions:vq_vae",
        "sample score encode complete",
        "lower_bound",
        ALL,
        conditions=True,
        training=_TRAINING,
    ),
)
