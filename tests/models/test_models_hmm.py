"""Hidden Markov models against all paths counted one by one, and against hmmlearn from the same parameters."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chisquare, multivariate_normal
from torch import Tensor

from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Signal, Tokens
from pushforward.core.transform import Compose, Elementwise
from pushforward.models.densities import Levels
from pushforward.models.hmm import HiddenMarkov
from pushforward.models.mixture import COVARIANCES

WIDE = torch.float64
PEERS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


class Known(Compose):
    """No preprocessing; what is known stays known."""

    def spread(self, observed: Tensor) -> Tensor:
        return observed


def chain(model: HiddenMarkov, seed: int) -> HiddenMarkov:
    """Random chances."""
    generator = torch.Generator().manual_seed(seed)
    k = model.components
    model.initial.copy_(torch.rand(k, dtype=WIDE, generator=generator).add(0.1))
    model.initial.div_(model.initial.sum())
    model.transition.copy_(torch.rand(k, k, dtype=WIDE, generator=generator).add(0.05))
    model.transition.div_(model.transition.sum(1, keepdim=True))
    return model


def words(states: int = 3, symbols: int = 4, length: int = 4, seed: int = 0, **options: Any) -> HiddenMarkov:
    schema = Schema(Tokens(tuple("abcdefgh"[:symbols]), length))
    densities = Levels([symbols], states, smoothing=options.get("smoothing", 0.0))
    model = HiddenMarkov(schema, Known([]), densities, channels_first=False, **{"smoothing": 0.0, **options})
    chances = torch.rand(states, 1, symbols, dtype=WIDE, generator=torch.Generator().manual_seed(seed + 50)).add(0.05)
    densities.chances.copy_(chances / chances.sum(2, keepdim=True))
    return chain(model, seed)


def signals(
    states: int = 3, channels: int = 2, length: int = 7, covariance: str = "full", seed: int = 0, **options: Any
) -> HiddenMarkov:
    schema = Schema(Signal(channels, length))
    densities = COVARIANCES[covariance](channels, states, 0.0, 0.0)
    model = HiddenMarkov(schema, Known([]), densities, channels_first=True, **{"smoothing": 0.0, **options})
    generator = torch.Generator().manual_seed(seed + 90)
    held: Any = densities
    held.means.copy_(1.5 * torch.randn(states, channels, dtype=WIDE, generator=generator))
    root = torch.randn(states, channels, channels, dtype=WIDE, generator=generator)
    cov = root @ root.mT + 0.4 * torch.eye(channels)
    if covariance in ("full", "tied"):
        held.own.copy_(cov[: len(held.own)])
    else:
        variances = cov.diagonal(dim1=1, dim2=2)
        held.variances.copy_(variances if covariance == "diagonal" else variances.mean(1, keepdim=True).expand_as(variances))
    return chain(model, seed)


def batch(x: Tensor) -> Batch:
    return Batch(x, Draws(0, 0, len(x)))


def paths(model: HiddenMarkov, log_b: np.ndarray) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Every path of states and its log p(y, s), for one sequence with emissions log b (T, S)."""
    log_pi, log_a = model.initial.log().numpy(), model.transition.log().numpy()
    every = list(itertools.product(range(model.components), repeat=len(log_b)))
    found = [
        log_pi[s[0]] + sum(log_a[a, b] for a, b in itertools.pairwise(s)) + sum(log_b[t, k] for t, k in enumerate(s))
        for s in every
    ]
    return every, np.array(found)


def gaussian_logs(model: HiddenMarkov, y: np.ndarray) -> np.ndarray:
    """log N of what is there of one signal (C, T), (T, S)."""
    held: Any = model.densities
    out = np.zeros((y.shape[1], model.components))
    for t, k in itertools.product(range(y.shape[1]), range(model.components)):
        o = ~np.isnan(y[:, t])
        if o.any():
            cov = held.covariances[k].numpy()[np.ix_(o, o)]
            out[t, k] = multivariate_normal.logpdf(y[o, t], held.means[k].numpy()[o], cov)
    return out


