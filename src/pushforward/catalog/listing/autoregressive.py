"""Models by the chain rule."""

from __future__ import annotations

from pushforward.catalog.family import ALL, Family, listed

FAMILIES: tuple[Family, ...] = (
    listed(
        "fvsbn",
        "fully visible belief network: each element logistic in those before",
        "Frey et al. 1995",
        "autoregressive:FvsbnOptions:fvsbn",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 3e-3, "steps": 3000},
    ),
    listed(
        "nade",
        "neural autoregressive density estimator: one hidden layer carried along",
        "Larochelle & Murray 2011; Uria et al. 2013, arXiv:1306.0186",
        "autoregressive:NadeOptions:nade",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 3e-3, "steps": 4000},
    ),
    listed(
        "made",
        "masked autoregressive network with exact density",
        "Germain et al. 2015, arXiv:1502.03509",
        "autoregressive:MadeOptions:made",
        "sample score complete",
        "exact",
        ALL,
        conditions=True,
        training={"learning_rate": 3e-3, "steps": 4000},
    ),
    listed(
        "pixelcnn",
        "gated convolutions over the pixels above and to the left, with exact density",
        "van den Oord et al. 2016, arXiv:1606.05328",
        "autoregressive:PixelcnnOptions:pixelcnn",
        "sample score complete",
        "exact",
        ("image",),
        conditions=True,
        training={"learning_rate": 1e-2, "batch_size": 16, "steps": 8000},
    ),
)
