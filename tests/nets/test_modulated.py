"""The closed form of a modulated net against the net itself and autograd, and the velocity and density made of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pushforward.core.context import Context
from pushforward.nets.mlp import TimeMLP
from pushforward.paths.denoiser import Denoiser, PathField, PreparedVelocity
from pushforward.paths.schedule import EDM, VP, Angle, Rectified
from pushforward.solvers import divergence
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.solvers.dyadic import Shared
from pushforward.transforms.ode import ODE

WIDE = torch.float64


def network(size: int, hidden: tuple[int, ...], context: int = 0) -> TimeMLP:
    """Random weights: the last layer of a new net is zero otherwise, and so is every divergence."""
    torch.manual_seed(7)
    net = TimeMLP(size, hidden=hidden, context=context, zero_last=False, embedding=16, scale=10.0).double()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.requires_grad_(False)


@pytest.mark.parametrize("hidden", [(12,), (12, 12), (12, 7, 7), (9, 9, 9, 9)])
@pytest.mark.parametrize("context", [0, 5])
def test_values_and_traces_are_those_of_the_network(hidden: tuple[int, ...], context: int) -> None:
    net = network(3, hidden, context)
    x, t, given = torch.randn(20, 3, dtype=WIDE), torch.rand(20, dtype=WIDE), Context(vector=torch.randn(20, 5, dtype=WIDE))
    told = given if context else None
    closed, embedding = net.modulated(), net.time(t)
    added = net.conditions(told)
    assert (added is None) == (not context)
    embedding = embedding if added is None else embedding + added
    one, zero = torch.ones(20, dtype=WIDE), torch.zeros(20, dtype=WIDE)
    y, trace = closed(x, closed.moments(embedding, one, zero, one), torch.arange(20), value=True, trace=True)
    value, exact = divergence.exact(lambda x: net(x, t, told), x)
    torch.testing.assert_close(y, value, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(trace, exact, rtol=1e-10, atol=1e-10)
    assert float(exact.detach().abs().min()) > 1e-4
    # scale, skip and out
    scale, skip, out = torch.rand(3, 20, dtype=WIDE)
    y, trace = closed(x, closed.moments(embedding, scale, skip, out), torch.arange(20), value=True, trace=True)
    moved = lambda x: skip[:, None] * x + out[:, None] * net(scale[:, None] * x, t, told)
    value, exact = divergence.exact(moved, x)
    torch.testing.assert_close(y, value, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(trace, exact, rtol=1e-10, atol=1e-10)


def field(net: TimeMLP, schedule: Any, prediction: str) -> PathField:
    path = schedule if schedule.regular and (schedule.start, schedule.stop) == (0.0, 1.0) else Angle()
    return PathField(lambda context: Denoiser(lambda x, c: net(x, c, context), schedule, prediction), net, path)


MODELS = pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(Rectified(), "v"), (Rectified(), "velocity"), (VP(), "noise"), (EDM(), "data")],
    ids=["rectified v", "velocity", "vp", "edm"],
)


@MODELS
@pytest.mark.parametrize("context", [0, 5])
@torch.no_grad()
def test_velocities_and_their_traces(schedule: Any, prediction: str, context: int) -> None:
    net, x = network(3, (12, 12), context), torch.randn(20, 3, dtype=WIDE)
    told = Context(vector=torch.randn(20, 5, dtype=WIDE)) if context else None
    made = field(net, schedule, prediction)
    prepared = made.prepared(told)
    assert isinstance(prepared, PreparedVelocity)
    times, of = 0.1 + 0.8 * torch.rand(4, dtype=WIDE), torch.randint(0, 4, (20,))
    for t, asked in (
        (times[of], times[of]),
        (times[0], times[0]),
        (times[of], Shared(times, of, prepared.beforehand(times))),
    ):
        value, exact = divergence.exact(lambda x, t=t: made(t, x, told), x)
        torch.testing.assert_close(prepared(asked, x, prepared.given), value, rtol=1e-9, atol=1e-9)
        probe = torch.randn(20, 2, 3, dtype=WIDE)
        found, trace, product = prepared.derivatives(asked, x, prepared.given, probe)
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(trace, exact, rtol=1e-9, atol=1e-9)
        _, expected = divergence.product(lambda x, t=t: made(t, x, told), x, probe)
        torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [Rectified(), VP(), EDM()], ids=["rectified", "vp", "edm"])
@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("solve", [Adaptive(1e-8), Fixed("rk4", 20)], ids=["adaptive", "fixed"])
def test_densities_are_those_of_the_field_as_it_is(schedule: Any, context: int, solve: Any) -> None:
    net, x = network(3, (12, 12), context), torch.randn(12, 3, dtype=WIDE)
    told = Context(vector=torch.randn(12, 5, dtype=WIDE)) if context else None
    made = field(net, schedule, "v")  # finite everywhere, whatever the network says
    with torch.no_grad():
        closed = ODE(made, training=solve, evaluation=solve).pull(x, told)
        plain = ODE(lambda t, x, context: made(t, x, context), training=solve, evaluation=solve).pull(x, told)
        back = ODE(made, training=solve, evaluation=solve).push(closed[0], told)
    for one, other in zip(closed, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)
    # one row of context is that of all
    if told is not None and told.vector is not None:
        with torch.no_grad():
            many = ODE(made, evaluation=solve).eval().pull(x, Context(vector=told.vector[:1].expand(12, -1)))
            one = ODE(made, evaluation=solve).eval().pull(x, Context(vector=told.vector[:1]))
        torch.testing.assert_close(one, many)


def test_where_gradients_or_other_numbers_are_wanted_the_network_is_asked() -> None:
    net = network(2, (8,))
    made = field(net, Rectified(), "v")
    assert made.prepared() is None
    with torch.no_grad():
        assert made.prepared() is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert made.prepared() is None
        twice = PathField(lambda context: Denoiser(lambda x, c: net(x, c), VP(), "noise", 1), net, Angle())
        assert twice.prepared() is None
        assert PathField(made.denoiser_in, torch.nn.Linear(2, 2), made.path).prepared() is None
    x = torch.randn(5, 2, dtype=WIDE, requires_grad=True)
    z, v = ODE(made, training=Adaptive(1e-6)).pull(x)
    (found,) = torch.autograd.grad((z.square().sum(1) + v).sum(), x)
    assert float(found.abs().min()) > 0


def test_it_is_what_the_weights_are_now() -> None:
    net = network(2, (8, 8))
    net.layers[1].weight.data.mul_(1.5)
    x, t = torch.randn(4, 2, dtype=WIDE), torch.rand(4, dtype=WIDE)
    one, zero = torch.ones(4, dtype=WIDE), torch.zeros(4, dtype=WIDE)
    closed = net.modulated()
    torch.testing.assert_close(closed(x, closed.moments(net.time(t), one, zero, one), torch.arange(4))[0], net(x, t))
