"""One mean and deviation for many places: signals by the channel, points by the coordinate."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.catalog.parts import coordinates, marginals
from pushforward.core.schema import Points, Signal
from pushforward.transforms.univariate import SharedStandardise


@pytest.mark.parametrize("kind", ["signal", "points"])
def test_marginals_standardise_and_know_their_jacobian(tiny, kind):
    what, x = tiny.kinds[kind], tiny.codes(kind, 500)
    transform = marginals(what)
    assert coordinates(what, transform) == what.size
    transform.prepare(x)
    z, score = transform.pull(x[:5])
    assert z.dtype == torch.float32
    assert (z.shape, score.shape) == ((5, *what.shape), (5,))
    torch.testing.assert_close(transform.push(z).double(), x[:5], rtol=1e-5, atol=1e-5)
    transform.double()

    def pull(flat: torch.Tensor) -> torch.Tensor:
        return transform.pull(flat.view(1, *what.shape))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(pull, x[0].flatten())
    torch.testing.assert_close(score[0], torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(transform.push_scored(z.double())[1], score)


def test_all_samples_of_a_channel_are_treated_alike():
    kind = Signal(2, 6)
    x = torch.randn(400, 2, 6, dtype=torch.float64) * torch.tensor([[1.0], [9.0]]) + torch.arange(6)
    transform = marginals(kind)
    z = transform.prepare(x).double()
    (part,) = transform
    assert (part.mean.shape, part.std.shape) == ((2, 1), (2, 1))
    torch.testing.assert_close(part.mean[:, 0], x.mean((0, 2)))
    torch.testing.assert_close(z.square().mean((0, 2)), torch.ones(2, dtype=z.dtype))
    # the rise over time is still there
    assert (z.mean(0)[0].diff() > 0.1).all()


def test_points_keep_their_geometry():
    kind = Points(7, 3)
    x = torch.randn(400, 7, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2]) + torch.tensor([10.0, 0.0, -3.0])
    transform = marginals(kind)
    z = transform.prepare(x).double()
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(3, dtype=z.dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0, dtype=z.dtype))
    ratio = torch.cdist(z[0], z[0]) / torch.cdist(x[0], x[0]).masked_fill(torch.eye(7, dtype=torch.bool), 1)
    off = ratio[~torch.eye(7, dtype=torch.bool)]
    torch.testing.assert_close(off, off[:1].expand_as(off), rtol=1e-4, atol=0)
    # any order of the points gives the same map
    other = marginals(kind)
    other.prepare(x.flip(1))
    torch.testing.assert_close(other.pull(x)[0], transform.pull(x)[0])


def test_gaps_stay_and_constants_keep_their_scale():
    x = torch.randn(300, 2, 5, dtype=torch.float64)
    x[:, 1] = 4.0
    x[3, 0, 2] = math.nan
    part = SharedStandardise((2, 5), mean_over=(1,), std_over=(1,))
    z = part.prepare(x)
    assert z.isnan().sum() == 1
    assert part.std[1] == 1
    assert part.mean[1] == 4
    torch.testing.assert_close(part.mean[0, 0], x[:, 0].nanmean())
    observed = ~x.isnan()
    assert torch.equal(part.spread(observed), observed)
