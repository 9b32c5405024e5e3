"""Splines on the circle: bijections modulo 2π, smooth across the seam, densities on circle and torus."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.transform import Compose
from pushforward.nets.mlp import MLP
from pushforward.transforms.circular import Angles, CircularSpline, wrap
from pushforward.transforms.coupling import Coupling

WIDE = torch.float64
TURN = 2 * math.pi


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The angle between a and b (B, 1), or the largest one of each row: (B,)."""
    return torch.remainder(a - b + math.pi, TURN).sub(math.pi).abs().amax(1)


def params(rows: int, std: float = 1.0, size: int = 2, bins: int = 6, dtype: torch.dtype = WIDE) -> Tensor:
    return std * torch.randn(rows, 3 * bins + 1, size, dtype=dtype)


def test_v_is_the_logarithm_of_autograds_derivative() -> None:
    monotone, p = CircularSpline(6), params(200)
    x = (8 * torch.rand(200, 2, dtype=WIDE) - 4).requires_grad_()
    z, score = monotone.pull(x, p)
    slopes = torch.autograd.grad(z.sum(), x)[0]
    torch.testing.assert_close(score, slopes.log().sum(1), rtol=0, atol=1e-8)
    torch.testing.assert_close(monotone.push_scored(z, p)[1], score, rtol=0, atol=1e-8)
    assert float(score.detach().std()) > 0.5


@pytest.mark.parametrize("std", [0.5, 2.0])
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_push_and_pull_undo_one_another_up_to_turns(std: float, dtype: torch.dtype) -> None:
    monotone, p = CircularSpline(6), params(2000, std, 1, dtype=dtype)
    angles = TURN * torch.rand(2000, 1, dtype=dtype) - math.pi
    p[:7] = p[0]
    angles[:7] = monotone._knots(p)[0][0]  # the knots of these rows
    angles[7:10] = torch.tensor([-math.pi, math.pi, 0.0], dtype=dtype)[:, None]
    z, score = monotone.pull(angles, p)
    x, there = monotone.push_scored(angles, p)
    # where the slope is far from one a rounding on one side is a larger error on the other
    eps = 20 * torch.finfo(dtype).eps
    tolerance = 1e-8 if dtype == WIDE else 1e-4 if std < 1 else 0.0
    assert (apart(monotone.push(z, p), angles) <= tolerance + eps / score.exp() * (dtype != WIDE) + eps).all()
    assert (apart(monotone.pull(x, p)[0], angles) <= tolerance + eps * there.exp() * (dtype != WIDE) + eps).all()
    for out in (z, x):
        assert ((out >= -math.pi) & (out < math.pi)).all()
    if dtype == WIDE:
        turned = monotone.pull(angles + 3 * TURN, p)
        assert (apart(turned[0], z) <= 1e-8).all()
        torch.testing.assert_close(turned[1], score, rtol=0, atol=1e-6)


def test_zero_is_the_identity_and_the_last_parameter_turns() -> None:
    monotone = CircularSpline(4)
    x, p = TURN * torch.rand(50, 2, dtype=WIDE) - math.pi, torch.zeros(50, 13, 2, dtype=WIDE)
    z, score = monotone.pull(x, p)
    torch.testing.assert_close(z, x)
    assert float(score.abs().max()) < 1e-12
    p[:, -1] = 1.5
    assert float(apart(monotone.pull(x, p)[0], x + 1.5).max()) < 1e-12
    assert float(apart(monotone.push(x, p), x - 1.5).max()) < 1e-12


def test_the_circle_goes_round_once_and_the_seam_is_a_point_like_any_other() -> None:
    monotone, p = CircularSpline(5), params(1, 1.5, 1, 5)
    x = torch.linspace(-math.pi, math.pi, 4001, dtype=WIDE)[:, None]
    z, score = monotone.pull(x, p.expand(len(x), -1, -1))
    steps = torch.remainder(z.diff(dim=0), TURN)
    assert (steps > 0).all()
    assert float(steps.sum()) == pytest.approx(TURN)
    density = score.exp() / TURN  # the base is uniform
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-4)
    near = torch.tensor([-1e-9, 0.0, 1e-9], dtype=WIDE)
    at_seam = monotone.pull((math.pi + near)[:, None], p.expand(3, -1, -1))[1]
    assert float((at_seam - at_seam[1]).abs().max()) < 1e-6
    assert abs(float(at_seam[0])) > 0.05
    # and there the slope is a parameter
    p2 = p.clone()
    p2[:, 10] += 1
    assert abs(float(monotone.pull(x[:1], p2)[1] - score[0])) > 0.1


