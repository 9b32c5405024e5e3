"""Linear layers by the quicker way: the same values and gradients as torch's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pushforward.nets.linear import Linear, rectified
from pushforward.transforms.monotone import Affine

LARGE, SMALL = 600, 5  # rows with which 64 × 64 products go to the kernel, and with which they do not


def net(widths: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    pairs = list(itertools.pairwise(widths))
    weights = [torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5 for a, b in pairs]
    biases = [torch.randn(b, generator=generator, dtype=torch.float64) for _, b in pairs]
    masks = [(torch.rand(b, a, generator=generator) < 0.7).to(dtype) for a, b in pairs]
    leaf = lambda t: t.to(dtype).requires_grad_()
    return [leaf(w) for w in weights], [leaf(b) for b in biases], masks


def plain(x: Tensor, weights: list[Tensor], biases: list[Tensor], shift: Tensor | None) -> Tensor:
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = x @ w.T + b + (shift if i == 0 and shift is not None else 0)
        x = x.clamp(min=0) if i < len(weights) - 1 else x
    return x


@pytest.mark.parametrize("rows", [SMALL, LARGE])
@pytest.mark.parametrize("widths", [(64, 64, 64, 7), (3, 64, 9), (64, 64)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients_are_those_of_the_formula(rows: int, widths: tuple[int, ...], masked: bool, shifted: bool) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        weights, biases, masks = net(widths, dtype)
        generator = torch.Generator().manual_seed(rows)
        # a view with gaps between its rows, as a coupling gives it
        whole = torch.randn(rows, 2 * widths[0], generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        x = whole[:, : widths[0]]
        shift = torch.randn(rows, widths[1], generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        given = shift if shifted else None
        if dtype == torch.float32:
            y = rectified(x, weights, biases, shift=given, masks=masks if masked else None)
            with torch.no_grad():
                torch.testing.assert_close(
                    rectified(x, weights, biases, shift=given, masks=masks if masked else None), y, rtol=1e-4, atol=1e-4
                )
        else:
            used = [w * m for w, m in zip(weights, masks, strict=True)] if masked else weights
            y = plain(x, used, biases, given)
        leaves = [whole, *weights, *biases, *([shift] if shifted else [])]
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for mine, truth in zip(*found, strict=True):
        scale = float(truth.abs().max())
        torch.testing.assert_close(mine.double() / scale, truth / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [SMALL, LARGE])
def test_gradients_can_be_differentiated_again_and_taken_many_at_once(rows: int) -> None:
    weights, biases, _ = net((64, 64, 2))
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    wide = [w.double().detach() for w in weights], [b.double().detach() for b in biases]
    x64 = x.detach().double().requires_grad_()
    slopes, again = [], []
    for at, y in ((x, rectified(x, weights, biases)), (x64, plain(x64, *wide, None))):
        (slope,) = torch.autograd.grad(y.square().sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), at, retain_graph=True)
        again.append(second.double())
        units = torch.stack([torch.zeros_like(y).index_fill(1, torch.tensor(i), 1.0) for i in range(2)])
        (many,) = torch.autograd.grad(y, at, units, is_grads_batched=True)
        slopes.append(many.double())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again[0], again[1], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("rows", [SMALL, LARGE])
@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_by_everything(rows: int, masked: bool) -> None:
    """A gradient by a weight depends on the units that enter its layer, and these on every weight below and on x."""
    found = []
    for dtype in (torch.float32, torch.float64):
        weights, biases, masks = net((64, 64, 64, 2), dtype)
        generator = torch.Generator().manual_seed(1)
        both = torch.randn(2, rows, 64, generator=generator, dtype=torch.float64).to(dtype)
        x, shift = both[0].clone().requires_grad_(), both[1].clone().requires_grad_()
        if dtype == torch.float32:
            y = rectified(x, weights, biases, shift=shift, masks=masks if masked else None)
        else:
            y = plain(x, [w * m for w, m in zip(weights, masks, strict=True)] if masked else weights, biases, shift)
        leaves = [*weights, *biases, x, shift]
        first = torch.autograd.grad(y.square().mean(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for mine, truth in zip(*found, strict=True):
        assert float((mine.double() - truth).norm()) < 1e-3 * float(truth.norm())


def test_a_layer_is_torchs_layer() -> None:
    torch.manual_seed(0)
    layer = Linear(64, 64)
    for x in (torch.randn(LARGE, 64), torch.randn(2, 3, 64), torch.randn(4, 64, dtype=torch.float64)):
        layer = layer.to(x.dtype)
        truth = x @ layer.weight.T + layer.bias
        torch.testing.assert_close(layer(x), truth, rtol=1e-5, atol=1e-5)
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(LARGE, 64)).dtype == torch.bfloat16
    mapped = torch.func.vmap(layer)(torch.randn(3, LARGE, 64))
    assert mapped.shape == (3, LARGE, 64)


def test_the_default_dtype_of_torch_does_not_reach_the_kernels() -> None:
    x, (weights, biases, masks) = torch.randn(LARGE, 64), net((64, 64, 64))
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            y = rectified(x, weights, biases, masks=masks)
            z, v = Affine().pull(x, y[:, None].expand(-1, 2, -1))
            found.append([y, z, v, *torch.autograd.grad(z.sum() + v.sum(), weights)])
        finally:
            torch.set_default_dtype(torch.float32)
    for one, other in zip(*found, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)
