"""Increasing functions are undone, and the maps that need it keep every promise of a ``Monotone``."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.transform import Transform
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.mlp import MLP
from pushforward.transforms import rootfinding
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.coupling import Coupling
from pushforward.transforms.integral import Integral
from pushforward.transforms.monotone import Monotone
from pushforward.transforms.polynomial import Bernstein, SumOfSquares
from pushforward.transforms.rootfinding import STEPS, invert, solve
from pushforward.transforms.sigmoidal import Sigmoids

WIDE = torch.float64


class Integrand(nn.Module):
    """A smooth network of a number and a signal."""

    def __init__(self, signal: int, width: int = 8) -> None:
        super().__init__()
        self.number, self.signal, self.last = nn.Linear(1, width), nn.Linear(signal, width, bias=False), nn.Linear(width, 1)

    def forward(self, t: Tensor, signal: Tensor) -> Tensor:
        return self.last(torch.tanh(self.number(t[..., None]) + self.signal(signal))).squeeze(-1)


MAPS: dict[str, Callable[[], Monotone]] = {
    "sigmoids": lambda: Sigmoids(8),
    "bernstein": lambda: Bernstein(16, bound=4.0),
    "squares": lambda: SumOfSquares(6, bound=4.0),
    "integral": lambda: Integral(Integrand(5), 5, bound=4.0),
}


def make(name: str, dtype: torch.dtype = WIDE) -> Monotone:
    torch.manual_seed(5)
    return MAPS[name]().to(dtype)


def params(monotone: Monotone, rows: int, std: float, size: int = 3, dtype: torch.dtype = WIDE) -> Tensor:
    generator = torch.Generator().manual_seed(int(10 * std))
    return std * torch.randn(rows, monotone.params, size, dtype=dtype, generator=generator)


def numbers(rows: int, size: int = 3, dtype: torch.dtype = WIDE) -> Tensor:
    """Random numbers, the ends of the polynomials, their middle, and far ones."""
    special = torch.tensor([4.0, -4.0, 0.0, 4.0001, -3.9999, 50.0, 1e4, -1e4], dtype=dtype)
    x = 2 * torch.randn(rows, size, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x[: len(special)] = special[:, None]
    return x


def slopes(monotone: Monotone, x: Tensor, p: Tensor) -> Tensor:
    """∂z/∂x by autograd, (B, D)."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(monotone.pull(x, p)[0].sum(), x)[0]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("std", [0.5, 2.0])
