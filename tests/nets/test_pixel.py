"""PixelCNN: what it sees by autograd, its formulas by loops, its steps against the whole pass, its masses by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pushforward.catalog import FAMILIES
from pushforward.core.context import Context
from pushforward.core.errors import RecipeError
from pushforward.core.model import Model
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema
from pushforward.nets.linear import kernels_pay
from pushforward.nets.pixel import PixelCNN

WIDE = torch.float64
IMAGES = {
    "binary": Image(1, 5, 4, levels=2),
    "levels": Image(1, 6, 7, levels=17),
    "colours": Image(3, 6, 7, levels=256),
    "pair": Image(2, 5, 4, levels=2),
}


def net_of(tiny: Any, shape: Sequence[int], outputs: int = 2, **options: Any) -> PixelCNN:
    torch.manual_seed(0)
    net = PixelCNN(shape, outputs, **{"width": 4, "first": 5, "dilations": (1, 2), "hidden": 24, **options})
    tiny.perturb(net, 1.0)
    return net.double()


def model_of(tiny: Any, kind: Image, conditions: bool = False, **options: Any) -> tuple[Any, Tensor]:
    schema = Schema(kind, tiny.conditions if conditions else ())
    family = FAMILIES["pixelcnn"]
    torch.manual_seed(0)
    model: Model = family.build(schema, tiny.config(family, **{"head": 6, "dilations": (1, 2), "first": 3, **options}))
    x = torch.randint(0, kind.levels, (40, *kind.shape), dtype=torch.uint8)
    model.prepare(x)
    tiny.perturb(model, 1.0)
    return model.eval().double(), x


def images(kind: Image) -> Tensor:
    """Every image there is."""
    rows = list(itertools.product(range(kind.levels), repeat=kind.size))
    return torch.tensor(rows, dtype=torch.uint8).view(-1, *kind.shape)


# what is seen


@pytest.mark.parametrize(
    ("shape", "kernel", "dilations", "reach"),
    [((1, 9, 11), 3, (1, 1), 4), ((1, 10, 13), 3, (1, 2), 5), ((3, 4, 5), 3, (), 2), ((2, 8, 9), 5, (1,), 4)],
    ids=["plain", "dilated", "colours", "wide"],
)
def test_parameters_see_all_that_comes_before_within_reach_and_nothing_else(
    tiny: Any, shape: tuple[int, int, int], kernel: int, dilations: tuple[int, ...], reach: int
) -> None:
    net = net_of(tiny, shape, kernel=kernel, dilations=dilations)
    assert net.reach == reach
    features = torch.randn(2, math.prod(shape), dtype=WIDE, requires_grad=True)
    params = net(features).view(2, *shape, 2)
    c, y, x = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    rng = torch.Generator().manual_seed(1)
    places = [(shape[0] - 1, shape[1] - 1, shape[2] // 2), (0, 0, 0)]
    places += [tuple(int(torch.randint(0, n, (), generator=rng)) for n in shape) for _ in range(8)]  # type: ignore[misc]
    for c0, y0, x0 in places:
        (slope,) = torch.autograd.grad(params[1, c0, y0, x0].sum(), features, retain_graph=True)
        above = (y < y0) & (y0 - y <= reach) & ((x - x0).abs() <= reach)
        beside = (y == y0) & (x < x0) & (x0 - x <= reach)
        seen = above | beside | ((y == y0) & (x == x0) & (c < c0))
        assert torch.equal(slope[1].view(shape) != 0, seen), (c0, y0, x0)
        assert not slope[0].any()


def test_the_order_is_row_by_row_with_the_channels_of_a_pixel_together() -> None:
    order = PixelCNN((2, 2, 3), 1, width=2).order
    assert order[:5] == (0, 6, 1, 7, 2)
    assert sorted(order) == list(range(12))


# formulas


def at(maps: Tensor, y: int, x: int) -> Tensor:
    """Units (B, ·) at a place, zeros outside."""
    inside = 0 <= y < maps.shape[2] and 0 <= x < maps.shape[3]
    return maps[:, :, y, x] if inside else maps.new_zeros(maps.shape[:2])


def gated(pair: Tensor) -> Tensor:
    half = pair.shape[1] // 2
    return pair[:, :half].tanh() / (1 + (-pair[:, half:]).exp())


@torch.no_grad()
def by_loops(net: Any, x: Tensor, c: Tensor) -> Tensor:
    """Parameters (B, C, H, W, P) pixel by pixel, as the module says."""
    channels, height, width = net.shape
    v, h, total, places = x, x, [], list(itertools.product(range(height), range(width)))
    shifts = net.of_context(c).view(len(c), len(net.layers), 2, -1)
    for l, layer in enumerate(net.layers):
        start, units, d = int(l == 0), layer.across.in_channels, layer.dilation
        side = layer.down.weight.shape[3] // 2
        new, g = (x.new_zeros(len(x), units, height, width) for _ in range(2))
        for y, z in places:
            pair = layer.down.bias + shifts[:, l, 0]
            for i, j in itertools.product(range(start, side + 1), range(-side, side + 1)):
                pair = pair + at(v, y - i * d, z + j * d) @ layer.down.weight[:, :, side - i, side + j].T
            new[:, :, y, z] = gated(pair)
        below = new if l == 0 else v + new
        for y, z in places:
            pair = shifts[:, l, 1] + layer.across.bias + at(below, y, z) @ layer.across.weight[:, :, 0, 0].T
            for i in range(start, side + 1):
                pair = pair + at(h, y, z - i * d) @ layer.along.weight[:, :, 0, side - i].T
            g[:, :, y, z] = gated(pair)
        v = below
        total.append(g)
        if layer.residual is not None:
            added = torch.einsum("oi,bihw->bohw", layer.residual.weight[:, :, 0, 0], g) + layer.residual.bias[:, None, None]
            h = added if l == 0 else h + added
    everything, params = torch.cat(total, 1), x.new_zeros(len(x), channels, height, width, net.outputs_each)
    hidden = len(net.mix.bias) // channels
    for k, (y, z) in itertools.product(range(channels), places):
        own = slice(k * hidden, (k + 1) * hidden)
        u = everything[:, :, y, z] @ net.mix.weight[own, :, 0, 0].T + net.mix.bias[own]
        for earlier in range(k):
            u = u + x[:, earlier, y, z, None] * net.earlier.weight[own, earlier]
        rows = slice(k * net.outputs_each, (k + 1) * net.outputs_each)
        params[:, k, y, z] = u.clamp(min=0) @ net.last.weight[rows, :, 0, 0].T + net.last.bias[rows]
    return params


@pytest.mark.parametrize(("shape", "binary"), [((1, 4, 5), True), ((3, 3, 4), False)])
def test_the_whole_pass_is_what_the_formulas_say(tiny: Any, shape: tuple[int, int, int], binary: bool) -> None:
    net = net_of(tiny, shape, context=3, binary=binary)
    x, c = torch.randn(3, *shape, dtype=WIDE), torch.randn(3, 3, dtype=WIDE)
    features = (x + 1) / 2 if binary else x
    expected = by_loops(net, x, c).flatten(1)
    torch.testing.assert_close(net(features.flatten(1), Context(c)), expected, rtol=1e-10, atol=1e-10)
    assert float(expected.std()) > 0.05


# steps


def stepped(net: PixelCNN, features: Tensor, context: Context | None) -> Tensor:
    p, found = net.outputs_each, []
    state = net.start(len(features), context)
    for i in net.order:
        found.append((i, net.outputs(state, slice(i * p, (i + 1) * p))))
        state = net.advance(state, slice(i, i + 1), features[:, i : i + 1])
    return torch.cat([params for _, params in sorted(found, key=lambda pair: pair[0])], 1)


@pytest.mark.parametrize("conditions", [False, True])
@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_steps_are_the_whole_pass(tiny: Any, name: str, conditions: bool) -> None:
    model, x = model_of(tiny, IMAGES[name], conditions, dilations=(1, 2, 1), first=5)
    context = model.conditioner(tiny.condition(len(x)) if conditions else None, len(x))
    features = model.elements(x)
    whole = model.net(features, context)
    torch.testing.assert_close(stepped(model.net, features, context), whole, rtol=0.0, atol=1e-10)
    assert float(whole.std()) > 0.05


@torch.no_grad()
def test_all_steps_together_are_the_arithmetic_of_one_pass(tiny: Any) -> None:
    net, features = net_of(tiny, (2, 12, 12), width=8), torch.randn(2, 288, dtype=WIDE)
    with FlopCounterMode(display=False) as pass_:
        net(features)
    with FlopCounterMode(display=False) as steps:
        stepped(net, features, None)
    assert 0.9 < steps.get_total_flops() / pass_.get_total_flops() < 1.1


# masses


@pytest.mark.parametrize("kind", [Image(1, 3, 3, levels=2), Image(2, 2, 2, levels=2), Image(1, 2, 2, levels=4)])
@torch.no_grad()
def test_masses_of_all_images_sum_to_one(tiny: Any, kind: Image) -> None:
    model, _ = model_of(tiny, kind, conditions=True)
    every = images(kind)
    condition = {name: v[:1].expand(len(every)) for name, v in tiny.condition(1).items()}
    mass = model.log_prob(every, condition).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-10)
    assert float(mass.std()) > 0.1 / len(every)


@torch.no_grad()
def test_samples_follow_the_masses(tiny: Any) -> None:
    kind = Image(2, 2, 2, levels=2)
    model, _ = model_of(tiny, kind)
    mass, n = model.log_prob(images(kind)).exp(), 12_000
    drawn = model.sample(n, None, Draws(5, 0, n)).flatten(1).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(7, -1, -1)).sum(1), minlength=256).double()
    assert float(n * mass.min()) > 5
    assert chisquare(counts.numpy(), (n * mass).numpy()).pvalue > 1e-3


@torch.no_grad()
def test_a_new_net_is_the_model_of_independent_pixels() -> None:
    kind, family = Image(1, 4, 4, levels=2), FAMILIES["pixelcnn"]
    x = (torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.3).to(torch.uint8)
    model: Any = family.build(Schema(kind), family.configure({}))
    model.prepare(x)
    share = (x.double().sum(0) + 0.1) / (len(x) + 0.2)
    expected = torch.where(x > 0, share, 1 - share).log().flatten(1).sum(1)
    torch.testing.assert_close(model.log_prob(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"first": 4}, {"kernel": 1}, {"width": 0}, {"dilations": (1, 0)}, {"head": 0}])
def test_sizes_that_make_no_net_are_refused(options: dict[str, Any]) -> None:
    family = FAMILIES["pixelcnn"]
    with pytest.raises(RecipeError, match=r"pixelcnn: found .*: expected"):
        family.build(Schema(Image(1, 4, 4, levels=2)), family.configure(options))


# the kernel


@pytest.mark.parametrize("rows", [1, 16, 70])
@pytest.mark.parametrize("name", ["binary", "colours"])
@torch.no_grad()
def test_the_kernel_steps_as_plain_operations_do(tiny: Any, name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = IMAGES[name]
    net = net_of(tiny, kind.shape, 3, width=12, context=5, dilations=(1, 2, 1)).float()
    features, context = torch.randn(rows, kind.size), Context(torch.randn(rows, 5))
    quick = stepped(net, features, context)
    assert (net.start(rows, context).stack is not None) == kernels_pay()
    monkeypatch.setattr("pushforward.nets.pixel.kernels_pay", lambda: False)
    plain = stepped(net, features, context)
    assert net.start(rows, context).stack is None
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_kernel_stays_finite_far_out(tiny: Any) -> None:
    net = net_of(tiny, (1, 5, 6), width=8).float()
    for p in net.parameters():
        p.mul_(30)
    features = 100 * torch.randn(16, 30)
    found, whole = stepped(net, features, None), net(features)
    assert found.isfinite().all()
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
