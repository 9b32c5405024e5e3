"""NADE's kernel against the reference in double precision: values, gradients, draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.schema import Image
from pushforward.kernels.product import AVAILABLE
from pushforward.models.autoregressive import ancestral
from pushforward.models.elements import elements
from pushforward.nets.belief import NADE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this processor takes torch's way")


def net(size: int, units: int, context: int = 0) -> NADE:
    torch.manual_seed(size)
    single = [slice(i, i + 1) for i in range(size)]
    made = NADE(single, single, units, context=context)
    for p in made.parameters():
        nn.init.normal_(p, std=0.8 if p.dim() < 2 else 0.5)
    return made


@pytest.mark.parametrize(("size", "units", "rows"), [(1, 3, 2), (9, 17, 40), (30, 64, 33)])
@pytest.mark.parametrize("numbers", ["binary", "real"])
@pytest.mark.parametrize("context", [0, 3])
def test_values_and_gradients_are_those_of_the_reference(size: int, units: int, rows: int, numbers: str, context: int) -> None:
    single, generator = net(size, units, context), torch.Generator().manual_seed(2)
    x = torch.randn(rows, size, generator=generator)
    x = (x > 0.7).float() if numbers == "binary" else x
    weight, vector = torch.randn(rows, size, generator=generator), torch.randn(rows, context, generator=generator)
    told = Context(vector) if context else None
    assert single._quick(x)
    y = single(x, told)
    (y * weight).sum().backward()
    found = {n: p.grad for n, p in single.named_parameters()}
    double = net(size, units, context).double()
    assert not double._quick(x.double())
    wide = double(x.double(), Context(vector.double()) if context else None)
    (wide * weight).sum().backward()
    torch.testing.assert_close(y.double(), wide, rtol=1e-5, atol=2e-5)
    for name, p in double.named_parameters():
        gradient = found[name]
        if p.grad is None:  # of one element nothing is carried along
            assert gradient is None or not gradient.any()
            continue
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), p.grad, rtol=1e-4, atol=1e-4 * float(p.grad.abs().max()) + 1e-6)


def test_gradients_by_the_input_take_the_reference() -> None:
    single, x = net(5, 8), torch.randn(4, 5, requires_grad=True)
    assert not single._quick(x)
    (slope,) = torch.autograd.grad(single(x).sum(), x)
    assert slope[:, :-1].any()
    assert not slope[:, -1].any()


@pytest.mark.parametrize("rows", [1, 50])
@torch.no_grad()
def test_draws_are_those_of_the_reference(rows: int) -> None:
    parts = elements(Image(1, 5, 6, levels=2))
    parts.prepare((torch.rand(50, 1, 5, 6) < 0.3).to(torch.uint8))
    single, u = net(30, 21), torch.rand(rows, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    double = net(30, 21).double()
    held = (torch.rand(rows, 30) < 0.5).double(), torch.rand(rows, 30) < 0.3
    for kept in (None, held):
        quick = single.draw(parts, u, None, kept)
        assert quick is not None
        assert torch.equal(quick, ancestral(parts.double(), double, range(30), Context(), u, held=kept))
        parts.float()
        if kept is not None:
            assert torch.equal(quick[kept[1]], kept[0][kept[1]])
    assert 0.05 < float(quick.mean()) < 0.95


def test_no_draw_where_the_kernel_does_not_apply() -> None:
    parts = elements(Image(1, 5, 6, levels=4))
    u = torch.rand(2, 30, dtype=torch.float64)
    with torch.no_grad():
        assert net(30, 8).draw(parts, u) is None


def test_a_row_is_the_same_in_any_company() -> None:
    single, x = net(12, 20), (torch.rand(70, 12) < 0.4).float()
    whole: Tensor = single(x)
    assert torch.equal(single(x[30:31]), whole[30:31])
