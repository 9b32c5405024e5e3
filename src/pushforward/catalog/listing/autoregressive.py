"""Models by the chain rule."""

from __future__ import annotations

from pushforward.catalog.family import ALL, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "made",
        "masked autoregressive network with exact density",
        "Germain et al. 2015, arXiv:1502.03509",
        "autoregressive:MadeOptions:made",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 1e-3, "steps": 4000},
    ),
)
