"""The likelihood of 1000 rows under a continuous flow: ours, torchdiffeq with a loop over coordinates, zuko; the same weights.

The trace is exact and the solver Dormand–Prince at rtol = atol = 1e-5 on all sides. Weights are those of a short
fit to a mixture, for a field that has learned something is harder to follow than a random one. Each error is the root mean
square of log p against a solution in float64 at 1e-11. Further lines give ours the loosest tolerance of a ladder at which it
errs no more than a peer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import harness
import torch
from torch import Tensor

from pushforward.nets.field import FieldMLP
from pushforward.solvers.choice import Adaptive, Fixed
from pushforward.transforms.ode import ODE

ROWS, TOLERANCE = 1000, 1e-5
LADDER = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, TOLERANCE)  # loosest first
CELLS = (
    (2, (64, 64)),
    (16, (64, 64)),
    (16, (128, 128)),
    (64, (128, 128)),
    (2, (64, 64, 64)),
    (16, (64, 64, 64)),
    (16, (128,) * 3),
)
QUICK = ((2, (64, 64)), (16, (64, 64)), (16, (64, 64, 64)))
TARGETS = {2: 10.0, 3: 3.0}  # by the number of hidden layers


def data(size: int, n: int, seed: int) -> Tensor:
    """A mixture of four bent Gaussians, about standardised."""
    generator = torch.Generator().manual_seed(5)
    means = 1.2 * torch.randn(4, size, generator=generator)
    maps = 0.8 * torch.randn(4, size, size, generator=generator) / size**0.5
    generator.manual_seed(seed)
    of = torch.randint(0, 4, (n,), generator=generator)
    x = means[of] + torch.einsum("nij,nj->ni", maps[of], torch.randn(n, size, generator=generator))
    return (x + 0.3 * torch.sin(2 * x.roll(1, 1)) - means.mean(0)) / 1.5


def fitted(size: int, hidden: tuple[int, ...], steps: int = 150) -> FieldMLP:
    """A field after a short fit by maximum likelihood."""
    torch.manual_seed(1)
    field = FieldMLP(size, hidden)
    flow, x = ODE(field, training=Fixed("rk4", 6)), data(size, 20_000, 100)
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(steps):
        (-log_prob(*flow.pull(x[torch.randint(0, len(x), (256,))])).mean()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return field.requires_grad_(False)


def log_prob(z: Tensor, score: Tensor) -> Tensor:
    return score - 0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def ours(field: FieldMLP, x: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    with torch.no_grad():
        return log_prob(*ODE(field, evaluation=Adaptive(tolerance)).eval().pull(x))


def with_torchdiffeq(field: FieldMLP, x: Tensor) -> Tensor:
    from torchdiffeq import odeint

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            value = field(t, y)
            trace = torch.zeros_like(state[1])
            for i in range(y.shape[1]):
                (row,) = torch.autograd.grad(value[:, i].sum(), y, retain_graph=i + 1 < y.shape[1])
                trace = trace + row[:, i]
        return value.detach(), trace

    with torch.no_grad():
        times, start = torch.tensor([0.0, 1.0]), (x, torch.zeros(len(x)))
        z, score = odeint(augmented, start, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
    return log_prob(z[-1], score[-1])


def with_zuko(field: FieldMLP, x: Tensor) -> Tensor:
    from zuko.transforms import FreeFormJacobianTransform

    with torch.no_grad():
        return log_prob(*FreeFormJacobianTransform(field, 0.0, 1.0, atol=TOLERANCE, rtol=TOLERANCE).call_and_ladj(x))


def peers() -> dict[str, Callable[[FieldMLP, Tensor], Tensor]]:
    """Those that are installed."""
    from importlib.util import find_spec

    return {name: f for name, f in (("torchdiffeq", with_torchdiffeq), ("zuko", with_zuko)) if find_spec(name)}


def rows(quick: bool = False) -> list[harness.Entry]:
    """For each field one line at the same tolerance, and one for each peer at no more than its error."""
    entries: list[harness.Entry] = []
    for size, hidden in QUICK if quick else CELLS:
        field, x = fitted(size, hidden), data(size, ROWS, 200)
        wide = FieldMLP(size, hidden).double()
        wide.load_state_dict(field.state_dict())
        truth = ours(wide, x.double(), 1e-11)
        error = lambda found, truth=truth: float((found - truth).square().mean().sqrt())
        others = peers()
        errors = {name: error(f(field, x)) for name, f in others.items()}
        errors |= {f"ours, {t:g}": error(ours(field, x, t)) for t in LADDER}
        against = [(f"tolerance {TOLERANCE:g}", tuple(others), TOLERANCE)]
        for name in others:
            loose = next((t for t in LADDER if errors[f"ours, {t:g}"] <= errors[name]), TOLERANCE)
            against.append((f"at {name}'s error", (name,), loose))
        for label, names, tolerance in against:
            mine = f"ours, {tolerance:g}"
            sides: dict[str, Callable[[], object]] = {name: partial(others[name], field, x) for name in names}
            sides[mine] = partial(ours, field, x, tolerance)
            entries.append(
                harness.by_turns(
                    f"cnf D={size} {'×'.join(map(str, hidden))}, {label}",
                    ROWS,
                    sides,
                    ours=mine,
                    rounds=3 if quick else 7,
                    clock=time.process_time,
                    error={name: errors[name] for name in sides},
                    target=1 / TARGETS[len(hidden)],
                )
            )
    return entries


def run(quick: bool) -> list[harness.Entry]:
    return rows(quick)


if __name__ == "__main__":
    harness.main(rows, __doc__ or "")
