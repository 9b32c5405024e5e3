"""Causal cores and the net they are made into, against torch's cells, complex numbers, autograd and transformers' GPT-2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.nets.causal import STYLES, CausalTransformer, angles, turned
from pushforward.nets.recurrent import CELLS, Recurrent
from pushforward.nets.sequence import Part, SequenceNet

WIDTH = 12
CORES = [*(("gpt", style) for style in STYLES), *(("rnn", cell) for cell in CELLS)]


def core(sort: str, which: str) -> Any:
    made: Any = CausalTransformer(WIDTH, 2, 3, which) if sort == "gpt" else Recurrent(WIDTH, 2, which)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made.double().eval()


def net(sort: str = "gpt", which: str = "llama", **how: Any) -> SequenceNet:
    parts = [Part(1, 1, 4, symbols=4), Part(3, 2, 5), Part(1, 1, 1), Part(2, 1, 3, symbols=3)]
    made = SequenceNet(parts, core(sort, which), **how).double()
    with torch.no_grad():
        for p in made.heads.parameters():
            p.add_(torch.randn_like(p))
    return made


def features(rows: int) -> Tensor:
    """Of a symbol below 4, three pairs of numbers, a number, and two symbols below 3."""
    numbers = torch.randn(rows, 7, dtype=torch.float64)
    return torch.cat([torch.randint(0, 4, (rows, 1)), numbers, torch.randint(0, 3, (rows, 2))], 1).double()


every_core = pytest.mark.parametrize(("sort", "which"), CORES)


@every_core
@torch.no_grad()
def test_steps_are_the_full_pass(sort: str, which: str) -> None:
    one, tokens = core(sort, which), torch.randn(5, 9, WIDTH, dtype=torch.float64)
    kept, found = one.start(5, 9), []
    for token in tokens.unbind(1):
        kept, out = one.step(kept, token)
        found.append(out)
    torch.testing.assert_close(torch.stack(found, 1), one(tokens), rtol=0, atol=1e-10)


@every_core
def test_an_output_depends_on_tokens_up_to_its_place_and_on_all_of_them(sort: str, which: str) -> None:
    one = core(sort, which)
    slopes = torch.autograd.functional.jacobian(lambda t: one(t[None])[0].sum(1), torch.randn(6, WIDTH, dtype=torch.float64))
    size = slopes.abs().sum(-1)  # (place of the output, place of the token)
    assert torch.equal(size.triu(1), torch.zeros(6, 6, dtype=torch.float64))
    assert (size.tril()[torch.ones(6, 6).tril().bool()] > 0).all()


@every_core
def test_parameters_depend_on_earlier_elements_alone(sort: str, which: str) -> None:
    one = net(sort, which)
    x = features(1)[0]
    slopes = torch.autograd.functional.jacobian(lambda x: one(x[None])[0], x)  # symbols are no numbers: they have no slope
    param_of = [0] * 4 + [1] * 5 + [2] * 5 + [3] * 5 + [4] + [5] * 3 + [6] * 3
    feature_of = [0, 1, 1, 2, 2, 3, 3, 4, 5, 6]
    for p, e in enumerate(param_of):
        for f, before in enumerate(feature_of):
            if before in (1, 2, 3, 4):
                assert (slopes[p, f] != 0) == (before < e), (p, f)
    for f in (0, 8, 9):
        other = x.clone()
        other[f] = (x[f] + 1) % 3
        moved = one(other[None])[0] != one(x[None])[0]
        assert moved.tolist() == [feature_of[f] < e for e in param_of]


@every_core
@pytest.mark.parametrize("how", [{}, {"places": False}, {"context": 3}])
@torch.no_grad()
def test_one_element_at_a_time_is_the_full_pass(sort: str, which: str, how: dict[str, Any]) -> None:
    one, x = net(sort, which, **how), features(4)
    context = Context(torch.randn(4, 3, dtype=torch.float64)) if "context" in how else None
    state, found = one.start(4, context), []
    columns = [slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 7), slice(7, 8), slice(8, 9), slice(9, 10)]
    for at in columns:
        found.append(one.outputs(state, slice(0)))
        state = one.advance(state, at, x[:, at])
    torch.testing.assert_close(torch.cat(found, 1), one(x, context), rtol=0, atol=1e-10)


@torch.no_grad()
def test_every_output_heeds_the_context_and_a_new_net_is_zero() -> None:
    x, contexts = features(4), [Context(torch.randn(4, 3, dtype=torch.float64)) for _ in range(2)]
    one = net(context=3)
    assert (one(x, contexts[0]) != one(x, contexts[1])).all()
    with pytest.raises(ValueError, match="context"):
        one(x)
    fresh = SequenceNet([Part(3, 1, 2)], Recurrent(6, 1, "gru"))
    assert not fresh(torch.randn(2, 3)).any()


@torch.no_grad()
def test_what_is_dropped_belongs_to_the_row_and_to_one_pass() -> None:
    one, x = net(dropout=0.4).train(), features(8)
    plain = one(x)
    whole = one(x, draws=Draws(3, 0, 8))
    torch.testing.assert_close(one(x), plain)
    assert (whole != plain).any(1).all()
    torch.testing.assert_close(one(x[5:], draws=Draws(3, 5, 8)), whole[5:])
    torch.testing.assert_close(one.eval()(x, draws=Draws(3, 0, 8)), plain)
    # the mean over masks of a channel is the channel
    big = torch.ones(20_000, 1, WIDTH)
    kept = one.train()._dropped(big, Draws(0, 0, 20_000))[:, 0]
    torch.testing.assert_close(kept.mean(0), torch.ones(WIDTH), rtol=0, atol=5 * (0.4 / 0.6 / 20_000) ** 0.5)
    torch.testing.assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.6]))


# rotary places


def test_turning_is_a_product_of_complex_numbers() -> None:
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    found = turned(x, *angles(7, 10, x))
    a, b = x.chunk(2, -1)
    rate = torch.tensor([10000 ** (-2 * m / 10) for m in range(5)], dtype=torch.float64)
    phase = torch.polar(torch.ones(7, 5, dtype=torch.float64), torch.arange(7)[:, None] * rate)
    expected = torch.complex(a, b) * phase
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], -1), rtol=0, atol=1e-13)


def test_turned_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turns = angles(40, 8, q)
    at = lambda x, i: turned(x, turns[0][i], turns[1][i])
    assert float(at(q, 25) @ at(k, 20)) == pytest.approx(float(at(q, 9) @ at(k, 4)), abs=1e-12)
    assert float(at(q, 25) @ at(k, 20)) != pytest.approx(float(at(q, 25) @ at(k, 21)), abs=1e-3)


# peers on the same weights


def gpt2(dtype: torch.dtype) -> tuple[Any, SequenceNet]:
    """transformers' GPT-2, and ours with its weights and the symbol 3 as the start token."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=9, n_embd=WIDTH, n_layer=3, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    peer = transformers.GPT2LMHeadModel(config)
    ours = SequenceNet([Part(9, 1, 11, symbols=11)], CausalTransformer(WIDTH, 3, 2, "gpt2"))
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.2 * torch.randn_like(p))
        body: Any = peer.transformer
        ours.start_token.copy_(body.wte.weight[3])
        ours.places.copy_(body.wpe.weight)  # type: ignore[union-attr]
        ours.inputs[0].weight.copy_(body.wte.weight)
        ours.heads[0].weight.copy_(peer.lm_head.weight)
        for mine, theirs in zip(ours.core.layers, body.h, strict=True):
            pairs = [(mine.qkv, theirs.attn.c_attn), (mine.out, theirs.attn.c_proj)]
            pairs += [(mine.feed.up, theirs.mlp.c_fc), (mine.feed.down, theirs.mlp.c_proj)]
            for linear, convolution in pairs:  # theirs are transposed
                linear.weight.copy_(convolution.weight.T)
                linear.bias.copy_(convolution.bias)
            mine.first.load_state_dict(theirs.ln_1.state_dict())
            mine.second.load_state_dict(theirs.ln_2.state_dict())
        ours.core.last.load_state_dict(body.ln_f.state_dict())
    return peer.to(dtype).eval(), ours.to(dtype).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_gpt2_is_transformers_gpt2(dtype: torch.dtype, tolerance: float) -> None:
    peer, ours = gpt2(dtype)
    codes = torch.randint(0, 11, (6, 9))
    expected = peer(torch.cat([torch.full((6, 1), 3), codes[:, :-1]], 1)).logits
    found = ours(codes.to(dtype)).view(6, 9, 11)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("cell", "peer"), [("rnn", nn.RNNCell), ("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
@torch.no_grad()
def test_recurrent_steps_are_torchs_cells(cell: str, peer: Any) -> None:
    one, tokens = core("rnn", cell), torch.randn(3, 5, WIDTH, dtype=torch.float64)
    cells = [peer(WIDTH, WIDTH).double() for _ in range(2)]
    for depth, each in enumerate(cells):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(each, name).copy_(getattr(one.layers, f"{name}_l{depth}"))
    kept, states = one.start(3, 5), [None, None]
    for token in tokens.unbind(1):
        kept, found = one.step(kept, token)
        h = token
        for depth, each in enumerate(cells):
            states[depth] = each(h, states[depth])
            h = states[depth][0] if cell == "lstm" else states[depth]
        torch.testing.assert_close(found, h, rtol=0, atol=1e-12)


# bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CausalTransformer(12, 2, 3, "bert"), "style is one of"),
        (lambda: CausalTransformer(12, 2, 5), "heads that divide"),
        (lambda: CausalTransformer(12, 2, 4), "even number"),
        (lambda: CausalTransformer(12, 0, 3), "depth must be"),
        (lambda: Recurrent(8, 1, "tree"), "cell is one of"),
        (lambda: Recurrent(0), "both at least 1"),
        (lambda: SequenceNet([Part(2, 1, 1)], Recurrent(4), dropout=1.0), "dropout lies in"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
