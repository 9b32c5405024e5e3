"""Continuous flows: V against autograd's Jacobian and closed forms, round trips, estimates, gradients, regularisers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.errors import PushforwardError, RecipeError
from pushforward.core.random import Draws
from pushforward.core.transform import Compose
from pushforward.nets.field import FieldMLP
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.transforms.ode import ODE
from pushforward.transforms.univariate import Scale

WIDE = torch.float64
SIZE, CONTEXT = 3, 2
TIGHT = {"training": Fixed("rk4", 40), "evaluation": Adaptive(1e-9)}
A = torch.tensor([[-0.6, 2.1, 0.3], [-1.7, 0.2, 0.4], [0.1, -0.5, -1.1]], dtype=WIDE)


class Plain(nn.Module):
    """The field of a ``FieldMLP`` that tells nothing but its values."""

    def __init__(self, net: FieldMLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor, context: Context | None = None) -> Tensor:
        return self.net(t, x, context)


def flow(hidden: tuple[int, ...] = (7, 6), plain: bool = False, size: int = SIZE, std: float = 0.5, **options: Any) -> ODE:
    torch.manual_seed(3)
    net = FieldMLP(size, hidden, context=CONTEXT)
    for p in net.parameters():
        nn.init.normal_(p, std=std)
    return ODE(Plain(net) if plain else net, **{**TIGHT, **options}).to(WIDE).eval()


def points(n: int = 5, size: int = SIZE) -> tuple[Tensor, Context]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, size, dtype=WIDE, generator=generator)
    return x, Context(vector=torch.randn(n, CONTEXT, dtype=WIDE, generator=generator))


def row(context: Context, i: int) -> Context:
    return Context(vector=context.vector[i : i + 1])


# V


@pytest.mark.parametrize("plain", [False, True], ids=["closed form", "autograd"])
@pytest.mark.parametrize("hidden", [(7,), (7, 6), (7, 6, 5)], ids=len)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_v_is_the_log_determinant_of_the_jacobian(hidden: tuple[int, ...], plain: bool, mode: str) -> None:
    transform, (x, context) = flow(hidden, plain).train(mode == "train"), points()
    z, score = transform.pull(x, context)
    for i in range(len(x)):
        one = lambda v, i=i: transform.pull(v[None], row(context, i))[0][0]
        truth = torch.linalg.slogdet(torch.autograd.functional.jacobian(one, x[i]))
        assert float(truth.sign) == 1
        assert float(score[i].detach()) == pytest.approx(float(truth.logabsdet), abs=1e-6)
    assert float(score.detach().abs().max()) > 0.1
    with torch.no_grad():
        again, same = transform.push_scored(z, context)
    torch.testing.assert_close(again, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(same, score.detach(), rtol=1e-6, atol=1e-6)


def test_linear_fields_have_the_matrix_exponential() -> None:
    """z = expm(A/2 + 2A/3) x for f = (t + 2t²) A x, and V = (1/2 + 2/3) tr A."""
    transform = ODE(
        lambda t, x, context: (t + 2 * t.square()).expand(len(x))[:, None] * (x @ A.T), evaluation=Adaptive(1e-9)
    ).eval()
    x, span = torch.randn(6, 3, dtype=WIDE), 1 / 2 + 2 / 3
    z, score = transform.pull(x)
    torch.testing.assert_close(z, x @ torch.linalg.matrix_exp(span * A).T, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(score, (span * A.trace()).expand(6), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(transform.push(z), x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_the_tolerance_asked_for_is_reached(tolerance: float) -> None:
    x, context = points(300)
    with torch.no_grad():
        z, score = flow((20, 20), std=0.5, evaluation=Adaptive(tolerance)).pull(x, context)
        true_z, true_score = flow((20, 20), std=0.5, evaluation=Adaptive(1e-11)).pull(x, context)
    for found, truth in ((z, true_z), (score, true_score)):
        assert float((found - truth).square().mean().sqrt()) < 5 * tolerance
        assert float((found - truth).abs().max()) < 60 * tolerance
    assert float((z - true_z).abs().max()) > 1e-4 * tolerance


def test_fields_over_pictures() -> None:
    """x (B, 1, 2, 2): a convolution's trace is its middle weight at every pixel."""
    torch.manual_seed(0)
    net = nn.Conv2d(1, 1, 3, padding=1).double()
    transform = ODE(lambda t, x, context: net(x), evaluation=Adaptive(1e-8)).eval()
    x = torch.randn(4, 1, 2, 2, dtype=WIDE)
    z, score = transform.pull(x)
    torch.testing.assert_close(score, 4 * net.weight[0, 0, 1, 1].expand(4), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(transform.push(z), x, rtol=1e-6, atol=1e-6)


# round trips


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
@torch.no_grad()
def test_push_and_pull_undo_one_another(size: float, dtype: torch.dtype) -> None:
    transform = flow(evaluation=Adaptive(1e-10 if dtype == WIDE else 1e-6)).to(dtype)
    x, context = points(20)
    x, context = (size * x).to(dtype), Context(vector=context.vector.to(dtype))
    tolerance = 1e-8 if dtype == WIDE else 1e-4
    z, score = transform.pull(x, context)
    assert z.dtype == score.dtype == dtype
    assert score.isfinite().all()
    assert float((transform.push(z, context) - x).abs().max()) < tolerance * max(1, size)
    assert float((transform.pull(transform.push(x, context), context)[0] - x).abs().max()) < tolerance * max(1, size)


@torch.no_grad()
def test_rows_do_not_depend_on_their_neighbours() -> None:
    transform, (x, context) = flow(trace="hutchinson", probes=2, evaluation=Adaptive(1e-5)), points(12)
    z, score = transform.pull(x, context, Draws(4, 0, 12))
    part, same = transform.pull(x[5:9], Context(vector=context.vector[5:9]), Draws(4, 5, 9, 12))
    torch.testing.assert_close(part, z[5:9], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same, score[5:9], rtol=1e-12, atol=1e-12)
    assert not torch.isclose(transform.pull(x, context, Draws(5, 0, 12))[1], score).all()


def test_training_and_evaluation_are_solved_as_they_are_told() -> None:
    (x, context), rough = points(), {"training": Fixed("euler", 2), "evaluation": Adaptive(1e-9)}
    transform = flow(**rough)
    fine = transform.pull(x, context)[0]
    coarse = transform.train().pull(x, context)[0]
    assert not torch.isclose(coarse, fine, rtol=1e-3).all()
    half = x + 0.5 * transform.field(torch.tensor(0.0, dtype=WIDE), x, context)
    torch.testing.assert_close(coarse, half + 0.5 * transform.field(torch.tensor(0.5, dtype=WIDE), half, context))


def test_prepare_takes_the_context_of_no_row() -> None:
    transform, (x, _) = flow(), points()
    one = Context(vector=torch.randn(1, CONTEXT, dtype=WIDE))
    for mode in (True, False):
        z = transform.train(mode).prepare(x, one)
        torch.testing.assert_close(z, transform.pull(x, Context(vector=one.vector.expand(5, -1)))[0].detach())
        assert not z.requires_grad


# estimates


def every_sign(size: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=WIDE)] * size)


