"""What every net promises: shapes, number types, a gradient everywhere, one value however a batch is cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.nets import (
    MLP,
    ConvDecoder,
    FourierFeatures,
    GroupNorm,
    MaskedMLP,
    ResNet,
    TimeEmbedding,
    TimeMLP,
    UNet,
    default_multipliers,
)
from pushforward.nets.common import ACTIVATIONS
from pushforward.nets.embed import sinusoids

CONTEXT = 3
ORDER = torch.arange(1, 5)


def vector(size: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, size)


def image(batch: int) -> Tensor:
    return torch.rand(batch, 2, 9, 6) * 2 - 1


Build = Callable[[int], nn.Module]
# name: the net for a context width, its input for a batch size, whether it takes a time, the shape of one output
CASES: dict[str, tuple[Build, Callable[[int], Tensor], bool, tuple[int, ...]]] = {
    "mlp": (lambda c: MLP(4, 5, (16, 16), context=c), vector(4), False, (5,)),
    "mlp residual": (lambda c: MLP(4, 5, (8, 16, 16), context=c, residual=True, zero_last=True), vector(4), False, (5,)),
    "mlp linear": (lambda c: MLP(4, 5, (), context=c, zero_last=True), vector(4), False, (5,)),
    "masked": (lambda c: MaskedMLP(ORDER, ORDER.repeat(2), (16, 16), context=c, direct=True), vector(4), False, (8,)),
    "time mlp": (lambda c: TimeMLP(4, hidden=(16, 16), context=c), vector(4), True, (4,)),
    "unet": (lambda c: UNet(2, 3, width=8, context=c), image, True, (3, 9, 6)),
    "unet timeless": (lambda c: UNet(2, 3, width=8, context=c, time=False, multipliers=(1, 2)), image, False, (3, 9, 6)),
    "resnet": (lambda c: ResNet(2, 5, width=8, context=c), image, False, (5,)),
    "decoder": (lambda c: ConvDecoder(4, 2, 9, 6, features=8, context=c), vector(4), False, (2, 9, 6)),
}
every_net = pytest.mark.parametrize("name", CASES)
every_width = pytest.mark.parametrize("width", [0, CONTEXT])


def build(name: str, width: int) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0](width)


def perturbed(net: nn.Module) -> nn.Module:
    """``net`` with noise on every parameter: layers that start at zero would stop gradients and hide mistakes."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def arguments(name: str, width: int, batch: int = 4, dtype: torch.dtype = torch.float32) -> list[Tensor | Context]:
    torch.manual_seed(2)
    _, inputs, timed, _ = CASES[name]
    found: list[Tensor | Context] = [inputs(batch).to(dtype)]
    if timed:
        found.append(torch.rand(batch).to(dtype))
    return found


def call(net: nn.Module, name: str, width: int, batch: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    args = arguments(name, width, batch, dtype)
    return net(*args, context=Context(vector=torch.randn(batch, width, dtype=dtype)) if width else None)


@every_net
@every_width
def test_shape_and_gradient_of_every_parameter(name: str, width: int) -> None:
    net = perturbed(build(name, width))
    out = call(net, name, width)
    assert out.shape == (4, *CASES[name][3])
    out.square().sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()} == set()


@every_net
def test_float64_and_bfloat16_autocast(name: str) -> None:
    net = perturbed(build(name, CONTEXT))
    single = call(net, name, CONTEXT)
    with torch.autocast("cpu", torch.bfloat16):
        half = call(net, name, CONTEXT)
    half.float().sum().backward()
    assert single.dtype == torch.float32
    assert (half.float() - single).norm() < 0.05 * single.norm()
    double = net.double()
    args = [a.double() for a in arguments(name, CONTEXT)]
    context = Context(vector=torch.randn(4, CONTEXT).double())
    out = double(*args, context=context)
    assert out.dtype == torch.float64
    assert torch.allclose(out.float(), single, rtol=1e-3, atol=1e-4)


@every_net
def test_the_same_however_the_batch_is_cut(name: str) -> None:
    net = perturbed(build(name, CONTEXT)).double()
    args = [a.double() for a in arguments(name, CONTEXT)]
    condition = torch.randn(4, CONTEXT).double()
    whole = net(*args, context=Context(vector=condition))
    parts = [net(*(a[i : i + 1] for a in args), context=Context(vector=condition[i : i + 1])) for i in range(4)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-10)
    net.eval()
    assert torch.equal(net(*args, context=Context(vector=condition)), whole)


@every_net
def test_the_seed_fixes_the_weights_and_the_state_loads(name: str) -> None:
    one, two = build(name, CONTEXT), build(name, CONTEXT)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    perturbed(one)
    two.load_state_dict(one.state_dict())
    assert torch.equal(call(one, name, CONTEXT), call(two, name, CONTEXT))


@every_net
def test_context_matters_and_must_fit(name: str) -> None:
    net, args = perturbed(build(name, CONTEXT)), arguments(name, CONTEXT)
    low, high = (net(*args, context=Context(vector=torch.full((4, CONTEXT), v))) for v in (-1.0, 1.0))
    assert not torch.allclose(low, high)
    for wrong in (None, Context(), Context(vector=torch.zeros(4, CONTEXT + 1))):
        with pytest.raises(ValueError, match="built for width 3"):
            net(*args, context=wrong)
    plain = build(name, 0)
    assert torch.equal(plain(*args), plain(*args, context=Context(vector=torch.zeros(4, 0))))
    with pytest.raises(ValueError, match="built for width 0"):
        plain(*args, context=Context(vector=torch.zeros(4, CONTEXT)))


