"""Every bijection with random parameters: V is the log-determinant of autograd's Jacobian, push and pull undo one another."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Compose, Transform
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.mlp import MLP
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.coupling import CheckerboardCoupling, Coupling, alternating, checkerboard, halves
from pushforward.transforms.monotone import Additive, Affine, Monotone
from pushforward.transforms.quantise import Dequantise
from pushforward.transforms.reshape import Flatten
from pushforward.transforms.spline import Spline
from pushforward.transforms.tabular import NumberMarginals
from pushforward.transforms.univariate import Interval, Scale, Standardise

WIDE = torch.float64
CONTEXT = 3


def noisy(module: nn.Module) -> nn.Module:
    """Random parameters, whatever the module started with."""
    generator = torch.Generator().manual_seed(4)
    for p in module.parameters():
        nn.init.normal_(p, std=1 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.5, generator=generator)
    return module


def coupling(stays: Tensor, monotone: Monotone | None = None) -> Transform:
    a, f = int(stays.sum()), monotone or Additive()
    return Coupling(stays, noisy(MLP(a, f.params * (len(stays) - a), (9,), context=CONTEXT, activation="tanh")), f)


class Flat(nn.Module):
    """A net of vectors as one of pictures, with ``channels`` maps out."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        return self.net(x.flatten(1), context).view(len(x), self.channels, *x.shape[2:])


def channels(monotone: Monotone) -> Transform:
    net = Flat(noisy(MLP(4, monotone.params * 8, (9,), context=CONTEXT, activation="tanh")), 2 * monotone.params)
    return Coupling(torch.tensor([False, True, False]), net, monotone)


def board(monotone: Monotone) -> Transform:
    net = Flat(noisy(MLP(12, monotone.params * 12, (9,), context=CONTEXT, activation="tanh")), 2 * monotone.params)
    return CheckerboardCoupling(checkerboard(2, 3, 1), 2, net, monotone)


def masked(order: list[int], monotone: Monotone) -> Transform:
    degrees = torch.tensor(order)
    net = MaskedMLP(degrees, degrees.repeat(monotone.params), (8, 9), context=CONTEXT, activation="tanh")
    return Autoregressive(noisy(net), monotone)


def standardise(shape: tuple[int, ...]) -> Transform:
    transform = Standardise(shape)
    transform.prepare(5 + 3 * torch.randn(40, *shape) * torch.rand(shape))
    return transform


def numbers() -> Transform:
    transform = NumberMarginals([0.0] * 4)
    transform.prepare(torch.randn(400, 4, dtype=WIDE).sinh() * 3 + 1)
    return transform


BIJECTIONS: dict[str, tuple[Callable[[], Transform], tuple[int, ...]]] = {
    "additive": (lambda: coupling(alternating(5, 0)), (5,)),
    "additive, odd parity": (lambda: coupling(alternating(4, 1)), (4,)),
    "affine": (lambda: coupling(alternating(5, 1), Affine()), (5,)),
    "affine, first half": (lambda: coupling(halves(5, 0), Affine()), (5,)),
    "affine, second half": (lambda: coupling(halves(5, 1), Affine()), (5,)),
    "affine, channels": (lambda: channels(Affine()), (3, 2, 2)),
    "affine, checkerboard": (lambda: board(Affine()), (2, 2, 3)),
    "spline": (lambda: coupling(halves(4, 1), Spline(4, 3.0)), (4,)),
    "spline, checkerboard": (lambda: board(Spline(3, 3.0)), (2, 2, 3)),
    "autoregressive": (lambda: masked([3, 1, 4, 2], Affine()), (4,)),
    "autoregressive, inverse": (lambda: masked([3, 1, 2], Affine()).inverse(), (3,)),
    "autoregressive spline": (lambda: masked([1, 2, 3], Spline(4, 3.0)), (3,)),
    "scale": (lambda: noisy(Scale(4)), (4,)),
    "standardise": (lambda: standardise((2, 3)), (2, 3)),
    "interval": (lambda: Interval(-3.0, 14.0), (2, 2)),
    "flatten": (lambda: Flatten((1, 2, 3)), (1, 2, 3)),
    "numbers": (numbers, (4,)),
    "chain": (
        lambda: Compose(
            [
                noisy(Scale(4)),
                coupling(alternating(4, 0)),
                coupling(alternating(4, 1), Affine()),
                standardise((4,)),
                Flatten((1, 2, 2)),
                Interval(0.0, 9.0),
            ]
        ),
        (1, 2, 2),
    ),
}


def make(name: str, dtype: torch.dtype = WIDE) -> tuple[Transform, tuple[int, ...]]:
    torch.manual_seed(2)
    build, shape = BIJECTIONS[name]
    return build().to(dtype) if name != "numbers" or dtype == WIDE else build(), shape


