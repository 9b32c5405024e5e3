"""Gradients through the steps and by the adjoint, against the matrix exponential and against one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward.core.errors import RecipeError
from pushforward.solvers import ode
from pushforward.solvers.adjoint import adjoint
from pushforward.solvers.choice import Adaptive, Choice, Fixed
from pushforward.solvers.rowwise import rowwise

WIDE = torch.float64
A = torch.tensor([[-0.6, 2.1, 0.3], [-1.7, 0.2, 0.4], [0.1, -0.5, -1.1]], dtype=WIDE)
TIGHT = 1e-10


def leaves(n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A start (n, 3), a matrix (3, 3) and rates (n,) that ask for gradients."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(n, 3, dtype=WIDE, generator=generator)
    rate = 0.5 + torch.rand(n, dtype=WIDE, generator=generator)
    return y.requires_grad_(), A.clone().requires_grad_(), rate.requires_grad_()


def exact(y: Tensor, a: Tensor, rate: Tensor, span: Tensor | float = 1.0) -> Tensor:
    """dy/dt = r A y from 0."""
    return (torch.linalg.matrix_exp(span * rate[:, None, None] * a) @ y[..., None])[..., 0]


def loss_of(y: Tensor) -> Tensor:
    return (y * torch.arange(1.0, 1 + y.numel(), dtype=y.dtype).view_as(y)).sum() + y.square().sum()


def ways() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    def state(y: Tensor, a: Tensor, rate: Tensor) -> Callable[[Tensor, ode.State], ode.State]:
        return lambda t, s: (rate[:, None] * (s[0] @ a.T),)

    def build(params: tuple[Tensor, ...]) -> tuple:
        a, rate = params
        return lambda t, y, given: given[0][:, None] * (y @ a.T), None, (rate,)

    times = torch.linspace(0, 1, 201, dtype=WIDE)
    tight = {"rtol": TIGHT, "atol": TIGHT}
    return {
        "fixed": lambda y, a, r: ode.fixed(state(y, a, r), (y,), times, "rk4")[0],
        "adaptive": lambda y, a, r: ode.adaptive(state(y, a, r), (y,), 0.0, 1.0, **tight).state[0],
        "between": lambda y, a, r: ode.adaptive(state(y, a, r), (y,), 0.0, 1.5, at=(1.0,), **tight).states[0][0],
        "rowwise": lambda y, a, r: rowwise(build((a, r))[0], y, 0.0, 1.0, given=(r,), **tight).state[0],
        "adjoint, fixed": lambda y, a, r: adjoint(build, (a, r), y, 0.0, 1.0, Fixed("rk4", 200))[0],
        "adjoint, adaptive": lambda y, a, r: adjoint(build, (a, r), y, 0.0, 1.0, Adaptive(TIGHT))[0],
    }


@pytest.mark.parametrize("way", ways())
def test_gradients_are_those_of_the_exact_solution(way: str) -> None:
    given = leaves()
    end = ways()[way](*given)
    torch.testing.assert_close(end, exact(*given), rtol=1e-7, atol=1e-7)
    mine = torch.autograd.grad(loss_of(end), given)
    for a, b in zip(mine, torch.autograd.grad(loss_of(exact(*given)), given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert float(b.abs().min()) > 1e-3


def pendulum(params: tuple[Tensor, ...]) -> tuple:
    """A field that is not linear, with an integral of two parts that both look at state, time and parameters."""
    a, rate = params

    def f(t: Tensor, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return torch.sin(given[0][:, None] * (y @ a.T) + t.expand(len(y))[:, None])

    def g(t: Tensor, y: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(y @ a).square().sum(1), given[0] * torch.cos(y[:, 0]) * t], 1)

    return f, g, (rate,)


@pytest.mark.parametrize("choice", [Fixed("rk4", 100), Adaptive(1e-9)], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_adjoint_equals_going_back_through_the_steps(choice: Choice, backwards: bool) -> None:
    start, stop = (1.0, 0.0) if backwards else (0.0, 1.0)
    y, a, rate = leaves()

    def total(end: Tensor, integral: Tensor) -> Tensor:
        return loss_of(end) + (integral * torch.tensor([1.0, -3.0], dtype=WIDE)).sum() * 0.01

    f, g, given = pendulum((a, rate))
    solution = Fixed("rk4", 400).rows(f, y, start, stop, given=given, integrand=g)
    wanted = torch.autograd.grad(total(solution.state[0], solution.integral), (y, a, rate))
    end, integral = adjoint(pendulum, (a, rate), y, start, stop, choice)
    torch.testing.assert_close(integral, solution.integral, rtol=1e-7, atol=1e-7)
    # a thousandth of the loss: the tolerance belongs to the gradient's own size
    mine = torch.autograd.grad(1e-3 * total(end, integral), (y, a, rate))
    for found, truth in zip(mine, wanted, strict=True):
        torch.testing.assert_close(1e3 * found, truth, rtol=1e-6, atol=1e-6)
        assert float(truth.abs().min()) > 1e-3


@pytest.mark.parametrize("choice", [Fixed("rk4", 200), Adaptive(1e-9)], ids=["fixed", "adaptive"])
def test_gradients_of_the_ends_of_time(choice: Choice) -> None:
    y, a, rate = leaves()
    start, stop = (torch.tensor(v, dtype=WIDE, requires_grad=True) for v in (0.3, 1.1))
    build = lambda params: (
        lambda t, y, given: given[0][:, None] * (y @ params[0].T),
        lambda t, y, given: (y @ params[0].T).square().sum(1),
        (rate.detach(),),
    )
    end, integral = adjoint(build, (a,), y, start, stop, choice)
    found = torch.autograd.grad(loss_of(end) + integral.sum(), (start, stop))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    span = stop - start
    spots = [(span * (u + 1) / 2, span * w / 2) for u, w in zip(nodes.tolist(), weights.tolist(), strict=True)]
    along = [w * (exact(y, a, rate, t) @ a.T).square().sum() for t, w in spots]
    wanted = torch.autograd.grad(loss_of(exact(y, a, rate, span)) + sum(along), (start, stop))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_gradients_of_a_grid_of_times() -> None:
    y, a, rate = leaves()
    times = torch.linspace(0, 0.8, 101, dtype=WIDE).requires_grad_()
    (end,) = ode.fixed(lambda t, s: (rate[:, None] * (s[0] @ a.T),), (y,), times, "rk4")
    (found,) = torch.autograd.grad(loss_of(end), times, retain_graph=True)
    span = torch.tensor(0.8, dtype=WIDE, requires_grad=True)
    (wanted,) = torch.autograd.grad(loss_of(exact(y, a, rate, span)), span)
    assert float(found[-1]) == pytest.approx(float(wanted), rel=1e-5)
    assert float(found[0]) == pytest.approx(-float(wanted), rel=1e-5)


def saved(run: Callable[[], Tensor]) -> int:
    """How many numbers a computation keeps for its gradient."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept)


