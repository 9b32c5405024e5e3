"""Numbers by which a model is judged while it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.core.model import Model, Samples
from pushforward.core.random import Draws
from pushforward.data.sources import open_data
from pushforward.fitting.validation import sample_distance


class Fixed(Model, Samples):
    """Samples that do not change."""

    def __init__(self, schema: object, x: Tensor) -> None:
        super().__init__(schema)  # type: ignore[arg-type]
        self.x = x

    def _loss(self, batch: object, turn: str) -> dict[str, Tensor]:
        return {"loss": self.x.flatten(1).sum(1)}

    def sample(self, n: int, condition: object, draws: Draws, **options: object) -> Tensor:
        return self.x[:n]


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_a_pixel_that_is_hardly_ever_lit_does_not_outweigh_the_others(kind: str) -> None:
    generator = np.random.default_rng(0)
    real = generator.random((400, 16)) < 0.5
    real[:, 3] = generator.random(400) < 0.0025
    speckled, bright = real.copy(), real.copy()
    speckled[:, 3] = generator.random(400) < 0.1
    bright[:, 4:] = generator.random((400, 12)) < 0.9
    shape = (-1, 4, 4) if kind == "image" else (-1, 16)
    data = open_data((255 * real).astype(np.uint8 if kind == "image" else np.float64).reshape(shape))
    near, far = (
        sample_distance(Fixed(data.schema, x), data, 0, torch.device("cpu"))
        for x in (torch.from_numpy(255.0 * v).view(400, *data.schema.example.shape) for v in (speckled, bright))
    )
    # a number of a vector has a unit of its own, and is told by its own spread
    assert (near < 0.3 * far) == (kind == "image")
