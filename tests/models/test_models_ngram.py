"""n-grams by Kneser–Ney against counts worked out by hand, a plain reading of the formulas, and nltk where it is installed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Tokens, Vector
from pushforward.models import ngram
from pushforward.models.ngram import NGram, discounts

VOCABULARY = ("a", "b", "c", "d")


def fitted(x: Tensor, order: int, symbols: int = 4) -> NGram:
    model = NGram(Schema(Tokens(VOCABULARY[:symbols], x.shape[1])), order)
    model.update(model.stats(Batch(x, Draws(0, 0, len(x)))))
    return model


def texts(symbols: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(symbols), repeat=length)))


def by_hand(rows: list[list[int]], order: int, symbols: int, context: tuple[int, ...], w: int) -> float:
    """P(w | context), the module's formulas one symbol at a time."""
    grams: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        padded = [-1] * (order - 1) + row
        grams.update(tuple(padded[i : i + order]) for i in range(len(row)))

    def chance(k: int, h: tuple[int, ...], counts: Counter[tuple[int, ...]]) -> float:
        if k == 0:
            return 1 / symbols
        shorter: Counter[tuple[int, ...]] = Counter(g[1:] for g in counts)
        n = [sum(c == j for c in counts.values()) for j in range(1, 5)]
        y = n[0] / max(1, n[0] + 2 * n[1])
        rate = {j: min(j, max(0.1, j - (j + 1) * y * n[j] / max(1, n[j - 1]))) for j in (1, 2, 3)}
        followed = {g[-1]: c for g, c in counts.items() if g[:-1] == h}
        below = chance(k - 1, h[1:], shorter)
        if not followed:
            return below
        total, taken = sum(followed.values()), {v: rate[min(c, 3)] for v, c in followed.items()}
        return (followed.get(w, 0) - taken.get(w, 0)) / total + sum(taken.values()) / total * below

    return chance(order, context, grams)


def test_a_tiny_corpus_worked_out_on_paper() -> None:
    """Texts "ab", "ac", "ab" over {a, b, c, d}, bigrams. Counts: ^a 3, ab 2, ac 1: n_1 = 1, n_2 = 1, n_3 = 1, so Y = 1/3 and
    D(1) = 1 − 2/3 = 1/3, D(2) = 2 − 3/3 = 1, D(3) = 3. Contexts of symbols: a after ^, b and c after a, so each once: n_1 = 3,
    Y = 1, D(1) = 1. Then P_1 = 3/3 · 1/4 for every symbol, all of it left to the uniform one."""
    model = fitted(torch.tensor([[0, 1], [0, 2], [0, 1]]), 2)
    chance = model.log_prob(texts(4, 2)).exp().view(4, 4)
    first = torch.full((4,), 1 / 4)  # ^ is followed by a, 3 times: nothing is kept, and 3/3 left to P_1
    # after a, 3 times: b keeps 2 − 1, c keeps 1 − 1/3, and (1 + 1/3)/3 = 4/9 are left to P_1 = 1/4
    after_a = torch.tensor([1 / 9, 1 / 3 + 1 / 9, 2 / 9 + 1 / 9, 1 / 9])
    after_others = torch.full((4,), 1 / 4)
    expected = first[:, None] * torch.stack([after_a, after_others, after_others, after_others])
    torch.testing.assert_close(chance, expected.double(), rtol=0, atol=1e-7)


