"""Value by value against zuko, nflows and normflows on the same weights: latents, densities and samples.

The peers' random weights are copied into ours, with output rows in our order (parameter p of number d is row p · D + d) and
hidden units sorted by degree. Ours is Compose of the layers in the order of ``push``, theirs in that of the density's pass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Conditioner, Context
from pushforward.core.distribution import Normal
from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose, Transform
from pushforward.models.flow import Flow
from pushforward.nets.masked import MaskedMLP
from pushforward.nets.mlp import MLP
from pushforward.transforms.autoregressive import Autoregressive
from pushforward.transforms.circular import CircularSpline, wrap
from pushforward.transforms.coupling import Coupling
from pushforward.transforms.linear import LU, Householder
from pushforward.transforms.monotone import Affine, Monotone
from pushforward.transforms.residual import Sylvester
from pushforward.transforms.spline import Spline

WIDE = torch.float64
CONTEXT = 3
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(5)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="Inputs to the softmax are not scaled down")
        yield


def loud(module: nn.Module, std: float = 0.5) -> Any:
    """Random float64 parameters of a size that bends and scales."""
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def inputs(size: int) -> list[Tensor]:
    """Ordinary, large and far points, and the origin."""
    return [torch.randn(40, size, dtype=WIDE), 10 * torch.randn(20, size, dtype=WIDE), 1e3 * torch.randn(20, size, dtype=WIDE),
            torch.zeros(1, size, dtype=WIDE)]  # fmt: skip


def ordered(rows: Tensor, params: int) -> Tensor:
    """Rows d · P + p, (D · P, …), as rows p · D + d."""
    return rows.view(-1, params, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def copied(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    assert linear.weight.shape == weight.shape
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)


def mlp(theirs: Sequence[nn.Linear], size: int, params: int, context: int = 0, by_number: bool = True) -> MLP:
    """Our MLP with the weights of ``theirs``, whose first layer has the context behind its inputs.

    ``by_number``: their outputs are ordered d · P + p, else as ours.
    """
    first, *middle, last = theirs
    kept = first.in_features - context
    ours = MLP(kept, params * (size - kept), [layer.out_features for layer in theirs[:-1]], context=context, activation="relu")
    ours.double()
    copied(ours.layers[0], first.weight[:, :kept], first.bias)
    if context:
        copied(ours.from_context, first.weight[:, kept:], None)
    for mine, layer in zip(ours.layers[1:-1], middle, strict=True):
        copied(mine, layer.weight, layer.bias)
    order = partial(ordered, params=params) if by_number else lambda rows: rows
    copied(ours.layers[-1], order(last.weight), order(last.bias))
    return ours


def masked(theirs: Sequence[Any], degrees: Tensor, params: int, context: int = 0, flip: bool = False) -> MaskedMLP:
    """Our MaskedMLP with the weights of ``theirs``, layers with ``weight``, ``mask``, ``bias``; hidden units sorted by degree.

    ``flip``: theirs sees the coordinates from the last to the first. The masks must coincide, or the networks are not the same.
    """
    size = len(degrees)
    ours = MaskedMLP(degrees, degrees.repeat(params), [len(t.bias) for t in theirs[:-1]], context=context, activation="relu")
    ours.double()
    columns = torch.arange(size).flip(0) if flip else torch.arange(size)
    extra: Tensor | None = None
    for index, (mine, layer) in enumerate(zip(ours.layers, theirs, strict=True)):
        weight, mask, bias = layer.weight, layer.mask.to(WIDE), layer.bias
        if index == 0:
            weight, mask, extra = weight[:, :size], mask[:, :size], weight[:, size:]
        if layer is theirs[-1]:
            numbers = torch.arange(size * params).view(size, params)
            rows = (numbers.flip(0) if flip else numbers).t().flatten()
        else:
            # units that see more have the higher degree
            rows = mask.sum(1).argsort(stable=True)
        copied(mine, weight[rows][:, columns], bias[rows])
        assert torch.equal(mine.mask.to(WIDE), mask[rows][:, columns])
        if index == 0 and context:
            assert extra is not None
            copied(ours.from_context, extra[rows], None)
        columns = rows
    return ours


def linears(net: nn.Module) -> list[Any]:
    return [layer for layer in net.modules() if isinstance(getattr(layer, "weight", None), Tensor)]


def flow_of(layers: Sequence[Transform], size: int) -> Flow:
    schema = Schema(Vector(size))
    return Flow(schema, Normal((size,)), Compose(reversed(layers)), Conditioner(()))


def gradient(log_prob: Any, x: Tensor) -> Tensor:
    """∂ log p / ∂x, (B, D)."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(log_prob(x).sum(), x)[0]