class Given(Draws):
    """Draws that are told their signs, (B, P, D)."""

    def __init__(self, signs: Tensor) -> None:
        super().__init__(0, 0, len(signs))
        self.given = signs

    def signs(self, *tail: int, dtype: torch.dtype = torch.float32) -> Tensor:
        assert self.given.shape[1:] == tail
        return self.given.to(dtype)


@pytest.mark.parametrize("plain", [False, True], ids=["closed form", "autograd"])
def test_hutchinson_is_unbiased_exactly(plain: bool) -> None:
    x, context = points(1)
    signs = every_sign(SIZE)
    _, exact = flow(plain=plain).pull(x, context)
    same = Context(vector=context.vector.expand(8, -1))
    estimate = flow(plain=plain, trace="hutchinson")
    _, scores = estimate.pull(x.expand(8, -1), same, Given(signs[:, None]))
    torch.testing.assert_close(scores.mean(), exact[0], rtol=1e-7, atol=1e-7)
    assert float(scores.detach().std()) > 0.05
    _, together = flow(plain=plain, trace="hutchinson", probes=8).pull(x, context, Given(signs[None]))
    torch.testing.assert_close(together, exact, rtol=1e-7, atol=1e-7)
    assert estimate.estimated
    assert not estimate.stochastic


@torch.no_grad()
def test_normal_probes_are_unbiased() -> None:
    x, context = points(1)
    n = 4000
    transform = flow(trace="hutchinson", noise="normal", training=Fixed("rk4", 10)).train()
    _, scores = transform.pull(x.expand(n, -1), Context(vector=context.vector.expand(n, -1)), Draws(0, 0, n))
    exact = float(flow().pull(x, context)[1])
    assert float(scores.mean()) == pytest.approx(exact, abs=5 * float(scores.std()) / n**0.5)