@pytest.mark.parametrize("name", ["mlp residual", "mlp linear", "time mlp", "unet", "unet timeless"])
def test_a_zero_last_layer_gives_zero(name: str) -> None:
    assert not call(build(name, CONTEXT), name, CONTEXT).any()


@settings(max_examples=12, deadline=None)
@given(st.integers(4, 20), st.integers(4, 20), st.integers(1, 3), st.integers(0, 2))
def test_image_nets_take_any_size(height: int, width: int, channels: int, blocks: int) -> None:
    x, t = torch.rand(2, channels, height, width), torch.rand(2)
    net = UNet(channels, 1, width=4, multipliers=(1, 2, 2), blocks=max(blocks, 1))
    assert net(x, t).shape == (2, 1, height, width)
    assert ResNet(channels, 3, width=4, blocks=max(blocks, 1))(x).shape == (2, 3)
    decoder = ConvDecoder(5, channels, height, width, features=4, blocks=max(blocks, 1))
    assert decoder(torch.rand(2, 5)).shape == (2, channels, height, width)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.lists(st.integers(1, 9), max_size=3), st.booleans(), st.integers(0, 3))
def test_vector_nets_take_any_width(inputs: int, outputs: int, hidden: list[int], residual: bool, context: int) -> None:
    given_context = Context(vector=torch.randn(2, context))
    x = torch.randn(2, inputs)
    for activation in ACTIVATIONS:
        net = MLP(inputs, outputs, hidden, context=context, activation=activation, residual=residual)
        assert net(x, given_context).shape == (2, outputs)
    field = TimeMLP(inputs, hidden=hidden or (4,), context=context, outputs=outputs)
    assert field(x, torch.rand(2), given_context).shape == (2, outputs)


def test_a_padded_image_keeps_its_corner() -> None:
    # the crop takes the same corner that the padding left: a last pixel moved by a hair must move the last output
    net = perturbed(UNet(1, 1, width=8, attention=False))
    x, t = torch.rand(1, 1, 33, 17), torch.rand(1)
    moved = x.clone()
    moved[..., -1, -1] += 1.0
    change = (net(moved, t) - net(x, t)).abs()[0, 0]
    assert change[-1, -1] > 10 * change[0, 0]


def test_default_multipliers_follow_the_size() -> None:
    sizes = {(8, 8): (1, 2), (28, 28): (1, 2, 2), (32, 32): (1, 2, 2), (64, 48): (1, 2, 2, 4)}
    assert {size: default_multipliers(*size) for size in sizes} == sizes


def test_unet_says_when_time_is_missing_or_not_wanted() -> None:
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="time=True"):
        UNet(1, 1, width=4)(x)
    with pytest.raises(ValueError, match="time=False"):
        UNet(1, 1, width=4, time=False)(x, torch.rand(2))
    with pytest.raises(ValueError, match="one value per example"):
        UNet(1, 1, width=4)(x, torch.rand(3))


def test_an_unknown_activation_names_the_known() -> None:
    with pytest.raises(ValueError, match="gelu"):
        MLP(1, 1, activation="cosine")


def test_a_residual_mlp_can_pass_its_first_layer_through() -> None:
    net = MLP(3, 8, (8, 8, 8), residual=True, activation="relu")
    with torch.no_grad():
        for layer in net.layers[1:-1]:
            layer.weight.zero_()
            layer.bias.zero_()
        net.layers[-1].weight.copy_(torch.eye(8))
        net.layers[-1].bias.zero_()
    x = torch.randn(5, 3)
    assert torch.allclose(net(x), net.layers[0](x).relu())


def test_time_features_tell_near_times_apart_under_autocast() -> None:
    t = torch.tensor([0.5, 0.501])
    with torch.autocast("cpu", torch.bfloat16):
        features = sinusoids(t, 16)
        out = TimeEmbedding(16)(t)
    assert features.dtype == torch.float32
    assert (features[0] - features[1]).abs().max() > 0.1
    assert not torch.equal(out[0], out[1])
    assert sinusoids(t, 7).shape == (2, 7)
    assert torch.allclose(sinusoids(t.double(), 16).float(), features, atol=1e-3)
    with pytest.raises(ValueError, match="one per example"):
        sinusoids(t[:, None], 16)


def test_fourier_features() -> None:
    layer = FourierFeatures(2, octaves=3)
    x = torch.tensor([[0.5, -1.0]])
    out = layer(x)
    assert out.shape == (1, layer.outputs)
    assert torch.allclose(out[:, :2], x)
    assert torch.allclose(out[0, 2:5], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_bfloat16_agrees_with_float32_and_keeps_the_layout(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(32)
    x = (3 + torch.randn(2, 32, 6, 5)).to(memory_format=layout).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.is_contiguous(memory_format=layout)
    assert torch.allclose(out.float(), norm(x.float()), atol=0.05)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (8, 2), (12, 3), (20, 5), (32, 8), (128, 8)])
def test_group_norm_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert GroupNorm(channels).num_groups == groups


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["time mlp", "unet"])
def test_fields_have_forward_derivatives_and_second_derivatives(name: str) -> None:
    # exact divergences and gradient penalties need them
    net = perturbed(build(name, 0)).double()
    x, t = (a.double() for a in arguments(name, 0, batch=2))
    assert torch.autograd.functional.vhp(lambda v: net(v, t).square().sum(), x, torch.ones_like(x))[1].any()
    _, slope = torch.func.jvp(lambda v: net(v, t), (x,), (torch.ones_like(x),))
    assert torch.allclose(slope, (net(x + 1e-6, t) - net(x - 1e-6, t)) / 2e-6, rtol=1e-4, atol=1e-6)
    per_row = torch.func.vmap(torch.func.grad(lambda v, s: net(v[None], s[None]).sum()))(x, t)
    assert per_row.shape == x.shape