def test_all_texts_sum_to_one_and_are_sums_over_all_paths() -> None:
    model = words()
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    log_p = model.log_prob(every)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    emission = model.densities.chances[:, 0].log().numpy()  # type: ignore[union-attr,index]
    for i in (0, 77, 200):
        found, joint = paths(model, emission[:, every[i].numpy()].T)
        assert float(log_p[i]) == pytest.approx(logsumexp(joint), abs=1e-12)
        path, top = model.viterbi(every[i : i + 1])
        assert tuple(path[0].tolist()) == found[int(joint.argmax())]
        assert float(top[0]) == pytest.approx(joint.max(), abs=1e-12)
        share = np.exp(joint - logsumexp(joint))
        by_state = [[sum(p for s, p in zip(found, share, strict=True) if s[t] == k) for k in range(3)] for t in range(4)]
        np.testing.assert_allclose(model.posterior(every[i : i + 1])[0], by_state, atol=1e-12)
        np.testing.assert_allclose(model.encode(every[i : i + 1])[0], np.mean(by_state, 0), atol=1e-12)


def test_one_step_is_that_of_all_paths() -> None:
    """Baum–Welch with gaps in a signal, by summing over every path of every row."""
    model = signals(2, 2, 4, seed=3)
    x = signals(2, 2, 4, seed=8).sample(6, None, Draws(1, 0, 6))
    gaps = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    gaps[0] = False
    x = x.masked_fill(gaps, math.nan)
    first, pairs, total = np.zeros(2), np.zeros((2, 2)), 0.0
    for row in x.numpy():
        found, joint = paths(model, gaussian_logs(model, row))
        total += logsumexp(joint)
        for s, p in zip(found, np.exp(joint - logsumexp(joint)), strict=True):
            first[s[0]] += p
            for a, b in itertools.pairwise(s):
                pairs[a, b] += p
    stats = model.stats(batch(x))
    assert float(stats["likelihood"]) == pytest.approx(total, abs=1e-10)
    torch.testing.assert_close(model.log_prob(x).sum(), stats["likelihood"])
    model.update(stats)
    np.testing.assert_allclose(model.initial, first / first.sum(), rtol=1e-10)
    np.testing.assert_allclose(model.transition, pairs / pairs.sum(1, keepdims=True), rtol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_gaussian_emissions_are_hmmlearns(covariance: str) -> None:
    hmm = pytest.importorskip("hmmlearn.hmm")
    model = signals(3, 2, 40, covariance, seed=4)
    x = signals(3, 2, 40, seed=5).sample(9, None, Draws(2, 0, 9))
    held: Any = model.densities
    peer = hmm.GaussianHMM(3, PEERS[covariance], covars_prior=0.0, covars_weight=0.0, min_covar=0.0, n_iter=1, tol=0.0)
    peer.init_params, peer.n_features = "", 2
    peer.startprob_, peer.transmat_ = model.initial.numpy().copy(), model.transition.numpy().copy()
    peer.means_ = held.means.numpy().copy()
    cov = held.covariances.numpy()
    shaped = {"full": cov, "tied": cov[0], "diagonal": np.diagonal(cov, axis1=1, axis2=2), "spherical": cov[:, 0, 0]}
    peer.covars_ = shaped[covariance].copy()
    rows, lengths = x.transpose(1, 2).reshape(-1, 2).numpy(), [40] * 9
    score, posterior = peer.score_samples(rows, lengths)
    assert float(model.log_prob(x).sum()) == pytest.approx(score, rel=1e-10)
    np.testing.assert_allclose(model.posterior(x).reshape(-1, 3), posterior, atol=1e-9)
    top, path = peer.decode(rows, lengths)
    ours, log_p = model.viterbi(x)
    assert np.array_equal(ours.flatten().numpy(), path)
    assert float(log_p.sum()) == pytest.approx(top, rel=1e-10)
    peer.fit(rows, lengths)
    model.update(model.stats(batch(x)))
    np.testing.assert_allclose(model.initial, peer.startprob_, rtol=1e-8)
    np.testing.assert_allclose(model.transition, peer.transmat_, rtol=1e-8)
    np.testing.assert_allclose(held.means, peer.means_, rtol=1e-8)
    theirs = peer.covars_.reshape(3, -1, 2, 2)[:, 0]  # hmmlearn gives spherical ones once for each channel
    np.testing.assert_allclose(held.covariances, theirs, rtol=1e-7, atol=1e-10)


def test_categorical_emissions_are_hmmlearns() -> None:
    hmm = pytest.importorskip("hmmlearn.hmm")
    model = words(3, 5, 30, seed=2)
    x = words(3, 5, 30, seed=7).sample(12, None, Draws(0, 0, 12)).long()
    held: Any = model.densities
    peer = hmm.CategoricalHMM(3, n_iter=3, tol=0.0, init_params="", n_features=5)
    peer.startprob_, peer.transmat_ = model.initial.numpy().copy(), model.transition.numpy().copy()
    peer.emissionprob_ = held.chances[:, 0].numpy().copy()
    rows, lengths = x.reshape(-1, 1).numpy(), [30] * 12
    assert float(model.log_prob(x).sum()) == pytest.approx(peer.score(rows, lengths), rel=1e-10)
    np.testing.assert_allclose(model.posterior(x).reshape(-1, 3), peer.predict_proba(rows, lengths), atol=1e-9)
    # moves in another order make another path of the same chance: only the best value is one
    assert float(model.viterbi(x)[1].sum()) == pytest.approx(peer.decode(rows, lengths)[0], rel=1e-10)
    peer.fit(rows, lengths)
    for _ in range(3):
        model.update(model.stats(batch(x)))
    np.testing.assert_allclose(model.transition, peer.transmat_, rtol=1e-7)
    np.testing.assert_allclose(held.chances[:, 0], peer.emissionprob_, rtol=1e-7)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_objective_never_falls(smoothing: float, gaps: bool) -> None:
    model = signals(3, 2, 12, seed=1, smoothing=smoothing)
    x = signals(2, 2, 12, seed=6).sample(40, None, Draws(3, 0, 40))
    if gaps:
        x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.3, math.nan)
    values = []
    for _ in range(15):
        stats = model.stats(batch(x))
        values.append(float(stats["likelihood"] + model.log_prior()))
        model.update(stats)
    assert (np.diff(values) > -1e-7).all()
    assert values[-1] > values[0] + 1


