"""Maps to bounded supports: exact slopes, inverses to the last digits, finite at the bounds and at any extreme."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import integrate
from torch import Tensor

from pushforward.catalog import FAMILIES
from pushforward.catalog.parts import vector_marginals
from pushforward.core.context import Conditioner
from pushforward.core.distribution import Normal
from pushforward.core.errors import Unsupported
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Schema, Table, Vector
from pushforward.core.transform import Compose
from pushforward.models.flow import Flow
from pushforward.transforms.support import MARGIN, Support
from pushforward.transforms.tabular import table_marginals

WIDE, INF = torch.float64, math.inf
LOWER, UPPER = [-INF, 2.0, -INF, -1.0, 0.0], [INF, INF, 5.0, 4.0, 1e-3]


def support(scaled: bool = True) -> Support:
    made = Support(LOWER, UPPER)
    if scaled:
        made.scale.copy_(torch.tensor([1.0, 3.0, 0.2, 1.0, 1.0]))
    return made


def inside(n: int) -> Tensor:
    """Points of the support, many of them close to its edges."""
    near = 10 ** (-8 * torch.rand(n, 5, dtype=WIDE))
    x = torch.randn(n, 5, dtype=WIDE)
    x[:, 1], x[:, 2] = 2 + 5 * near[:, 1], 5 - near[:, 2]
    x[:, 3] = torch.where(torch.arange(n) % 2 == 0, -1 + 5 * near[:, 3], 4 - 5 * near[:, 3])
    x[:, 4] = 1e-3 * near[:, 4]
    return x


def test_slopes_are_the_derivative_in_both_directions() -> None:
    made, x = support(), inside(200).requires_grad_()
    z, score = made.pull(x)
    (slopes,) = torch.autograd.grad(z.sum(), x)
    assert (slopes > 0).all()
    torch.testing.assert_close(score, slopes.log().sum(1), rtol=1e-9, atol=1e-9)
    z = (4 * made.scale * torch.randn(200, 5, dtype=WIDE)).requires_grad_()
    with torch.no_grad():
        z[0] = 0.0
    pushed, back = made.push_scored(z)
    (slopes,) = torch.autograd.grad(pushed.sum(), z)
    torch.testing.assert_close(back, -slopes.log().sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made.pull(pushed.detach())[1], back.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(made.push(z), pushed)
    # and the formula that autograd differentiates is the one that is declared
    truth = 2 + 3 * torch.log1p((z[:, 1] / 3).exp())
    torch.testing.assert_close(pushed[:, 1], truth)
    torch.testing.assert_close(pushed[:, 2], 5 - 0.2 * torch.log1p((-z[:, 2] / 0.2).exp()))
    torch.testing.assert_close(pushed[:, 3], -1 + 5 * z[:, 3].sigmoid())


def test_data_come_back_near_and_far_from_the_bounds() -> None:
    made, x = support(), inside(500)
    torch.testing.assert_close(made.push(made.pull(x)[0]), x, rtol=1e-8, atol=2e-9)
    single = made.push(made.pull(x.float())[0])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, x.float(), rtol=1e-5, atol=1e-5)
    far = torch.tensor([[1e30, 1e30, -1e30, 4.0, 1e-3], [-1e30, 1e4, -1e4, -1.0, 0.0]], dtype=WIDE)
    z, score = made.pull(far)
    assert z.isfinite().all()
    assert score.isfinite().all()
    torch.testing.assert_close(made.push(z), far)


@pytest.mark.parametrize("dtype", [WIDE, torch.float32])
@pytest.mark.parametrize("size", [1.0, 40.0, 1e4, 1e30])
def test_any_latent_is_a_point_of_the_support(dtype: torch.dtype, size: float) -> None:
    made = support()
    z = (size * torch.tensor([-1.0, -0.3, 0.0, 0.5, 1.0], dtype=dtype))[:, None].expand(-1, 5).clone().requires_grad_()
    x, score = made.push_scored(z)
    assert x.isfinite().all()
    assert score.isfinite().all()
    lower, upper = (torch.tensor(bound, dtype=dtype) for bound in (LOWER, UPPER))
    assert ((x >= lower) & (x <= upper)).all()
    (slopes,) = torch.autograd.grad(x.sum() + score.sum(), z)
    assert slopes.isfinite().all()
    again, pulled = made.pull(x.detach())
    assert again.isfinite().all()
    assert pulled.isfinite().all()
    assert (x[:, 1:].detach().diff(dim=0) >= 0).all()


@pytest.mark.parametrize("dtype", [WIDE, torch.float32])
def test_data_on_a_bound_are_finite_and_stay_there_and_data_beyond_have_none(dtype: torch.dtype) -> None:
    made = Support([0.0, -INF, 0.0, 7.0], [INF, 0.0, 1.0, 9.0])
    on = torch.tensor([[0.0, 0.0, 0.0, 7.0], [1.0, -2.0, 1.0, 9.0]], dtype=dtype)
    z, score = made.pull(on)
    assert z.isfinite().all()
    assert torch.equal(made.push(z), on)
    # as dense as data at the margin from it
    y = MARGIN
    truth = -3 * math.log(y) - math.log(2) - math.log(y)
    assert float(score[0]) == pytest.approx(truth, abs=1e-4)
    beyond = torch.tensor([[-1e-3, -1.0, 0.5, 8.0], [1.0, 0.01, 0.5, 8.0], [1.0, -1.0, 1.1, 8.0], [1.0, -1.0, 0.5, 6.9]])
    assert (made.pull(beyond.to(dtype))[1] == -INF).all()


def test_gaps_and_unbounded_coordinates_are_left_alone() -> None:
    made, x = support(), inside(10)
    x[::2, 1], x[::3, 3] = math.nan, math.nan
    z, score = made.pull_each(x)
    assert torch.equal(z.isnan(), x.isnan())
    assert torch.equal(z[:, 0], x[:, 0])
    assert torch.equal(score[:, 0], torch.zeros(10, dtype=WIDE))
    assert torch.equal(made.push(z).isnan(), x.isnan())


def test_the_scale_is_that_of_the_data() -> None:
    made = Support([0.0, -INF, 0.0], [INF, 10.0, INF])
    x = torch.rand(401, 3, dtype=WIDE).exp()
    x[:, 0] *= 1e6
    x[:, 1] = 10 - 1e-3 * x[:, 1]
    x[:250, 2] = 0
    x[::5, 0] = math.nan
    z = made.prepare(x)
    known = x[~x[:, 0].isnan(), 0]
    torch.testing.assert_close(made.scale[0], known.median())
    torch.testing.assert_close(made.scale[1], (10 - x[:, 1]).median())
    torch.testing.assert_close(made.scale[2], x[250:, 2].median())  # numbers on the bound have no scale
    # whatever the unit, the latent is the same up to it
    other = Support([0.0, -INF, 0.0], [INF, 10e3, INF])
    torch.testing.assert_close(other.prepare(1000 * x), 1000 * z, equal_nan=True)


def test_bounds_must_leave_room() -> None:
    for lower, upper in (([1.0], [1.0]), ([2.0], [1.0]), ([0.0, 1.0], [1.0]), ([math.nan], [1.0])):
        with pytest.raises(ValueError, match="lower < upper"):
            Support(lower, upper)


# in the marginals of tables and vectors


def fitted(columns: tuple[Column, ...], x: Tensor) -> Flow:
    transform = table_marginals(columns).double()
    transform.prepare(x)
    return Flow(Schema(Table(columns)), Normal((transform.size,)), Compose([transform]), Conditioner(()))


@pytest.mark.parametrize(
    ("bounds", "draw", "ends"),
    [
        ((0.0, INF), lambda n: torch.rand(n, 1, dtype=WIDE).log().neg(), (0.0, 60.0)),
        ((-INF, 3.0), lambda n: 3 - torch.rand(n, 1, dtype=WIDE).log().neg() * 1e-2, (2.0, 3.0)),
        ((0.0, 1.0), lambda n: torch.rand(n, 1, dtype=WIDE) ** 3, (0.0, 1.0)),
    ],
    ids=["positive", "below 3", "rate"],
)
def test_marginal_densities_integrate_to_one_over_the_support_and_samples_stay_in_it(
    bounds: tuple[float, float], draw: Any, ends: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    x = draw(3000)
    model = fitted((Column("a", bounds=bounds),), x)
    free = fitted((Column("a"),), x)
    z = torch.linspace(-14, 14, 8001, dtype=WIDE)  # a grid that thins out towards the bounds
    grid = model.transform.push(z[:, None])
    assert ((grid >= ends[0]) & (grid <= ends[1])).all()
    mass = integrate.trapezoid(model.log_prob(grid).exp().numpy(), grid[:, 0].numpy())
    assert mass == pytest.approx(1, abs=2e-3)
    sample = model.sample(20_000, None, Draws(0, 0, 20_000))
    assert ((sample >= bounds[0]) & (sample <= bounds[1])).all()
    wild = torch.tensor([[-6.0], [6.0]], dtype=WIDE)
    leaves = free.transform.push(wild)
    assert not ((leaves >= bounds[0]) & (leaves <= bounds[1])).all()  # as the map without bounds does
    # and the shape is kept
    for p in (0.1, 0.5, 0.9):
        assert float(sample.quantile(p)) == pytest.approx(float(x.quantile(p)), rel=0.1, abs=1e-3)
    assert float(model.log_prob(x).mean()) > float(free.log_prob(x).mean()) - 0.02


def test_grids_end_with_the_cell_of_the_last_value_inside() -> None:
    columns = (
        Column("n", ColumnKind.INTEGER, resolution=1.0, bounds=(0.0, 4.5)),
        Column("p", resolution=0.01, bounds=(0.0, INF)),
    )
    torch.manual_seed(0)
    x = torch.stack([torch.randint(0, 5, (2000,)).double(), (torch.rand(2000, dtype=WIDE) * 3).round(decimals=2)], 1)
    model = fitted(columns, x)
    for seed in range(3):
        z, _ = model.transform.pull(x, None, Draws(seed, 0, len(x)))
        assert torch.equal(model.transform.push(z), x)
    wild = model.transform.push(6 * torch.randn(4000, 2, dtype=WIDE))
    assert sorted(wild[:, 0].unique().tolist()) == [0, 1, 2, 3, 4]
    assert float(wild[:, 1].min()) == 0
    # the masses of the cells sum to one: nothing is beyond
    draws = 400
    line = fitted(columns[:1], x[:, :1])
    rows = torch.arange(5, dtype=WIDE).repeat_interleave(draws)[:, None]
    mass = line.log_prob(rows, None, Draws(4, 0, len(rows))).exp().view(5, draws).mean(1)
    assert float(mass.sum()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(mass, (x[:, :1] == torch.arange(5)).double().mean(0), rtol=0.12, atol=0.0)


def test_gaps_stay_gaps_and_bounded_columns_stand_beside_free_ones() -> None:
    columns = (
        Column("a", missing=True, bounds=(0.0, INF)),
        Column("free"),
        Column("c", ColumnKind.CATEGORY, categories=("x", "y")),
        Column("rate", bounds=(0.0, 1.0)),
    )
    torch.manual_seed(0)
    n = 600
    x = torch.stack([torch.rand(n), torch.randn(n), torch.randint(0, 2, (n,)), torch.rand(n)], 1).double()
    x[::4, 0] = math.nan
    x[0, 3], x[1, 3] = 0.0, 1.0
    for fill in (True, False):
        transform = table_marginals(columns, fill=fill).double()
        transform.prepare(x)
        z, score = transform.pull(x, None, Draws(1, 0, n))
        assert torch.equal(z[:, 0].isnan(), x[:, 0].isnan() & (not fill))
        assert score.isfinite().all()
        torch.testing.assert_close(transform.push(z), x, rtol=1e-7, atol=1e-8, equal_nan=True)
    wild = table_marginals(columns).double()
    wild.prepare(x)
    pushed = wild.push(20 * torch.randn(4000, 5, dtype=WIDE))
    known = pushed[~pushed[:, 0].isnan()]
    assert len(known) < len(pushed)
    assert (known[:, 0] >= 0).all()
    assert ((pushed[:, 3] >= 0) & (pushed[:, 3] <= 1)).all()
    assert float(pushed[:, 1].min()) < -3


def test_vectors_are_bounded_by_coordinate() -> None:
    kind = Vector(3, bounds=((0.0, INF), (-INF, INF), (-1.0, 1.0)))
    transform, size = vector_marginals(kind)
    assert size == 3
    x = torch.rand(500, 3, dtype=WIDE)
    transform.double().prepare(x)
    pushed = transform.push(9 * torch.randn(3000, 3, dtype=WIDE))
    assert float(pushed[:, 0].min()) >= 0
    assert float(pushed[:, 1].min()) < -0.5
    assert float(pushed[:, 2].abs().max()) <= 1
    z = torch.randn(200, 3, dtype=WIDE)
    near, score = transform.push_scored(z)
    back, pulled = transform.pull(near)
    torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(score, pulled, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if "vector" in f.kinds and "sample" in f.verbs])
def test_every_family_samples_inside_the_bounds_or_says_that_it_cannot(name: str, tiny: Any) -> None:
    kind = Vector(2, bounds=((0.0, INF), (0.0, 1.0)))
    family = FAMILIES[name]
    elements = ("fvsbn", "nade", "made", "gpt", "rnn", "masked-diffusion", "vae", "hvae", "gumbel-vae", "vq-vae")
    if name in ("gaussian", *elements):
        with pytest.raises(Unsupported, match=f"{name} does not keep within bounds"):
            family.build(Schema(kind), tiny.config(family))
        return
    model = family.build(Schema(kind), tiny.config(family))
    x = torch.rand(300, 2, dtype=WIDE)
    model.prepare(x)
    if hasattr(model, "start"):
        model.start(x, Draws(5, 0, len(x)))
    tiny.perturb(model, 1.0)
    with torch.no_grad():
        sample = model.eval().sample(500, None, Draws(0, 0, 500))
    assert float(sample.min()) >= 0
    assert float(sample[:, 1].max()) <= 1
