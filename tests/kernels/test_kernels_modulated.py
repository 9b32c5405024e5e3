"""The modulated net's kernel against its reference in double precision: odd sizes, few and many rows, any number of threads."""

from __future__ import annotations

import copy

import pytest
import torch

from pushforward.nets.mlp import TimeMLP
from pushforward.nets.modulated import Modulated


def prepared(size: int, hidden: tuple[int, ...], outputs: int | None = None) -> tuple[Modulated, Modulated]:
    """A net in float32, with a kernel, and in float64, without."""
    torch.manual_seed(size + len(hidden))
    net = TimeMLP(size, hidden=hidden, outputs=outputs, zero_last=False, embedding=24, scale=10.0)
    return net.modulated(), copy.deepcopy(net).double().modulated()


@pytest.mark.parametrize("rows", [1, 7, 64, 65, 301])
@pytest.mark.parametrize("hidden", [(16,), (33, 33), (48, 20, 20), (128, 128, 128), (5, 40, 17, 17)])
@pytest.mark.parametrize("size", [1, 2, 16, 19])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_traces(rows: int, hidden: tuple[int, ...], size: int, threads: int) -> None:
    quick, slow = prepared(size, hidden)
    assert quick.kernel is not None
    assert slow.kernel is None
    x, embedding, of = 2 * torch.randn(rows, size), torch.randn(9, 24), torch.randint(0, 9, (rows,))
    numbers = torch.rand(3, 9) + 0.5
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        moments = quick.moments(embedding, *numbers)
        y, trace = quick(x, moments, of, value=True, trace=True)
        alone, nothing = quick(x, moments, of)
        no_value, alone_trace = quick(x, moments, of, value=False, trace=True)
    finally:
        torch.set_num_threads(before)
    assert nothing is None
    assert no_value is None
    assert y is not None
    assert trace is not None
    torch.testing.assert_close(alone, y, rtol=0, atol=0)
    torch.testing.assert_close(alone_trace, trace, rtol=0, atol=0)
    wide = slow.moments(embedding.double(), *numbers.double())
    torch.testing.assert_close(moments.double(), wide, rtol=1e-5, atol=1e-5)
    exact, exact_trace = slow(x.double(), wide, of, value=True, trace=True)
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    assert exact_trace is not None
    scale = float(exact_trace.abs().max()) + 1
    torch.testing.assert_close(trace.double() / scale, exact_trace / scale, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    quick, _ = prepared(3, (64, 64))
    x, of = torch.randn(200, 3), torch.randint(0, 5, (200,))
    moments = quick.moments(torch.randn(5, 24), *torch.rand(3, 5))
    y, trace = quick(x, moments, of, value=True, trace=True)
    assert y is not None
    assert trace is not None
    for some in (slice(0, 1), slice(63, 77), slice(101, 200)):
        part, part_trace = quick(x[some], moments, of[some], value=True, trace=True)
        assert torch.equal(part, y[some])  # type: ignore[arg-type]
        assert torch.equal(part_trace, trace[some])  # type: ignore[arg-type]


def test_other_outputs_no_rows_and_strides() -> None:
    quick, slow = prepared(4, (32, 32), outputs=21)
    numbers = torch.stack([torch.ones(2), torch.zeros(2), torch.ones(2)])
    embedding, x, of = torch.randn(2, 24), torch.randn(4, 50).t(), torch.randint(0, 2, (50,))
    moments = quick.moments(embedding, *numbers)
    exact = slow(x.double(), slow.moments(embedding.double(), *numbers.double()), of)[0]
    torch.testing.assert_close(quick(x, moments, of)[0].double(), exact, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    y, trace = prepared(3, (20,))[0](torch.zeros(0, 3), torch.zeros(0, 80), of[:0], value=True, trace=True)
    assert y is not None
    assert trace is not None
    assert (y.shape, trace.shape) == ((0, 3), (0,))


def test_what_is_not_a_number_stays_so() -> None:
    quick, _ = prepared(2, (16, 16))
    x = torch.tensor([[float("nan"), 0.0], [1.0, 1.0]])
    y, trace = quick(x, quick.moments(torch.randn(1, 24), *torch.ones(3, 1)), torch.zeros(2, dtype=torch.long), trace=True)
    assert y is not None
    assert trace is not None
    assert bool(y[0].isnan().all())
    assert bool(trace[0].isnan())
    assert bool(y[1].isfinite().all())
