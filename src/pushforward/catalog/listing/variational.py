"""Models with latent variables, trained by a bound."""

from __future__ import annotations

from pushforward.catalog.family import ALL, Family, listed

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
        training={"learning_rate": 1e-3, "steps": 4000},
    ),
)
