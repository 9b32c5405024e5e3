"""Integrals of networks: exact for every number of nodes, and as it grows those of zuko."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from pushforward.transforms.integral import Integral

WIDE = torch.float64


class Integrand(nn.Module):
    def __init__(self, signal: int) -> None:
        super().__init__()
        self.number, self.signal, self.last = nn.Linear(1, 12), nn.Linear(signal, 12, bias=False), nn.Linear(12, 1)
        self.calls = 0

    def forward(self, t: Tensor, signal: Tensor) -> Tensor:
        self.calls += 1
        return self.last(torch.tanh(self.number(t[..., None]) + self.signal(signal))).squeeze(-1)


def slope(monotone: Integral, x: Tensor, p: Tensor) -> Tensor:
    """The network's slope at x (B, D), from the formula."""
    signal = p[:, 2:].transpose(1, 2).flatten(0, 1)
    g = monotone.integrand(x.flatten()[None], signal).view_as(x)
    raw = p[:, 1] * g / (1 + (g / 100).square()).sqrt()
    clipped = raw / (1 + (raw / math.log(monotone.slope)).square()).sqrt()
    return monotone.slope + (1 - monotone.slope) * clipped.exp()


def test_many_nodes_give_the_integral_of_the_network_like_zukos() -> None:
    zuko = pytest.importorskip("zuko")
    net = Integrand(4).double()
    p, x = torch.randn(50, 6, 2, dtype=WIDE), 6 * torch.rand(50, 2, dtype=WIDE) - 3
    errors = []
    for nodes in (12, 24, 48, 96):
        monotone = Integral(net, 4, nodes=nodes, bound=3.0)
        z, score = monotone.pull(x, p)

        def g(t: Tensor, monotone: Integral = monotone) -> Tensor:
            flat = t.reshape(-1, 50, 2)
            return torch.stack([slope(monotone, one, p) for one in flat]).view_as(t)

        peer = zuko.transforms.UnconstrainedMonotonicTransform(g, n=200)
        truth, log_slope = peer.call_and_ladj(x)
        errors.append([float(e.detach().abs().max()) for e in (z - p[:, 0] - truth, score - log_slope.sum(1))])
    assert errors[-1][0] < 1e-9
    assert errors[-1][1] < 1e-7
    assert all(later[0] < 0.3 * earlier[0] for earlier, later in itertools.pairwise(errors))
    assert errors[1][0] < 1e-3


@pytest.mark.parametrize("nodes", [1, 2, 3, 7])
def test_few_nodes_are_a_flow_too(nodes: int) -> None:
    monotone = Integral(Integrand(4).double(), 4, nodes=nodes)
    p = 2 * torch.randn(1, 6, 1, dtype=WIDE)
    x = torch.linspace(-60, 60, 20001, dtype=WIDE)[:, None]
    z, score = monotone.pull(x, p.expand(len(x), -1, -1))
    density = (score - 0.5 * z[:, 0].square() - 0.5 * math.log(2 * math.pi)).exp()
    mass = torch.special.ndtr(z[-1, 0]) - torch.special.ndtr(z[0, 0])
    torch.testing.assert_close(torch.trapezoid(density, x[:, 0]), mass, rtol=0, atol=1e-6)


def test_either_direction_calls_the_network_once_with_all_its_nodes() -> None:
    net = Integrand(4)
    monotone = Integral(net, 4, nodes=9)
    x, p = torch.randn(5, 2), torch.randn(5, 6, 2)
    monotone.pull(x, p)
    assert net.calls == 1
    monotone.push(x, p)
    assert net.calls == 2


@pytest.mark.parametrize("settings", [{"signal": -1}, {"nodes": 0}, {"bound": 0.0}, {"slope": 0.0}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        Integral(Integrand(4), **{"signal": 4, **settings})