def test_discounts_are_those_of_chen_and_goodman() -> None:
    counts = torch.tensor([1] * 10 + [2] * 4 + [3] * 3 + [4] * 2 + [9] * 5)
    y = 10 / 18
    expected = [0.0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 3 / 4, 3 - 4 * y * 2 / 3]
    assert discounts(counts).tolist() == pytest.approx(expected)
    assert discounts(torch.tensor([7, 8])).tolist() == pytest.approx([0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_every_conditional_is_the_formula_and_sums_to_one(order: int) -> None:
    generator = torch.Generator().manual_seed(order)
    x = (torch.rand(12, 7, generator=generator).square() * 4).long()  # some symbols are rare
    model, contexts = fitted(x, order), torch.cat([texts(4, 4), torch.randint(0, 4, (30, 4))])
    rows = torch.cat([contexts.repeat_interleave(4, 0), torch.arange(4).repeat(len(contexts))[:, None]], 1)
    chance = model.chance(model._keys(rows)[:, -1]).view(-1, 4)
    torch.testing.assert_close(chance.sum(1), torch.ones(len(contexts), dtype=torch.float64), rtol=0, atol=1e-12)
    assert chance.min() > 0
    for place in (0, 3, 77, 150, 254):
        context = tuple(contexts[place].tolist())[4 - (order - 1) :] if order > 1 else ()
        found = [by_hand(x.tolist(), order, 4, context, w) for w in range(4)]
        assert chance[place].tolist() == pytest.approx(found, abs=1e-12)
    start = [by_hand(x.tolist(), order, 4, (-1,) * (order - 1), w) for w in range(4)]
    assert model.chance(model._keys(torch.arange(4)[:, None])[:, 0]).tolist() == pytest.approx(start, abs=1e-12)


@torch.no_grad()
def test_masses_sum_to_one_and_draws_have_them() -> None:
    x, n = torch.randint(0, 3, (30, 2)).repeat(1, 2), 6000
    model = fitted(x, 3, symbols=3)
    chance = model.log_prob(texts(3, 4)).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-12)
    assert chance.max() > 3 / 81
    index = 3 ** torch.arange(3, -1, -1)
    seen = torch.bincount((model.sample(n, None, Draws(1, 0, n)) * index).sum(1), minlength=81)
    assert float(((seen - n * chance).square() / (n * chance)).sum()) < 80 + 5 * 160**0.5
    # the end of a text, and gaps
    every = texts(3, 4)
    for known, particles, far in (([True, True, False, False], 1, 0.03), ([False, True, False, True], 40, 0.05)):
        model.particles = particles
        shown, observed = torch.tensor([[0, 2, 1, 1]]).expand(n, -1), torch.tensor([known]).expand(n, -1)
        filled = model.complete(shown, observed, None, Draws(2, 0, n))
        fits = (every == shown[0])[:, observed[0]].all(1)
        found = torch.bincount((filled * index).sum(1), minlength=81)[fits].double() / n
        assert float(found.sum()) == pytest.approx(1)  # nothing else is drawn
        torch.testing.assert_close(found, chance[fits] / chance[fits].sum(), rtol=0, atol=far)


@torch.no_grad()
def test_sharpened_draws() -> None:
    model = fitted(torch.randint(0, 4, (40, 2)).repeat(1, 4), 3)
    x = model.sample(50, None, Draws(1, 0, 50), temperature=0.0)
    alphabet = torch.arange(4)
    for place in range(8):
        rows = torch.cat([x[:, None, :place].expand(-1, 4, -1), alphabet.expand(50, 4)[..., None]], 2)
        chance = model.chance(model._keys(rows.flatten(0, 1))[:, -1]).view(50, 4)
        assert torch.equal(chance.argmax(1), x[:, place])
    few = model.sample(500, None, Draws(1, 0, 500), top_k=1)
    assert torch.equal(few, x[:1].expand(500, -1))


def test_statistics_add_up_over_batches_and_a_state_has_the_size_of_its_data(tmp_path: Path) -> None:
    x = torch.randint(0, 4, (60, 9))
    whole, halves = fitted(x, 4), NGram(Schema(Tokens(VOCABULARY, 9)), 4)
    parts = [halves.stats(Batch(part, Draws(0, 0, 30))) for part in x.split(30)]
    likelihood = halves.update({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert likelihood == pytest.approx(9 * math.log(1 / 4))  # of before, when nothing was known
    assert torch.equal(halves.grams, whole.grams)
    assert torch.equal(halves.counts, whole.counts)
    assert int(whole.counts.sum()) == x.numel()
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "model.safetensors")
    loaded = fitted(x[:3], 4)
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.log_prob(x), whole.log_prob(x))


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join("abcde "[i * i % 97 % 6] for i in range(6000)))
    words = ["-m", "pushforward", "fit", "text.txt", "ngram", "--length", "20", "--no-report", "--quiet", "--device", "cpu"]
    launched = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for out, how in (("one", []), ("two", launched)):
        subprocess.run([sys.executable, *how, *words, "--out", out], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    one, two = (safetensors.torch.load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert one["counts"].max() > 2
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nltk_agrees_where_discounts_are_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pytest.importorskip("nltk.lm")
    from nltk.util import everygrams, pad_sequence  # type: ignore[import-not-found]

    order, rows = 3, ["abcabdab", "bcabacca", "ccabdaab", "dabcabca"]
    fixed = torch.tensor([0.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    plain = torch.zeros(4, dtype=torch.float64)  # theirs takes nothing from single symbols
    monkeypatch.setattr(ngram, "discounts", lambda counts: plain if len(counts) == 4 else fixed)
    model = fitted(torch.tensor([["abcd".index(c) for c in row] for row in rows]), order)
    padded = [list(pad_sequence(row, order, pad_left=True, left_pad_symbol="<s>")) for row in rows]
    peer = lm.KneserNeyInterpolated(order, discount=0.1)
    told = [[gram for gram in everygrams(row, max_len=order) if gram[-1] != "<s>"] for row in padded]
    peer.fit(told, vocabulary_text=list("abcd"))
    for context in ("ab", "ca", "dd", "bd"):
        rows_of = torch.tensor([[*("abcd".index(c) for c in context), w] for w in range(4)])
        found = model.chance(model._keys(rows_of)[:, -1]).tolist()
        assert found == pytest.approx([peer.score(w, tuple(context)) for w in "abcd"], abs=1e-9), context


@pytest.mark.parametrize(
    ("schema", "order", "message"),
    [
        (Schema(Vector(2)), 3, "n-grams are of symbols"),
        (Schema(Tokens(VOCABULARY, 5)), 0, "at least 1"),
        (Schema(Tokens(VOCABULARY, 5)), 40, "at most 26"),
    ],
)
def test_bad_options_are_refused(schema: Schema, order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NGram(schema, order)
