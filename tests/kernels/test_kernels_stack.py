"""The stack's kernel against the formula in double precision: odd sizes, masks that leave holes, and any number of threads."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pushforward.kernels import stack


def formula(x: Tensor, weights: list[Tensor], biases: list[Tensor], masks: list[Tensor] | None, shift: Tensor | None) -> Tensor:
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = x @ (w if masks is None else w * masks[i]).T + b
        x = x + shift if i == 0 and shift is not None else x
        x = x.clamp(min=0) if i < len(weights) - 1 else x
    return x


@pytest.mark.parametrize("rows", [1, 63, 64, 300])
@pytest.mark.parametrize("widths", [(5, 7), (16, 32, 16), (21, 40, 130, 44), (1, 33, 17, 64, 3), (3, 1024, 1020, 5)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients(rows: int, widths: tuple[int, ...], masked: bool, shifted: bool, threads: int) -> None:
    generator = torch.Generator().manual_seed(rows + len(widths))
    draw = lambda *size: torch.randn(*size, generator=generator)
    pairs = list(itertools.pairwise(widths))
    weights, biases = [draw(b, a) / a**0.5 for a, b in pairs], [draw(b) for _, b in pairs]
    # units of ascending degree, the first few of which see nothing
    masks = [(torch.arange(b)[:, None] * a >= b * (torch.arange(a) + 2)).float() for a, b in pairs] if masked else None
    x, shift, g = draw(rows, widths[0]), draw(rows, widths[1]) if shifted else None, draw(rows, widths[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, made = stack.forward(x, weights, biases, shift, masks, keep=True)
        plain, nothing = stack.forward(x, weights, biases, shift, masks, keep=False)
        assert nothing is None
        assert made is not None
        found = stack.backward(made, g, by_x=True, by_shift=shifted, by_weight=[True] * len(weights))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, plain, rtol=0, atol=0)
    wide = lambda t: None if t is None else t.double().requires_grad_()
    x, shift, weights, biases = wide(x), wide(shift), [wide(w) for w in weights], [wide(b) for b in biases]
    truth = formula(x, weights, biases, None if masks is None else [m.double() for m in masks], shift)
    torch.testing.assert_close(y.double(), truth.detach(), rtol=1e-4, atol=1e-4)
    theirs = torch.autograd.grad(truth, [x, *weights, *biases, *([shift] if shifted else [])], g.double())
    by_x, by_shift, by_weight, by_bias = found
    assert (by_shift is None) == (not shifted)
    # the gradient is that by the masked weight
    by_weight = [w if masks is None else w * m for w, m in zip(by_weight, masks or by_weight, strict=True)]
    mine = [by_x, *by_weight, *by_bias, *([by_shift] if shifted else [])]
    for one, other in zip(mine, theirs, strict=True):
        scale = float(other.abs().max()) + 1e-9
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=1e-4, atol=1e-5)


def test_gradients_that_nobody_wants_are_not_made() -> None:
    x, weights, biases = torch.randn(40, 3), [torch.randn(5, 3), torch.randn(2, 5)], [torch.randn(5), torch.randn(2)]
    _, made = stack.forward(x, weights, biases, None, None, keep=True)
    assert made is not None
    by_x, by_shift, by_weight, by_bias = stack.backward(
        made, torch.randn(40, 2), by_x=False, by_shift=False, by_weight=[True, False]
    )
    assert [by_x, by_shift, by_weight[1], by_bias[1]] == [None] * 4
    assert by_weight[0] is not None
    assert by_weight[0].shape == (5, 3)


def test_a_mask_that_changes_is_noticed() -> None:
    x, weights, biases = torch.ones(4, 20), [torch.ones(3, 20)], [torch.zeros(3)]
    mask = torch.zeros(3, 20)
    mask[:, :2] = 1
    assert stack.forward(x, weights, biases, None, [mask], keep=False)[0].tolist() == [[2.0] * 3] * 4
    mask.fill_(1)
    assert stack.forward(x, weights, biases, None, [mask], keep=False)[0].tolist() == [[20.0] * 3] * 4
