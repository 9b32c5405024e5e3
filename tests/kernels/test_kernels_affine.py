"""The fused affine map against the one written with tensor operations, in double precision."""

from __future__ import annotations

import pytest
import torch

from pushforward.kernels import affine
from pushforward.transforms.monotone import Affine

SHAPES = [(1, 1), (7, 3), (300, 22), (5, 700)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_values_and_gradients_equal_the_reference(shape: tuple[int, int], spread: float) -> None:
    rows, size = shape
    generator = torch.Generator().manual_seed(size)
    x, params = torch.randn(rows, size, generator=generator), spread * torch.randn(rows, 2, size, generator=generator)
    gz, gv = torch.randn(rows, size, generator=generator), torch.randn(rows, generator=generator)
    f, wide = Affine(), (x.double().requires_grad_(), params.double().requires_grad_())
    truth, score = f.pull(*wide)
    z, v = affine.pull(x, params, f.bound)
    # a shift of ten thousand leaves float32 a thousandth
    torch.testing.assert_close(z.double(), truth.detach(), rtol=1e-5, atol=1e-5 * max(1, spread / 100))
    torch.testing.assert_close(v.double(), score.detach(), rtol=1e-5, atol=1e-4)
    theirs = torch.autograd.grad((truth * gz).sum() + (score * gv).sum(), wide)
    for mine, other in zip(affine.gradient(x, params, gz, gv, f.bound), theirs, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-4, atol=1e-5)


def test_autograd_goes_through_the_kernel_whatever_the_strides() -> None:
    f, both = Affine(), torch.randn(9, 8)
    params = torch.randn(9, 2, 4)
    grads = []
    for dtype in (torch.float32, torch.float64):
        p = params.to(dtype, copy=True).requires_grad_()
        z, v = f.pull(both.to(dtype)[:, ::2], p)
        (z.mean() + v.mean()).backward()
        assert p.grad is not None
        grads.append(p.grad.double())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e10, 3e38])
def test_extreme_numbers_stay_finite_in_both_directions(size: float) -> None:
    f, x = Affine(), torch.tensor([[1.0, -1.0, 0.0]])
    for params in (torch.full((1, 2, 3), size), torch.full((1, 2, 3), -size)):
        z, v = f.pull(x, params)
        assert z.isfinite().all()
        assert v.isfinite().all()
        assert f.push(x, params / 1e4).isfinite().all()
