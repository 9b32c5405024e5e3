"""The U-Net's options, its kernels inside a whole net, and diffusers' net with the same weights."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets.unet import UNet, doubled_convolved

EVERYTHING: dict[str, Any] = {"attention": (0, 1), "context": 3, "tokens": 5, "spatial": 2, "head_size": 4, "blocks": 2}


def perturbed(net: nn.Module) -> Any:
    """``net`` with noise on every parameter: layers that start at zero would stop gradients and hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def unet(**options: Any) -> Any:
    torch.manual_seed(0)
    return perturbed(UNet(2, 3, **({"width": 8, "multipliers": (1, 2)} | options)))


def inputs(batch: int = 3, shape: tuple[int, ...] = (7, 10)) -> tuple[Tensor, Tensor, Context]:
    generator = torch.Generator().manual_seed(2)
    draw = lambda *size: torch.randn(*size, generator=generator)
    mask = torch.rand(batch, 4, generator=generator) < 0.6
    context = Context(draw(batch, 3), draw(batch, 4, 5), mask, draw(batch, 2, *shape))
    return draw(batch, 2, *shape), torch.rand(batch, generator=generator), context


def wide(context: Context) -> Context:
    made = {k: v.double() for k, v in vars(context).items() if v is not None and v.is_floating_point()}
    return replace(context, **made)


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "peers_unet.py"
    spec = importlib.util.spec_from_file_location("peers_unet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("conditioning", ["default", "scale_shift"])
def test_diffusers_net_of_the_same_weights_agrees(
    peers: ModuleType, blocks: int, conditioning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    if blocks == 1:  # as in large batches
        monkeypatch.setattr("pushforward.nets.unet._MANY", 0)
    options = {"resnet_time_scale_shift": conditioning, "attn_norm_num_groups": peers.GROUPS}
    peer = peers.diffusers_unet(16, (32, 32, 64), channels=3, blocks=blocks, **options)
    peers.trained_like(peer)
    net = peers.like(peer)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in peer.parameters())
    x, t = torch.randn(4, 3, 16, 16), torch.rand(4)
    x.requires_grad_()
    theirs, ours = peers.answer(peer, x, t), net(x, t)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    g = torch.randn(theirs.shape)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, x, g)[0] for out in (ours, theirs)), rtol=1e-3, atol=1e-3 * float(g.abs().max())
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = net(x, t).float()
    assert (half - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("layout", ["lean", "ddpm"])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("shift_only", [False, True])
def test_kernels_and_tensor_operations_agree_in_the_whole_net(layout: Any, dims: Any, shift_only: bool) -> None:
    net = unet(layout=layout, dims=dims, shift_only=shift_only, **EVERYTHING)
    x, t, context = inputs(shape=(7, 10) if dims == 2 else (9,))
    names = [name for name, _ in net.named_parameters()]

    def gradients() -> list[Tensor]:
        wanted = dict(net.named_parameters())
        g = torch.randn(3, 3, *x.shape[2:], generator=torch.Generator().manual_seed(4))
        return list(torch.autograd.grad(net(x, t, context), [wanted[n] for n in names], g.to(x.dtype)))

    out, by = net(x, t, context), gradients()
    net.double()
    x, t, context = x.double(), t.double(), wide(context)
    truth = net(x, t, context)
    assert out.shape == truth.shape == (3, 3, *x.shape[2:])
    torch.testing.assert_close(out.double(), truth, rtol=1e-4, atol=1e-5)
    for name, mine, other in zip(names, by, gradients(), strict=True):
        assert other.any(), name
        torch.testing.assert_close(mine.double(), other, rtol=1e-3, atol=1e-4 * float(other.abs().max()), msg=name)


def test_a_net_of_signals_is_a_net_of_images_of_one_row() -> None:
    net = unet(dims=1, attention=False)
    x, t = torch.randn(2, 2, 13), torch.rand(2)
    out = net(x, t)
    assert out.shape == (2, 3, 13)
    # its convolutions are those of torch for signals
    stem = net.stem
    torch.testing.assert_close(stem(x[:, :, None])[:, :, 0], F.conv1d(x, stem.weight[:, :, 0], stem.bias, padding=1))
    moved = x.clone()
    moved[..., -1] += 1
    change = (net(moved, t) - out).abs()[0, 0]
    assert change[-1] > 10 * change[0]


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(4, 11), st.integers(4, 11), st.sampled_from([1, 2]), st.sampled_from(["lean", "ddpm"]))
def test_any_channels_and_any_size(channels: int, height: int, width: int, dims: Any, layout: Any) -> None:
    net = UNet(channels, 2, width=4, multipliers=(1, 2, 3), dims=dims, layout=layout, attention=(1,), head_size=3)
    shape = (height, width)[2 - dims :]
    assert net(torch.randn(2, channels, *shape), torch.rand(2)).shape == (2, 2, *shape)
    assert net(torch.randn(0, channels, *shape), torch.rand(0)).shape == (0, 2, *shape)