def test_v_is_the_logarithm_of_autograds_derivative(name: str, std: float) -> None:
    monotone = make(name)
    x, p = numbers(300), params(make(name), 300, std)
    score = monotone.pull(x, p)[1]
    torch.testing.assert_close(score, slopes(monotone, x, p).log().sum(1), rtol=0, atol=1e-8)
    assert float(score.detach().std()) > 0.3
    there, score = monotone.push_scored(x, p)
    torch.testing.assert_close(score, slopes(monotone, there, p).log().sum(1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", MAPS)
def test_a_row_of_numbers_is_mapped_one_by_one(name: str) -> None:
    monotone = make(name)
    x, p = numbers(20), params(monotone, 20, 1.0)
    whole = monotone.pull(x, p)
    parts = [monotone.pull(x[:, i : i + 1], p[:, :, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole[0], torch.cat([z for z, _ in parts], 1))
    torch.testing.assert_close(whole[1], sum(v for _, v in parts))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("std", [0.5, 2.0])
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_push_and_pull_undo_one_another(name: str, std: float, dtype: torch.dtype) -> None:
    monotone = make(name, dtype)
    tolerance = 1e-8 if dtype == WIDE else 1e-4
    x, p = numbers(2000, dtype=dtype), params(monotone, 2000, std, dtype=dtype)
    z = monotone.pull(x, p)[0]
    # where the map is flat a rounding of z moves x by 1/slope of it, which no inverse can help
    rounding = 8 * torch.finfo(dtype).eps * z.abs().clamp(min=1) / slopes(monotone, x, p)
    rounding = rounding if std > 1 and dtype != WIDE else 0.0
    assert ((monotone.push(z, p) - x).abs() <= tolerance * x.abs().clamp(min=1) + rounding).all()
    z = numbers(2000, dtype=dtype)
    assert ((monotone.pull(monotone.push(z, p), p)[0] - z).abs() <= tolerance * z.abs().clamp(min=1)).all()


@pytest.mark.parametrize("name", MAPS)
def test_larger_numbers_go_to_larger_ones(name: str) -> None:
    monotone = make(name)
    grid = torch.linspace(-8, 8, 1001, dtype=WIDE)[:, None].expand(-1, 10)
    p = params(monotone, 1, 3.0, 10).expand(len(grid), -1, -1)
    assert (monotone.pull(grid, p)[0].diff(dim=0) > 0).all()
    assert (monotone.push(grid, p).diff(dim=0) > 0).all()


@pytest.mark.parametrize("name", MAPS)
def test_parameters_of_zero_are_the_identity_and_move_apart_in_training(name: str) -> None:
    monotone = make(name)
    x, zero = numbers(100), torch.zeros(100, monotone.params, 3, dtype=WIDE, requires_grad=True)
    z, score = monotone.pull(x, zero)
    torch.testing.assert_close(z, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-12)
    # a loss sees the parameters it is trained by, and they do more than shift and scale
    p = torch.zeros(1, monotone.params, 1, dtype=WIDE, requires_grad=True)
    optimiser = torch.optim.Adam([p], lr=0.05)
    data = torch.cat([torch.randn(200, dtype=WIDE) * 0.3 - 1.5, torch.randn(200, dtype=WIDE) * 0.3 + 1.5])[:, None]
    for _ in range(150):
        z, score = monotone.pull(data, p.expand(len(data), -1, -1))
        loss = (0.5 * z.square().sum(1) - score).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    gaussian = 0.5 + data.std(unbiased=False).log()
    assert loss.item() < gaussian.item() - 0.05


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_every_finite_number_stays_finite(name: str, dtype: torch.dtype) -> None:
    monotone = make(name, dtype)
    sizes = torch.tensor([0.0, 1e-30, 1e-3, 3.0, 1e4, 1e30], dtype=dtype)
    x = torch.cat([sizes, -sizes])[:, None].expand(-1, 50)
    for scale in (1.0, 100.0, 1e4, 1e30):
        p = params(monotone, len(x), 1.0, 50, dtype) * scale
        z, score = monotone.pull(x, p)
        assert z.isfinite().all()
        assert score.isfinite().all()
        assert monotone.push(x, p).isfinite().all()
        assert scale > 1e4 or monotone.push(z, p).isfinite().all()


@pytest.mark.parametrize("name", MAPS)
def test_gradients_pass_through_the_inverse(name: str) -> None:
    monotone = make(name)
    z = torch.tensor([[0.7, -2.0, 6.0]], dtype=WIDE, requires_grad=True)
    p = params(monotone, 1, 0.7).requires_grad_()
    assert torch.autograd.gradcheck(monotone.push, (z, p), atol=1e-6)
    network = next(monotone.parameters(), None)
    if network is not None:
        gradient = torch.autograd.grad(monotone.push(z, p).sum(), network)[0]
        with torch.no_grad():
            change = 1e-5 * torch.randn_like(network)
            before = monotone.push(z, p).sum()
            network += change
            after = monotone.push(z, p).sum()
        assert float(after - before) == pytest.approx(float((gradient * change).sum()), rel=1e-3)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
def test_densities_in_the_plane_integrate_to_one(name: str, kind: str) -> None:
    monotone = make(name)
    torch.manual_seed(3)
    if kind == "coupling":
        net: nn.Module = MLP(1, monotone.params, (12,), activation="tanh", context=2)
        layer: Transform = Coupling(torch.tensor([True, False]), net, monotone)
    else:
        order = torch.tensor([2, 1])
        net = MaskedMLP(order, order.repeat(monotone.params), (12,), activation="tanh", context=2)
        layer = Autoregressive(net, monotone)
    layer = layer.double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    even = torch.linspace(-5, 5, 201 if name == "integral" else 301, dtype=WIDE)  # fine in the middle, and far
    x = torch.cartesian_prod(even.sinh(), even.sinh())
    area = x.square().add(1).sqrt().prod(1) * (even[1] - even[0]) ** 2
    for seed in range(2):
        vector = torch.randn(1, 2, dtype=WIDE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            z, score = layer.pull(x, Context(vector=vector.expand(len(x), -1)))
        density = (score - 0.5 * z.square().sum(1) - math.log(2 * math.pi)).exp()
        assert float((density * area).sum()) == pytest.approx(1, abs=1e-3)
        assert float(z.sub(x).abs().max()) > 0.5


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_few_steps_are_enough(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(f: rootfinding.Increasing, z: Tensor, low: Tensor, high: Tensor) -> Tensor:
        def g(x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return f(x)

        return solve(g, z, low, high)

    monkeypatch.setattr(rootfinding, "solve", counted)
    monotone = make(name, dtype)
    monotone.push(numbers(3000, dtype=dtype), params(monotone, 3000, 0.5, dtype=dtype))
    assert 0 < calls < 35


# functions that Newton's method alone does not undo

HARD: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "flat at the root": (lambda x: x**3, lambda x: (3 * x**2).log()),
    "cycles": (torch.atan, lambda x: -(1 + x**2).log()),
    "step": (
        lambda x: torch.tanh(1e3 * (x - 0.3)) + 1e-3 * x,
        lambda x: (1e3 / torch.cosh((1e3 * (x - 0.3)).clamp(-300, 300)) ** 2 + 1e-3).log(),
    ),
    "explodes": (lambda x: x.exp(), lambda x: x),
    "no derivative": (torch.sinh, lambda x: x * math.nan),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_functions_are_undone_like_scipys(name: str) -> None:
    f, log_slope = HARD[name]
    low, high = torch.full((9,), -7.0, dtype=WIDE), torch.full((9,), 9.0, dtype=WIDE)
    truth = torch.tensor([-6.9, -3.0, -1.0, -0.2, 0.0, 0.3, 0.31, 4.0, 8.9], dtype=WIDE)
    z = f(truth)
    calls = 0

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return f(x), log_slope(x)

    x = solve(both, z, low, high)
    for i in range(len(z)):
        other = brentq(lambda v, i=i: float(f(torch.tensor(v, dtype=WIDE)) - z[i]), -7, 9, xtol=1e-14, maxiter=1000)
        assert float(x[i]) == pytest.approx(other, abs=1e-4 if name == "flat at the root" else 1e-10)
    assert (f(x) - z).abs().max() <= 1e-13 * max(1.0, float(z.abs().max()))
    assert calls < STEPS


def test_a_target_outside_the_bracket_gives_its_end() -> None:
    low, high = torch.tensor([-1.0, -1.0]), torch.tensor([2.0, 2.0])
    x = solve(lambda x: (2 * x, torch.full_like(x, math.log(2))), torch.tensor([-9.0, 9.0]), low, high)
    assert x.tolist() == pytest.approx([-1.0, 2.0], abs=1e-5)


def test_the_inverse_is_differentiated_by_the_implicit_function_theorem() -> None:
    a = torch.tensor([0.5, 2.0], dtype=WIDE, requires_grad=True)
    z = torch.tensor([3.0, -1.0], dtype=WIDE, requires_grad=True)
    x = invert(lambda x: ((a * x).sinh(), (a * (a * x).cosh()).log()), z, torch.full_like(z, -20), torch.full_like(z, 20))
    torch.testing.assert_close(x, z.asinh() / a)
    found = torch.autograd.grad(x.sum(), (z, a))
    truth = torch.autograd.grad((z.asinh() / a).sum(), (z, a))
    torch.testing.assert_close(found, truth)