def check_rest(flow: Flow, x: Tensor, log_prob: Any, base: Tensor, push: Any, context: Tensor | None) -> None:
    """Gradients, and then all of it in float32, where other code runs: theirs sees the same numbers in float64."""
    x, base = x.float().double(), base.float().double()
    truth = gradient(log_prob, x)

    def own(x: Tensor) -> Tensor:
        z, score = flow.transform.pull(x, Context(vector=None if context is None else context.to(x)))
        return flow.base.log_prob(z) + score

    close(gradient(own, x), truth, rtol=1e-6, atol=1e-6)
    flow.float()
    close(own(x.float()).double(), log_prob(x), rtol=1e-3, atol=1e-2)
    given = Context(vector=None if context is None else context.float())
    close(flow.transform.push(base.float(), given).double(), push(base), rtol=1e-3, atol=1e-3)
    # rounding may put a row on the other side of a kink, but only a few
    wrong = (gradient(own, x.float()) - truth).norm(dim=1) / truth.norm(dim=1)
    assert float(wrong.median()) < 1e-3
    assert float((wrong > 0.01).double().mean()) < 0.1


def check_zuko(layers: Sequence[Transform], theirs: Any, size: int, context: bool) -> None:
    ours = flow_of(layers, size)
    for x in inputs(size):
        c = torch.randn(len(x), CONTEXT, dtype=WIDE) if context else None
        given = Context(vector=c)
        distribution = theirs(c)
        z, score = ours.transform.pull(x, given)
        their_z, their_score = distribution.transform.call_and_ladj(x)
        close(z, their_z)
        close(score, their_score)
        close(ours.base.log_prob(z) + score, distribution.log_prob(x))
        base = torch.randn_like(x)
        close(ours.transform.push(base, given), distribution.transform.inv(base))
    x, base = torch.randn(2, 64, size, dtype=WIDE)
    c = torch.randn(64, CONTEXT).double() if context else None
    check_rest(ours, x, theirs(c).log_prob, base, theirs(c).transform.inv, c)


# zuko: affine layers with the same clip of the log-scale


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("size", [5, 8])
def test_affine_couplings_equal_zukos(size: int, context: bool) -> None:
    zuko = pytest.importorskip("zuko")
    c = CONTEXT if context else 0
    theirs = loud(zuko.flows.NICE(size, c, transforms=4, randmask=True, hidden_features=(16, 24)))
    layers = [Coupling(t.mask, mlp(linears(t.hyper), size, 2, c), Affine()) for t in theirs.transform.transforms]
    check_zuko(layers, theirs, size, context)


@pytest.mark.parametrize("context", [False, True])
def test_masked_autoregressive_flows_equal_zukos(context: bool) -> None:
    zuko = pytest.importorskip("zuko")
    size, c = 5, CONTEXT if context else 0
    # as many units of every degree: 1 … 4, and with a context 0 … 4
    hidden = (20, 40)
    theirs = loud(zuko.flows.MAF(size, c, transforms=3, hidden_features=hidden), 0.4)
    layers = [Autoregressive(masked(linears(t.hyper), t.order + 1, 2, c), Affine()) for t in theirs.transform.transforms]
    check_zuko(layers, theirs, size, context)


def test_masked_autoregressive_flow_in_a_random_order_equals_zukos() -> None:
    zuko = pytest.importorskip("zuko")
    theirs = loud(zuko.flows.MAF(7, transforms=3, randperm=True, hidden_features=(12, 18)), 0.4)
    layers = [Autoregressive(masked(linears(t.hyper), t.order + 1, 2), Affine()) for t in theirs.transform.transforms]
    check_zuko(layers, theirs, 7, False)


# splines: the map alone


def spline_points(knots: Tensor, bound: float) -> Tensor:
    """(N, D) inside, outside, at ±bound, and at every knot (K + 1, D)."""
    size = knots.shape[1]
    ends = torch.tensor([-bound, bound], dtype=WIDE)[:, None].expand(-1, size)
    inside = bound * (2 * torch.rand(60, size, dtype=WIDE) - 1)
    outside = torch.cat([bound * (1 + torch.rand(10, size, dtype=WIDE)), torch.full((1, size), -1e30, dtype=WIDE)])
    return torch.cat([inside, outside, -outside, ends, knots])