def test_training_by_samples_needs_the_exact_trace() -> None:
    transform, (z, context) = flow(trace="hutchinson"), points()
    with pytest.raises(RecipeError, match="use trace='exact'"):
        transform.push_scored(z, context)
    with torch.no_grad():
        x, score = transform.push_scored(z, context)
        torch.testing.assert_close(transform.pull(x, context)[1], score, rtol=1e-6, atol=1e-6)


# gradients


@pytest.mark.parametrize("plain", [False, True], ids=["closed form", "autograd"])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_adjoint_equals_going_back_through_the_steps(plain: bool, trace: str, mode: str) -> None:
    options = {"kinetic": 0.3, "jacobian": 0.2, "trace": trace, "probes": 2, "evaluation": Adaptive(1e-9)}
    found = []
    for adjoint in (False, True):
        transform, (x, context) = flow(plain=plain, adjoint=adjoint, **options).train(mode == "train"), points()
        x.requires_grad_()
        context.vector.requires_grad_()
        z, score, penalty = transform.pull_regularised(x, context, Draws(1, 0, 5))
        loss = (z.square().sum(1) / 2 - score + penalty).mean()
        found.append([loss, *torch.autograd.grad(loss, [x, context.vector, *transform.parameters()])])
    for through, backwards in zip(*found, strict=True):
        torch.testing.assert_close(backwards, through, rtol=1e-5, atol=1e-6)
        assert float(through.detach().abs().max()) > 1e-4


def test_gradients_of_the_likelihood_against_differences() -> None:
    transform, (x, context) = flow(), points()
    weight = transform.field.layers[1].weight

    def value() -> Tensor:
        z, score = transform.pull(x, context)
        return (score - z.square().sum(1) / 2).sum()

    (slope,) = torch.autograd.grad(value(), weight)
    step = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-4 * step
        up = value()
        weight -= 2e-4 * step
        down = value()
    assert float((slope * step).sum()) == pytest.approx(float(up - down) / 2e-4, rel=1e-5)


def test_the_adjoint_keeps_the_same_however_many_steps() -> None:
    x, context = points()

    def kept(steps: int, adjoint: bool) -> int:
        numbers: list[int] = []
        transform = flow(adjoint=adjoint, training=Fixed("rk4", steps)).train()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
            transform.pull(x, context)
        return sum(numbers)

    assert kept(2, True) == kept(50, True)
    assert kept(50, False) > 5 * kept(50, True)


# regularisers


