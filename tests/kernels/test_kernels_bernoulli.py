"""The kernel of Bernoullis' log-likelihoods against the reference in double precision: values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward.kernels import bernoulli
from pushforward.models.blocks import Binary


def given(rows: int, repeats: int, size: int, spread: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + size)
    logits = spread * torch.randn(rows * repeats, size, generator=generator)
    return logits, torch.randn(size, generator=generator), torch.randint(2, (rows, size), generator=generator).float()


def reference(logits: Tensor, default: Tensor, e: Tensor) -> Tensor:
    block = Binary(e.shape[1]).double()
    block.default = default.double()
    return block.log_likelihood(logits.double()[..., None], e.double())


@pytest.mark.parametrize(("rows", "repeats", "size"), [(1, 1, 1), (5, 1, 17), (3, 7, 256), (40, 1, 784), (2, 3, 60_000)])
@pytest.mark.parametrize("spread", [0.1, 4.0, 60.0])
def test_values_and_gradients_are_those_of_the_reference(rows: int, repeats: int, size: int, spread: float) -> None:
    logits, default, e = given(rows, repeats, size, spread)
    weight = torch.randn(rows * repeats, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    found = bernoulli.log_prob(logits, default, e)
    (slope,) = torch.autograd.grad((found * weight).sum(), logits)
    wide = logits.detach().double().requires_grad_()
    truth = reference(wide, default, e)
    (true_slope,) = torch.autograd.grad((truth * weight).sum(), wide)
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-5 + 1e-7 * size)
    torch.testing.assert_close(slope.double(), true_slope, rtol=1e-5, atol=1e-6)


def test_logits_in_half_the_bits() -> None:
    logits, default, e = given(6, 5, 300)
    half = logits.bfloat16().requires_grad_()
    found = bernoulli.log_prob(half, default, e)
    wide = half.detach().double().requires_grad_()
    truth = reference(wide, default, e)
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-4)
    (slope,), (true_slope,) = torch.autograd.grad(found.sum(), half), torch.autograd.grad(truth.sum(), wide)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope.double(), true_slope, rtol=2**-8, atol=1e-6)


def test_extreme_logits_stay_finite_and_are_what_they_should_be() -> None:
    logits = torch.tensor([[1e4, -1e4, 80.0], [-1e4, 1e4, -80.0]])
    found = bernoulli.log_prob(logits, torch.zeros(3), torch.tensor([[1.0, 0.0, 1.0]]))
    assert found.tolist() == [0.0, -2e4 - 80.0]


def test_second_derivatives_and_many_gradients_at_once() -> None:
    logits, default, e = given(2, 2, 5)
    wide = logits.double().requires_grad_()
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(bernoulli.log_prob(logits, default, e).sum(), logits, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), logits)
    (true_slope,) = torch.autograd.grad(reference(wide, default, e).sum(), wide, create_graph=True)
    (true_curvature,) = torch.autograd.grad(true_slope.sum(), wide)
    torch.testing.assert_close(curvature.double(), true_curvature, rtol=1e-5, atol=1e-6)
    each = torch.autograd.grad(bernoulli.log_prob(logits, default, e), logits, torch.eye(4), is_grads_batched=True)[0]
    torch.testing.assert_close(each.sum(0), slope, rtol=1e-5, atol=1e-6)


def test_a_block_takes_the_kernel_only_where_it_can() -> None:
    block, e = Binary(3), torch.tensor([[1.0, 0.0, 1.0]])
    params = torch.zeros(2, 3, 1)
    assert type(block.log_likelihood(params.requires_grad_(), e).grad_fn).__name__ == "_SumBackward"
    torch.testing.assert_close(block.log_likelihood(params, e), torch.full((2,), -3 * math.log(2)))
    assert block.double().log_likelihood(params.double(), e.double()).dtype == torch.float64
    slopes = torch.func.vmap(torch.func.grad(lambda p: Binary(3).log_likelihood(p[None], e).sum()))(params.detach())
    torch.testing.assert_close(slopes[..., 0], (e - 0.5).expand(2, 3))
