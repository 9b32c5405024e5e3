"""What a flow offers besides its density: one-pass sampling with gradients, temperature, ways between examples, completion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pushforward.core.context import Conditioner, Context
from pushforward.core.distribution import BASES, FullNormal, Normal
from pushforward.core.errors import RecipeError
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Schema, Table, Vector
from pushforward.core.transform import Compose, Transform
from pushforward.models.flow import Flow
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.coupling import Coupling, alternating
from pushforward.transforms.monotone import Affine, Monotone
from pushforward.transforms.tabular import LevelMarginals, table_marginals
from pushforward.transforms.univariate import Scale, Standardise

WIDE = torch.float64


class Net(nn.Module):
    """Two layers that know no context."""

    def __init__(self, inputs: int, outputs: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, outputs)
        for p in self.parameters():
            nn.init.normal_(p, std=0.5, generator=generator)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self.last(self.first(x).tanh())


class Triangle(nn.Module):
    """Affine parameters of coordinate i that are linear in those before it in ``order``: z is Gaussian if x is, and back."""

    in_degrees: Tensor
    before: Tensor

    def __init__(self, order: list[int], seed: int = 1) -> None:
        super().__init__()
        size = len(order)
        self.register_buffer("in_degrees", torch.tensor(order))
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("before", (self.in_degrees[:, None] > self.in_degrees).float())
        self.weight = nn.Parameter(torch.randn(size, size, generator=generator))
        self.shift, self.log_scale = (nn.Parameter(0.5 * torch.randn(size, generator=generator)) for _ in range(2))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return torch.cat([x @ (self.before * self.weight).T + self.shift, self.log_scale.expand(len(x), -1)], 1)

    def unroll(self, z: Tensor, monotone: Monotone, context: Context | None = None) -> Tensor:
        x = torch.zeros_like(z)
        for _ in range(z.shape[1]):
            x = monotone.push(z, self(x).view(len(z), 2, -1))
        return x


class Wave(Triangle):
    """Scales that depend on what comes before."""

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        seen = x @ (self.before * self.weight).T
        return torch.cat([0.5 * seen + self.shift, 1.2 * (2 * seen).sin() + self.log_scale], 1)


def triangular(*orders: list[int], base: str = "normal", inverse: bool = False) -> Flow:
    """A flow of affine autoregressive layers: a Gaussian of any covariance where the base is normal."""
    layers: list[Transform] = [Autoregressive(Triangle(order, seed), Affine()) for seed, order in enumerate(orders)]
    layers = [layer.inverse() for layer in layers] if inverse else layers
    size = len(orders[0])
    near = Standardise((size,))
    near.mean.copy_(torch.arange(size))
    near.std.copy_(0.5 + torch.arange(size))
    torch.manual_seed(0)
    flow = Flow(Schema(Vector(size)), BASES[base]((size,)), Compose(layers), Conditioner(()), preprocess=Compose([near]))
    return flow.double().eval()


def moments(flow: Flow) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a linear flow with a normal base, from its map alone."""
    size = flow.schema.example.size
    mean = flow.transform.push(torch.zeros(1, size, dtype=WIDE))[0]
    factor = flow.transform.push(torch.eye(size, dtype=WIDE)) - mean
    return mean.detach(), (factor.T @ factor).detach()


def bent(size: int = 3, base: str = "normal") -> Flow:
    """A flow that is no Gaussian, by couplings."""
    layers: list[Transform] = [Scale(size)]
    for i in range(3):
        stays = alternating(size, i)
        a = int(stays.sum())
        layers.append(Coupling(stays, Net(a, 2 * (size - a), i), Affine()))
    torch.manual_seed(0)
    flow = Flow(Schema(Vector(size)), BASES[base]((size,)), Compose(layers), Conditioner(()))
    nn.init.normal_(layers[0].log_scale, std=0.5)  # type: ignore[arg-type]
    return flow.double().eval()


# sampling


@pytest.mark.parametrize("base", ["normal", "logistic", "student-t", "full-normal", "mixture"])
def test_samples_come_with_their_density_and_gradients(base: str) -> None:
    flow, n = bent(base=base), 50
    x, log_q = flow.sample_and_log_prob(n, None, Draws(1, 0, n))
    torch.testing.assert_close(x, flow.sample(n, None, Draws(1, 0, n)))
    torch.testing.assert_close(log_q, flow.log_prob(x))
    (log_q.mean() + x.square().mean()).backward()
    for name, p in flow.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all()
        assert p.grad.abs().sum() > 0, name