def test_the_adjoint_keeps_the_same_however_many_steps() -> None:
    y, a, rate = leaves()
    few, many = (saved(lambda n=n: adjoint(pendulum, (a, rate), y, 0.0, 1.0, Fixed("rk4", n))[0]) for n in (2, 64))
    assert few == many < 60
    f, g, given = pendulum((a, rate))
    through = saved(lambda: Fixed("rk4", 64).rows(f, y, 0.0, 1.0, given=given, integrand=g).state[0])
    assert through > 50 * many


def test_the_adjoint_of_fields_that_ignore_things() -> None:
    y, a, rate = leaves()
    build = lambda params: (lambda t, y, given: torch.ones_like(y), lambda t, y, given: y.sum(1), ())
    end, integral = adjoint(build, (a, rate), y, 0.0, 1.0, Fixed("rk4", 3))
    torch.testing.assert_close(end, y + 1)
    torch.testing.assert_close(integral, y.sum(1) + 1.5)
    by_y, by_a = torch.autograd.grad(2 * end.sum() + 3 * integral.sum(), (y, a))
    torch.testing.assert_close(by_y, torch.full_like(y, 5.0))
    assert not by_a.any()
    still = lambda params: (lambda t, y, given: torch.ones_like(y), None, ())
    end, nothing = adjoint(still, (), y, 0.0, 1.0, Fixed("rk4", 3))
    assert nothing is None
    torch.testing.assert_close(torch.autograd.grad(end.sum(), y)[0], torch.ones_like(y))


def test_choices_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="0 solver steps"):
        Fixed("rk4", 0)
    with pytest.raises(RecipeError, match="did you mean 'rk4'"):
        Fixed("rk5")
    with pytest.raises(ValueError, match="tolerance 0"):
        Adaptive(0.0)
    with pytest.raises(ValueError, match="no error estimate"):
        Adaptive(method="heun")
