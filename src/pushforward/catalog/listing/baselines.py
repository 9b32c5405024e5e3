"""Baselines."""

from __future__ import annotations

from pushforward.catalog.family import SHAPED, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "independent",
        "independent marginals: the baseline that knows no dependence",
        "",
        "baselines:IndependentOptions:independent",
        "sample score encode complete",
        "exact",
        (*SHAPED, "tokens"),
        baseline=True,
    ),
    listed(
        "gaussian",
        "one full-covariance Gaussian in the data's own units: the linear baseline",
        "",
        "baselines:GaussianOptions:gaussian",
        "sample score encode complete",
        "exact",
        SHAPED,
        baseline=True,
    ),
)