def check_spline(ours: Spline, params: Tensor, theirs: Any, knots_x: Tensor, knots_y: Tensor) -> None:
    """``theirs(value, inverse)`` gives value and log-derivative, (N, D), for N · D numbers that share ``params`` (1, P, D)."""
    x, z = spline_points(knots_x, ours.bound), spline_points(knots_y, ours.bound)
    own = params.expand(len(x), -1, -1)
    their_z, their_slope = theirs(x, False)
    found, score = ours.pull(x, own)
    close(found, their_z)
    close(score, their_slope.sum(1))
    their_x, _ = theirs(z, True)
    close(ours.push(z, own), their_x, rtol=1e-8, atol=1e-8)
    # each number on its own, so that errors cannot cancel in the sum
    for d in range(x.shape[1]):
        close(ours.pull(x[:, d : d + 1], own[:, :, d : d + 1])[1], their_slope[:, d])
    # in float32 other code runs
    short = own.float()
    found, score = ours.pull(x.float(), short)
    truth, slope = theirs(x.float().double(), False)
    close(found.double(), truth, rtol=1e-5, atol=2e-5)
    close(score.double(), slope.sum(1), rtol=1e-4, atol=1e-3)
    truth, _ = theirs(z.float().double(), True)
    # where the spline is flat its inverse is steep, and float32 cannot hold it better
    close(ours.push(z.float(), short).double(), truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("bins", "bound", "std"), [(8, 5.0, 1.0), (4, 3.0, 2.0), (11, 1.0, 0.3)])