def test_chances_of_nearly_nothing_leave_the_sums_whole() -> None:
    """A chain that hardly ever moves, and rows that no state likes: still the sum over all paths."""
    model = signals(3, 1, 5, seed=2)
    model.transition.copy_(torch.tensor([[1.0, 1e-90, 1e-30], [1e-80, 1.0, 1e-60], [0.3, 1e-99, 0.7]]))
    x = torch.tensor([[[0.0, 300.0, -300.0, 5.0, 40.0]]], dtype=WIDE)
    found, joint = paths(model, gaussian_logs(model, x[0].numpy()))
    assert float(model.log_prob(x)[0]) == pytest.approx(logsumexp(joint), rel=1e-12)
    share = np.exp(joint - logsumexp(joint))
    by_state = [[sum(p for s, p in zip(found, share, strict=True) if s[t] == k) for k in range(3)] for t in range(5)]
    np.testing.assert_allclose(model.posterior(x)[0], by_state, atol=1e-10)
    assert all(value.isfinite().all() for value in model.stats(batch(x)).values())


def test_texts_are_drawn_with_their_chances() -> None:
    model = words(2, 3, 3, seed=4)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    n = 20_000
    drawn = model.sample(n, None, Draws(5, 0, n)).long()
    found = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    assert chisquare(found.numpy(), n * model.log_prob(every).exp().numpy()).pvalue > 1e-3


