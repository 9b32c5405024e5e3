"""Divergences against the full Jacobian, their gradients against double backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.random import Draws
from pushforward.solvers import divergence

WIDE = torch.float64
MIX = torch.randn(4, 4, dtype=WIDE, generator=torch.Generator().manual_seed(0))
MODES = pytest.mark.parametrize("mode", [None, "reverse", "forward"])


def field(x: Tensor, mix: Tensor = MIX) -> Tensor:
    """A field that mixes all coordinates of (B, 2, 2)."""
    flat = x.flatten(1)
    return (torch.sin(flat @ mix) * flat.roll(1, 1) + flat**3).view_as(x)


def jacobian(x: Tensor, mix: Tensor = MIX) -> Tensor:
    whole = torch.autograd.functional.jacobian(lambda v: field(v, mix).flatten(1).sum(0), x, create_graph=True)
    return whole.flatten(2).transpose(0, 1)  # (B, 4, 4)


def trace(x: Tensor, mix: Tensor = MIX) -> Tensor:
    return jacobian(x, mix).diagonal(dim1=1, dim2=2).sum(1)


@MODES
def test_exact_divergence_is_the_trace_of_the_jacobian(mode: str | None) -> None:
    x = torch.randn(6, 2, 2, dtype=WIDE)
    value, found = divergence.exact(field, x, mode)
    torch.testing.assert_close(value, field(x))
    torch.testing.assert_close(found, trace(x))
    with torch.no_grad():
        value, found = divergence.exact(field, x, mode)
        torch.testing.assert_close(found, trace(x).detach())
        assert not value.requires_grad
        assert not found.requires_grad


@pytest.mark.parametrize("rows", [1, 3, 1500, 3000])
def test_coordinates_in_batches_of_any_size(rows: int) -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    x = torch.randn(rows, 5, dtype=WIDE)
    slopes = 1 - torch.tanh(net[0](x)).square()
    wanted = slopes @ (net[0].weight * net[2].weight.T).sum(1)
    with torch.no_grad():
        torch.testing.assert_close(divergence.exact(net, x)[1], wanted)


@MODES
def test_the_trace_is_differentiable_in_the_parameters_and_the_place(mode: str | None) -> None:
    x, mix = torch.randn(5, 2, 2, dtype=WIDE, requires_grad=True), MIX.clone().requires_grad_()
    weights = torch.randn(5, dtype=WIDE)
    value, found = divergence.exact(lambda v: field(v, mix), x, mode)
    loss = lambda value, found: (weights * found).sum() + value.square().sum()
    mine = torch.autograd.grad(loss(value, found), (x, mix))
    wanted = torch.autograd.grad(loss(field(x, mix), trace(x, mix)), (x, mix))
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b)
        assert float(a.abs().max()) > 0.1


def test_large_differentiable_traces_agree_in_both_modes() -> None:
    net = nn.Sequential(nn.Linear(40, 9), nn.Softplus(), nn.Linear(9, 40)).double()
    x = torch.randn(4, 40, dtype=WIDE)
    grads = [torch.autograd.grad(divergence.exact(net, x, m)[1].sum(), net[0].weight)[0] for m in (None, "reverse", "forward")]
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[1], grads[2])


def test_odd_cases() -> None:
    x = torch.randn(3, 2, dtype=WIDE)
    for f in (torch.ones_like, lambda v: torch.ones_like(v) * 2):
        assert torch.equal(divergence.exact(f, x)[1], torch.zeros(3, dtype=WIDE))
        assert torch.equal(divergence.hutchinson(f, x, x)[1], torch.zeros(3, dtype=WIDE))
    assert divergence.exact(lambda v: v, x[:0])[1].shape == (0,)
    with pytest.raises(ValueError, match="mode 'backward'"):
        divergence.exact(lambda v: v, x, "backward")


def test_hutchinson_is_unbiased_exactly() -> None:
    x = torch.randn(1, 2, 2, dtype=WIDE)
    # the mean over all 2⁴ sign vectors is the expectation
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=WIDE)] * 4).view(16, 2, 2)
    with torch.no_grad():
        value, found = divergence.hutchinson(field, x.expand(16, -1, -1), probes)
        _, all_at_once = divergence.hutchinson(field, x, probes[None])
    torch.testing.assert_close(found.mean(), trace(x)[0])
    torch.testing.assert_close(all_at_once, trace(x))
    assert float(found.std()) > 0.1
    torch.testing.assert_close(value[0], field(x)[0])


@pytest.mark.parametrize("noise", ["signs", "normal"])
def test_hutchinson_is_unbiased_with_drawn_probes(noise: str) -> None:
    n = 4000
    x = torch.randn(1, 2, 2, dtype=WIDE)
    probe = getattr(Draws(0, 0, n), noise)(2, 2, dtype=WIDE)
    with torch.no_grad():
        _, found = divergence.hutchinson(field, x.expand(n, -1, -1), probe)
    assert float(found.mean()) == pytest.approx(float(trace(x).detach()), abs=5 * float(found.std()) / n**0.5)


def test_the_estimate_and_the_products_are_differentiable() -> None:
    x, mix = torch.randn(5, 2, 2, dtype=WIDE, requires_grad=True), MIX.clone().requires_grad_()
    probe = torch.randn(5, 3, 2, 2, dtype=WIDE)
    flat = probe.flatten(2)
    wanted = torch.einsum("bpi,bij,bpj->bp", flat, jacobian(x, mix), flat).mean(1)
    _, found = divergence.hutchinson(lambda v: field(v, mix), x, probe)
    torch.testing.assert_close(found, wanted)
    mine = torch.autograd.grad(found.square().sum(), (x, mix))
    for a, b in zip(mine, torch.autograd.grad(wanted.square().sum(), (x, mix)), strict=True):
        torch.testing.assert_close(a, b)
    _, rows = divergence.product(lambda v: field(v, mix), x, probe)
    torch.testing.assert_close(rows.flatten(2), torch.einsum("bpi,bij->bpj", flat, jacobian(x, mix)))
