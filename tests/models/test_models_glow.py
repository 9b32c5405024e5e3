"""Whole flows of pictures, Glow and RealNVP, with random weights: autograd's Jacobian, every state summed, samples counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.catalog.glow import GlowOptions, factors, glow, realnvp_image
from pushforward.core.context import Context
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Column, ColumnKind, Image, Kind, Schema, Table, Vector
from pushforward.models.flow import Flow
from pushforward.transforms.multiscale import MultiScale
from pushforward.transforms.normalise import ActNorm
from pushforward.transforms.quantise import LevelBands

WIDE = torch.float64
CONDITIONS = (Column("label", ColumnKind.CATEGORY, categories=("a", "b", "c")),)
IMAGES = {
    "grey": Image(1, 4, 4, levels=2),
    "two levels deep": Image(1, 8, 8, levels=17),
    "odd after one": Image(1, 6, 6, levels=17),
    "colour": Image(3, 4, 4, levels=256),
    "one odd side": Image(3, 5, 4, levels=256),
    "odd sides": Image(1, 5, 3, levels=9),
    "odd sides, colour": Image(3, 3, 5, levels=4),
    "one pixel": Image(1, 1, 1, levels=4),
}


def build(name: str, kind: Kind, conditions: bool = False, **options: Any) -> Flow:
    schema = Schema(kind, CONDITIONS if conditions else ())
    options = {"transforms": 3, "hidden": (6, 6), **options}
    return glow(schema, GlowOptions(**options)) if name == "glow" else realnvp_image(schema, **options)


def random(module: nn.Module, scale: float = 0.3) -> None:
    """Noise on every parameter, so that nothing is zero or the identity."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            fan_in = p[0].numel() if p.dim() > 1 else 4
            p.add_((scale * torch.randn(p.shape, generator=generator, dtype=WIDE) / fan_in**0.5).to(p.dtype))


