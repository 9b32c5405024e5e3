"""The recipe of continuous flows: what it says of its densities, how it is solved, that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.catalog.continuous import CnfOptions, cnf
from pushforward.core.model import Batch
from pushforward.core.random import Draws
from pushforward.core.schema import Image, Schema, Vector
from pushforward.data import toys
from pushforward.models.flow import Flow
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.transforms.ode import ODE

PLANE = Schema(Vector(2))


def ode_of(model: Flow) -> ODE:
    return next(m for m in model.modules() if isinstance(m, ODE))


@pytest.mark.parametrize(
    ("example", "options", "density", "exact"),
    [
        (Vector(2), {}, "ode", True),
        (Vector(40), {}, "ode", True),
        (Vector(3), {"hidden": (8, 8, 8)}, "ode", True),
        (Vector(40), {"hidden": (8, 8, 8)}, "ode", False),
        (Vector(40), {"hidden": (8, 8, 8), "trace": "exact"}, "ode", True),
        (Vector(2), {"trace": "hutchinson"}, "ode", False),
        (Image(1, 4, 4, 16), {}, "lower_bound", True),
        (Image(1, 4, 4, 16), {"trace": "hutchinson"}, "lower_bound", False),
    ],
)
def test_densities_are_what_they_are_called(example: Any, options: dict[str, Any], density: str, exact: bool) -> None:
    model = cnf(Schema(example), CnfOptions(**options))
    assert model.density_kind == density
    assert model.weights_are_exact is exact
    assert ode_of(model).exact is exact
    assert model.random == (density == "lower_bound" or not exact)


def test_solvers_are_those_asked_for() -> None:
    ode = ode_of(cnf(PLANE, CnfOptions(solver="heun", solver_steps=5, tolerance=1e-4)))
    assert ode.solve_training == Fixed("heun", 5)
    assert ode.solve_evaluation == Adaptive(1e-4)
    assert ode_of(cnf(PLANE, CnfOptions(solver="dopri5", tolerance=1e-3))).solve_training == Adaptive(1e-3)
    assert ode_of(cnf(PLANE, CnfOptions(adjoint=True))).adjoint
    assert cnf(PLANE, CnfOptions(kinetic=0.1)).transform.regularised
    assert not cnf(PLANE, CnfOptions()).transform.regularised


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "some"}, "trace is one of auto, exact, hutchinson"),
        ({"base": "cauchy"}, "base is one of"),
        ({"activation": "relu"}, "found activation 'relu'"),
        ({"solver_steps": 0}, "found 0 solver steps"),
        ({"tolerance": -1.0}, "found tolerance -1.0"),
        ({"hidden": ()}, "no hidden layer"),
        ({"jacobian": -1.0}, "regularisers"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cnf(PLANE, CnfOptions(**options))


def moons(n: int, seed: int) -> Tensor:
    return torch.tensor(toys.sample("moons", n, seed))


def test_it_starts_as_the_model_of_independent_marginals() -> None:
    model, x = cnf(PLANE, CnfOptions(hidden=(8, 8))), moons(500, 0)
    model.prepare(x)
    z, score = list(model.transform)[-1].pull(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().log_prob(x), model.base.log_prob(z) + score)


def fit(steps: int = 120, rows: int = 128, **options: Any) -> tuple[Flow, list[float]]:
    torch.manual_seed(0)
    model, x = cnf(PLANE, CnfOptions(hidden=(32, 32), solver_steps=4, **options)), moons(4000, 1)
    model.prepare(x)
    optimiser = torch.optim.Adam(model.train().parameters(), 1e-2)
    losses = []
    for step in range(steps):
        batch = Batch(x[(torch.arange(rows) + step * rows) % len(x)], Draws(step, 0, rows))
        loss = model(batch)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return model.eval(), losses


def test_it_learns_two_moons() -> None:
    model, losses = fit()
    test = moons(1000, 2)
    with torch.no_grad():
        score = float(model.log_prob(test).mean())
        rough = float(model.train().log_prob(test).mean())
        drawn = model.eval().sample(1000, None, Draws(3, 0, 1000))
    truth = float(toys.log_density("moons", test.numpy()).mean())
    assert losses[0] + truth > 0.6, "the marginals alone do this well"
    assert -0.01 < truth - score < 0.5
    assert score == pytest.approx(rough, abs=0.02)  # few steps are enough to train with
    # what it draws lies on the moons about as well as its likelihood says
    assert float(toys.log_density("moons", drawn.double().numpy()).mean()) > truth - 1.5


def test_regularisers_make_a_field_that_is_slower() -> None:
    """Their price is in the loss, not in the density."""
    free, held = fit(40)[0], fit(40, kinetic=0.5, jacobian=0.1)[0]
    x = moons(200, 4)

    def speed(model: Flow) -> float:
        field, (_, preprocess) = ode_of(model).field, list(model.transform)
        with torch.no_grad():
            return float(field(torch.tensor(0.5), preprocess.pull(x)[0].float()).square().sum(1).mean())

    assert speed(held) < 0.5 * speed(free)
    terms = held(Batch(x, Draws(0, 0, 200)))
    with torch.no_grad():
        torch.testing.assert_close(terms["surprise"], -held.log_prob(x), rtol=1e-4, atol=1e-4)
    assert (terms["loss"] > terms["surprise"]).all()


def test_the_adjoint_trains_the_same() -> None:
    through, backwards = fit(4)[1], fit(4, adjoint=True)[1]
    assert through == pytest.approx(backwards, abs=1e-2)
    assert not math.isclose(through[0], through[-1], abs_tol=1e-3)
