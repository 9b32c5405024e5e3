"""Attention in one kernel against the one written with tensor operations, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.kernels import attention
from pushforward.nets.attention import written
from pushforward.nets.blocks import Attention

# examples, heads, queries, keys, numbers of a head
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 7, 3),
    (3, 2, 49, 49, 8),
    (2, 4, 64, 65, 16),
    (2, 1, 130, 20, 24),
    (0, 2, 3, 3, 4),
    (2, 2, 3, 0, 4),
]


def heads(examples: int, count: int, places: int, size: int, seed: int) -> Tensor:
    """(B, H, N, d) as a layer makes them, with the heads of a place side by side."""
    drawn = torch.randn(examples, places, count, size, generator=torch.Generator().manual_seed(seed))
    return drawn.transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_the_reference(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, masked: bool
) -> None:
    examples, count, queries, keys, size = shape
    if keys == 0:
        masked = False
    q, g = (heads(examples, count, queries, size, seed).to(dtype) for seed in (0, 1))
    k, v = (3 * heads(examples, count, keys, size, seed).to(dtype) for seed in (2, 3))
    mask = torch.rand(examples, keys, generator=torch.Generator().manual_seed(4)) < 0.5 if masked else None
    if mask is not None and examples > 1:
        mask[0] = False
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    truth = written(*exact, mask)
    o, known = attention.forward(q, k, v, mask)
    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(o.double(), truth.detach(), rtol=rounding, atol=rounding)
    found = attention.backward(q, k, v, mask, known, g)
    for mine, right in zip(found, torch.autograd.grad(truth, exact, g.double()), strict=True):
        most = float(right.abs().max()) if right.numel() else 0.0
        torch.testing.assert_close(mine.double(), right, rtol=rounding, atol=rounding * max(most, 1.0))


def test_large_scores_and_strides_of_any_kind() -> None:
    q, k, v = (100 * torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    truth = written(q.double(), k.double(), v.double())
    for a, b, c in ((q, k, v), (q.mT.contiguous().mT, k.flip(0).flip(0), torch.cat([v, v], -1)[..., :8])):
        torch.testing.assert_close(attention.forward(a, b, c, None)[0].double(), truth, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    q, k, v = (heads(6, 4, 50, 8, i) for i in range(3))
    one, known = attention.forward(q, k, v, None)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attention.forward(q, k, v, None)[0], one)
        attention.backward(q, k, v, None, known, one)
    finally:
        torch.set_num_threads(before)


def test_the_layer_of_maps_attends_to_tokens_and_differentiates_as_in_double_precision() -> None:
    torch.manual_seed(0)
    layer = Attention(12, 4, tokens=5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.3)
    x, tokens, mask = torch.randn(3, 12, 4, 3), torch.randn(3, 6, 5), torch.rand(3, 6) < 0.6
    out = layer(x, tokens, mask)
    by = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
    layer.double()
    truth = layer(x.double(), tokens.double(), mask)
    torch.testing.assert_close(out.double(), truth, rtol=1e-4, atol=1e-5)
    for mine, right in zip(by, torch.autograd.grad(truth.square().sum(), list(layer.parameters())), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-4)
