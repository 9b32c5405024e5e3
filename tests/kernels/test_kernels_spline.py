"""The fused spline against the one written with tensor operations, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.kernels import spline as kernel
from pushforward.transforms.spline import Spline

SHAPES = [(1, 2, 2), (5, 3, 8), (300, 7, 5), (33, 300, 4), (2, 257, 2)]


def case(rows: int, size: int, bins: int, spread: float = 1.0) -> tuple[Spline, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + size + bins)
    f = Spline(bins, bound=3.0)
    x = 1.4 * torch.randn(rows, size, generator=generator)
    x.view(-1)[1 :: max(1, x.numel() // 7)] = 40.0  # outside
    return f, x, spread * torch.randn(rows, f.params, size, generator=generator)


def settings(f: Spline) -> tuple[float, float, float]:
    return f.bound, f.floor, f.offset


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_pull_and_push_equal_the_reference(shape: tuple[int, int, int], threads: int) -> None:
    f, x, params = case(*shape)
    truth, score = f.pull(x.double(), params.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        z, v = kernel.pull(x, params, *settings(f))
        back = kernel.push(truth.float(), params, *settings(f))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(z.double(), truth, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(v.double(), score, rtol=1e-4, atol=1e-4)
    # where the curve is flat many x share a z: what counts is where x is taken to
    torch.testing.assert_close(f.pull(back.double(), params.double())[0], truth, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(back.double(), x.double(), rtol=0.0, atol=0.01)
    assert float((truth - x).abs().max()) > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_reference(shape: tuple[int, int, int]) -> None:
    f, x, params = case(*shape)
    generator = torch.Generator().manual_seed(1)
    gz, gv = torch.randn(x.shape, generator=generator), torch.randn(len(x), generator=generator)
    found = kernel.pull_gradient(x, params, gz, gv, *settings(f))
    wide = x.double().requires_grad_(), params.double().requires_grad_()
    z, v = f.pull(*wide)
    truth = torch.autograd.grad((z * gz).sum() + (v * gv).sum(), wide)
    for mine, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=3e-4)


def test_autograd_goes_through_the_kernel() -> None:
    f, x, params = case(20, 4, 6)
    one, two = params.clone().requires_grad_(), params.double().requires_grad_()
    for p, value in ((one, x), (two, x.double())):
        z, v = f.pull(value, p)
        (z.square().sum() - v.sum()).backward()
    assert one.grad is not None
    assert two.grad is not None
    torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-3, atol=1e-4)


def test_values_at_knots_at_the_ends_and_far_outside() -> None:
    f, _, params = case(6, 5, 4)
    knots_x, _, _ = f.double()._knots(params.double())
    x = knots_x.float().transpose(1, 2).reshape(6, -1)[:, :20]  # 5 coordinates × first 4 knots
    same = params.repeat_interleave(4, 2)[:, :, :20]
    for value in (x, torch.full_like(x, -3.0), torch.full_like(x, 3.0), torch.full_like(x, 1e30), torch.full_like(x, -3e38)):
        z, v = kernel.pull(value, same, *settings(f))
        truth, score = f.pull(value.double(), same.double())
        torch.testing.assert_close(z.double(), truth, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(v.double(), score, rtol=1e-3, atol=1e-3)
        assert kernel.push(value, same, *settings(f)).isfinite().all()


def test_wild_parameters_give_finite_numbers() -> None:
    f, x, params = case(50, 6, 8, spread=300.0)
    z, v = kernel.pull(x, params, *settings(f))
    grads = kernel.pull_gradient(x, params, torch.ones_like(x), torch.ones(len(x)), *settings(f))
    assert all(t.isfinite().all() for t in (z, v, kernel.push(x, params, *settings(f)), *grads))
