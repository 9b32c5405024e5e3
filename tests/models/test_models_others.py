"""SimCLR, the classifier and the views, each against an explicit computation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn

from pushforward.core.errors import RecipeError
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Schema, Vector
from pushforward.models.classifier import Classifier
from pushforward.models.contrastive import nt_xent
from pushforward.models.views import FeatureViews, ImageViews

WIDE = torch.float64

# contrastive


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_is_the_papers_formula(temperature: float) -> None:
    a, b = torch.randn(5, 3, dtype=WIDE), torch.randn(5, 3, dtype=WIDE)
    z = torch.cat([a, b]).tolist()

    def similarity(u: list[float], v: list[float]) -> float:
        dot, norms = sum(x * y for x, y in zip(u, v, strict=True)), math.hypot(*u) * math.hypot(*v)
        return math.exp(dot / norms / temperature)

    def one(i: int, j: int) -> float:
        return -math.log(similarity(z[i], z[j]) / sum(similarity(z[i], z[k]) for k in range(10) if k != i))

    truth = [0.5 * (one(i, i + 5) + one(i + 5, i)) for i in range(5)]
    torch.testing.assert_close(nt_xent(a, b, temperature), torch.tensor(truth, dtype=WIDE))


def test_nt_xent_of_equal_views_far_apart_is_least() -> None:
    apart = torch.eye(6, dtype=WIDE)
    assert float(nt_xent(apart, apart, 0.1).max()) < float(nt_xent(apart, apart.roll(1, 0), 0.1).min())


# classifier


def classifier(tiny: Any, **options: float) -> Classifier:
    torch.manual_seed(0)
    schema = Schema(Vector(3), target=tiny.target)
    return Classifier(schema, nn.Identity(), nn.Linear(3, 5), nn.Linear(5, 3), **options).double()


def test_cross_entropy_is_scikit_learns(tiny: Any) -> None:
    model = classifier(tiny).eval()
    x, y = torch.randn(30, 3, dtype=WIDE), (torch.arange(30) % 3).double()
    terms, chances = model(Batch(x, Draws(0, 0, 30), target=y)), model.predict(x).detach()
    assert float(terms["loss"].mean().detach()) == pytest.approx(log_loss(y.numpy(), chances.numpy(), labels=[0, 1, 2]))
    torch.testing.assert_close(chances.sum(1), torch.ones(30, dtype=WIDE))
    assert torch.equal(terms["error"], (chances.argmax(1) != y).double())


def test_smoothing_mixes_in_the_uniform_while_training(tiny: Any) -> None:
    model = classifier(tiny, smoothing=0.1)
    x, y = torch.randn(30, 3, dtype=WIDE), torch.arange(30) % 3
    log_p = model.predict(x).log()
    smooth = -(0.9 * log_p[torch.arange(30), y] + 0.1 * log_p.mean(1))
    torch.testing.assert_close(model.train()(Batch(x, Draws(0, 0, 30), target=y.double()))["loss"], smooth)
    sharp = -log_p[torch.arange(30), y]
    torch.testing.assert_close(model.eval()(Batch(x, Draws(0, 0, 30), target=y.double()))["loss"], sharp)


def test_a_classifier_needs_a_discrete_target(tiny: Any) -> None:
    for target in (None, tiny.conditions[1]):
        with pytest.raises(RecipeError, match="needs a target that is a category"):
            Classifier(Schema(Vector(3), target=target), nn.Identity(), nn.Identity(), nn.Identity())
    with pytest.raises(ValueError, match="needs a target"):
        classifier(tiny)(Batch(torch.zeros(2, 3, dtype=WIDE), Draws(0, 0, 2)))


# views


@pytest.mark.parametrize("kind", ["image", "features"])
def test_a_view_belongs_to_its_row(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "image":
        views: nn.Module = ImageViews()
        x = torch.rand(100, 2, 6, 5) * 2 - 1
    else:
        views = FeatureViews(7, pool=50)
        x = torch.randn(100, 7)
        views.prepare(torch.randn(30, 7))
    whole = views(x, Draws(4, 0, 100))
    parts = [views(x[a:b], Draws(4, a, b, 100)) for a, b in ((0, 33), (33, 80), (80, 100))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert whole.shape == x.shape
    draws = Draws(4, 0, 100)
    first, second = views(x, draws), views(x, draws)
    assert not torch.isclose(first, second).flatten(1).all(1).any()


def test_feature_views_take_a_share_from_the_pool() -> None:
    views = FeatureViews(5, rate=0.4, pool=64)
    pool = torch.randn(20, 5)
    views.prepare(pool)
    assert torch.equal(views.pool[20:40], pool)
    x = torch.full((4000, 5), 99.0)
    view = views(x, Draws(0, 0, 4000))
    changed = view != 99
    assert float(changed.double().mean()) == pytest.approx(0.4, abs=5 * (0.24 / 20_000) ** 0.5)
    for d in range(5):
        assert torch.isin(view[:, d][changed[:, d]], pool[:, d]).all()
        assert len(view[:, d].unique()) == 21


def test_image_views_crop_mirror_and_jitter() -> None:
    ramp = torch.linspace(-1, 1, 9).expand(300, 1, 9, 9).clone()  # rises to the right
    plain = ImageViews(smallest=0.5, mirror=False, jitter=0.0)(ramp, Draws(1, 0, 300))
    assert float(plain.abs().max()) <= 1 + 1e-5
    assert (plain.diff(dim=3) >= -1e-5).all()
    width = (plain[:, 0, 4, -1] - plain[:, 0, 4, 0]) / 2
    assert float(width.min()) > 0.5
    assert float(width.max()) <= 1 + 1e-5
    flipped = ImageViews(smallest=0.5, mirror=True, jitter=0.0)(ramp, Draws(1, 0, 300))
    falls = (flipped.diff(dim=3) <= 1e-5).all(3).all(2).all(1)
    assert float(falls.double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 300**0.5)
    level = torch.zeros(300, 1, 4, 4)
    shifts = ImageViews(jitter=0.3)(level, Draws(1, 0, 300)).mean((1, 2, 3))
    assert float(shifts.abs().max()) <= 0.3
    assert float(shifts.std()) == pytest.approx(0.3 / 3**0.5, rel=0.15)