def context(n: int, dtype: torch.dtype = WIDE) -> Context:
    return Context(vector=torch.randn(n, CONTEXT, dtype=dtype, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", BIJECTIONS)
def test_v_is_the_log_determinant_of_the_jacobian(name: str) -> None:
    transform, shape = make(name)
    x, c = 2 * torch.randn(7, *shape, dtype=WIDE), context(7)
    z, score = transform.pull(x, c)
    for i in range(len(x)):
        one = Context(vector=c.vector[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: transform.pull(v[None], one)[0][0], x[i])
        truth = torch.linalg.slogdet(jacobian.reshape(x[i].numel(), -1)).logabsdet
        assert float(score[i].detach()) == pytest.approx(float(truth), abs=1e-8)
    assert torch.allclose(transform.push_scored(z, c)[1], score, atol=1e-8)
    if name not in ("flatten", "additive", "additive, odd parity"):
        assert float(score.detach().abs().min()) > 1e-3


@pytest.mark.parametrize("name", BIJECTIONS)
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_push_and_pull_undo_one_another(name: str, size: float, dtype: torch.dtype) -> None:
    if size == 1e4 and dtype == torch.float32 and ("additive" in name or name == "chain"):
        size = 1e3  # a difference of large numbers keeps only so many digits
    transform, shape = make(name, dtype)
    tolerance = 1e-8 if dtype == WIDE else 1e-4
    x, c = size * torch.randn(20, *shape, dtype=dtype), context(20, dtype)
    z = transform.pull(x, c)[0]
    back = transform.push(z, c)
    assert float((back - x).detach().abs().max()) < tolerance * max(1, size)
    z = size * torch.randn(*z.shape, dtype=dtype)
    again = transform.pull(transform.push(z, c), c)[0]
    assert float((again - z).detach().abs().max()) < tolerance * max(1, size)


@pytest.mark.parametrize("parity", [0, 1])
def test_additive_coupling_moves_half_by_a_function_of_the_other_half(parity: int) -> None:
    transform = coupling(alternating(5, parity)).double()
    z, c = torch.randn(6, 5, dtype=WIDE), context(6)
    x = transform.push(z, c)
    stays = alternating(5, parity)
    assert torch.equal(x[:, stays], z[:, stays])
    assert not torch.isclose(x[:, ~stays], z[:, ~stays]).any()
    torch.testing.assert_close(z[:, ~stays] - x[:, ~stays], transform.net(z[:, stays], c))
    other = transform.push(z, Context(vector=c.vector + 1))
    assert not torch.isclose(other[:, ~stays], x[:, ~stays]).any()


def test_standardise_ignores_gaps_and_keeps_constants() -> None:
    x = torch.randn(500, 3, dtype=WIDE) * torch.tensor([2.0, 1.0, 0.0]) + torch.tensor([1.0, -4.0, 7.0])
    holes = x.clone()
    holes[::3, 1] = math.nan
    transform = Standardise((3,)).double()
    y = transform.prepare(holes)
    known = holes[:, 1][~holes[:, 1].isnan()]
    torch.testing.assert_close(transform.mean, torch.stack([x[:, 0].mean(), known.mean(), torch.tensor(7.0, dtype=WIDE)]))
    torch.testing.assert_close(transform.std[1], known.std(unbiased=False))
    assert float(transform.std[2]) == 1
    assert torch.equal(y.isnan(), holes.isnan())


def test_standardise_copes_with_large_numbers_and_a_column_of_gaps() -> None:
    x = 1e9 + torch.randn(300, 2, dtype=WIDE)
    x[:, 1] = math.nan
    transform = Standardise((2,)).double()
    y = transform.prepare(x)
    assert float(y[:, 0].std()) == pytest.approx(1, abs=0.01)
    assert transform.std.isfinite().all()
    assert transform.mean.isfinite().all()


# dequantisation


@given(st.floats(0.01, 50), st.integers(-40, 40))
def test_dequantisation_stays_in_its_cell(step: float, k: int) -> None:
    step = 1 / round(1 / step) if step < 1 else step
    transform = Dequantise(step)
    x = torch.full((64, 1), k * step, dtype=WIDE)
    z, score = transform.pull(x, None, Draws(3, 0, 64))
    assert ((z - x).abs() <= step / 2 + 1e-9).all()
    assert float(score.abs().max()) == 0
    assert torch.allclose(transform.push(z), x, rtol=1e-12, atol=1e-12)


def test_dequantised_noise_is_uniform_over_the_cell_so_the_mean_density_is_mass_per_step() -> None:
    # a density over numbers that is linear over the cell: its mean over the noise is the cell's mass divided by the step
    step = torch.tensor([0.5, 2.0], dtype=WIDE)
    x = torch.tensor([[1.0, 4.0]], dtype=WIDE).expand(20_000, -1)
    z, score = Dequantise(step).pull(x, None, Draws(0, 0, len(x)))
    density = (0.3 * z + 1) * score.exp()[:, None]
    low, high = x[0] - step / 2, x[0] + step / 2
    truth = (0.15 * (high.square() - low.square()) + (high - low)) / step
    torch.testing.assert_close(density.mean(0), truth, rtol=0.01, atol=0.0)
    assert torch.allclose(z.std(0), step / 12**0.5, rtol=0.03)


def test_decimal_grids_and_bounds_and_continuous_columns() -> None:
    prices = torch.arange(-500, 500, dtype=WIDE) / 100
    assert torch.equal(Dequantise(0.01).push(Dequantise(0.01).pull(prices[:, None])[0])[:, 0], prices)
    pixels = Dequantise(1.0, (0.0, 7.0))
    assert pixels.push(torch.tensor([[-3.0, 9.0, 3.4]])).tolist() == [[0.0, 7.0, 3.0]]
    mixed = Dequantise(torch.tensor([0.0, 1.0], dtype=WIDE))
    x = torch.tensor([[0.123, 4.0]], dtype=WIDE)
    z, _ = mixed.pull(x)
    assert float(z[0, 0]) == 0.123
    assert float(z[0, 1]) != 4.0
    assert torch.equal(mixed.push(z), x)


def test_interval_maps_the_ends_to_the_ends() -> None:
    z, _ = Interval(0.0, 255.0).pull(torch.tensor([[0.0, 255.0, 127.5]]))
    assert z.tolist() == [[-1.0, 1.0, 0.0]]


def test_flatten_keeps_the_order() -> None:
    x = torch.arange(12.0).view(1, 3, 2, 2)
    assert torch.equal(Flatten((3, 2, 2)).pull(x)[0], torch.arange(12.0)[None])