def codes(kind: Image, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    common, each = torch.rand(n, 1, 1, 1, generator=generator), torch.rand(n, *kind.shape, generator=generator)
    return ((0.5 * common + 0.5 * each) * kind.levels).floor().to(torch.uint8)


def model(name: str, kind: Image, scale: float = 0.3, width: float | None = None, **options: Any) -> Flow:
    """A prepared model with random weights; ``width`` is that of its bells, where not the recipe's own."""
    torch.manual_seed(0)
    made = build(name, kind, **options)
    for part in made.modules():
        if isinstance(part, LevelBands) and width is not None:
            part.width = width
    made.prepare(codes(kind, 200))
    random(made, scale)
    return made.eval()


def layers(flow: Flow) -> MultiScale:
    """What is between the base and the noise of the pixels."""
    (found,) = (part for part in flow.transform if isinstance(part, MultiScale))  # type: ignore[attr-defined]
    return found


def given(n: int) -> dict[str, Tensor]:
    return {"label": (torch.arange(n) % 3).double()}


both = pytest.mark.parametrize("name", ["glow", "realnvp"])
images = pytest.mark.parametrize("kind", IMAGES.values(), ids=list(IMAGES))


@both
@images
def test_v_is_the_log_determinant_of_the_jacobian(name: str, kind: Image) -> None:
    if kind.size > 60:
        kind = Image(kind.channels, kind.height // 2, kind.width, kind.levels)
    flow = model(name, kind, conditions=True).double()
    x, vector = torch.randn(2, *kind.shape, dtype=WIDE), flow.conditioner(given(2), 2).vector
    assert vector is not None
    z, score = layers(flow).pull(x, Context(vector=vector))
    assert z.shape == (2, kind.size)
    for i in range(2):
        one = Context(vector=vector[i : i + 1].detach())
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: layers(flow).pull(v[None], one)[0][0], x[i])
        truth = float(torch.linalg.slogdet(jacobian.reshape(kind.size, -1)).logabsdet)
        assert float(score[i].detach()) == pytest.approx(truth, abs=1e-8)
        assert abs(truth) > 0.02
    again, same = layers(flow).push_scored(z, Context(vector=vector))
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(same, score)


@both
@images
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
def test_push_and_pull_undo_one_another(name: str, kind: Image, dtype: torch.dtype) -> None:
    flow = model(name, kind).to(dtype)
    tolerance = 1e-8 if dtype == WIDE else 1e-4
    for size in (1.0, 30.0) if dtype == WIDE else (1.0,):
        x = size * torch.randn(20, *kind.shape, dtype=dtype)
        z, score = layers(flow).pull(x)
        assert score.isfinite().all()
        assert float((layers(flow).push(z) - x).detach().abs().max()) < size * tolerance
    x = codes(kind, 50)
    z, _ = flow.transform.pull(x, Context(), Draws(1, 0, 50))
    assert float((flow.transform.push(z).long() == x.long()).float().mean()) > (0.999 if dtype == WIDE else 0.99)


@both
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_latents_give_valid_pixels_and_extreme_data_no_nan(name: str, size: float) -> None:
    kind = IMAGES["colour"]
    flow = model(name, kind)
    z = size * torch.randn(20, kind.size)
    x = flow.transform.push(z)
    assert x.dtype == torch.uint8
    far, score = layers(flow).pull(size * torch.randn(20, *kind.shape) if size < 1e6 else torch.randn(20, *kind.shape) * 1e6)
    assert not far.isnan().any()
    assert not score.isnan().any()


# masses


def axis(flow: Flow, edges: Tensor, context: Context, points: int) -> tuple[Tensor, Tensor]:
    """Midpoints of ``points`` slices of each level's interval, the outer ones cut off where nothing is left; their lengths."""
    drawn = layers(flow).push(flow.base.sample(Draws(0, 0, 5000), dtype=WIDE), context)
    reach = 1 + float(drawn.abs().max())
    ends = edges.clamp(-reach, reach)
    length = (ends.diff() / points)[:, None].expand(-1, points)
    return (ends[:-1, None] + length * (torch.arange(points) + 0.5)).flatten(), length.flatten()


def masses(flow: Flow, bands: LevelBands, kind: Image, label: float, points: int) -> Tensor:
    """The probability of each picture (levels, …, levels), summed over a grid of what the layers see."""
    context = flow.conditioner({"label": torch.tensor([label])}, 1)
    line, length = axis(flow, bands.edges[0], context, points)
    grid = torch.cartesian_prod(*[line] * kind.size).view(-1, *kind.shape)
    weight = torch.cartesian_prod(*[length] * kind.size).prod(1)
    z, score = layers(flow).pull(grid, context)
    mass = (flow.base.log_prob(z) + score).exp() * weight
    return mass.view(*[kind.levels, points] * kind.size).sum(tuple(range(1, 2 * kind.size, 2)))


@both
@pytest.mark.parametrize("kind", [Image(1, 1, 2, 4), Image(1, 2, 1, 3), Image(1, 1, 3, 3), Image(3, 1, 1, 2)], ids=str)
@torch.no_grad()
def test_all_pictures_add_up_to_one_and_come_as_often_as_samples(name: str, kind: Image) -> None:
    flow = model(name, kind, scale=0.5, conditions=True).double()
    bands = next(part for part in flow.modules() if isinstance(part, LevelBands))
    bands.edges.copy_(bands.edges[:1].clone())  # one map for all channels, so that one grid serves
    place, n = kind.levels ** torch.arange(kind.size).flip(0), 10_000
    for label in (0.0, 2.0):
        mass = masses(flow, bands, kind, label, (300 if kind.size == 2 else 60) // kind.levels)
        assert float(mass.sum()) == pytest.approx(1, abs=5e-3)
        assert float(mass.max()) > 1.5 / mass.numel()  # not all the same
        drawn = flow.sample(n, {"label": torch.full((n,), label)}, Draws(9, 0, n)).flatten(1).long()
        found = torch.bincount((drawn * place).sum(1), minlength=mass.numel()) / n
        wrong = (found - mass.flatten()).abs() - 5 * (mass.flatten() / n).sqrt() - 5e-3
        assert float(wrong.max()) < 0


@both
@pytest.mark.parametrize("dequantisation", ["uniform", "variational"])
@torch.no_grad()
def test_scores_are_weights_whose_mean_is_the_mass(name: str, dequantisation: str) -> None:
    kind, n = Image(1, 1, 2, 4), 6000
    flow = model(name, kind, scale=0.3, conditions=True, dequantisation=dequantisation).double()
    bands = next(part for part in flow.modules() if isinstance(part, LevelBands))
    # bands as wide as their intervals, where those have ends, so that weights are bounded
    bands.width = 50.0
    bands.prepare(codes(kind, 200))
    mass = masses(flow, bands, kind, 1.0, 100)
    for i, j in itertools.product((1, 2), repeat=2):
        x = torch.tensor([i, j], dtype=torch.uint8).view(1, *kind.shape).expand(n, -1, -1, -1)
        weight = flow.log_prob(x, {"label": torch.ones(n)}, Draws(4, 0, n)).exp()
        error = 5 * float(weight.std()) / n**0.5
        assert error < 0.2 * float(mass[i, j])
        assert float(weight.mean()) == pytest.approx(float(mass[i, j]), abs=error + 1e-4)


@both
@torch.no_grad()
def test_conditions_change_density_and_samples(name: str) -> None:
    kind = IMAGES["one odd side"]
    flow, x = model(name, kind, conditions=True), codes(kind, 12)
    scores = [flow.log_prob(x, {"label": torch.full((12,), c)}, Draws(0, 0, 12)) for c in (0.0, 1.0)]
    blank = flow.log_prob(x, None, Draws(0, 0, 12))
    assert not torch.isclose(scores[0], scores[1]).any()
    assert not torch.isclose(scores[0], blank).any()
    drawn = [flow.sample(12, {"label": torch.full((12,), c)}, Draws(0, 0, 12)) for c in (0.0, 1.0)]
    assert not torch.equal(*drawn)


# start, precision, learning


@both
@torch.no_grad()
def test_every_layer_starts_normal_whatever_the_data(name: str) -> None:
    torch.manual_seed(0)
    kind = IMAGES["two levels deep"]
    flow = build(name, kind)
    x = codes(kind, 400)
    flow.prepare(x)
    _, score = layers(flow).pull(torch.randn(9, *kind.shape))
    assert torch.equal(score, score[:1].expand(9))  # couplings do nothing yet: the map is linear
    seen: list[Tensor] = []
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.pull = _spy(module.pull, seen)  # type: ignore[method-assign]
    flow.log_prob(x, None, Draws(0, 0, 400))
    assert len(seen) == (6 if name == "glow" else 2 * 3)
    for z in seen:
        values = z.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=0.05, rtol=0.0)
        torch.testing.assert_close(values.std(1), torch.ones(len(values)), atol=0.05, rtol=0.0)


def _spy(pull: Callable[..., tuple[Tensor, Tensor]], seen: list[Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def watched(*args: Any, **rest: Any) -> tuple[Tensor, Tensor]:
        z, score = pull(*args, **rest)
        seen.append(z)
        return z, score

    return watched


@both
def test_mixed_precision_reaches_the_networks_only(name: str) -> None:
    kind = IMAGES["two levels deep"]
    flow, x = model(name, kind, dequantisation="variational"), codes(kind, 30)
    with torch.no_grad():
        y = torch.randn(30, *kind.shape)
        plain, plain_score = layers(flow).pull(y)
        with torch.autocast("cpu", torch.bfloat16):
            z, score = layers(flow).pull(y)
            back, back_score = layers(flow).push_scored(z)
            loss = flow(Batch(x, Draws(0, 0, 30)))["loss"]
    assert z.dtype == score.dtype == torch.float32
    # networks that round their inputs to 8 bits give other layers, slightly, but it is those that are undone
    assert float((back - y).abs().max()) < 0.05
    assert float((back - y).abs().median()) < 1e-5
    torch.testing.assert_close(back_score, score, atol=0.02, rtol=0.0)
    torch.testing.assert_close(score, plain_score, atol=0.5, rtol=0.0)
    torch.testing.assert_close(z, plain, atol=0.5, rtol=0.1)
    assert loss.isfinite().all()
    flow.double()
    assert flow.log_prob(x, None, Draws(0, 0, 30)).dtype == WIDE


@both
@pytest.mark.parametrize("dequantisation", ["uniform", "variational"])
def test_every_parameter_learns(name: str, dequantisation: str) -> None:
    for kind in (IMAGES["two levels deep"], IMAGES["odd sides"], IMAGES["one pixel"]):
        flow = model(name, kind, conditions=True, dequantisation=dequantisation).train()
        flow(Batch(codes(kind, 24), Draws(0, 0, 24), given(24)))["loss"].mean().backward()
        idle = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()]
        # a single pixel has no couplings and so no place for a condition to enter
        assert set(idle) <= {"conditioner.null"} or (kind.size == 1 and all(n.startswith("conditioner") for n in idle))


def fit(flow: Flow, x: Tensor, steps: int, parameters: list[nn.Parameter] | None = None) -> float:
    """The mean loss of the last ten steps, in bits a pixel."""
    optimiser = torch.optim.Adam(parameters or list(flow.parameters()), lr=1e-2)
    found = []
    for i in range(steps):
        rows = torch.randint(0, len(x), (64,))
        loss = flow(Batch(x[rows], Draws(i, 0, 64)))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()) / math.log(2) / x[0].numel())
    return sum(found[-10:]) / 10


