"""The fused norm against the one written with tensor operations, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.kernels import norm
from pushforward.nets.norm import GroupNorm, normalised

# examples, channels, height, width, groups
SHAPES = [
    (1, 1, 1, 2, 1),
    (3, 4, 1, 5, 1),
    (2, 6, 3, 7, 3),
    (5, 40, 5, 3, 8),
    (2, 32, 28, 28, 8),
    (2, 600, 2, 3, 4),
    (0, 8, 3, 3, 2),
]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def drawn(shape: tuple[int, int, int, int], rows: int, mean: float = 0.0) -> tuple[Tensor, ...]:
    """x, and scale, shift and what comes before."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = mean + torch.randn(shape, generator=generator)
    return last(x), *(torch.randn(rows, shape[1], generator=generator) for _ in range(3))


def wide(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [t.double().requires_grad_() for t in tensors]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients_equal_the_reference(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, silu: bool, shared: bool
) -> None:
    *size, groups = shape
    x, *others = drawn(tuple(size), 1 if shared else size[0])  # type: ignore[arg-type]
    x, g = x.to(dtype), last(torch.randn(size, generator=torch.Generator().manual_seed(1))).to(dtype)
    exact = wide((x, *others))
    truth = normalised(*exact, groups, 1e-5, silu)
    y, known = norm.forward(x, *others, groups, 1e-5, silu)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(y.double(), truth.detach(), rtol=rounding, atol=rounding / 10)
    by_x, *by = norm.backward(x, g, *others[:2], known, groups, silu)
    mine = [by_x, *(b.sum(0, keepdim=True) if shared else b for b in by)]
    for found, right in zip(mine, torch.autograd.grad(truth, exact, g.double()), strict=True):
        most = float(right.abs().max()) if right.numel() else 0.0
        loose = 2**-8 if found is by_x and dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.double(), right, rtol=loose, atol=loose * max(most, 1.0))


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_a_mean_far_from_zero_costs_no_digits(mean: float) -> None:
    x, *others = drawn((2, 8, 9, 7), 2, mean)
    truth = normalised(*wide((x, *others)), 2, 1e-5, True)
    y, _ = norm.forward(x, *others, 2, 1e-5, True)
    # what is left is the rounding of n = r x + e
    torch.testing.assert_close(y.double(), truth.detach(), rtol=1e-4, atol=2e-6 * abs(mean) ** 0.9)


def test_what_is_no_number_or_large_stays_so() -> None:
    one = torch.ones(1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor([1.0, float("nan"), 2.0]).view(1, 1, 1, 3).to(dtype)
        assert norm.forward(x, one, one, 0 * one, 1, 1e-5, True)[0].isnan().all()
    x = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)
    y, _ = norm.forward(x, 1e4 * one, 0 * one, 0 * one, 1, 1e-5, True)
    assert abs(float(y[0, 0, 0, 0])) < 1e-30
    torch.testing.assert_close(float(y[0, 0, 0, 1]), 1e4, rtol=1e-4, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    x, *others = drawn((7, 64, 20, 20), 7)
    one, known = norm.forward(x, *others, 8, 1e-5, True)
    back = norm.backward(x, x, *others[:2], known, 8, True)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(norm.forward(x, *others, 8, 1e-5, True)[0], one)
        for a, b in zip(norm.backward(x, x, *others[:2], known, 8, True), back, strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_is_one_whatever_the_layout(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GroupNorm(12)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    x, scale, shift, before = torch.randn(3, 12, 5, 4).to(dtype), *torch.randn(3, 3, 12)
    found = []
    for given in (last(x), x, last(torch.cat([x, x], 3))[..., :4]):
        leaf = given.detach().requires_grad_()
        y = layer(leaf, before=before.to(dtype), scale=scale.to(dtype), shift=shift.to(dtype), silu=True)
        found.append((y, *torch.autograd.grad(y.float().square().sum(), [leaf, layer.weight, layer.bias])))
    loose = 1e-4 if dtype == torch.float32 else 0.05
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=loose, atol=loose * float(b.detach().float().abs().max()))


def test_the_reference_has_first_and_second_derivatives() -> None:
    x, *others = drawn((2, 4, 2, 3), 2)
    f = lambda *given: normalised(*given, 2, 1e-5, True)
    given = [t.detach().requires_grad_() for t in wide((x, *others))]
    assert torch.autograd.gradcheck(f, given)
    assert torch.autograd.gradgradcheck(f, given)


def test_exponentials_are_as_exact_as_said() -> None:
    x = np.linspace(-120, 120, 2001, dtype=np.float32)
    found = np.array([norm.exp(v) for v in x])
    right = np.exp(x.astype(np.float64).clip(-87, 87))
    inside = abs(x) < 86.5
    assert (abs(found / right - 1) <= 2e-7 + 1e-7 * abs(x))[inside].all()
    assert np.isfinite(found).all()
    assert (abs(found / right - 1) < 0.5)[~inside].all()
