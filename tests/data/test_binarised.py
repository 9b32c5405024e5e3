"""Pictures as bits: their chances are the intensities, fixed where rows are looked at, new at each step of training."""

from __future__ import annotations

import numpy as np
import torch

from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.data.binarised import binarised
from pushforward.data.dataset import Data, Redraws, TensorStore


def data() -> Data:
    ramp = torch.arange(12, dtype=torch.uint8).mul(23).view(1, 1, 3, 4).expand(6000, -1, -1, -1)
    return Data.of(Schema(Image(1, 3, 4, 256)), TensorStore(ramp.clone(), {"label": torch.arange(6000.0)}), name="ramp")


def test_bits_have_the_chances_of_their_intensities() -> None:
    bits = binarised(data())
    assert bits.schema.example == Image(1, 3, 4, 2)
    assert isinstance(bits.store, Redraws)
    wanted = torch.arange(12.0) * 23 / 255
    for rows in (bits.rows(), bits.to_train_on(slice(None), Draws(3, 0, 6000))):
        assert rows.x.dtype == torch.uint8
        found = rows.x.flatten(1).double().mean(0)
        assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / 6000).sqrt() + 1e-12).all()
        assert torch.equal(rows.columns["label"], torch.arange(6000.0))
    apart = bits.rows().x.flatten(1).double()
    corner = torch.corrcoef(apart[:, 3:9].T) - torch.eye(6)
    assert float(corner.abs().max()) < 0.08  # pixels are drawn one by one


def test_only_training_draws_anew_and_by_its_own_numbers() -> None:
    bits = binarised(data()).select(np.arange(100, 200))
    assert torch.equal(bits.rows(slice(3, 9)).x, bits.rows().x[3:9])
    one, two = (bits.to_train_on(slice(0, 50), Draws(seed, 0, 50)).x for seed in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, bits.to_train_on(slice(0, 50), Draws(1, 0, 50)).x)
    part = bits.to_train_on(np.arange(20, 50), Draws(1, 20, 50, 50)).x
    assert torch.equal(part, one[20:])  # a process's share of a batch is the same rows
    plain = data()
    assert torch.equal(plain.to_train_on(slice(0, 5), Draws(1, 0, 5)).x, plain.rows(slice(0, 5)).x)
