"""Explicit Runge–Kutta methods as data.

    stages     k_i = f(t + c_i h, y + h Σ_{j<i} a_ij k_j)
    a step     y(t + h)  ≈ y + h Σ_i b_i k_i          with a local error of h^{p+1}
    its error  h Σ_i (b_i − b̂_i) k_i                  for embedded pairs
    between    y(t + θh) ≈ y + h Σ_i b_i(θ) k_i       with polynomials b_i(θ) and a local error of h^p

An integral ∫ g(t, y) dt along the way needs no place in the state: by a Gauss rule of ⌈p/2⌉ points on the states between, its
local error is h^{p+1} as well, for half of the evaluations of g that the stages ask for.

Sources: Dormand & Prince 1980; Hairer, Nørsett & Wanner 1993, chapters II.1, II.5 and II.6 (b_i(θ) of dopri5).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pushforward.core.errors import RecipeError, did_you_mean

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Nodes ``c``, stages ``a`` (lower triangle) and weights ``b`` of order ``order``.

    ``dense`` holds the coefficients of θ, θ², … in b_i(θ), a row for each i. ``error`` = b − b̂ for embedded pairs. Those
    here have their last stage at (t + h, y(t + h)), where the next step starts. ``gauss`` has, for 1 to 4 points, the rule on
    [0, 1] with θ, weight and b_i(θ) of each node.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    dense: tuple[Row, ...]
    error: Row | None = None
    gauss: dict[int, tuple[tuple[float, float, Row], ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = {}
        for points in range(1, 5):
            nodes, weights = np.polynomial.legendre.leggauss(points)  # on [−1, 1]
            places = [float(x + 1) / 2 for x in nodes]
            rules[points] = tuple((u, float(w) / 2, self.between(u)) for u, w in zip(places, weights, strict=True))
        object.__setattr__(self, "gauss", rules)

    def between(self, theta: float) -> Row:
        """b_i(θ)."""
        return tuple(sum(coefficient * theta ** (n + 1) for n, coefficient in enumerate(row)) for row in self.dense)


def _dopri5() -> Tableau:
    b = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
    embedded = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
    d = (
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    )
    # the cubic that has the states and slopes of both ends, b θ²(3 − 2θ) + e₁ θ(1 − θ)² − e₇ θ²(1 − θ), and d θ²(1 − θ)²
    dense = []
    for i in range(7):
        e1, e7 = float(i == 0), float(i == 6)
        dense.append((e1, 3 * b[i] - 2 * e1 - e7 + d[i], -2 * b[i] + e1 + e7 - 2 * d[i], d[i]))
    return Tableau(
        order=5,
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            b[:6],
        ),
        b=b,
        dense=tuple(dense),
        error=tuple(x - y for x, y in zip(b, embedded, strict=True)),
    )


METHODS: dict[str, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,), ((1.0,),)),
    "midpoint": Tableau(2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0), ((1.0, -1.0), (0.0, 1.0))),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), ((1.0, -0.5), (0.0, 0.5))),
    "rk4": Tableau(
        4,
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        ((1.0, -3 / 2, 2 / 3), (0.0, 1.0, -2 / 3), (0.0, 1.0, -2 / 3), (0.0, -1 / 2, 2 / 3)),
    ),
    "dopri5": _dopri5(),
}


def tableau_named(method: str) -> Tableau:
    """The method of that name. Raises RecipeError with the nearest name where there is none."""
    if method not in METHODS:
        raise RecipeError(f"no solver is called '{method}': {did_you_mean(method, METHODS)}")
    return METHODS[method]


def embedded_named(method: str) -> tuple[Tableau, Row]:
    """The method of that name and its error row. ValueError where it has none."""
    tableau = tableau_named(method)
    if tableau.error is None:
        raise ValueError(f"{method} has no error estimate: use dopri5")
    return tableau, tableau.error
