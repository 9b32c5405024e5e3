"""Fields in closed form: derivatives against autograd's Jacobian, their gradients against double backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.core.context import Context
from pushforward.nets.field import SMOOTH, FieldMLP

WIDE = torch.float64
SIZE, CONTEXT = 3, 2
LAYERS = pytest.mark.parametrize("hidden", [(7,), (7, 6), (7, 6, 5), (6, 7, 5, 8), (4, 5, 6, 5, 4)], ids=len)
SMOOTHS = pytest.mark.parametrize("activation", SMOOTH)


def field(hidden: tuple[int, ...], activation: str = "tanh", context: int = CONTEXT) -> FieldMLP:
    torch.manual_seed(3)
    net = FieldMLP(SIZE, hidden, context=context, activation=activation).to(WIDE)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return net


def points(n: int = 5, context: int = CONTEXT) -> tuple[Tensor, Tensor, Context | None]:
    generator = torch.Generator().manual_seed(0)
    t, x = torch.rand(n, dtype=WIDE, generator=generator), torch.randn(n, SIZE, dtype=WIDE, generator=generator)
    vector = torch.randn(n, context, dtype=WIDE, generator=generator)
    return t, x, Context(vector=vector) if context else None


def jacobian(net: FieldMLP, t: Tensor, x: Tensor, context: Context | None) -> Tensor:
    """(B, D, D), differentiable."""
    whole = torch.autograd.functional.jacobian(lambda v: net(t, v, context).sum(0), x, create_graph=True)
    return whole.transpose(0, 1)


@LAYERS
@SMOOTHS
def test_values_and_derivatives(hidden: tuple[int, ...], activation: str) -> None:
    net, (t, x, context) = field(hidden, activation), points()
    wanted = jacobian(net, t, x, context)
    value, trace = net.with_divergence(t, x, context)
    torch.testing.assert_close(value, net(t, x, context))
    torch.testing.assert_close(trace, wanted.diagonal(dim1=1, dim2=2).sum(1))
    assert float(trace.detach().abs().max()) > 0.02
    prepared, probe = net.prepared(context), torch.randn(5, 4, SIZE, dtype=WIDE)
    torch.testing.assert_close(prepared(t, x, prepared.given), value)
    _, nothing, product = prepared.derivatives(t, x, prepared.given, probe, trace=False)
    assert nothing is None
    torch.testing.assert_close(product, torch.einsum("bij,bpj->bpi", wanted, probe))


@LAYERS
@SMOOTHS
def test_the_trace_is_differentiable(hidden: tuple[int, ...], activation: str) -> None:
    net, (t, x, context) = field(hidden, activation), points()
    for tensor in (t, x, context.vector):
        tensor.requires_grad_()
    inputs = [t, x, context.vector, *net.parameters()]
    weights = torch.randn(5, dtype=WIDE)
    wanted = (weights * jacobian(net, t, x, context).diagonal(dim1=1, dim2=2).sum(1)).sum()
    found = (weights * net.with_divergence(t, x, context)[1]).sum()
    for a, b, name in zip(
        torch.autograd.grad(found, inputs, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(wanted, inputs, allow_unused=True, materialize_grads=True),
        ["t", "x", "context", *(n for n, _ in net.named_parameters())],
        strict=True,
    ):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")
        assert bool(b.abs().max() > 1e-6) != (name == f"layers.{len(hidden)}.bias"), name


def test_one_time_for_all_is_the_time_of_each() -> None:
    net, (_, x, context) = field((6, 5)), points()
    once, each = torch.tensor(0.4, dtype=WIDE), torch.full((5,), 0.4, dtype=WIDE)
    for a, b in zip(net.with_divergence(once, x, context), net.with_divergence(each, x, context), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(net(once, x, context), net(each, x, context))


@LAYERS
def test_many_rows_are_few_rows_many_times(hidden: tuple[int, ...]) -> None:
    """The trace is worked out in chunks of rows."""
    net, (t, x, _) = field(hidden, context=0), points(5, 0)
    trace = net.with_divergence(t.repeat(401), x.repeat(401, 1))[1]
    torch.testing.assert_close(trace, net.with_divergence(t, x)[1].repeat(401))


def test_what_belongs_to_rows_goes_with_them() -> None:
    net, (t, x, context) = field((6, 5, 4)), points()
    prepared = net.prepared(context)
    some = torch.tensor([3, 1])
    (given,) = prepared.given
    torch.testing.assert_close(prepared(t[some], x[some], (given[some],)), net(t, x, context)[some])
    assert field((6, 5), context=0).prepared().given == ()


@LAYERS
def test_rebuilt_of_its_own_tensors_is_the_same(hidden: tuple[int, ...]) -> None:
    net, (t, x, context) = field(hidden), points()
    prepared = net.prepared(context)
    again = prepared.rebuilt(tuple(tensor.clone() for tensor in prepared.tensors))
    for a, b in zip(prepared.derivatives(t, x, prepared.given)[:2], again.derivatives(t, x, again.given)[:2], strict=True):
        assert torch.equal(a, b)
    other = prepared.rebuilt(tuple(2 * tensor for tensor in prepared.tensors))
    assert not torch.isclose(other.derivatives(t, x, other.given)[1], prepared.derivatives(t, x, prepared.given)[1]).any()


@SMOOTHS
@pytest.mark.parametrize("hidden", [(8,), (8, 9), (8, 9, 7)], ids=len)
def test_float32_and_extreme_places(hidden: tuple[int, ...], activation: str) -> None:
    net, (t, x, context) = field(hidden, activation), points()
    wide = net.with_divergence(t, x, context)
    narrow = net.float().with_divergence(t.float(), x.float(), Context(vector=context.vector.float()))
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
    for scale in (1e4, 1e30):
        for value in net.with_divergence(t.float(), scale * x.float(), Context(vector=context.vector.float())):
            assert value.isfinite().all()


def test_it_starts_as_nothing() -> None:
    net, (t, x, context) = FieldMLP(SIZE, (6, 5), context=CONTEXT).to(WIDE), points()
    value, trace = net.with_divergence(t, x, context)
    assert not value.any()
    assert not trace.any()
    assert FieldMLP(SIZE, (6, 5), zero_last=False).layers[-1].weight.any()


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="no hidden layer"):
        FieldMLP(3, ())
    with pytest.raises(ValueError, match=r"'relu': a field is smooth, expected one of \['silu', 'softplus', 'tanh'\]"):
        FieldMLP(3, (4,), activation="relu")
    with pytest.raises(ValueError, match="context vector of width 0"):
        field((4, 4)).prepared()
