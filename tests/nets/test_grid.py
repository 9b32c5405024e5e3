"""Grids of vectors: shapes of every size, what each place sees, and what stands beside it."""

from __future__ import annotations

import pytest
import torch

from pushforward.core.context import Context
from pushforward.nets.grid import GridDecoder, GridEncoder, grid_sides


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(("height", "width", "halvings"), [(28, 28, 2), (17, 22, 2), (9, 8, 1), (33, 20, 3)])
def test_any_size_goes_there_and_back(height: int, width: int, halvings: int) -> None:
    encoder, decoder = (
        GridEncoder(3, 5, halvings=halvings, width=8, context=2),
        GridDecoder(5, 4, height, width, halvings=halvings, features=8, extra=2),
    )
    x, vector = torch.randn(2, 3, height, width), torch.randn(2, 2)
    y = encoder(x, Context(vector))
    h, w = grid_sides(height, width, halvings)
    assert y.shape == (2, h * w, 5)
    assert 2**halvings * h >= height > 2**halvings * (h - 1)
    assert decoder(torch.cat([y.flatten(1), vector], 1)).shape == (2, 4, height, width)


def test_a_place_of_the_grid_is_a_place_of_the_picture() -> None:
    decoder = shaken(GridDecoder(3, 2, 32, 32, features=8)).double()
    z = torch.randn(1, 8 * 8, 3, dtype=torch.float64)
    moved = z.clone()
    moved[0, 2 * 8 + 6] += 0.5  # row 2, column 6 of the grid
    with torch.no_grad():
        change = (decoder(moved.flatten(1)) - decoder(z.flatten(1))).abs().sum((0, 1))
    change = torch.where(change > 0.2 * change.max(), change, 0.0)  # norms of groups look at the whole picture, faintly
    share, at = change / change.sum(), torch.arange(32).double() + 0.5
    assert float(share.sum(1) @ at) == pytest.approx(10, abs=4)
    assert float(share.sum(0) @ at) == pytest.approx(26, abs=4)


def test_conditions_reach_both_ends() -> None:
    encoder, decoder = shaken(GridEncoder(1, 3, width=8, context=2)), shaken(GridDecoder(3, 1, 12, 12, features=8, extra=2))
    x, z = torch.randn(2, 1, 12, 12), torch.randn(2, 9 * 3)
    a, b = torch.zeros(2, 2), torch.ones(2, 2)
    assert not torch.allclose(encoder(x, Context(a)), encoder(x, Context(b)))
    assert not torch.allclose(decoder(torch.cat([z, a], 1)), decoder(torch.cat([z, b], 1)))