def test_the_gradient_of_samples_is_that_of_the_expectation() -> None:
    """∂ E[x'Ax] for a Gaussian flow, from samples and from its moments."""
    flow, n = triangular([1, 2, 3]), 40_000
    a = torch.randn(3, 3, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    x, log_q = flow.sample_and_log_prob(n, None, Draws(4, 0, n))
    found = torch.autograd.grad(((x @ a) * x).sum(1).mean() + log_q.mean(), list(flow.parameters()))
    size = 3
    mean = flow.transform.push(torch.zeros(1, size, dtype=WIDE))[0]
    factor = flow.transform.push(torch.eye(size, dtype=WIDE)) - mean
    covariance = factor.T @ factor
    truth = (a * covariance.T).sum() + mean @ a @ mean - 0.5 * torch.logdet(covariance)
    for g, t in zip(found, torch.autograd.grad(truth, list(flow.parameters())), strict=True):
        torch.testing.assert_close(g, t, rtol=0.1, atol=0.6)


@torch.no_grad()
def test_samples_of_stochastic_maps_come_with_a_weight() -> None:
    columns = (Column("n", ColumnKind.INTEGER, resolution=1.0), Column("c", ColumnKind.CATEGORY, categories=("x", "y")))
    transform = table_marginals(columns)
    transform.prepare(torch.randint(0, 2, (200, 2)).double())
    flow = Flow(Schema(Table(columns)), Normal((2,)), Compose([transform]), Conditioner(()))
    x, weight = flow.sample_and_log_prob(30, None, Draws(1, 0, 30))
    torch.testing.assert_close(x, flow.sample(30, None, Draws(1, 0, 30)))
    assert weight.isfinite().all()
    assert flow.density_kind == "lower_bound"


@torch.no_grad()
def test_temperature_scales_the_noise() -> None:
    flow = triangular([1, 2, 3])
    mean, covariance = moments(flow)
    cold = flow.sample(4000, None, Draws(1, 0, 4000), temperature=0.5)
    torch.testing.assert_close(torch.cov(cold.T), covariance / 4, rtol=0.1, atol=0.1)
    still = flow.sample(5, None, Draws(1, 0, 5), temperature=0.0)
    torch.testing.assert_close(still, mean.expand(5, -1))
    for bad in (-1.0, math.nan):
        with pytest.raises(RecipeError, match="temperature must be at least 0"):
            flow.sample(5, None, Draws(1, 0, 5), temperature=bad)


def test_kinds_of_density_are_what_is_declared() -> None:
    columns = (Column("n", ColumnKind.INTEGER, resolution=1.0),)
    schema, grid = Schema(Table(columns)), Compose([table_marginals(columns)])
    plain = Flow(Schema(Vector(1)), Normal((1,)), Scale(1), Conditioner(()))
    assert (plain.density_kind, plain.weights_are_exact, plain.random) == ("exact", True, False)
    ode = Flow(Schema(Vector(1)), Normal((1,)), Scale(1), Conditioner(()), density_kind="ode", weights_are_exact=False)
    assert (ode.density_kind, ode.weights_are_exact, ode.random) == ("ode", False, True)
    assert Flow(schema, Normal((1,)), grid, Conditioner(()), density_kind="ode").density_kind == "lower_bound"
    assert Flow(schema, Normal((1,)), grid, Conditioner(()), tight=True).density_kind == "exact"
    split = Flow(schema, Normal((1,)), Scale(1), Conditioner(()), preprocess=grid)
    whole = Flow(schema, Normal((1,)), Compose([Scale(1), *grid]), Conditioner(()))
    assert list(split.state_dict()) == list(whole.state_dict())
    assert split.density_kind == "lower_bound"


# ways


@torch.no_grad()
def test_ways_start_and_end_where_they_should_and_keep_to_the_shell() -> None:
    flow = bent()
    a, b = (flow.sample(6, None, Draws(seed, 0, 6)) for seed in (1, 2))
    way = flow.interpolate(a, b, 5)
    assert way.shape == (6, 5, 3)
    torch.testing.assert_close(way[:, 0], a)
    torch.testing.assert_close(way[:, -1], b)
    z0, z1 = flow.encode(a), flow.encode(b)
    middle = flow.encode(way[:, 2])
    # halfway both noises count alike, and the angle is halved
    cosine = torch.nn.functional.cosine_similarity
    angle = cosine(z0, z1, dim=1).acos()
    torch.testing.assert_close(middle, (z0 + z1) / (2 * (angle / 2).cos())[:, None])
    quarter = flow.encode(way[:, 1])
    equal = z0 * (z1.norm(dim=1) / z0.norm(dim=1))[:, None]
    arc = flow.encode(flow.interpolate(flow.transform.push(equal), b, 5)[:, 1])
    torch.testing.assert_close(arc.norm(dim=1), z1.norm(dim=1))
    torch.testing.assert_close(cosine(arc, equal, dim=1).acos(), angle / 4)
    assert not torch.allclose(quarter, torch.lerp(z0, z1, 0.25), atol=1e-3)


@torch.no_grad()
def test_ways_are_straight_where_an_arc_makes_no_sense() -> None:
    logistic = bent(base="logistic")
    a, b = (logistic.sample(6, None, Draws(seed, 0, 6)) for seed in (1, 2))
    z = logistic.encode(logistic.interpolate(a, b, 5)[:, 1])
    torch.testing.assert_close(z, torch.lerp(logistic.encode(a), logistic.encode(b), 0.25))
    flow = bent()
    z0 = torch.randn(4, 3, dtype=WIDE)
    for z1 in (2 * z0, -z0):
        ends = (flow.transform.push(z0), flow.transform.push(z1))
        z = flow.encode(flow.interpolate(*ends, 3)[:, 1])
        torch.testing.assert_close(z, torch.lerp(z0, z1, 0.5), atol=1e-4, rtol=1e-4)
    nothing = Flow(Schema(Vector(3)), Normal((3,)), Compose([]), Conditioner(()))
    torch.testing.assert_close(nothing.interpolate(z0, 0 * z0, 3)[:, 1], z0 / 2)


# completion


def conditional(flow: Flow, known: list[int], x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    mean, c = moments(flow)
    rest = [i for i in range(len(mean)) if i not in known]
    gain = c[rest][:, known] @ torch.linalg.inv(c[known][:, known])
    return mean[rest] + gain @ (x[known] - mean[known]), c[rest][:, rest] - gain @ c[known][:, rest], rest


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    ("orders", "known", "exact"),
    [
        (([1, 2, 3, 4],), [0, 1], True),
        (([1, 2, 3, 4], [1, 2, 3, 4]), [0, 1], True),
        (([4, 2, 3, 1],), [3, 1], True),
        (([1, 2, 3, 4],), [1, 3], False),
        (([1, 2, 3, 4], [4, 3, 2, 1]), [0, 1], False),
    ],
)
@torch.no_grad()
def test_completion_draws_from_the_conditional(
    orders: tuple[list[int], ...], known: list[int], exact: bool, inverse: bool, monkeypatch: Any
) -> None:
    flow, n = triangular(*orders, inverse=inverse), 3000
    x = flow.sample(1, None, Draws(9, 0, 1)).expand(n, -1)
    observed = torch.zeros(4).bool().index_fill(0, torch.tensor(known), True).expand(n, -1)
    if exact:  # no chain is needed
        monkeypatch.setattr(Flow, "_chain", None)
    else:
        for p in flow.parameters():
            p.requires_grad_(True)
    drawn = flow.complete(torch.where(observed, x, math.nan), observed, None, Draws(2, 0, n))
    assert all(p.requires_grad for p in flow.parameters())
    assert torch.equal(drawn[:, known], x[:, known])
    mean, covariance, rest = conditional(flow, known, x[0])
    scale = covariance.diag().sqrt()
    assert float(((drawn[:, rest].mean(0) - mean) / scale).abs().max()) < 4.5 / n**0.5
    error = (torch.cov(drawn[:, rest].T) - covariance) / scale / scale[:, None]
    assert float(error.abs().max()) < (0.08 if exact else 0.12)
    if exact:
        for i, column in enumerate(drawn[:, rest].unbind(1)):
            assert stats.kstest(((column - mean[i]) / scale[i]).numpy(), "norm").pvalue > 1e-3


@torch.no_grad()
def test_a_base_with_dependence_is_completed_by_the_chain(monkeypatch: Any) -> None:
    flow, n = triangular([1, 2, 3], base="full-normal"), 2000
    assert isinstance(flow.base, FullNormal)
    flow.base.lower.normal_()
    observed = torch.tensor([True, False, False]).expand(n, -1)
    x = torch.ones(n, 3, dtype=WIDE)
    drawn = flow.complete(x, observed, None, Draws(1, 0, n))
    slope = (flow.transform.push(torch.eye(3, dtype=WIDE)) - flow.transform.push(torch.zeros(1, 3, dtype=WIDE))).T
    full = slope @ flow.base.factor @ flow.base.factor.T @ slope.T
    mean = flow.transform.push(flow.base.mean[None])[0]
    wanted = mean[1:] + full[1:, 0] / full[0, 0] * (1 - mean[0])
    spread = (full[1:, 1:] - torch.outer(full[1:, 0], full[1:, 0]) / full[0, 0]).diag().sqrt()
    assert float(((drawn[:, 1:].mean(0) - wanted) / spread).abs().max()) < 0.12
    torch.testing.assert_close(drawn[:, 1:].std(0), spread, rtol=0.12, atol=0.0)
    # with nothing observed there is nothing to condition on
    monkeypatch.setattr(Flow, "_chain", None)
    free = flow.complete(x, torch.zeros(n, 3).bool(), None, Draws(1, 0, n))
    torch.testing.assert_close(torch.cov(free.T), full, rtol=0.15, atol=0.3)


@torch.no_grad()
def test_two_ways_of_completing_one_flow_agree(monkeypatch: Any) -> None:
    """A bent autoregressive flow: exact for a prefix, and the chain draws from the same distribution."""
    n = 1500
    flow = Flow(Schema(Vector(3)), Normal((3,)), Autoregressive(Wave([1, 2, 3], 3), Affine()), Conditioner(())).double()
    x = torch.tensor([0.7, 0, 0], dtype=WIDE).expand(n, -1)
    observed = torch.tensor([True, False, False]).expand(n, -1)
    exact = flow.complete(x, observed, None, Draws(1, 0, n))
    assert float(flow.transform.pull(exact)[1].std()) > 0.4  # the volume varies, so that it counts
    monkeypatch.setattr("pushforward.models.flow._orders", lambda transform: None)
    chain = flow.complete(x, observed, None, Draws(2, 0, n))
    assert not torch.equal(exact, chain)
    for d in (1, 2):
        assert stats.ks_2samp(exact[:, d].numpy(), chain[:, d].numpy()).pvalue > 1e-3


@torch.no_grad()
def test_completion_of_pictures_keeps_every_observed_pixel(tiny: Any) -> None:
    kind = Image(1, 4, 4, levels=17)
    marginals = LevelMarginals(kind.shape, kind.levels)
    from pushforward.transforms.reshape import Flatten

    stays = alternating(16, 0)
    coupling = Coupling(stays, Net(8, 16), Affine())
    flow = Flow(
        Schema(kind), Normal((16,)), coupling, Conditioner(()), preprocess=Compose([Flatten(kind.shape), marginals])
    ).eval()
    x = (torch.rand(60, 1, 4, 4) * 17).floor().to(torch.uint8)
    flow.prepare(x)
    observed = torch.rand(60, 1, 4, 4) < 0.6
    drawn = flow.complete(x, observed, None, Draws(1, 0, 60))
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn[observed], x[observed])
    assert int(drawn.max()) < 17
    assert float((drawn[~observed] != x[~observed]).double().mean()) > 0.8


@torch.no_grad()
def test_rows_are_completed_whatever_their_neighbours_need() -> None:
    flow = triangular([1, 2, 3])
    x = flow.sample(24, None, Draws(5, 0, 24))
    observed = torch.rand(24, 3, generator=torch.Generator().manual_seed(1)) < 0.5  # prefixes, others, all and none
    whole = flow.complete(x, observed, None, Draws(3, 0, 24))
    for a, b in ((0, 1), (1, 9), (9, 24)):
        part = flow.complete(x[a:b], observed[a:b], None, Draws(3, a, b, 24))
        torch.testing.assert_close(part, whole[a:b])