def test_regularisers_of_a_linear_field_in_closed_form() -> None:
    """∫|f|² = ∫ |A e^{At} x|² dt by quadrature; ‖∂f/∂x‖²_F = ‖A‖²_F, the mean over all signs."""
    signs = every_sign(3)
    field = lambda t, x, context: x @ A.T
    x = torch.randn(1, 3, dtype=WIDE)
    nodes, weights = torch.linspace(0, 1, 2001, dtype=WIDE), torch.full((2001,), 1 / 2000, dtype=WIDE)
    weights[[0, -1]] /= 2
    speed = (torch.linalg.matrix_exp(nodes[:, None, None] * A) @ x[0]) @ A.T
    kinetic = (weights * speed.square().sum(1)).sum()
    z, score, penalty = ODE(field, kinetic=0.7, **TIGHT).eval().pull_regularised(x)
    torch.testing.assert_close(penalty[0], 0.7 * kinetic, rtol=1e-5, atol=1e-6)
    both = ODE(field, kinetic=0.7, jacobian=0.4, **TIGHT).eval()
    _, same, penalty = both.pull_regularised(x.expand(8, -1), None, Given(signs[:, None]))
    torch.testing.assert_close(penalty.mean(), 0.7 * kinetic + 0.4 * A.square().sum(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(same, score.expand(8), rtol=1e-7, atol=1e-7)
    nothing = ODE(field, **TIGHT).eval().pull_regularised(x)[2]
    assert nothing.tolist() == [0.0]
    torch.testing.assert_close(ODE(field, **TIGHT).eval().pull(x)[0], z, rtol=1e-7, atol=1e-7)


def test_a_chain_of_transforms_holds_a_continuous_one() -> None:
    scale = Scale(SIZE).double()
    nn.init.normal_(scale.log_scale)
    chain, (x, context) = Compose([flow(), scale]), points()
    z, score = chain.pull(x, context)
    torch.testing.assert_close(score, chain.push_scored(z.detach(), context)[1], rtol=1e-6, atol=1e-6)
    back, minus = chain.inverse().pull(z.detach(), context)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(minus, -score, rtol=1e-6, atol=1e-6)


# refusals


def test_refuses_what_it_cannot_do() -> None:
    field = lambda t, x, context: x
    for options, message in (
        ({"trace": "none"}, "trace 'none'"),
        ({"noise": "uniform"}, "noise 'uniform'"),
        ({"probes": 0}, "0 probes"),
        ({"kinetic": -1.0}, "regularisers"),
    ):
        with pytest.raises(ValueError, match=message):
            ODE(field, **options)
    stiff = ODE(lambda t, x, context: -1e6 * x, evaluation=Adaptive(1e-5, max_steps=30)).eval()
    with pytest.raises(PushforwardError, match="took 30 steps") as caught:
        stiff.pull(torch.ones(2, 1))
    assert "\n" not in str(caught.value)
    with pytest.raises(PushforwardError, match="non-finite"):
        ODE(lambda t, x, context: math.nan * x).eval().pull(torch.ones(2, 1))


# peers with the same weights


@pytest.mark.parametrize("hidden", [(7, 6), (7, 6, 5)], ids=len)
def test_torchdiffeq_agrees(hidden: tuple[int, ...]) -> None:
    odeint = pytest.importorskip("torchdiffeq").odeint
    transform, (x, context) = flow(hidden), points()

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y = state[0].detach().requires_grad_()
        value = transform.field(t, y, context)
        rows = [torch.autograd.grad(value[:, i].sum(), y, retain_graph=True)[0][:, i] for i in range(SIZE)]
        return value.detach(), torch.stack(rows).sum(0)

    z, score = odeint(augmented, (x, torch.zeros(5, dtype=WIDE)), torch.tensor([0.0, 1.0], dtype=WIDE), rtol=1e-9, atol=1e-9)
    mine = transform.pull(x, context)
    torch.testing.assert_close(mine[0].detach(), z[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine[1].detach(), score[-1], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_zuko_agrees() -> None:
    transforms = pytest.importorskip("zuko.transforms")
    transform, (x, context) = flow(), points()
    peer = transforms.FreeFormJacobianTransform(lambda t, y: transform.field(t, y, context), 0.0, 1.0, atol=1e-9, rtol=1e-9)
    for mine, theirs in zip(transform.pull(x, context), peer.call_and_ladj(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
