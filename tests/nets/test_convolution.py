"""The nets of couplings on pictures: what they see, and in which precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.convolution import ConvNet

WIDE = torch.float64


def test_it_is_the_three_convolutions() -> None:
    torch.manual_seed(0)
    net = ConvNet(2, 5, (6, 7), context=3, spatial=4, zero_last=False).double()
    x, c, s = torch.randn(3, 2, 5, 4, dtype=WIDE), torch.randn(3, 3, dtype=WIDE), torch.randn(3, 4, 5, 4, dtype=WIDE)
    p = dict(net.named_parameters())
    h = F.conv2d(torch.cat([x, s], 1), p["first.weight"], p["first.bias"], padding=1)
    h = F.relu(h + (c @ p["from_context.weight"].T)[:, :, None, None])
    h = F.relu(F.conv2d(h, p["layers.0.weight"], p["layers.0.bias"]))
    truth = F.conv2d(h, p["last.weight"], p["last.bias"], padding=1)
    torch.testing.assert_close(net(x, Context(vector=c, spatial=s)), truth)
    one = Context(vector=c[:1], spatial=s[:1])  # one context for all rows
    torch.testing.assert_close(net(x[:1], one), truth[:1])
    torch.testing.assert_close(net(x[:1].expand(3, -1, -1, -1), one), truth[:1].expand(3, -1, -1, -1))


def test_it_starts_at_zero_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = ConvNet(2, 3, (5,), context=2, spatial=1)
    c = Context(vector=torch.randn(4, 2), spatial=torch.randn(4, 1, 6, 6))
    x = torch.randn(4, 2, 6, 6)
    assert not net(x, c).any()
    torch.nn.init.normal_(net.last.weight)
    net(x, c).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize("sides", [(1, 1), (1, 3), (5, 2)])
def test_pictures_of_any_size(sides: tuple[int, int]) -> None:
    net = ConvNet(1, 2, (4, 4), zero_last=False)
    assert net(torch.randn(3, 1, *sides)).shape == (3, 2, *sides)


def test_mixed_precision_stays_inside() -> None:
    torch.manual_seed(0)
    net = ConvNet(3, 4, (16, 16), zero_last=False)
    x = torch.randn(5, 3, 8, 8)
    plain = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x)
    assert plain.dtype == mixed.dtype == torch.float32
    assert not torch.equal(plain, mixed)
    torch.testing.assert_close(plain, mixed, atol=0.05, rtol=0.05)


def test_a_context_that_does_not_fit_is_refused() -> None:
    x = torch.randn(2, 1, 4, 4)
    with pytest.raises(ValueError, match="context vector of width 0"):
        ConvNet(1, 1, (3,), context=2)(x)
    with pytest.raises(ValueError, match="found none: this net takes a spatial context"):
        ConvNet(1, 1, (3,), spatial=2)(x)
    with pytest.raises(ValueError, match="spatial context"):
        ConvNet(1, 1, (3,), spatial=2)(x, Context(spatial=torch.randn(2, 2, 5, 4)))
    with pytest.raises(ValueError, match="hidden layer"):
        ConvNet(1, 1, ())
