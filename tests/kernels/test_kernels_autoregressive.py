"""Inverses of autoregressive layers: the kernel and the unit-by-unit reference against the one that takes D passes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pushforward.core.context import Context
from pushforward.core.schema import Image, Kind, Vector
from pushforward.kernels.product import AVAILABLE
from pushforward.models.autoregressive import ancestral
from pushforward.models.elements import elements
from pushforward.nets.masked import MaskedMLP
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.monotone import Additive, Affine, Monotone
from pushforward.transforms.spline import Spline

MAPS: dict[str, Callable[[], Monotone]] = {"additive": Additive, "affine": Affine, "spline": lambda: Spline(5, 3.0)}
CASES = [(1, (8,), 0), (3, (16, 16), 2), (7, (5, 9, 11), 0), (20, (32, 32), 3), (9, (33,), 0)]


def layer(name: str, size: int, hidden: tuple[int, ...], context: int, activation: str = "relu") -> Autoregressive:
    torch.manual_seed(size)
    f, order = MAPS[name](), torch.randperm(size) + 1
    net = MaskedMLP(order, order.repeat(f.params), hidden, context=context, activation=activation)
    for p in net.parameters():
        nn.init.normal_(p, std=1.5 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.5)
    return Autoregressive(net, f)


def naive(transform: Autoregressive, z: Tensor, context: Context | None) -> Tensor:
    """One pass of the whole network for every element."""
    x, net = torch.zeros_like(z), transform.net
    assert isinstance(net, MaskedMLP)
    for i in net.in_degrees.argsort().tolist():
        params = net(x, context).view(len(z), transform.monotone.params, -1)
        x[:, i] = transform.monotone.push(z[:, i : i + 1], params[:, :, i : i + 1])[:, 0]
    return x


def given(context: int, rows: int, dtype: torch.dtype = torch.float32) -> Context | None:
    vector = torch.randn(rows, context, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Context(vector=vector.to(dtype)) if context else None


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("size", "hidden", "context"), CASES)
@pytest.mark.parametrize("rows", [1, 150])
@torch.no_grad()
def test_the_kernel_equals_the_naive_inverse(name: str, size: int, hidden: tuple[int, ...], context: int, rows: int) -> None:
    transform = layer(name, size, hidden, context)
    z, c = 2 * torch.randn(rows, size), given(context, rows)
    assert transform.net._kernel_applies(z, c) == AVAILABLE  # type: ignore[attr-defined]
    x = transform.push(z, c)
    torch.testing.assert_close(x, naive(transform, z, c), rtol=5e-5, atol=3e-5)
    assert float((x - z).abs().max()) > 1e-2


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("size", "hidden", "context"), CASES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@torch.no_grad()
def test_one_unit_at_a_time_equals_the_naive_inverse(
    name: str, size: int, hidden: tuple[int, ...], context: int, activation: str
) -> None:
    transform = layer(name, size, hidden, context, activation).double()
    z, c = 2 * torch.randn(40, size, dtype=torch.float64), given(context, 40, torch.float64)
    torch.testing.assert_close(transform.push(z, c), naive(transform, z, c), rtol=1e-9, atol=1e-9)


def test_threads_share_the_rows() -> None:
    transform, before = layer("affine", 6, (16, 16), 0), torch.get_num_threads()
    z = torch.randn(500, 6)
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            x = transform.push(z)
    finally:
        torch.set_num_threads(before)
    with torch.no_grad():
        assert torch.equal(x, transform.push(z))


def test_the_kernel_sees_new_weights() -> None:
    transform = layer("affine", 4, (8, 8), 0)
    z = torch.randn(10, 4)
    with torch.no_grad():
        first = transform.push(z)
        for p in transform.parameters():
            p.mul_(0.5)
        second = transform.push(z)
        assert not torch.allclose(first, second)
        torch.testing.assert_close(second, naive(transform, z, None), rtol=1e-5, atol=1e-5)
        state = {k: 2 * v for k, v in transform.state_dict().items()}
        transform.load_state_dict(state)
        torch.testing.assert_close(transform.push(z), first, rtol=1e-5, atol=1e-5)


def test_gradients_of_samples_are_those_of_the_naive_inverse() -> None:
    transform = layer("affine", 5, (8, 8), 0)
    z = torch.randn(6, 5, requires_grad=True)
    weights = list(transform.parameters())
    mine = torch.autograd.grad(transform.push(z).square().sum(), [z, *weights])
    x = [torch.zeros(6)] * 5
    net = transform.net
    for i in net.in_degrees.argsort().tolist():  # type: ignore[attr-defined]
        params = net(torch.stack(x, 1)).view(6, 2, -1)
        x[i] = transform.monotone.push(z[:, i : i + 1], params[:, :, i : i + 1])[:, 0]
    truth = torch.autograd.grad(torch.stack(x, 1).square().sum(), [z, *weights])
    for a, b in zip(mine, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_unrolling_costs_about_one_pass() -> None:
    transform = layer("affine", 32, (64, 64), 0).double()
    z = torch.randn(16, 32, dtype=torch.float64)
    with FlopCounterMode(display=False) as one_pass:
        transform.pull(z)
    with FlopCounterMode(display=False) as unrolled:
        transform.push(z)
    # the dense pass multiplies with the zeros above the diagonals too
    assert 0.4 < unrolled.get_total_flops() / one_pass.get_total_flops() < 1.2


@pytest.mark.parametrize("how", ["fused", "data"])
def test_weights_that_change_without_a_mark_are_seen(how: str) -> None:
    # a fused optimiser and a write to .data leave a tensor's version as it was
    transform = layer("affine", 4, (8, 8), 0)
    x, z = torch.randn(10, 4), torch.randn(10, 4)
    with torch.no_grad():
        before = transform.push(z), transform.pull(x)[0]
    if how == "fused":
        optimiser = torch.optim.AdamW(transform.parameters(), lr=0.1, fused=True)
        transform.pull(x)[0].square().mean().backward()
        optimiser.step()
    else:
        for p in transform.parameters():
            p.data.mul_(0.5)
    fresh = copy.deepcopy(transform)
    fresh.load_state_dict(transform.state_dict())
    with torch.no_grad():
        after = transform.push(z), transform.pull(x)[0]
        truth = naive(fresh, z, None), fresh.pull(x)[0]
    for old, new, true in zip(before, after, truth, strict=True):
        assert not torch.allclose(old, new)
        torch.testing.assert_close(new, true, rtol=1e-5, atol=1e-5)


DRAWN = {
    "bernoulli": Image(1, 5, 7, levels=2),
    "logistics": Vector(9),
    "pixels": Image(1, 4, 5, levels=256),
}


@pytest.mark.skipif(not AVAILABLE, reason="this processor takes torch's way")
@pytest.mark.parametrize("kind", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("rows", [1, 150])
@pytest.mark.parametrize(("hidden", "direct"), [((40, 30), False), ((30,), True), ((40, 30, 50), True)])
@torch.no_grad()
def test_draws_are_those_of_the_reference(kind: Kind, context: int, rows: int, hidden: tuple[int, ...], direct: bool) -> None:
    torch.manual_seed(3)
    parts, generator = elements(kind, 3), torch.Generator().manual_seed(4)
    x = 3 * torch.randn(200, *kind.shape, generator=generator, dtype=torch.float64)
    if isinstance(kind, Image):
        x = (x.sigmoid() * kind.levels).floor().clamp(max=kind.levels - 1).to(torch.uint8)
    parts.prepare(x)
    order = torch.randperm(parts.count, generator=generator).tolist()
    place = torch.tensor(order).argsort() + 1
    net = MaskedMLP(place[parts.feature_element], place[parts.param_element], hidden, context=context, direct=direct)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    u = torch.rand(rows, parts.count, generator=generator, dtype=torch.float64)
    known = torch.rand(rows, parts.count, generator=generator) < 0.3
    e, told = parts.take_apart(x[:rows]), given(context, rows) or Context()
    for held in (None, (e, known)):
        quick = net.draw(parts, u, told, held)
        assert quick is not None
        net.double(), parts.double()
        slow = ancestral(parts, net, order, given(context, rows, torch.float64) or Context(), u, held=held)
        net.float(), parts.float()
        if held is not None:
            torch.testing.assert_close(quick[known], e[known], rtol=1e-6, atol=1e-5)
        apart = (quick - slow).abs() > 1e-3 * (1 + slow.abs())
        assert float(apart.any(1).double().mean()) <= 0.05  # a last bit may choose another level
        assert rows == 1 or quick.std(0).max() > 0.1
