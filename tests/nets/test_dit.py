"""Attention against torch's own, and what transformers as fields promise: shapes, symmetries, derivatives, masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.nets import attention
from pushforward.nets.attention import attend, written
from pushforward.nets.dit import DiT, SequenceTransformer, SetTransformer, grid_positions

WIDE = torch.float64
CONTEXT, TOKENS = 3, 5
SMALL = {"width": 8, "depth": 2, "heads": 2}


def perturbed(net: nn.Module, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net


def heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE)


@pytest.fixture(params=["written", "fused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(attention, "_FEW", 0 if request.param == "fused" else 10**9)
    return request.param


def mask_of(batch: int, keys: int) -> Tensor:
    mask = torch.rand(batch, keys, generator=torch.Generator().manual_seed(3)) < 0.6
    mask[0] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_softmax_of_scores(way: str, masked: bool) -> None:
    q, k, v = heads(3, 2, 4, 6), heads(3, 2, 7, 6, seed=1), heads(3, 2, 7, 6, seed=2)
    mask = mask_of(3, 7) if masked else None
    found = attend(q, k, v, mask)
    for b in range(3):
        keys = torch.arange(7) if mask is None else mask[b].nonzero()[:, 0]
        weight = torch.einsum("hnd,htd->hnt", q[b], k[b, :, keys]).div(6**0.5).exp()
        expected = torch.einsum("hnt,htd->hnd", weight / weight.sum(-1, keepdim=True), v[b, :, keys])
        torch.testing.assert_close(found[b], expected)


def test_who_may_look_at_nothing_gets_zeros_and_finite_gradients(way: str) -> None:
    q, k, v = (heads(2, 2, 4, 6, seed=s).requires_grad_() for s in range(3))
    mask = torch.tensor([[True] * 4, [False] * 4])
    found = attend(q, k, v, mask)
    found.square().sum().backward()
    assert found[0].any()
    assert not found[1].any()
    assert all(x.grad is not None and x.grad.isfinite().all() and not x.grad[1].any() for x in (q, k, v))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_every_derivative(way: str, masked: bool) -> None:
    mask = mask_of(2, 3) if masked else None
    q, k, v = (heads(2, 1, 3, 2, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(lambda *x: attend(*x, mask), (q, k, v))
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, mask), (q, k, v))
    # only some of them learned
    assert torch.autograd.gradgradcheck(lambda x: attend(x, k.detach(), v.detach(), mask), (q,))
    units = torch.eye(12, dtype=WIDE).view(12, 2, 1, 3, 2)
    many = torch.autograd.grad(attend(q, k, v, mask), (q, k, v), units, is_grads_batched=True)
    for row in range(12):
        for one, all_at_once in zip(torch.autograd.grad(attend(q, k, v, mask), (q, k, v), units[row]), many, strict=True):
            torch.testing.assert_close(all_at_once[row], one)
    plain = [x.detach() for x in (q, k, v)]
    _, slope = torch.func.jvp(lambda x: attend(x, plain[1], plain[2], mask), (plain[0],), (torch.ones_like(plain[0]),))
    step = 1e-6 * torch.ones_like(plain[0])
    near = (attend(plain[0] + step, *plain[1:], mask) - attend(plain[0] - step, *plain[1:], mask)) / 2e-6
    torch.testing.assert_close(slope, near, rtol=1e-5, atol=1e-7)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(plain[0], torch.ones_like(plain[0]))
        out = attend(dual, plain[1], plain[2], mask)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(out).tangent, slope)


def test_long_rows_take_the_kernel() -> None:
    q, k, v = (heads(1, 2, 150, 4, seed=s).requires_grad_() for s in range(3))
    assert "_Fused" in type(attend(q, k, v).grad_fn).__name__
    assert "_Fused" not in type(attend(q, k[:, :, :20], v[:, :, :20]).grad_fn).__name__
    torch.testing.assert_close(attend(q, k, v), written(q, k, v))


# the nets

Build = Callable[..., nn.Module]
CASES: dict[str, tuple[Build, Callable[[int], Tensor], tuple[int, ...]]] = {
    "images": (lambda **k: DiT(2, 3, patch=2, **SMALL, **k), lambda b: torch.randn(b, 2, 5, 6), (3, 5, 6)),
    "signals": (lambda **k: DiT(2, 3, patch=4, dims=1, **SMALL, **k), lambda b: torch.randn(b, 2, 10), (3, 10)),
    "points": (lambda **k: SetTransformer(3, **SMALL, **k), lambda b: torch.randn(b, 7, 3), (7, 3)),
    "symbols": (lambda **k: SequenceTransformer(5, 4, **SMALL, **k), lambda b: torch.randint(0, 5, (b, 6)), (6, 4)),
    "symbols placed": (
        lambda **k: SequenceTransformer(5, 4, length=6, **SMALL, **k),
        lambda b: torch.randint(0, 5, (b, 6)),
        (6, 4),
    ),
}
every_net = pytest.mark.parametrize("name", CASES)


def build(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return CASES[name][0](**{"time": True, **options})


def inputs(name: str, batch: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return CASES[name][1](batch), torch.rand(batch)


def context_of(batch: int = 3, vector: int = 0, tokens: int = 0) -> Context:
    torch.manual_seed(4)
    mask = torch.tensor([[True, True, True, False]]).expand(batch, -1) if tokens else None
    return Context(
        vector=torch.randn(batch, vector) if vector else None,
        tokens=torch.randn(batch, 4, tokens) if tokens else None,
        mask=mask,
    )


@every_net
@pytest.mark.parametrize("vector", [0, CONTEXT])
@pytest.mark.parametrize("tokens", [0, TOKENS])
@pytest.mark.parametrize("time", [False, True])
def test_shape_and_gradient_of_every_parameter(name: str, vector: int, tokens: int, time: bool) -> None:
    net = perturbed(build(name, context=vector, tokens=tokens, time=time))
    x, t = inputs(name)
    out = net(x, t if time else None, context_of(vector=vector, tokens=tokens))
    assert out.shape == (3, *CASES[name][2])
    out.square().sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()} == set()


@every_net
def test_a_new_net_is_zero_and_its_blocks_the_identity(name: str) -> None:
    x, t = inputs(name)
    assert not build(name, context=CONTEXT, tokens=TOKENS)(x, t, context_of(vector=CONTEXT, tokens=TOKENS)).any()
    assert not build(name, time=False)(x).any()
    net = build(name, zero_last=False, context=CONTEXT, tokens=TOKENS)
    given = (x, t, context_of(vector=CONTEXT, tokens=TOKENS))
    whole = net(*given)
    assert whole.any()
    net.trunk.blocks = nn.ModuleList()
    torch.testing.assert_close(net(*given), whole)


@every_net
def test_number_types_and_however_the_batch_is_cut(name: str) -> None:
    net = perturbed(build(name, context=CONTEXT, tokens=TOKENS))
    x, t = inputs(name)
    context = context_of(vector=CONTEXT, tokens=TOKENS)
    single = net(x, t, context)
    parts = [
        net(x[i : i + 1], t[i : i + 1], Context(*(None if c is None else c[i : i + 1] for c in vars(context).values())))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(parts), single, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, context)
    assert (half.float() - single).norm() < 0.06 * single.norm()
    wide = Context(context.vector.double(), context.tokens.double(), context.mask)
    double = net.double()(x.double() if x.is_floating_point() else x, t.double(), wide)
    assert double.dtype == WIDE
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-4)


@every_net
def test_time_context_and_tokens_matter_and_must_fit(name: str) -> None:
    net = perturbed(build(name, context=CONTEXT, tokens=TOKENS))
    (x, t), context = inputs(name), context_of(vector=CONTEXT, tokens=TOKENS)
    whole = net(x, t, context)
    assert not torch.allclose(net(x, 1 - t, context), whole)
    assert not torch.allclose(net(x, t, Context(-context.vector, context.tokens, context.mask)), whole)
    assert not torch.allclose(net(x, t, Context(context.vector, -context.tokens, context.mask)), whole)
    hidden = context.tokens.clone()
    hidden[:, 3] = 100.0  # masked out
    torch.testing.assert_close(net(x, t, Context(context.vector, hidden, context.mask)), whole)
    shared = torch.tensor(0.3)
    torch.testing.assert_close(net(x, shared.expand(3), context), net(x, shared.repeat(3), context))
    with pytest.raises(ValueError, match="built for width 3"):
        net(x, t, Context(tokens=context.tokens))
    with pytest.raises(ValueError, match="context tokens of width 0"):
        net(x, t, Context(vector=context.vector))
    with pytest.raises(ValueError, match="time=True"):
        net(x, None, context)
    with pytest.raises(ValueError, match="one value per example"):
        net(x, torch.rand(4), context)
    with pytest.raises(ValueError, match="built for width 0"):
        build(name)(x, t, context)


@every_net
def test_blocks_computed_again_give_the_same_gradients(name: str, way: str) -> None:
    (x, t), context, found = inputs(name), context_of(vector=CONTEXT, tokens=TOKENS), []
    for again in (False, True):
        net = perturbed(build(name, context=CONTEXT, tokens=TOKENS, checkpoint=again))
        net(x, t, context).square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["images", "signals", "points"])
def test_fields_have_forward_derivatives_and_second_derivatives(name: str, way: str) -> None:
    net = perturbed(build(name)).double()
    x, t = (a.double() for a in inputs(name, 2))
    assert torch.autograd.functional.vhp(lambda v: net(v, t).square().sum(), x, torch.ones_like(x))[1].any()
    _, slope = torch.func.jvp(lambda v: net(v, t), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, (net(x + 1e-6, t) - net(x - 1e-6, t)) / 2e-6, rtol=1e-4, atol=1e-6)
    per_row = torch.func.vmap(torch.func.grad(lambda v, s: net(v[None], s[None]).sum()))(x, t)
    total = x.clone().requires_grad_()
    net(total, t).sum().backward()
    torch.testing.assert_close(per_row, total.grad)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_images_of_any_size_are_cut_into_patches_and_put_together(height: int, width: int, patch: int, channels: int) -> None:
    net = DiT(channels, channels, patch=patch, **SMALL)
    seen: list[Tensor] = []

    class Same(nn.Module):
        width = 8

        def forward(self, patches: Tensor, *_: object) -> Tensor:
            seen.append(patches)
            return patches

    net.trunk = Same()
    x = torch.randn(2, channels, height, width)
    assert torch.equal(net(x, torch.rand(2)), x)
    # a patch holds the pixels of one square, squares row by row
    first = F.pad(x, (0, patch, 0, patch))[:, :, :patch, :patch]
    assert torch.equal(seen[0][:, 0], first.flatten(1))
    assert seen[0].shape[1] == -(-height // patch) * -(-width // patch)


@given(st.integers(1, 9), st.integers(1, 4))
def test_signals_of_any_length(length: int, patch: int) -> None:
    net = perturbed(DiT(2, 3, patch=patch, dims=1, **SMALL))
    assert net(torch.randn(2, 2, length), torch.rand(2)).shape == (2, 3, length)
    with pytest.raises(ValueError, match=r"expected \(B, C, L\)"):
        net(torch.randn(2, 2, length, length), torch.rand(2))


def test_without_blocks_a_patch_sees_only_itself() -> None:
    net = perturbed(DiT(1, 2, patch=2, width=8, depth=0, heads=2)).double()
    t = torch.rand(1, dtype=WIDE)
    slope = torch.autograd.functional.jacobian(lambda v: net(v, t), torch.randn(1, 1, 4, 6, dtype=WIDE))[0, :, :, :, 0, 0]
    for i in range(4):
        for j in range(6):
            seen = slope[:, i, j].abs().sum(0) > 1e-12
            expected = torch.zeros(4, 6, dtype=torch.bool)
            expected[i // 2 * 2 : i // 2 * 2 + 2, j // 2 * 2 : j // 2 * 2 + 2] = True
            assert torch.equal(seen, expected)


def test_points_have_no_order_and_symbols_have() -> None:
    order = torch.tensor([3, 0, 5, 1, 6, 2, 4])
    net = perturbed(build("points"))
    x, t = inputs("points")
    torch.testing.assert_close(net(x[:, order], t), net(x, t)[:, order], rtol=1e-4, atol=1e-5)
    for name in ("symbols", "symbols placed"):
        reader = perturbed(build(name, time=False))
        same = torch.full((1, 6), 2)
        out = reader(same)[0]
        assert len(out.round(decimals=4).unique(dim=0)) == 6
    with pytest.raises(ValueError, match="learned positions for 6"):
        build("symbols placed", time=False)(torch.zeros(1, 7, dtype=torch.int64))


def test_places_of_a_grid_are_told_apart_along_each_axis() -> None:
    grid = grid_positions((3, 5), 9, torch.zeros((), dtype=WIDE)).view(3, 5, 9)
    line = grid_positions((5,), 4, torch.zeros((), dtype=WIDE))
    for i in range(3):
        torch.testing.assert_close(grid[i, :, 4:8], line)
        torch.testing.assert_close(grid[i, :, :4], line[i].expand(5, 4))
    assert not grid[..., 8].any()
    angle = torch.arange(5, dtype=WIDE)
    torch.testing.assert_close(line, torch.stack([angle.cos(), (angle / 1e4).cos(), angle.sin(), (angle / 1e4).sin()], 1))


def test_spatial_context_is_seen_where_it_is_and_must_fit() -> None:
    net = perturbed(DiT(1, 1, patch=2, width=8, depth=0, heads=2, spatial=2))
    x, t, control = torch.randn(2, 1, 5, 4), torch.rand(2), torch.randn(2, 2, 5, 4)
    moved = control.clone()
    moved[:, :, 0, 0] += 1
    change = (net(x, t, Context(spatial=moved)) - net(x, t, Context(spatial=control))).abs() > 1e-7
    assert change[:, :, :2, :2].all()
    assert change.sum() == 8
    for wrong in (None, Context(), Context(spatial=control[:, :1]), Context(spatial=control[:, :, :4])):
        with pytest.raises(ValueError, match="built for 2 channels"):
            net(x, t, wrong)
    with pytest.raises(ValueError, match="built for 0 channels"):
        DiT(1, 1, **SMALL)(x, t, Context(spatial=control))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must divide"):
        DiT(1, 1, width=10, heads=4)
    with pytest.raises(ValueError, match="expected 1"):
        DiT(1, 1, dims=3)
