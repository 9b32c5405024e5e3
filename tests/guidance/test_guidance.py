"""Guidance and completion of exact denoisers against the formulas they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gaussians import THREE, WIDE, Mixture
from pushforward.core.errors import RecipeError
from pushforward.guidance.classifier import steered
from pushforward.guidance.classifier_free import guided, one_call, two_models
from pushforward.guidance.completion import posterior, repaint, transpose
from pushforward.guidance.measurements import measurement
from pushforward.paths.schedule import VP, Rectified
from pushforward.solvers.grids import grid
from pushforward.solvers.multistep import ddim

LEVELS = [(0.95, 0.3), (0.7, 0.7), (0.2, 0.98), (1.0, 2.0)]


def points(n: int = 20) -> Tensor:
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=WIDE)


def tilted(x: Tensor, alpha: float, sigma: float, k: int, weight: float) -> Tensor:
    """D whose score is that of p_t(x) p_t(label k | x)^w, by autograd."""
    x = x.clone().requires_grad_()
    joint = THREE.weights[k].log() + THREE.label(k).log_prob(x, alpha, sigma)
    posterior = joint - THREE.log_prob(x, alpha, sigma)
    total = THREE.log_prob(x, alpha, sigma) + weight * posterior
    (score,) = torch.autograd.grad(total.sum(), x)
    return ((x + sigma**2 * score) / alpha).detach()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_classifier_free_guidance_tilts_the_mixture(level: tuple[float, float], weight: float) -> None:
    x = points()
    strong = THREE.label(1).denoise
    found = guided(strong, two_models(strong, THREE.denoise), weight)(x, *level)
    torch.testing.assert_close(found, tilted(x, *level, 1, weight), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_classifier_guidance_tilts_it_alike(level: tuple[float, float], weight: float) -> None:
    x = points()

    def likely(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return THREE.weights[2].log() + THREE.label(2).log_prob(x, alpha, sigma) - THREE.log_prob(x, alpha, sigma)

    found = steered(THREE.denoise, likely, weight)(x, *level)
    torch.testing.assert_close(found, tilted(x, *level, 2, weight), rtol=1e-8, atol=1e-8)


def test_guidance_by_weight_one_is_the_conditional_and_samples_it() -> None:
    n = 2000
    strong = THREE.label(1).denoise
    run = guided(strong, two_models(strong, THREE.denoise), 1.0)
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    drawn = ddim(run, noise, grid(Rectified(), 100))
    torch.testing.assert_close(drawn.mean(0), THREE.means[1], atol=5 * 0.5 / math.sqrt(n), rtol=0)
    torch.testing.assert_close(drawn.std(0), THREE.stds[1].expand(2), atol=0.03, rtol=0)


def test_more_guidance_is_more_of_the_label_and_less_variety() -> None:
    n = 1500
    strong = THREE.label(0).denoise
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    spreads, shares = [], []
    for weight in (1.0, 2.0, 4.0):
        drawn = ddim(guided(strong, two_models(strong, THREE.denoise), weight), noise, grid(Rectified(), 60))
        spreads.append(float(drawn.std(0).mean()))
        logits = torch.stack([THREE.weights[k].log() + THREE.label(k).log_prob(drawn) for k in range(3)], 1)
        shares.append(float(logits.softmax(1)[:, 0].mean()))
    assert spreads[0] > spreads[1] > spreads[2]
    assert shares[0] < shares[1] < shares[2]


def test_both_halves_come_from_one_call() -> None:
    calls: list[int] = []

    def halves(x: Tensor, alpha: float, sigma: float) -> Tensor:
        calls.append(len(x))
        return torch.cat([x[:5], 2 * x[5:]])

    x = torch.randn(5, 2, dtype=WIDE)
    strong, weak = one_call(halves)(x, 0.5, 0.5)
    assert calls == [10]
    torch.testing.assert_close(strong, x)
    torch.testing.assert_close(weak, 2 * x)


def test_the_interval_is_of_noise_over_signal() -> None:
    strong, weak = (lambda x, a, s: x), (lambda x, a, s: 0 * x)
    x = torch.randn(4, 3, dtype=WIDE)
    run = guided(strong, two_models(strong, weak), 2.0, interval=(0.5, 2.0))
    for (alpha, sigma), factor in {(1.0, 0.4): 1, (1.0, 1.0): 2, (0.5, 0.9): 2, (0.5, 1.1): 1, (0.0, 1.0): 1}.items():
        torch.testing.assert_close(run(x, alpha, sigma), factor * x)
    torch.testing.assert_close(guided(strong, two_models(strong, weak), 2.0)(x, 0.0, 1.0), 2 * x)


def test_rescaling_brings_back_the_spread_of_each_example() -> None:
    torch.manual_seed(0)
    better, worse = torch.randn(2, 6, 3, 5, dtype=WIDE)
    of = lambda share: guided(lambda *a: better, lambda *a: (better, worse), 4.0, rescale=share)(better, 1.0, 1.0)
    plain, full, half = of(0.0), of(1.0), of(0.5)
    spread = lambda x: x.flatten(1).std(1)
    torch.testing.assert_close(spread(full), spread(better))
    torch.testing.assert_close(half, 0.5 * (plain + full))


# what is known


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "a mask": lambda x: x[:, :2],
    "down-sampling": lambda x: x.unflatten(1, (2, 2)).mean(2),
    "a blur": lambda x: 0.5 * x + 0.25 * x.roll(1, 1) + 0.25 * x.roll(-1, 1),
    "a sum": lambda x: x.sum(1, keepdim=True),
}
STANDARD = Mixture(torch.ones(1, dtype=WIDE), torch.zeros(1, 4, dtype=WIDE), torch.ones(1, dtype=WIDE))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("level", [(0.9, 0.4), (0.3, 0.95)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_was_measured_moves_the_guess_to_its_posterior_mean(name: str, level: tuple[float, float], noise: float) -> None:
    """Of standard normal data x_0 given x_t and y = A x_0 + τ z, by the formula for jointly normal numbers."""
    measure, (alpha, sigma) = EXACT[name], level
    matrix = measure(torch.eye(4, dtype=WIDE)).T  # A
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=WIDE)
    measured = torch.randn(5, len(matrix), generator=torch.Generator().manual_seed(4), dtype=WIDE)
    found = posterior(STANDARD.denoise, measure, measured, noise=noise, iterations=4)(x, alpha, sigma)
    spread = sigma**2 / (alpha**2 + sigma**2)
    tau2 = max(noise**2, 1e-6 * spread)
    before = alpha / (alpha**2 + sigma**2) * x
    gain = spread * matrix.T @ torch.linalg.inv(spread * matrix @ matrix.T + tau2 * torch.eye(len(matrix), dtype=WIDE))
    torch.testing.assert_close(found, before + (measured - before @ matrix.T) @ gain.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("level", [(0.9, 0.4), (0.3, 0.95)])
def test_what_hangs_together_is_moved_together(name: str, level: tuple[float, float]) -> None:
    """As above, of data with a covariance: one direction has thirty times the variance of the others."""
    measure, (alpha, sigma) = EXACT[name], level
    matrix, eye = measure(torch.eye(4, dtype=WIDE)).T, torch.eye(4, dtype=WIDE)
    cov = eye + 29 / 4 * torch.ones(4, 4, dtype=WIDE) + torch.diag(torch.tensor([0.0, 0.3, 0.1, 0.6], dtype=WIDE))
    gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * eye)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=WIDE)
    measured = torch.randn(5, len(matrix), generator=torch.Generator().manual_seed(4), dtype=WIDE)
    found = posterior(lambda x, a, s: x @ gain.T, measure, measured, noise=0.3, iterations=4)(x, alpha, sigma)
    # x_0 given x_t is normal with this covariance; then y is learned
    left = cov - alpha * gain @ cov
    more = left @ matrix.T @ torch.linalg.inv(matrix @ left @ matrix.T + 0.09 * torch.eye(len(matrix), dtype=WIDE))
    torch.testing.assert_close(found, x @ gain.T + (measured - x @ gain.T @ matrix.T) @ more.T, rtol=1e-5, atol=1e-5)


def test_transposes_are_found_by_autograd() -> None:
    matrix = torch.randn(3, 4, dtype=WIDE)
    back = transpose(lambda x: x @ matrix.T, torch.randn(2, 4, dtype=WIDE))
    y = torch.randn(2, 3, dtype=WIDE)
    torch.testing.assert_close(back(y), y @ matrix)


def test_repainting_comes_to_the_conditional_as_steps_are_repeated() -> None:
    """Mixtures of round normals have independent coordinates in each component: the conditional is in closed form."""
    n, known = 3000, 0.8
    held = torch.tensor([[known, 0.0]], dtype=WIDE).expand(n, -1)
    seen = torch.tensor([[True, False]]).expand(n, -1)
    nodes, errors = grid(VP(), 100), []
    at = torch.distributions.Normal(THREE.means[:, 0], THREE.stds).log_prob(torch.tensor(known, dtype=WIDE))
    mean = float(((THREE.weights.log() + at).softmax(0) * THREE.means[:, 1]).sum())
    for repeats in (1, 4, 30):
        generator = torch.Generator().manual_seed(5)
        normal = lambda generator=generator: torch.randn(n, 2, generator=generator, dtype=WIDE)
        drawn = repaint(THREE.denoise, normal(), held, seen, nodes, normal, repeats=repeats)
        assert torch.equal(drawn[:, 0], held[:, 0])
        errors.append(abs(float(drawn[:, 1].mean()) - mean))
    # holding alone is known to be off; going back over each step mends it
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.06


def test_measurements_of_images_are_what_they_say() -> None:
    x = torch.rand(2, 3, 8, 12, dtype=WIDE)
    small = measurement("small:4")(x)
    torch.testing.assert_close(small, x.unflatten(2, (2, 4)).unflatten(4, (3, 4)).mean((3, 5)))
    torch.testing.assert_close(measurement("grey")(x)[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    point = torch.zeros(1, 1, 31, 31, dtype=WIDE)
    point[0, 0, 15, 15] = 1
    spot = measurement("blur:2")(point)[0, 0]
    place = torch.arange(31, dtype=WIDE) - 15
    bell = (-0.125 * (place[:, None] ** 2 + place[None] ** 2)).exp()
    bell[(place.abs() > 6)[:, None] | (place.abs() > 6)[None]] = 0
    torch.testing.assert_close(spot, bell / bell.sum())
    for name in ("small", "small:1", "small:x", "blur:0", "sharpen"):
        with pytest.raises(RecipeError, match="no measurement"):
            measurement(name)
