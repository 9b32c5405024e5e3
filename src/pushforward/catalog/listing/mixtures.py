"""Mixtures fitted by EM."""

from __future__ import annotations

from pushforward.catalog.family import CONTINUOUS, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "gmm",
        "Gaussian mixture fitted by EM, missing values included",
        "Dempster et al. 1977",
        "mixtures:GmmOptions:gmm",
        "sample score encode complete",
        "exact",
        CONTINUOUS,
    ),
)
