"""The order a masked net promises, and that sampling one element at a time gives the same values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pushforward.core.context import Context
from pushforward.nets import MaskedMLP


def net_for(
    inputs: Tensor, outputs: Tensor, hidden: list[int], context: int = 0, *, direct: bool = False, seed: int = 0
) -> MaskedMLP:
    torch.manual_seed(seed)
    return MaskedMLP(inputs, outputs, hidden, context=context, activation="tanh", direct=direct).double()


def jacobian(net: MaskedMLP, x: Tensor, context: Context | None = None) -> Tensor:
    return torch.autograd.functional.jacobian(lambda v: net(v[None], context)[0], x)


degrees = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(torch.tensor)
widths = st.lists(st.integers(1, 12), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None)
@given(degrees, degrees, widths, st.integers(0, 2), st.booleans())
def test_outputs_depend_only_on_earlier_elements(
    inputs: Tensor, outputs: Tensor, hidden: list[int], context: int, direct: bool
) -> None:
    net = net_for(inputs, outputs, hidden, context, direct=direct)
    slopes = jacobian(net, torch.randn(len(inputs)).double(), Context(vector=torch.randn(1, context).double()))
    assert not slopes[outputs[:, None] <= inputs].any()
    if direct:
        assert slopes[outputs[:, None] > inputs].all()


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("hidden", [[8], [5, 9], [16, 16, 16]])
def test_every_earlier_element_is_seen(hidden: list[int], context: int) -> None:
    order = torch.tensor([3, 1, 4, 2])
    net = net_for(order, order.repeat_interleave(2), hidden, context)
    slopes = jacobian(net, torch.randn(4).double(), Context(vector=torch.randn(1, context).double()))
    assert torch.equal(slopes != 0, order.repeat_interleave(2)[:, None] > order)


def test_the_last_output_sees_everything_even_through_a_narrow_layer() -> None:
    order = torch.arange(1, 41)
    net = net_for(order, order, [6, 6])
    assert jacobian(net, torch.randn(40).double())[-1, :-1].all()


@pytest.mark.parametrize("context", [0, 2])
def test_a_single_element_is_a_constant_of_the_context(context: int) -> None:
    one = torch.tensor([1])
    net = net_for(one, torch.ones(3, dtype=torch.long), [8, 8], context)
    vector = torch.randn(1, context).double()
    low, high = (net(torch.full((1, 1), v).double(), Context(vector=vector)) for v in (-5.0, 5.0))
    assert torch.equal(low, high)
    assert low.any()
    if context:
        assert not torch.allclose(low, net(torch.zeros(1, 1).double(), Context(vector=vector + 1)))


def test_the_context_reaches_every_output() -> None:
    order = torch.arange(1, 7)
    net = net_for(order, order, [16, 16], 2)
    x = torch.randn(1, 6).double()
    slopes = torch.autograd.functional.jacobian(lambda v: net(x, Context(vector=v[None]))[0], torch.randn(2).double())
    assert slopes.all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), widths, st.integers(0, 2), st.booleans())
def test_one_element_at_a_time_equals_forward(size: int, per: int, hidden: list[int], context: int, direct: bool) -> None:
    # elements of two columns each, as a one-hot code has, and ``per`` outputs each
    order = torch.arange(1, size + 1)
    net = net_for(order.repeat_interleave(2), order.repeat_interleave(per), hidden, context, direct=direct)
    x, condition = torch.randn(3, 2 * size).double(), Context(vector=torch.randn(3, context).double())
    whole = net(x, condition)
    state = net.start(3, condition)
    for element in range(size):
        rows = slice(element * per, (element + 1) * per)
        assert torch.allclose(net.outputs(state, rows), whole[:, rows], atol=1e-12)
        columns = slice(2 * element, 2 * element + 2)
        state = net.advance(state, columns, x[:, columns])
    assert torch.allclose(net.outputs(state), whole, atol=1e-12)


def test_rows_and_columns_by_index_in_any_order() -> None:
    order = torch.tensor([2, 3, 1])
    net = net_for(order, order, [8], direct=True)
    x = torch.randn(4, 3).double()
    whole, state = net(x), net.start(4)
    for element in order.argsort():
        index = element[None]
        assert torch.allclose(net.outputs(state, index), whole[:, index], atol=1e-12)
        before = state
        state = net.advance(state, index, x[:, index])
        assert torch.allclose(net.outputs(before, index), whole[:, index], atol=1e-12)  # a state is never changed


def test_gradients_pass_through_the_steps() -> None:
    order = torch.arange(1, 4)
    net = net_for(order, order, [8, 8], direct=True)
    x = torch.randn(2, 3).double()
    state = net.advance(net.start(2), slice(0, 3), x)
    net.outputs(state).square().sum().backward()
    stepped = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    net(x).square().sum().backward()
    assert len(stepped) == len(list(net.parameters()))
    assert all(torch.allclose(a, p.grad) for a, p in zip(stepped, net.parameters(), strict=True))


def test_masks_follow_the_module_but_not_the_state() -> None:
    order = torch.arange(1, 4)
    net = MaskedMLP(order, order, (8,), direct=True)
    assert not [name for name in net.state_dict() if "mask" in name or "degrees" in name]
    assert net.double()(torch.randn(2, 3).double()).dtype == torch.float64
    assert net.in_degrees.dtype == torch.long


def test_zero_last_gives_zero_and_early_rows_start_as_wide_as_late_ones() -> None:
    order = torch.arange(1, 51)
    assert not MaskedMLP(order, order, zero_last=True, direct=True)(torch.randn(2, 50)).any()
    torch.manual_seed(0)
    first = MaskedMLP(order, order, (490,)).layers[0]
    spread = first(torch.randn(2000, 50)).std(0)
    assert spread.max() < 5 * spread[:10].mean()


def test_degrees_and_hidden_layers_are_checked() -> None:
    order = torch.arange(1, 4)
    with pytest.raises(ValueError, match="in_degrees"):
        MaskedMLP(order - 1, order)
    with pytest.raises(ValueError, match="out_degrees"):
        MaskedMLP(order, order[:0])
    with pytest.raises(ValueError, match="hidden layer"):
        MaskedMLP(order, order, ())