@both
def test_it_learns_that_neighbours_are_alike(name: str) -> None:
    """Pictures of one grey each, in one of four greys with a little noise: each pixel costs far less than alone."""
    kind = Image(1, 4, 4, levels=16)
    torch.manual_seed(0)
    grey = torch.randint(0, 4, (500, 1, 1, 1)) * 4
    x = (grey + torch.randint(0, 2, (500, *kind.shape))).to(torch.uint8)
    flow = build(name, kind, transforms=4, hidden=(16, 16))
    flow.prepare(x)
    assert fit(flow, x, 100) < 2.75  # alone a pixel costs 3 bits; the truth is 1 + 2/16


def test_noise_that_is_learned_tightens_the_bound() -> None:
    kind = Image(1, 4, 4, levels=4)
    torch.manual_seed(0)
    flow, x = build("glow", kind, dequantisation="variational"), codes(kind, 400)
    flow.prepare(x)
    random(flow.transform.get_submodule("parts.0"))  # layers which do not care for uniform noise, and stay as they are
    bands = next(part for part in flow.modules() if isinstance(part, LevelBands))
    assert isinstance(bands.noise, nn.Module)
    before = _bits(flow, x)
    fit(flow, x, 80, list(bands.noise.parameters()))
    assert _bits(flow, x) < before - 0.1


