"""Every family with gradients learns the same when torch compiles it (minutes: run by make verify)."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from pushforward.catalog import FAMILIES
from pushforward.core.model import FitsDirectly
from pushforward.solvers import ode

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")]


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.baseline and "vector" in f.kinds])
def test_a_compiled_model_has_the_same_loss_and_gradients(tiny: Any, name: str) -> None:
    family, found = FAMILIES[name], []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = tiny.model(name, "vector", conditions=family.conditions, transforms=2)
        if isinstance(model, FitsDirectly):
            pytest.skip("fitted without gradients")
        if compiled:
            model.compile_parts()
        model.train()
        turn = model.turns[0]
        loss = model(tiny.batch(model.schema, "vector", 24), turn.name)["loss"]
        loss.mean().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    (loss, gradients), (again, others) = found
    torch.testing.assert_close(again, loss, rtol=1e-3, atol=1e-3)
    assert gradients.keys() == others.keys()
    for n, gradient in gradients.items():
        scale = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(others[n] / scale, gradient / scale, rtol=1e-2, atol=1e-2, msg=lambda m, n=n: f"{n}: {m}")


def test_a_compiled_step_of_a_bare_product_keeps_its_weights() -> None:
    """torch 2.13 loses the alpha of a sum with a product: a field without a bias would be solved wrongly."""
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    y, times = torch.ones(5, 6), torch.linspace(0, 1, 3)

    def end(y: torch.Tensor) -> torch.Tensor:
        return ode.fixed(lambda t, state: (state[0] @ matrix,), (y,), times, "heun")[0]

    torch.testing.assert_close(torch.compile(end)(y), end(y), rtol=1e-4, atol=1e-5)