def test_splines_equal_nflows(bins: int, bound: float, std: float) -> None:
    rational_quadratic = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    size = 3
    widths, heights = std * torch.randn(2, 1, size, bins, dtype=WIDE)
    slopes = std * torch.randn(1, size, bins - 1, dtype=WIDE)

    def theirs(value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        w, h, s = (p.expand(len(value), -1, -1).clone() for p in (widths, heights, slopes))
        return rational_quadratic.unconstrained_rational_quadratic_spline(value, w, h, s, inverse, tail_bound=bound)

    def knots(logits: Tensor) -> Tensor:
        share = 1e-3 + (1 - 1e-3 * bins) * logits[0].softmax(-1)
        return (bound * (2 * F.pad(share.cumsum(-1), (1, 0)) - 1)).t()

    # ours has slope 1 where the parameter is zero
    params = torch.cat([widths, heights, slopes - math.log(math.expm1(1 - 1e-3))], -1).transpose(1, 2)
    check_spline(Spline(bins, bound), params, theirs, knots(widths), knots(heights))


@pytest.mark.parametrize("bound", [5.0, 2.0])
def test_splines_equal_zukos(bound: float) -> None:
    transforms = pytest.importorskip("zuko.transforms")
    size, bins = 3, 8
    widths, heights = 2 * torch.randn(2, 1, size, bins, dtype=WIDE)
    slopes = 2 * torch.randn(1, size, bins - 1, dtype=WIDE)
    map_ = transforms.MonotonicRQSTransform(widths, heights, slopes, bound=bound)

    def theirs(value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return (map_.inv if inverse else map_).call_and_ladj(value)

    # theirs clips what ours takes as it is, has no least bin, and slopes that are exponentials
    clip = -math.log(1e-3)
    clipped = [p / (1 + 2 * p.abs() / clip) for p in (widths, heights)]
    raw = (slopes / (1 + slopes.abs() / clip)).exp().expm1().log() - math.log(math.expm1(1.0))
    params = torch.cat([*clipped, raw], -1).transpose(1, 2)
    check_spline(Spline(bins, bound, floor=0.0), params, theirs, map_.horizontal[0].t(), map_.vertical[0].t())


# nflows: whole flows


class Scaled(Monotone):
    """nflows' affine maps, z = x · σ(a) + t: the scale is a function of the parameter that is not ours."""

    params = 2

    def __init__(self, scale: Any, shift_first: bool) -> None:
        super().__init__()
        self.scale, self.shift, self.raw = scale, 0 if shift_first else 1, 1 if shift_first else 0

    def pull(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale(params[:, self.raw]) + 1e-3
        return x * scale + params[:, self.shift], scale.log().sum(1)

    def push(self, z: Tensor, params: Tensor) -> Tensor:
        return (z - params[:, self.shift]) / (self.scale(params[:, self.raw]) + 1e-3)


class Net(nn.Module):
    """A network as nflows' couplings call it, the context behind the inputs."""

    def __init__(self, inputs: int, outputs: int, context: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs + context, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, outputs)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(x if context is None else torch.cat([x, context], 1))


def check_nflows(layers: Sequence[Transform], theirs: Any, size: int, contexts: Any = None, flipped: bool = False) -> None:
    """``contexts``: their context (B, …) → ours (B, …). ``flipped``: their latent has its coordinates the other way round."""
    ours = flow_of(layers, size)

    def turn(z: Tensor) -> Tensor:
        return z.flip(1) if flipped else z

    for x in inputs(size):
        c = None if contexts is None else torch.randn(len(x), CONTEXT, dtype=WIDE)
        given = Context(vector=None if contexts is None else contexts(c))
        z, score = ours.transform.pull(x, given)
        their_z, their_score = theirs._transform(x, c)
        close(turn(z), their_z)
        close(score, their_score)
        close(ours.base.log_prob(z) + score, theirs.log_prob(x, c))
        base = torch.randn_like(x)
        close(ours.transform.push(base, given), theirs._transform.inverse(turn(base), c)[0], rtol=1e-7, atol=1e-7)
    x, base = torch.randn(2, 64, size, dtype=WIDE)
    c = None if contexts is None else torch.randn(64, CONTEXT).double()
    own = None if contexts is None else contexts(c)
    push = lambda z: theirs._transform.inverse(turn(z), c)[0]
    check_rest(ours, x, lambda x: theirs.log_prob(x, c), base, push, own)


def nflow(layers: Sequence[nn.Module], size: int, std: float = 0.5) -> Any:
    base = pytest.importorskip("nflows.flows.base")
    normal = pytest.importorskip("nflows.distributions.normal")
    transforms = pytest.importorskip("nflows.transforms")
    return loud(base.Flow(transforms.CompositeTransform(layers), normal.StandardNormal([size])), std)


@pytest.mark.parametrize("context", [False, True])
def test_affine_couplings_equal_nflows(context: bool) -> None:
    t = pytest.importorskip("nflows.transforms")
    size, c = 5, CONTEXT if context else 0
    moves = [torch.tensor(m) for m in ([0, 1, 0, 1, 0], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1])]
    theirs = nflow([t.AffineCouplingTransform(m, partial(Net, context=c)) for m in moves], size)
    layers = [
        Coupling(m == 0, mlp(linears(layer), size, 2, c, by_number=False), Scaled(lambda a: torch.sigmoid(a + 2), True))
        for m, layer in zip(moves, theirs._transform._transforms, strict=True)
    ]
    check_nflows(layers, theirs, size, (lambda c: c) if context else None)


@pytest.mark.parametrize("context", [False, True])
def test_spline_couplings_equal_nflows(context: bool) -> None:
    t = pytest.importorskip("nflows.transforms")
    size, bins, c = 5, 6, CONTEXT if context else 0
    moves = [torch.tensor(m) for m in ([0, 1, 0, 1, 0], [1, 0, 1, 1, 0], [0, 0, 1, 1, 1])]
    make = partial(t.PiecewiseRationalQuadraticCouplingTransform, num_bins=bins, tails="linear", tail_bound=4.0)
    theirs = nflow([make(m, partial(Net, context=c)) for m in moves], size, 0.3)
    layers = []
    for m, layer in zip(moves, theirs._transform._transforms, strict=True):
        layers.append(Coupling(m == 0, shifted(mlp(linears(layer), size, 3 * bins - 1, c), bins), Spline(bins, 4.0)))
    check_nflows(layers, theirs, size, (lambda c: c) if context else None)


def shifted(net: Any, bins: int) -> Any:
    """``net`` with the slopes' parameters relative to a slope of one."""
    bias = net.layers[-1].bias
    bias[len(bias) // (3 * bins - 1) * 2 * bins :] -= math.log(math.expm1(1 - 1e-3))
    return net


def made(layer: Any) -> list[Any]:
    """The masked layers of nflows' MADE with one block."""
    net = layer.autoregressive_net
    return [net.initial_layer, *(block.linear for block in net.blocks), net.final_layer]


def nflows_autoregressive(make: Any, size: int, std: float) -> tuple[Any, list[Any]]:
    """Three layers of theirs with the coordinates reversed between them, and the layers."""
    t = pytest.importorskip("nflows.transforms")
    layers = [make(features=size, hidden_features=24, num_blocks=1, use_residual_blocks=False) for _ in range(3)]
    theirs = nflow([layers[0], t.ReversePermutation(size), layers[1], t.ReversePermutation(size), layers[2]], size, std)
    return theirs, layers


def test_masked_autoregressive_flows_equal_nflows() -> None:
    t = pytest.importorskip("nflows.transforms")
    theirs, parts = nflows_autoregressive(t.MaskedAffineAutoregressiveTransform, 5, 0.3)
    up = torch.arange(5) + 1
    layers = [
        Autoregressive(masked(made(part), up.flip(0) if i == 1 else up, 2, flip=i == 1), Scaled(F.softplus, False))
        for i, part in enumerate(parts)
    ]
    check_nflows(layers, theirs, 5)


def test_spline_autoregressive_flows_equal_nflows() -> None:
    t = pytest.importorskip("nflows.transforms")
    make = partial(t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform, num_bins=6, tails="linear", tail_bound=4.0)
    theirs, parts = nflows_autoregressive(make, 5, 0.3)
    up = torch.arange(5) + 1
    layers = [
        Autoregressive(shifted(masked(made(part), up.flip(0) if i == 1 else up, 17, flip=i == 1), 6), Spline(6, 4.0))
        for i, part in enumerate(parts)
    ]
    check_nflows(layers, theirs, 5)


# normflows


def unclipped(value: Tensor) -> Tensor:
    """The parameter whose soft clip at slope 1e-3 is ``value``."""
    return value / (1 + value.abs() / math.log(1e-3))


def test_sylvester_flows_of_rank_one_equal_normflows_planar() -> None:
    nf = pytest.importorskip("normflows")
    for size in (2, 5):
        theirs = loud(nf.flows.Planar((size,)), 1.0)
        w, inner = theirs.w[0], (theirs.w * theirs.u).sum()
        # theirs moves u along w until w·u > −1
        u = theirs.u[0] + (inner.exp().log1p() - 1 - inner) * w / w.square().sum()
        frame = w / w.norm()
        ours = Sylvester(size, 1).double()
        ours.frame[1:, 0] = -frame[1:] / (1 - frame[0])
        ours.inner.fill_(unclipped(w.norm().log()))
        ours.outer.fill_(unclipped((w @ u).log1p()))
        ours.across[:, 0] = u
        ours.bias.copy_(theirs.b)
        for x in inputs(size):
            z, score = ours.pull(x)
            their_z, their_score = theirs(x)
            close(z, their_z)
            # theirs subtracts nothing from 1 in 1 + u·w h', which far away loses what ours keeps
            close(score, their_score, atol=1e-8)
            close(ours.push(their_z), x, rtol=1e-7, atol=1e-6)


def test_circular_splines_equal_normflows() -> None:
    splines = pytest.importorskip("normflows.utils.splines")
    size, bins = 3, 7
    widths, heights, slopes = torch.randn(3, 1, size, bins, dtype=WIDE)
    x = math.pi * (2 * torch.rand(50, size, dtype=WIDE) - 1)

    def theirs(value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        w, h, s = (p.expand(len(value), -1, -1).clone() for p in (widths, heights, slopes))
        options: dict[str, Any] = {"tails": "circular", "tail_bound": math.pi}
        return splines.unconstrained_rational_quadratic_spline(value, w, h, s, inverse, **options)

    for turn in (0.0, 1.3, -2.9):
        raw = slopes - math.log(math.expm1(1 - 1e-3))
        params = torch.cat([widths, heights, raw, torch.full((1, size, 1), turn, dtype=WIDE)], -1).transpose(1, 2)
        params, ours = params.expand(50, -1, -1), CircularSpline(bins)
        z, score = ours.pull(x, params)
        their_z, their_slope = theirs(x, False)
        close(wrap(z - their_z - turn), torch.zeros_like(z))
        close(score, their_slope.sum(1))
        close(ours.push(z, params), theirs(their_z, True)[0], rtol=1e-8, atol=1e-8)


# linear maps


def test_lu_maps_equal_nflows() -> None:
    lu = pytest.importorskip("nflows.transforms.lu")
    theirs, ours = loud(lu.LULinear(5)), LU(5, "identity").double()
    theirs.bias.zero_()
    lower, upper = theirs._create_lower_upper()
    ours.factors.copy_(lower.tril(-1) + upper.triu(1) + upper.diagonal().log().diag())
    for x in inputs(5):
        z, score = ours.pull(x)
        close(z, theirs(x)[0])
        close(score, theirs(x)[1])
        close(ours.push(z), x, rtol=1e-8, atol=1e-8)


def test_householder_maps_equal_nflows() -> None:
    orthogonal = pytest.importorskip("nflows.transforms.orthogonal")
    theirs, ours = loud(orthogonal.HouseholderSequence(5, 4)), Householder(5, 4).double()
    # the first reflection acts first there, last in a product
    ours.vectors.copy_(theirs.q_vectors.flip(0))
    for x in inputs(5):
        z, score = ours.pull(x)
        close(z, theirs(x)[0])
        close(score, theirs(x)[1])
        close(ours.push(x), theirs.inverse(x)[0])