@torch.no_grad()
def _bits(flow: Flow, x: Tensor) -> float:
    return float(-flow.log_prob(x, None, Draws(77, 0, len(x))).mean()) / math.log(2) / x[0].numel()


# vectors, tables, options


@pytest.mark.parametrize(
    "kind",
    [Vector(3), Vector(1), Table((Column("a", resolution=0.5), Column("b", ColumnKind.BOOLEAN, categories=(False, True))))],
    ids=["vector", "number", "table"],
)
def test_vectors_and_tables(kind: Kind) -> None:
    torch.manual_seed(0)
    flow = build("glow", kind, hidden=(8,))
    x = torch.randn(300, *kind.shape, dtype=WIDE).exp()
    if isinstance(kind, Table):
        x = torch.stack([(x[:, 0] * 2).round() / 2, (x[:, 1] > 1).double()], 1)
    flow.prepare(x)
    random(flow)
    flow.double()
    loss = flow(Batch(x, Draws(0, 0, 300)))["loss"]
    loss.mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in flow.parameters())
    drawn = flow.sample(40, None, Draws(0, 0, 40))
    assert drawn.shape == (40, *kind.shape)
    assert drawn.isfinite().all()
    if isinstance(kind, Vector):
        for i in range(3):
            jacobian = torch.autograd.functional.jacobian(lambda v: flow.transform.pull(v[None], Context())[0][0], x[i])
            base = float(flow.base.log_prob(flow.encode(x[i : i + 1])).detach())
            truth = base + float(torch.linalg.slogdet(jacobian).logabsdet)
            assert float(-loss[i].detach()) == pytest.approx(truth, abs=1e-6)


def test_a_side_is_halved_only_where_it_is_even() -> None:
    assert factors(28, 28) == [(2, 2), (2, 2)]
    assert factors(32, 32) == [(2, 2)] * 3
    assert factors(64, 64) == [(2, 2)] * 3
    assert factors(8, 8) == [(2, 2), (2, 2)]
    assert factors(6, 6) == [(2, 2)]
    assert factors(2, 2) == [(2, 2)]
    assert factors(5, 4) == [(1, 2)]
    assert factors(28, 27) == [(2, 1), (2, 1)]
    assert factors(5, 5) == [(1, 1)]
    assert factors(8, 8, 3) == [(2, 2)] * 3
    assert factors(28, 28, 1) == [(2, 2)]
    assert factors(5, 5, 1) == [(1, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 3}, "found 3 levels: 4×6 pixels allow 1 to 2"),
        ({"levels": 0}, "found 0 levels"),
        ({"base": "cauchy"}, "base is one of"),
        ({"dequantisation": "none"}, "dequantisation is one of uniform, variational"),
    ],
)
@both
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, Image(1, 4, 6, levels=4), **options)


@both
def test_any_base(name: str) -> None:
    for base in ("logistic", "student-t"):
        flow = model(name, IMAGES["grey"], base=base)
        assert flow.log_prob(codes(IMAGES["grey"], 5), None, Draws(0, 0, 5)).isfinite().all()
        assert flow.sample(5, None, Draws(0, 0, 5)).shape == (5, 1, 4, 4)
