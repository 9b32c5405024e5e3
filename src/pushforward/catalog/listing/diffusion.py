"""Diffusion, flow matching and what stands beside them."""

from __future__ import annotations

from pushforward.catalog.family import ALL, SHAPED, Family, listed

_DIFFUSION_FAMILIES = (
    ("ddpm", "diffusion in T steps that learns the noise", "Ho et al. 2020, arXiv:2006.11239", "DdpmOptions:ddpm"),
    (
        *("score-sde", "score matching along a stochastic differential equation", "Song et al. 2020, arXiv:2011.13456"),
        "ScoreSdeOptions:score_sde",
    ),
    ("edm", "diffusion with its design choices set apart and tuned", "Karras et al. 2022, arXiv:2206.00364", "EdmOptions:edm"),
    (
        *(
            "flow-matching",
            "a velocity from noise to data, with coupled pairs if asked",
            "Lipman et al. 2022, arXiv:2210.02747",
        ),
        "FlowMatchingOptions:flow_matching",
    ),
    (
        *("rectified-flow", "straight paths from noise to data, sampled by an ODE", "Liu et al. 2022, arXiv:2209.03003"),
        "RectifiedFlowOptions:rectified_flow",
    ),
)

FAMILIES: tuple[Family, ...] = (
    *(
        listed(
            *(name, title, source, f"diffusion:{place}", "sample score encode complete", "ode", SHAPED),
            conditions=True,
            training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
            slots=("vector", "tokens", "spatial"),
        )
        for name, title, source, place in _DIFFUSION_FAMILIES
    ),
    listed(
        "transport",
        "flow matching from one set of data to another",
        "Tong et al. 2023, arXiv:2302.00482",
        "diffusion:TransportOptions:transport",
        "sample encode",
        "",
        SHAPED,
        conditions=True,
        source_data=True,
        training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
        slots=("vector", "tokens", "spatial"),
    ),
    listed(
        "consistency",
        "jumps from noise to data in a step or two",
        "Song et al. 2023, arXiv:2303.01469",
        "diffusion:ConsistencyOptions:consistency",
        "sample",
        "",
        SHAPED,
        conditions=True,
        training={"learning_rate": 1e-3, "steps": 8000, "batch_size": 128},
        slots=("vector", "tokens", "spatial"),
    ),
    listed(
        "masked-diffusion",
        "hidden values revealed in random order",
        "Sahoo et al. 2024, arXiv:2406.07524",
        "discrete:MaskedDiffusionOptions:masked_diffusion",
        "sample score complete",
        "lower_bound",
        ALL,
        conditions=True,
        training={"learning_rate": 1e-3, "steps": 5000, "batch_size": 128},
    ),
    listed(
        "noisy-classifier",
        "p(label | x with noise): steers diffusion models towards a label",
        "Dhariwal & Nichol 2021, arXiv:2105.05233",
        "diffusion:NoisyClassifierOptions:noisy_classifier",
        "predict",
        "",
        SHAPED,
        target=True,
        training={"learning_rate": 1e-3, "steps": 3000, "batch_size": 128},
    ),
)
