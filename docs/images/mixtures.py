"""docs/images/mixtures.png: how many components, found in two ways, and regression. python docs/images/mixtures.py"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Ellipse

from pushforward.core.schema import Schema, Vector
from pushforward.core.transform import Compose
from pushforward.data.bundled import open_bundled
from pushforward.models.bayes import BayesianMixture
from pushforward.models.conditional import regress
from pushforward.models.mixture import GaussianMixture
from pushforward.transforms.univariate import Standardise

x = open_bundled("moons").sample(1500, 0).x
plane = Schema(Vector(2))
chosen = GaussianMixture(plane, Compose([Standardise((2,))]), 2, components=30, criterion="bic", restarts=3)
chosen.fit_em(x)
died = BayesianMixture(plane, Compose([Standardise((2,))]), 2, components=30, width=0.1, concentration=1e-3)
died.fit_em(x, iterations=2000, tolerance=1e-8)

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
y, _ = chosen.transform.pull(x)
for at, model, title in (
    (axes[0], chosen, f"BIC of 1, 2, 3 …: {chosen.used} components"),
    (axes[1], died, f"variational, 30 at most: {died.used} stay"),
):
    at.scatter(*y.T.numpy(), s=3, c="#bbbbbb")
    used = model.weighing.used()
    for mean, covariance in zip(model.means[used].numpy(), model.covariances[used].numpy(), strict=True):
        values, vectors = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        at.add_patch(Ellipse(mean, *(4 * values[::-1] ** 0.5), angle=angle, fill=False, color="#1f5fa8", lw=1.4))
    at.set_title(title, fontsize=10)
    at.set_aspect("equal")
line = torch.linspace(float(x[:, 0].min()), float(x[:, 0].max()), 200, dtype=torch.float64)
mean, variance = regress(chosen, torch.stack([line, torch.zeros_like(line)], 1), torch.tensor([True, False]))
centre, std = mean[:, 1].numpy(), variance[:, 1].sqrt().numpy()
axes[2].scatter(*x.T.numpy(), s=3, c="#bbbbbb")
axes[2].plot(line.numpy(), centre, c="#1f5fa8")
axes[2].fill_between(line.numpy(), centre - std, centre + std, color="#1f5fa8", alpha=0.2, lw=0)
axes[2].set_title("E[second | first] ± one deviation", fontsize=10)
figure.tight_layout()
figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)
