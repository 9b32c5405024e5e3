"""Spectral normalisation against the singular value decomposition; the critics' nets against their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.nets.adversarial import DCBody, DCGenerator, FlatBody, Projection, ResidualBody, ResidualDown, halvings
from pushforward.nets.mlp import MLP
from pushforward.nets.spectral import advance, spectral

WIDE = torch.float64


def layer(kind: str) -> nn.Module:
    torch.manual_seed(3)
    return (nn.Linear(7, 5) if kind == "linear" else nn.Conv2d(3, 5, 3, padding=1)).double()


def original(net: nn.Module) -> Tensor:
    return net.parametrizations.weight.original  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_weight_is_divided_by_its_largest_singular_value(kind: str) -> None:
    net = layer(kind)
    weight = net.weight.detach().clone()
    top = torch.linalg.svdvals(weight.flatten(1))[0]
    spectral(net)
    torch.testing.assert_close(net.weight.detach(), weight / top, rtol=0.02, atol=0)  # a new layer's is nearly there
    for _ in range(200):
        advance(net)
    torch.testing.assert_close(net.weight.detach(), weight / top)
    # d(W/σ)/dW has the gradient of σ, which is the outer product of its vectors
    with_truth = weight.clone().requires_grad_()
    direction = torch.randn_like(weight)
    truth = (with_truth / torch.linalg.svdvals(with_truth.flatten(1))[0] * direction).sum()
    (expected,) = torch.autograd.grad(truth, with_truth)
    (found,) = torch.autograd.grad((net.weight * direction).sum(), original(net))
    torch.testing.assert_close(found, expected)


def test_only_advance_moves_the_iteration() -> None:
    net = spectral(MLP(4, 1, (6, 5), activation="relu")).double()
    x = torch.randn(9, 4, dtype=WIDE)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    before = {n: t.clone() for n, t in net.state_dict().items()}
    train, evaluated = net.train()(x), net.eval()(x)
    with torch.no_grad():
        assert torch.equal(net(x), evaluated)
    assert torch.equal(train, evaluated)
    for n, t in net.state_dict().items():
        assert torch.equal(t, before[n]), n
    advance(net)
    moved = [n for n, t in net.state_dict().items() if not torch.equal(t, before[n])]
    assert len(moved) == 2  # the last layer's one row has no other direction to turn to
    assert all(n.endswith(".u") for n in moved)


def test_a_state_dict_and_a_copy_carry_the_iteration() -> None:
    net, blank = (spectral(MLP(4, 1, (6, 5), activation="relu")) for _ in range(2))
    advance(net)
    blank.load_state_dict(net.state_dict())
    x = torch.randn(9, 4)
    assert torch.equal(net(x), blank(x))
    assert torch.equal(net(x), copy.deepcopy(net)(x))


def test_a_critic_of_normalised_layers_has_slope_one_at_most() -> None:
    torch.manual_seed(0)
    net = spectral(Projection(FlatBody(MLP(3, 16, (16,), activation="relu"), 16), 16)).double()
    for _ in range(200):
        advance(net)
    y = 5 * torch.randn(500, 3, dtype=WIDE).requires_grad_()
    (slope,) = torch.autograd.grad(net(y).sum(), y)
    assert 0.01 < float(slope.norm(dim=1).max()) <= 1 + 1e-6


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9), (28, 28), (13, 32)])
@pytest.mark.parametrize("body", [DCBody, ResidualBody])
def test_bodies_and_the_generator_take_any_size(height: int, width: int, body: type[nn.Module]) -> None:
    net = body(3, height, width, features=4)
    assert net(torch.randn(2, 3, height, width)).shape == (2, net.features_out)
    image = DCGenerator(6, 3, height, width, features=4)(torch.randn(2, 6))
    assert image.shape == (2, 3, height, width)
    assert 4 <= max(height, width) / 2 ** halvings(height, width) < 8 or halvings(height, width) == 1


@pytest.mark.parametrize("raw", [False, True])
def test_the_residual_block_is_its_formula(raw: bool) -> None:
    torch.manual_seed(0)
    block, x = ResidualDown(3, 6, raw=raw).double(), torch.randn(2, 3, 6, 8, dtype=WIDE)
    rectified = lambda t: torch.where(t > 0, t, 0.2 * t)
    pooled = lambda t: t.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    inner = F.conv2d(x if raw else rectified(x), block.first.weight, block.first.bias, padding=1)
    inner = F.conv2d(rectified(inner), block.second.weight, block.second.bias, padding=1)
    torch.testing.assert_close(block(x), pooled(inner + F.conv2d(x, block.skip.weight)))
