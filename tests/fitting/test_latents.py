"""What fitting knows of models with latent variables: schedules, many weights at once, and codes that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.core.random import Draws
from pushforward.data.sources import open_data
from pushforward.fitting.evaluate import evaluate
from pushforward.fitting.fitted import _SCORING, Fitted
from pushforward.fitting.trainer import mix
from pushforward.models.bound import Variational


def rows(n: int = 240) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(n, 5))
    return np.concatenate([noise[:, :2], noise[:, :2] + 0.1 * noise[:, 2:4], noise[:, 4:]], 1)


def fit(beta: float, **options: Any) -> Fitted:
    return pf.fit(rows(), "vae", steps=300, hidden=(16,), latent=2, beta=beta, quiet=True, batch_size=64, **options)


def test_a_code_that_says_nothing_is_told() -> None:
    for beta, active, said in ((0.2, 2, "of 2"), (500.0, 0, "the posterior collapsed: none of 2 latent dimensions is used")):
        found = evaluate(fit(beta, learning_rate=0.01), open_data(rows()).split(0), quiet=True)
        assert found["active_units"].value == active
        assert found["active_units"].note.startswith(said)
        assert (found["rate"].value > 0.5) == bool(active)


def test_a_score_of_many_draws_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = fit(1.0, learning_rate=0.01), rows(20)
    scored = model.score(x, samples=9, seed=4)
    assert isinstance(model.model, Variational)
    with torch.no_grad():
        draws = Draws(mix(4, _SCORING), 0, 20)
        each = torch.stack([model.model.log_prob(torch.from_numpy(x), None, draws.fork(k)) for k in range(9)])
    truth = each.double().exp().mean(0).log().numpy()
    np.testing.assert_allclose(scored.log_prob, truth, rtol=1e-5)


def test_schedules_are_told_how_far_training_is() -> None:
    told: list[float] = []
    before = Variational.before_round

    def listen(self: Variational, done: float) -> None:
        told.append(done)
        before(self, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Variational, "before_round", listen)
        model = pf.fit(rows(), "vae", steps=8, hidden=(8,), latent=2, beta_warmup=0.5, quiet=True, batch_size=32)
    assert told == [k / 8 for k in range(8)]
    assert float(model.model.done) == pytest.approx(7 / 8)
    assert model.model.slope.beta_warmup == 0.5
