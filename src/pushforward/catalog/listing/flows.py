"""Flows: a base distribution pushed through a transform."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pushforward.catalog.family import CONTINUOUS, Family, listed

_FITS: Mapping[str, Any] = MappingProxyType({"learning_rate": 1e-3, "steps": 4000})
_IMAGES = {"image": {"learning_rate": 3e-3, "batch_size": 64}}  # for nets that convolve
_FLOW_FAMILIES: tuple[tuple[str, str, str, str, str, Mapping[str, Any]], ...] = (
    (
        *("nice", "additive couplings with exact density", "Dinh et al. 2014, arXiv:1410.8516"),
        *("flows:NiceOptions:nice", "exact", _FITS),
    ),
    (
        *("realnvp", "affine couplings; of images level by level", "Dinh et al. 2016, arXiv:1605.08803"),
        *("flows:RealNvpOptions:realnvp", "exact", _FITS),
    ),
    (
        *(
            "glow",
            "couplings between learned linear maps; of images level by level",
            "Kingma & Dhariwal 2018, arXiv:1807.03039",
        ),
        *("glow:GlowOptions:glow", "exact", {**_FITS, "learning_rate": 3e-3, "batch_size": 128}),
    ),
    (
        *("maf", "masked autoregressive flow: scores in one pass", "Papamakarios et al. 2017, arXiv:1705.07057"),
        *("flows:MafOptions:maf", "exact", _FITS),
    ),
    (
        *("iaf", "inverse autoregressive flow: samples in one pass", "Kingma et al. 2016, arXiv:1606.04934"),
        *("flows:IafOptions:iaf", "exact", {**_FITS, "steps": 1000}),
    ),
    (
        *("nsf", "neural spline flow: rational-quadratic couplings", "Durkan et al. 2019, arXiv:1906.04032"),
        *("flows:NsfOptions:nsf", "exact", _FITS),
    ),
    (
        *("nsf-ar", "autoregressive neural spline flow", "Durkan et al. 2019, arXiv:1906.04032"),
        *("flows:NsfArOptions:nsf_ar", "exact", _FITS),
    ),
    (
        *("naf", "neural autoregressive flow: numbers through monotone networks", "Huang et al. 2018, arXiv:1804.00779"),
        *("flows:NafOptions:naf", "exact", {**_FITS, "steps": 3000}),
    ),
    (
        *("cnf", "continuous flow: an ODE trained by likelihood", "Chen et al. 2018, arXiv:1806.07366"),
        *("continuous:CnfOptions:cnf", "ode", {**_FITS, "learning_rate": 5e-3, "steps": 2000}),
    ),
)

FAMILIES: tuple[Family, ...] = (
    *(
        listed(
            *(name, title, source, place, "sample score encode complete", density, CONTINUOUS),
            conditions=True,
            training=training,
            training_of=_IMAGES if name == "realnvp" else {},
        )
        for name, title, source, place, density, training in _FLOW_FAMILIES
    ),
)