@pytest.mark.parametrize("factor", [(2, 2), (1, 2)])
def test_a_doubled_map_is_convolved_without_doubling_it(factor: tuple[int, int]) -> None:
    torch.manual_seed(0)
    kernel = (3, 3) if factor == (2, 2) else (1, 3)
    convolution = nn.Conv2d(4, 5, kernel, padding=(kernel[0] // 2, 1)).double()
    h = torch.randn(2, 4, 3 if factor[0] == 2 else 1, 5).double()
    larger = F.interpolate(h, scale_factor=[float(f) for f in factor], mode="nearest")
    torch.testing.assert_close(doubled_convolved(h, convolution, factor), convolution(larger))
    with torch.no_grad():
        torch.testing.assert_close(doubled_convolved(h, convolution, factor), convolution(larger))


def test_one_time_serves_all_examples() -> None:
    net = unet(context=3)
    x, _, context = inputs()
    vector = context.vector
    assert vector is not None
    t = torch.tensor([0.3])
    for steer in (Context(vector), Context(vector[:1].expand(3, -1))):
        whole = net(x, t.repeat(3), Context(steer.vector.clone()))  # type: ignore[union-attr]
        for given_t in (t, t.expand(3)):
            torch.testing.assert_close(net(x, given_t, steer), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["lean", "ddpm"])
def test_attention_sits_at_the_levels_asked_for(layout: Any) -> None:
    def sites(attention: Any) -> list[str]:
        net = UNet(1, 1, width=4, attention=attention, layout=layout, tokens=2 if attention else 0)
        found = [n.removesuffix(".attention") for n, m in net.named_modules() if n.endswith("attention")]
        crossed = [n.removesuffix(".cross") for n, m in net.named_modules() if n.endswith("cross")]
        assert found == crossed
        return found

    assert sites(False) == sites(()) == []
    assert sites(True) == ["middle_in"]
    extra = ["up.1.1"] if layout == "ddpm" else []
    assert sites((1,)) == ["down.1.0", "up.1.0", *extra, "middle_in"]


def test_tokens_are_seen_where_the_mask_allows() -> None:
    net = unet(tokens=5, attention=(0, 1))
    x, t, context = inputs()
    tokens, mask = context.tokens, torch.tensor([[True, True, False, False]] * 2 + [[False] * 4])
    assert tokens is not None
    out = net(x, t, Context(tokens=tokens, mask=mask))
    other = tokens.clone()
    other[:, 2:] += 1
    assert torch.equal(net(x, t, Context(tokens=other, mask=mask)), out)
    torch.testing.assert_close(net(x, t, Context(tokens=tokens[:, :2]))[:2], out[:2], rtol=1e-4, atol=1e-5)
    other[:, 0] += 1
    change = (net(x, t, Context(tokens=other, mask=mask)) - out).abs().flatten(1).amax(1)
    assert change[:2].min() > 1e-3
    assert change[2] == 0
    assert not torch.allclose(net(x, t, Context(tokens=tokens)), out)


def test_what_is_missing_or_of_the_wrong_size_is_said() -> None:
    x, t, context = inputs()
    plain, net = unet(), unet(**EVERYTHING)
    with pytest.raises(ValueError, match="found none: this net takes a spatial context \\(B, 2, H, W\\) of x's size"):
        net(x, t, replace(context, spatial=None))
    with pytest.raises(ValueError, match="found one of shape \\(3, 2, 7, 9\\)"):
        net(x, t, replace(context, spatial=torch.zeros(3, 2, 7, 9)))
    with pytest.raises(ValueError, match="found context tokens of width 0: this net was built for width 5"):
        net(x, t, replace(context, tokens=None, mask=None))
    with pytest.raises(ValueError, match="a mask of torch\\.float32"):
        net(x, t, replace(context, mask=torch.ones(3, 4)))
    with pytest.raises(ValueError, match="built without one"):
        plain(x, t, Context(spatial=context.spatial))
    with pytest.raises(ValueError, match="built for width 0"):
        plain(x, t, Context(tokens=context.tokens))
    with pytest.raises(ValueError, match="levels 0 to 1"):
        unet(attention=(2,))
    with pytest.raises(ValueError, match="tokens without attention"):
        unet(attention=False, tokens=3)
    with pytest.raises(ValueError, match="dims=3"):
        unet(dims=3)
    with pytest.raises(ValueError, match="'lean' or 'ddpm'"):
        unet(layout="fat")


@pytest.mark.parametrize("half", [False, True])
def test_checkpoints_change_no_gradient_and_keep_less(half: bool) -> None:
    x, t, context = inputs()
    found, kept = [], []
    for checkpoint in (False, True):
        net = unet(checkpoint=checkpoint, **EVERYTHING)
        size = [0]

        def pack(tensor: Tensor, size: list[int] = size) -> Tensor:
            size[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = net(x, t, context)
            kept.append(size[0])
        found.append((out, *torch.autograd.grad(out.float().square().sum(), list(net.parameters()))))
    assert kept[1] < 0.5 * kept[0]
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5 * float(plain.detach().abs().max()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", ["lean", "ddpm"])
def test_float32_has_the_derivatives_that_densities_ask_for(layout: Any) -> None:
    """Forward, second, many at a time and per example, in the type in which first ones come from kernels."""
    net = unet(layout=layout, shift_only=layout == "ddpm", **EVERYTHING)
    x, t, context = inputs(2, (4, 6))
    f = lambda v: net(v, t, context)
    exact = unet(layout=layout, shift_only=layout == "ddpm", **EVERYTHING).double()
    truth = lambda v: exact(v, t.double(), wide(context))
    double = x.double().requires_grad_()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    close = lambda a, b: torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * float(b.detach().abs().max()))

    slope = torch.func.jvp(truth, (x.double(),), (v.double(),))[1]
    close(torch.func.jvp(f, (x,), (v,))[1], slope)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        close(torch.autograd.forward_ad.unpack_dual(f(dual)).tangent, slope)

    def second(net: Any, x: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad((g * v).sum(), x)[0]

    close(second(f, x.clone().requires_grad_()), second(truth, double))
    rows = torch.randn(3, 2, 3, 4, 6, generator=torch.Generator().manual_seed(6))
    one = x.clone().requires_grad_()
    (many,) = torch.autograd.grad(f(one), one, rows, is_grads_batched=True)
    (them,) = torch.autograd.grad(truth(double), double, rows.double(), is_grads_batched=True)
    close(many, them)
    alone = unet(layout=layout)
    each = torch.func.vmap(torch.func.grad(lambda v, s: alone(v[None], s[None]).sum()))(x, t)
    (whole,) = torch.autograd.grad(alone(one, t).sum(), one)
    torch.testing.assert_close(each, whole, rtol=1e-3, atol=1e-4)


def test_weights_converted_to_bfloat16_give_what_autocast_gives() -> None:
    net = unet(**EVERYTHING)
    x, t, context = inputs()
    with torch.no_grad():
        single = net(x, t, context)
        with torch.autocast("cpu", torch.bfloat16):
            cast = net(x, t, context)
        made = {k: v.bfloat16() for k, v in vars(context).items() if v is not None and v.is_floating_point()}
        converted = net.bfloat16()(x.bfloat16(), t, replace(context, **made))
    assert cast.dtype == converted.dtype == torch.bfloat16
    for half in (cast, converted):
        assert (half.float() - single).norm() < 0.03 * single.norm()
