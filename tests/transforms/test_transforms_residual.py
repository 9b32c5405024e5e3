"""Sylvester and residual maps: determinants against autograd, inverses, planar flows of a peer, the unbiased estimate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Compose, Transform
from pushforward.transforms.residual import Residual, Sylvester

WIDE = torch.float64
MAPS: dict[str, tuple[Callable[[], Transform], int]] = {
    "planar": (lambda: Sylvester(4, 1, context=2), 4),
    "sylvester": (lambda: Sylvester(5, 3, context=2), 5),
    "sylvester, full": (lambda: Sylvester(3, 3, context=2), 3),
    "one coordinate": (lambda: Sylvester(1, 1, context=2), 1),
    "residual": (lambda: Residual(4, (8, 6), context=2), 4),
    "residual, wide": (lambda: Residual(70, (8,), context=2), 70),
}


def make(name: str, dtype: torch.dtype = WIDE, std: float = 0.6) -> tuple[Transform, int]:
    build, size = MAPS[name]
    torch.manual_seed(4)
    transform = build().to(dtype)
    for p in transform.parameters():
        nn.init.normal_(p, std=std)
    return transform, size


def context(rows: int, dtype: torch.dtype = WIDE) -> Context:
    return Context(vector=torch.randn(rows, 2, dtype=dtype, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("std", [0.6, 2.0])
def test_v_is_the_log_determinant_of_the_jacobian(name: str, std: float) -> None:
    transform, size = make(name, std=std)
    x, c = torch.randn(6, size, dtype=WIDE), context(6)
    score = transform.pull(x, c)[1]
    for i in range(len(x)):
        one = Context(vector=c.vector[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: transform.pull(v[None], one)[0][0], x[i])
        assert float(score[i].detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-8)
    assert float(score.detach().std()) > 0.01


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_push_and_pull_undo_one_another(name: str, size: float, dtype: torch.dtype) -> None:
    transform, width = make(name, dtype)
    tolerance = 1e-8 if dtype == WIDE else 1e-4
    x, c = size * torch.randn(60, width, dtype=dtype), context(60, dtype)
    with torch.no_grad():
        z, score = transform.pull(x, c)
        assert float((transform.push(z, c) - x).abs().max()) < tolerance * max(1, size)
        assert float((transform.pull(transform.push(x, c), c)[0] - x).abs().max()) < tolerance * max(1, size)
    assert score.isfinite().all()
    assert size > 1 or float((z - x).abs().max()) > 0.1


@pytest.mark.parametrize("name", MAPS)
def test_starts_as_the_identity_and_learns_from_there(name: str) -> None:
    build, size = MAPS[name]
    transform = build().double()
    x, c = torch.randn(30, size, dtype=WIDE), context(30)
    z, score = transform.pull(x, c)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-12)
    (z.square().sum() - score.sum()).backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 1e-3 for p in transform.parameters())


@pytest.mark.parametrize("name", ["planar", "sylvester", "residual"])
def test_gradients_pass_through_the_inverse(name: str) -> None:
    transform, size = make(name)
    z, c = torch.randn(2, size, dtype=WIDE, requires_grad=True), context(2)
    parameters = list(transform.parameters())
    assert torch.autograd.gradcheck(lambda z, *p: transform.push(z, c), (z, *parameters), atol=1e-6)


def test_rank_one_is_the_planar_flow_of_the_formula_and_of_normflows() -> None:
    transform, _ = make("planar", std=0.9)
    assert isinstance(transform, Sylvester)
    q, a, stretch, _, _ = transform._parts()
    u, w = a[:, 0].detach(), (stretch[0, 0] * q[:, 0]).detach()
    assert float((u - w * (u @ w) / (w @ w)).norm()) > 0.1  # not only along w
    x, c = torch.randn(50, 4, dtype=WIDE), context(50)
    b = (transform.bias + transform.from_context(c.vector)).detach()
    z, score = transform.pull(x, c)
    h = torch.tanh((x @ w)[:, None] + b)
    torch.testing.assert_close(z, x + h * u)
    torch.testing.assert_close(score, torch.log(1 + (1 - h[:, 0] ** 2) * (u @ w)))
    normflows = pytest.importorskip("normflows")
    inner = u @ w
    # normflows corrects its u so that inner becomes log(1 + e^inner) − 1
    theirs = u + (torch.log(torch.expm1(inner + 1)) - inner) * w / (w @ w)
    peer = normflows.flows.Planar((4,), u=theirs[None], w=w[None], b=b[:1].clone())
    truth, log_det = peer(x[:1])
    torch.testing.assert_close(z[:1], truth)
    torch.testing.assert_close(score[:1], log_det)


def test_every_stretch_keeps_sylvester_a_bijection() -> None:
    transform, _ = make("sylvester", std=8.0)
    assert isinstance(transform, Sylvester)
    _, a, inner, outer, product = transform._parts()
    q = transform._parts()[0]
    torch.testing.assert_close(q.T @ q, torch.eye(3, dtype=WIDE))
    torch.testing.assert_close(inner @ q.T @ a, inner @ outer)
    torch.testing.assert_close((inner @ outer).diagonal(), product)
    assert float(product.detach().min()) > -1 + 1e-3
    assert float(product.detach().max()) < 1e3


@pytest.mark.parametrize("kind", ["sylvester", "residual"])
def test_densities_in_the_plane_integrate_to_one(kind: str) -> None:
    torch.manual_seed(1)
    build = (lambda: Sylvester(2, 2)) if kind == "sylvester" else (lambda: Residual(2, (12,)))
    flow = Compose([build() for _ in range(3)]).double()
    for p in flow.parameters():
        nn.init.normal_(p, std=0.6)
    axis = torch.linspace(-13, 13, 391, dtype=WIDE)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z, score = flow.pull(x)
    density = (score - 0.5 * z.square().sum(1) - math.log(2 * math.pi)).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)
    assert float(score.std()) > 0.05


def test_the_lipschitz_constant_is_kept_whatever_the_weights() -> None:
    for std in (0.1, 1.0, 30.0):
        transform, size = make("residual", std=std)
        assert isinstance(transform, Residual)
        a, b = torch.randn(2, 400, size, dtype=WIDE)
        b = torch.cat([b[:200], a[200:] + 1e-4 * b[200:]])
        c = Context(vector=torch.zeros(400, 2, dtype=WIDE))
        with torch.no_grad():
            g_a, g_b = transform.pull(a, c)[0] - a, transform.pull(b, c)[0] - b
        ratio = ((g_a - g_b).norm(dim=1) / (a - b).norm(dim=1)).max()
        assert float(ratio) <= 0.97
        assert std != 1.0 or float(ratio) > 0.05


def test_the_slope_of_the_activation_is_at_most_one() -> None:
    u = torch.linspace(-20, 20, 4001, dtype=WIDE)
    gate = u.sigmoid()
    assert float((gate * (1 + u * (1 - gate)) / 1.1).max()) <= 1


def test_the_estimate_in_training_is_unbiased_and_evaluation_exact() -> None:
    torch.manual_seed(0)
    transform = Residual(3, (3,), lipschitz=0.7, terms=1).double()
    for p in transform.parameters():
        nn.init.orthogonal_(p, gain=5.0) if p.dim() > 1 else nn.init.normal_(p)
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=WIDE).expand(40_000, -1)
    with torch.no_grad():
        exact = transform.eval().pull(x[:1])[1]
        jacobian = torch.autograd.functional.jacobian(lambda v: transform.pull(v[None])[0][0], x[0])
        assert float(exact) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-10)
        z, estimates = transform.train().pull(x, None, Draws(3, 0, len(x)))
    error = float(estimates.std()) / math.sqrt(len(x))
    assert abs(float(estimates.mean() - exact)) < 4 * error
    assert error < 0.02
    assert abs(float(exact)) > 0.3
    assert float(torch.linalg.matrix_norm(jacobian - torch.eye(3, dtype=WIDE), 2)) > 0.5
    torch.testing.assert_close(z[:1], transform.eval().pull(x[:1])[0])
    # rows own their numbers: a part of the batch gets the same
    part = transform.train().pull(x[:80], None, Draws(3, 64, 144))[1]
    np.testing.assert_allclose(part.detach(), estimates[64:144], rtol=1e-9)


def test_wrong_settings_and_contexts_are_refused() -> None:
    for build in (lambda: Sylvester(2, 3), lambda: Residual(2, ()), lambda: Residual(2, (4,), lipschitz=1.0)):
        with pytest.raises(ValueError, match="found"):
            build()
    with pytest.raises(ValueError, match="context"):
        Sylvester(3, 1, context=2).pull(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="context"):
        Residual(3, (4,)).pull(torch.zeros(1, 3), Context(vector=torch.zeros(1, 2)))
