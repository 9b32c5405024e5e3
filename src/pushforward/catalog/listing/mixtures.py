"""Mixtures fitted by EM."""

from __future__ import annotations

from pushforward.catalog.family import ALL, CONTINUOUS, Family, listed

_EVERYTHING = "sample score encode complete"

FAMILIES: tuple[Family, ...] = (
    listed(
        "gmm",
        "Gaussian mixture fitted by EM, missing values included",
        "Dempster et al. 1977",
        "mixtures:GmmOptions:gmm",
        _EVERYTHING,
        "exact",
        CONTINUOUS,
    ),
    listed(
        "bayesian-mixture",
        "Gaussian mixture that finds how many components it needs",
        "Attias 1999",
        "mixtures:BayesianOptions:bayesian_mixture",
        _EVERYTHING,
        "exact",
        CONTINUOUS,
    ),
    listed(
        "bernoulli-mixture",
        "mixture of independent columns, pixels or symbols: latent classes",
        "Lazarsfeld & Henry 1968",
        "mixtures:ProductMixtureOptions:product_mixture",
        _EVERYTHING,
        "exact",
        ALL,
    ),
    listed(
        "hmm",
        "hidden Markov model of texts and signals",
        "Baum et al. 1970",
        "mixtures:HmmOptions:hmm",
        _EVERYTHING,
        "exact",
        ("tokens", "signal"),
    ),
    listed(
        "kmeans",
        "k-means: the hard limit of a mixture, distances to centres",
        "Lloyd 1957",
        "mixtures:KMeansOptions:kmeans",
        "encode",
        "",
        CONTINUOUS,
    ),
)
