"""The kernel that draws texts from a transformer, against the same draws step by step in torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pushforward.core.context import Context
from pushforward.models.blocks import Sharpening
from pushforward.nets.causal import CausalTransformer
from pushforward.nets.linear import kernels_pay
from pushforward.nets.sequence import Part, SequenceNet

pytestmark = pytest.mark.skipif(not kernels_pay(), reason="no kernels for this processor")
LENGTH, SYMBOLS = 21, 19


def net(style: str, width: int, heads: int, *, context: int = 0, places: bool = True) -> SequenceNet:
    core = CausalTransformer(width, 2, heads, style)
    one = SequenceNet([Part(LENGTH, 1, SYMBOLS, SYMBOLS)], core, places=places, context=context)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.1 * torch.randn_like(p))
        one.heads[0].weight.mul_(4)
    return one


@pytest.mark.parametrize(("style", "width", "heads"), [("gpt2", 32, 2), ("llama", 48, 3), ("gpt2", 16, 8)])
@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("rows", [1, 7, 37])
@pytest.mark.parametrize("how", [None, Sharpening(0.5), Sharpening(1.5, 3), Sharpening(1.0, 40, 0.6), Sharpening(0.8, 5, 0.7)])
@torch.no_grad()
def test_it_draws_what_torch_draws(
    style: str, width: int, heads: int, context: int, rows: int, how: Sharpening | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = net(style, width, heads, context=context, places=style == "gpt2")
    block = SimpleNamespace(blocks=[SimpleNamespace(default=torch.randn(1, SYMBOLS))])
    given = Context(torch.randn(rows, context)) if context else None
    u, known = torch.rand(rows, LENGTH, dtype=torch.float64), torch.rand(rows, LENGTH) < 0.3
    held = torch.randint(0, SYMBOLS, (rows, LENGTH)).double()
    used: list[Any] = []
    at_once = CausalTransformer.draw
    for holding in (None, (held, known)):
        with monkeypatch.context() as patch:
            patch.setattr(CausalTransformer, "draw", lambda *a: used.append(found := at_once(*a)) or found)
            quick = one.draw(block, u, given, holding, how)
            patch.setattr(CausalTransformer, "draw", lambda *a: None)
            slow = one.draw(block, u, given, holding, how)
        assert quick is not None
        assert slow is not None
        # a last bit may decide one symbol, and with it those that follow
        assert (quick == slow).all(1).double().mean() > 0.9
        assert holding is None or torch.equal(quick[known], held[known])
        assert how is not None or len(quick.unique()) > 1
    assert all(found is not None for found in used)


@pytest.mark.parametrize("how", [Sharpening(0.0), Sharpening(3.0, 1), Sharpening(1.0, None, 1e-6)])
@torch.no_grad()
def test_sharp_draws_are_the_likeliest(how: Sharpening) -> None:
    one, block = net("llama", 32, 2), SimpleNamespace(blocks=[SimpleNamespace(default=torch.zeros(1, SYMBOLS))])
    drawn = one.draw(block, torch.rand(9, LENGTH, dtype=torch.float64), None, None, how)
    assert drawn is not None
    assert len(drawn.unique(dim=0)) == 1
    logits = one(drawn.float(), None).view(9, LENGTH, SYMBOLS)
    assert torch.equal(logits.argmax(2).double(), drawn)


@torch.no_grad()
def test_rows_are_drawn_alike_in_any_company() -> None:
    one, block = net("llama", 32, 2), SimpleNamespace(blocks=[SimpleNamespace(default=torch.zeros(1, SYMBOLS))])
    u = torch.rand(40, LENGTH, dtype=torch.float64)
    whole = one.draw(block, u, None, None)
    assert whole is not None
    for at in (slice(0, 1), slice(3, 12), slice(15, 40)):
        assert torch.equal(one.draw(block, u[at], None, None), whole[at])  # type: ignore[arg-type]


@torch.no_grad()
def test_other_widths_and_other_numbers_go_step_by_step() -> None:
    block = SimpleNamespace(blocks=[SimpleNamespace(default=torch.zeros(1, SYMBOLS))])
    u, table, none = torch.rand(3, LENGTH, dtype=torch.float64), torch.randn(SYMBOLS + 1, 12), torch.zeros(0, LENGTH)
    odd = CausalTransformer(12, 1, 2)
    head = (torch.randn(SYMBOLS, 12), torch.zeros(SYMBOLS))
    assert odd.draw(u, table, torch.zeros(LENGTH, 12), None, head, none) is None
    wide = net("gpt2", 32, 2).double()
    assert wide.core.draw(u, torch.randn(SYMBOLS + 1, 32).double(), torch.zeros(LENGTH, 32), None, head, none) is None
    assert wide.draw(block, u, None, None) is not None