def test_the_spline_is_zukos_of_the_same_knots() -> None:
    zuko = pytest.importorskip("zuko")
    monotone, p = CircularSpline(6), params(30)
    p[:, -1] = 0
    x = TURN * torch.rand(30, 2, dtype=WIDE) - math.pi
    empty = torch.zeros(30, 2, 6, dtype=WIDE)
    peer = zuko.transforms.MonotonicRQSTransform(empty, empty, empty[..., :5], bound=math.pi)
    knots = [table.transpose(1, 2) for table in monotone._knots(p)]
    peer.horizontal, peer.vertical, peer.derivatives = knots
    assert torch.equal(knots[2][..., 0], knots[2][..., -1])
    truth, log_slope = peer.call_and_ladj(x)
    z, score = monotone.pull(x, p)
    torch.testing.assert_close(z, truth)
    torch.testing.assert_close(score, log_slope.sum(1))


def torus() -> Compose:
    torch.manual_seed(2)
    parts = []
    for i in range(2):
        monotone = CircularSpline(5)
        net = MLP(2, monotone.params, (16,), context=2).double()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
        parts.append(Coupling(torch.arange(2) == i % 2, Angles(net), monotone))
    return Compose(parts)


def test_a_flow_on_the_torus_integrates_to_one_and_is_continuous() -> None:
    flow = torus()
    n = 300
    axis = TURN * (torch.arange(n, dtype=WIDE) + 0.5) / n - math.pi
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        for seed in range(2):
            vector = torch.randn(1, 2, dtype=WIDE, generator=torch.Generator().manual_seed(seed))
            z, score = flow.pull(x, Context(vector=vector.expand(len(x), -1)))
            assert float(score.exp().mean()) == pytest.approx(1, abs=1e-3)
            assert float(score.std()) > 0.3
            context = Context(vector=vector.expand(n, -1))
            assert float(apart(flow.push(z[:n], context), x[:n]).max()) < 1e-8
            for place in range(2):
                seam = torch.stack([axis, axis], 1)
                sides = []
                for side in (-math.pi + 1e-9, math.pi - 1e-9):
                    seam[:, place] = side
                    sides.append(flow.pull(seam, context)[1])
                torch.testing.assert_close(sides[0], sides[1], rtol=0, atol=1e-5)


def test_angles_shows_the_same_to_the_network_after_a_turn() -> None:
    net = Angles(lambda x, context: x)
    x = torch.randn(4, 3, dtype=WIDE)
    torch.testing.assert_close(net(x), net(x + TURN))
    assert net(x).shape == (4, 6)
    assert len(list(Angles(MLP(6, 1, (4,))).parameters())) == 4


@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_wrap_is_exact_within_and_ends_within(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-3.1, 3.1, 99, dtype=dtype), torch.tensor([1e-30, -1e-30, -math.pi], dtype=dtype)])
    assert torch.equal(wrap(x), x)
    far = torch.tensor([math.pi, -math.pi - 1e-7, 1e4, -1e4, 1e30, -1e30, 3 * math.pi], dtype=dtype)
    assert ((wrap(far) >= -math.pi) & (wrap(far) < math.pi)).all()
    assert float(wrap(torch.tensor(7.0, dtype=dtype))) == pytest.approx(7 - TURN, abs=1e-6)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_huge_parameters_and_angles_stay_finite(scale: float) -> None:
    monotone = CircularSpline(6)
    p, x = scale * params(100, dtype=torch.float32), torch.randn(100, 2) * 1e30
    for angles in (x, x / 1e30):
        z, score = monotone.pull(angles, p)
        assert z.isfinite().all()
        assert score.isfinite().all()
        assert monotone.push(angles, p).isfinite().all()


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins"):
        CircularSpline(1)
