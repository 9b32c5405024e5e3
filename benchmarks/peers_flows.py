"""The peers' flows, each built the way that is fastest for it: zuko, nflows, normflows, and the dense networks alone ("bare").

Six transforms with two hidden layers of 128 and ReLU: couplings with alternating masks, autoregressive layers with the order
reversed from one to the next, splines of eight bins on [−5, 5] with linear tails. What was decided in the peers' favour:

* zuko: its coupling layer with splines (a network of half the outputs), not its autoregressive one with two passes;
* nflows: no division of the softmax inputs by √hidden, which it does for networks that declare their width;
* normflows: ``Reverse`` around autoregressive and spline layers. As they come, the first have a density of D passes and a
  sample of one; reversed they are what the others call MAF. No spline on the coordinates that stay, no residual blocks,
  and its MADE then has no activation after the first layer.

None validates its arguments: zuko switches that off itself, the others have no such checks.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

FAMILIES = ("affine coupling", "MAF", "spline coupling", "spline autoregressive")
TRANSFORMS, HIDDEN, BINS, BOUND = 6, 128, 8, 5.0


@dataclass(frozen=True)
class Sides:
    """What is timed: ``log_prob`` of (B, D) and ``sample`` of n rows, of the model ``module``."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]


def _outputs(family: str) -> int:
    """Parameters of a number's map."""
    return 3 * BINS - 1 if "spline" in family else 2


class _Net(nn.Sequential):
    """A network as nflows and normflows call it: with a context, which is not used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def zuko(family: str, size: int) -> Sides:
    import zuko
    from zuko.transforms import MonotonicRQSTransform

    options: dict[str, Any] = {"transforms": TRANSFORMS, "hidden_features": (HIDDEN, HIDDEN)}
    if "spline" in family:
        options |= {"univariate": partial(MonotonicRQSTransform, bound=BOUND), "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    flow = (zuko.flows.NICE if "coupling" in family else zuko.flows.MAF)(size, **options)
    return Sides(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(family: str, size: int) -> Sides:
    from nflows import transforms as t
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow

    warnings.filterwarnings("ignore", message="Inputs to the softmax are not scaled down")
    made = {"features": size, "hidden_features": HIDDEN, "num_blocks": 1, "use_residual_blocks": False}
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[nn.Module] = []
    for i in range(TRANSFORMS):
        mask = (torch.arange(size) + i) % 2
        if family == "affine coupling":
            layers.append(t.AffineCouplingTransform(mask, _Net))
        elif family == "spline coupling":
            layers.append(t.PiecewiseRationalQuadraticCouplingTransform(mask, _Net, **spline))
        else:
            layers += [t.ReversePermutation(size)] if i else []
            if family == "MAF":
                layers.append(t.MaskedAffineAutoregressiveTransform(**made))
            else:
                layers.append(t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**made, **spline))
    flow = Flow(t.CompositeTransform(layers), StandardNormal([size]))
    return Sides(flow, flow.log_prob, flow.sample)


def normflows(family: str, size: int) -> Sides:
    import normflows as nf
    from normflows.flows.neural_spline.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressive
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    warnings.filterwarnings("ignore", message="Inputs to the softmax are not scaled down")
    made = {"features": size, "hidden_features": HIDDEN, "num_blocks": 1, "use_residual_blocks": False}
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[nn.Module] = []
    for i in range(TRANSFORMS):
        if family == "affine coupling":
            kept = (size + 1) // 2  # the first half, rounded up, as its Split cuts
            net = nf.nets.MLP([kept, HIDDEN, HIDDEN, 2 * (size - kept)])
            layers += [nf.flows.AffineCouplingBlock(net, scale_map="exp"), nf.flows.Permute(size, mode="swap")]
        elif family == "spline coupling":
            mask = (torch.arange(size) + i) % 2
            layers.append(nf.flows.Reverse(PiecewiseRationalQuadraticCoupling(mask, _Net, **spline)))
        elif family == "MAF":
            turn = nf.flows.Permute(size)
            for name in ("perm", "inv_perm"):
                getattr(turn, name).copy_(torch.arange(size).flip(0))
            layers += [turn] if i else []
            layers.append(nf.flows.Reverse(nf.flows.MaskedAffineAutoregressive(**made)))
        else:
            # its own way to change the order from layer to layer, which costs nothing
            own = {"permute_mask": True, "init_identity": False}
            layers.append(nf.flows.Reverse(MaskedPiecewiseRationalQuadraticAutoregressive(**made, **spline, **own)))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(size, trainable=False), layers)
    return Sides(flow, flow.log_prob, lambda n: flow.sample(n)[0])


def bare(family: str, size: int) -> Sides:
    """The dense networks and nothing else: no masks, no maps, no random numbers. A floor, and no flow."""
    kept, p = (size + 1) // 2, _outputs(family)
    inputs, outputs = (kept, p * (size - kept)) if "coupling" in family else (size, p * size)
    nets = nn.ModuleList(_Net(inputs, outputs) for _ in range(TRANSFORMS))
    noise = torch.randn(4096, inputs)

    def run(x: Tensor) -> Tensor:
        total: Tensor | None = None
        for net in nets:
            # only the networks' work counts: one number of each output row keeps their graph alive
            out = net(x)[:, 0]
            total = out if total is None else total + out
        return total if total is not None else x[:, 0]

    return Sides(nets, lambda x: run(x[:, :inputs]), lambda n: run(noise[:n]))


PEERS: dict[str, Callable[[str, int], Sides]] = {"zuko": zuko, "nflows": nflows, "normflows": normflows}


def installed() -> dict[str, Callable[[str, int], Sides]]:
    """The peers that are there."""
    return {name: build for name, build in PEERS.items() if importlib.util.find_spec(name) is not None}
