"""Fully visible belief networks and NADE: by their formulas, element by element, and by autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.nets.belief import NADE, FullyVisible

WIDE = torch.float64
FEATURES = [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 7)]  # of four elements of unlike sizes
PARAMS = [slice(0, 2), slice(2, 3), slice(3, 6), slice(6, 7)]


def owners(slices: list[slice]) -> Tensor:
    return torch.cat([torch.full((s.stop - s.start,), i) for i, s in enumerate(slices)])


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)
    return net.double()


def nets() -> list[nn.Module]:
    return [
        shaken(NADE(FEATURES, PARAMS, 9, context=2)),
        shaken(FullyVisible(owners(FEATURES), owners(PARAMS), context=2)),
    ]


def given(rows: int) -> tuple[Tensor, Context]:
    generator = torch.Generator().manual_seed(1)
    x, vector = (torch.randn(rows, k, generator=generator, dtype=WIDE) for k in (7, 2))
    return x, Context(vector)


def test_nade_is_its_formula() -> None:
    net, (x, context) = nets()[0], given(5)
    assert isinstance(net, NADE)
    found, row = net(x, context), []
    for n in range(5):
        outputs = []
        for i in range(4):
            a = net.input.bias + net.from_context.weight @ context.vector[n]  # type: ignore[index, union-attr]
            for j in range(i):
                a = a + net.input.weight[:, FEATURES[j]] @ x[n, FEATURES[j]]
            h = 1 / (1 + (-a).exp())
            outputs.append(net.output.weight[PARAMS[i]] @ h + net.output.bias[PARAMS[i]])
        row.append(torch.cat(outputs))
    torch.testing.assert_close(found, torch.stack(row))


def test_a_belief_network_is_its_formula() -> None:
    net, (x, context) = nets()[1], given(5)
    assert isinstance(net, FullyVisible)
    found = net(x, context)
    for i, rows in enumerate(PARAMS):
        wanted = net.linear.bias[rows] + context.vector @ net.from_context.weight[rows].T  # type: ignore[union-attr]
        for j in range(i):
            wanted = wanted + x[:, FEATURES[j]] @ net.linear.weight[rows][:, FEATURES[j]].T
        torch.testing.assert_close(found[:, rows], wanted)


def test_parameters_see_earlier_elements_and_no_others() -> None:
    for net in nets():
        x, context = given(3)
        x.requires_grad_()
        y = net(x, context)
        for i, rows in enumerate(PARAMS):
            (slope,) = torch.autograd.grad(y[:, rows].sum(), x, retain_graph=True, allow_unused=True)
            for j, columns in enumerate(FEATURES):
                seen = bool(slope[:, columns].ne(0).any())
                assert seen == (j < i), (type(net).__name__, i, j)


@torch.no_grad()
def test_steps_give_what_a_pass_gives() -> None:
    for net in nets():
        x, context = given(6)
        whole, state = net(x, context), net.start(6, context)  # type: ignore[operator]
        for columns, rows in zip(FEATURES, PARAMS, strict=True):
            torch.testing.assert_close(net.outputs(state, rows), whole[:, rows])  # type: ignore[operator]
            state = net.advance(state, columns, x[:, columns])  # type: ignore[operator]


def test_blocks_of_elements_change_nothing(monkeypatch: object) -> None:
    import pushforward.nets.belief as belief

    net, (x, context) = nets()[0], given(5)
    whole = net(x, context)
    before, belief._NUMBERS = belief._NUMBERS, 2 * 5 * 9  # two elements at a time
    try:
        torch.testing.assert_close(net(x, context), whole)
    finally:
        belief._NUMBERS = before
