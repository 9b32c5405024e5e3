"""Representations."""

from __future__ import annotations

from pushforward.catalog.family import CONTINUOUS, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "simclr",
        "contrastive representation of two views",
        "Chen et al. 2020, arXiv:2002.05709",
        "representation:SimclrOptions:simclr",
        "encode",
        "",
        CONTINUOUS,
        training={"learning_rate": 1e-3, "steps": 3000},
    ),
)