def test_gaps_of_texts_are_filled_with_their_chances() -> None:
    model = words(2, 3, 4, seed=9)
    model.transition.copy_(torch.tensor([[0.95, 0.05], [0.1, 0.9]]))  # what comes later says much of what came before
    model.densities.chances.copy_(torch.tensor([[[0.8, 0.15, 0.05]], [[0.05, 0.2, 0.75]]]))  # type: ignore[operator,union-attr]
    n = 20_000
    observed = torch.tensor([False, True, False, True])
    x = torch.tensor([[0, 2, 0, 1]]).expand(n, -1)
    drawn = model.complete(x, observed.expand(n, -1), None, Draws(6, 0, n))
    assert torch.equal(drawn[:, observed], x[:, observed])
    every = torch.tensor([[a, 2, b, 1] for a in range(3) for b in range(3)])
    wanted = model.log_prob(every).softmax(0)
    found = torch.bincount(drawn[:, 0] * 3 + drawn[:, 2], minlength=9)
    assert chisquare(found.numpy(), n * wanted.numpy()).pvalue > 1e-3


def test_gaps_of_signals_have_the_moments_of_the_conditional() -> None:
    """E and Var of what is missing, by all paths, with the Gaussian conditionals of each state."""
    model = signals(2, 2, 3, seed=11)
    row = np.array([[0.3, np.nan, 1.0], [np.nan, np.nan, -0.5]])
    found, joint = paths(model, gaussian_logs(model, row))
    share = np.exp(joint - logsumexp(joint))
    held: Any = model.densities
    means, covs = held.means.numpy(), held.covariances.numpy()
    first, second = 0.0, 0.0
    for s, p in zip(found, share, strict=True):  # the second channel at time 0, given the first there
        k = s[0]
        mean = means[k, 1] + covs[k, 1, 0] / covs[k, 0, 0] * (row[0, 0] - means[k, 0])
        variance = covs[k, 1, 1] - covs[k, 1, 0] ** 2 / covs[k, 0, 0]
        first, second = first + p * mean, second + p * (variance + mean**2)
    n = 20_000
    x = torch.from_numpy(row)[None].expand(n, -1, -1)
    drawn = model.complete(x, ~x.isnan(), None, Draws(7, 0, n))[:, 1, 0]
    std = (second - first**2) ** 0.5
    assert float(drawn.mean()) == pytest.approx(first, abs=5 * std / n**0.5)
    assert float(drawn.std()) == pytest.approx(std, rel=0.03)


def test_a_start_finds_the_states_of_a_clear_signal() -> None:
    truth = signals(2, 1, 60, seed=1)
    truth.densities.means.copy_(torch.tensor([[-8.0], [8.0]]))  # type: ignore[union-attr,operator]
    truth.transition.copy_(torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
    x = truth.sample(60, None, Draws(0, 0, 60))
    model = signals(2, 1, 60, seed=20)
    model.fit_em(x)
    order = model.densities.means[:, 0].argsort()  # type: ignore[union-attr,index]
    torch.testing.assert_close(model.transition[order][:, order], truth.transition, atol=0.03, rtol=0)


def test_the_number_of_states_is_found() -> None:
    truth = signals(2, 1, 40, seed=1)
    truth.densities.means.copy_(torch.tensor([[-4.0], [4.0]]))  # type: ignore[union-attr,operator]
    x = truth.sample(80, None, Draws(0, 0, 80))
    model = signals(5, 1, 40, criterion="bic", smoothing=0.1)
    model.start(x, Draws(0, 0, 80))
    assert model.used == 2
    assert len(model.viterbi(x)[0].unique()) == 2
    model.update(model.stats(batch(x)))
    assert model.used == 2


def test_marks_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        words(smoothing=-1.0)
    assert isinstance(Known([]), Compose)
    assert not issubclass(Known, Elementwise)
