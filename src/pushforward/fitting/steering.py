"""What else steers sampling besides the model itself: a classifier of noisy data, a weaker model; and the way seen on film."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import RecipeError, Unsupported
from pushforward.core.model import Model
from pushforward.core.random import Draws, mix
from pushforward.data.dataset import Rows
from pushforward.fitting.carried import starting
from pushforward.fitting.conditions import condition_codes
from pushforward.fitting.loop import place
from pushforward.guidance.classifier import steered

if TYPE_CHECKING:
    from pushforward.fitting.fitted import Fitted

Options = Callable[[int, int], dict[str, Any]]  # rows start … stop − 1 → options of the model's ``sample`` for them


def steering(
    fitted: Fitted, condition: Mapping[str, Any] | None, n: int, seed: int, options: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, Options]:
    """The model's own condition, and its options, of which ``weak`` and ``classifier`` are other fitted models.

    A ``classifier`` (of the family noisy-classifier, fitted on the same data) steers towards the label that ``condition`` gives
    by the name of its target, as strongly as ``guidance`` says. Raises RecipeError where it cannot, or ``weak`` is of other
    data.
    """
    given = dict(options)
    weak, classifier, first = given.pop("weak", None), given.pop("classifier", None), given.pop("start", None)
    if weak is not None:
        _same_data(fitted.model, weak.model, "weak model")
        given["weak"] = weak.model
    if classifier is None:
        return condition, lambda start, stop: given | _part(first, start, stop, fitted)
    target = classifier.schema.target
    if not hasattr(classifier.model, "log_likelihood"):
        raise RecipeError(f"{classifier.family.name} knows nothing of noisy data: fit the family noisy-classifier")
    if not hasattr(fitted.model, "denoiser") or fitted.family.source_data:  # whose levels are none of noise
        raise Unsupported(f"{fitted.family.name} cannot be steered by a classifier: ddpm, score-sde, edm, rectified-flow … can")
    if condition is None or target.name not in condition:
        raise RecipeError(
            f"the classifier steers towards a {target.name}: give it with condition= (--condition {target.name}=…)"
        )
    _same_data(fitted.model, classifier.model, "classifier")
    codes = condition_codes((target,), None, {target.name: condition[target.name]}, n, seed)
    assert codes is not None
    label = place(codes[target.name], fitted.device)
    own = {c.name for c in fitted.schema.conditions}
    rest = {name: value for name, value in condition.items() if name in own}
    scale = given.pop("guidance", 1.0)

    def of(start: int, stop: int) -> dict[str, Any]:
        likely = classifier.model.log_likelihood(label[start:stop])
        return given | {"steer": lambda denoise: steered(denoise, likely, scale)}

    return rest or None, of


def _part(first: Tensor | None, start: int, stop: int, fitted: Fitted) -> dict[str, Tensor]:
    """The rows of the source that these samples start from, where they are given."""
    return {} if first is None else {"start": place(first[start:stop], fitted.device)}


def _same_data(model: Model, other: Model, what: str) -> None:
    """Both must look at the data through the same preprocessing."""
    mine, theirs = (getattr(m, "preprocess", None) for m in (model, other))
    if mine is None or theirs is None:
        raise RecipeError(f"the {what} is no model of this kind: fit one of the families of diffusion and flow matching")
    a, b = mine.state_dict(), theirs.state_dict()
    same = a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.allclose(a[k].double(), b[k].double()) for k in a)
    if not same:
        raise RecipeError(f"the {what} was fitted on other data: fit both on the same, with the same seed")


def trajectory(
    fitted: Fitted,
    n: int | None = None,
    *,
    frames: int = 8,
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
    guess: bool = False,
    **options: Any,
) -> Rows:
    """The way from noise to ``n`` samples, by default 8, as codes: ``frames`` of the first, then those of the second, …, as
    evenly in steps as can be. A frame is the state brought to the scale of data, or with ``guess`` what the model takes the
    data for.

    Raises Unsupported where the family has no such way.
    """
    model: Any = fitted.model
    if not hasattr(model, "denoiser"):
        raise Unsupported(f"{fitted.family.name} has no way from noise to data to show: ddpm, edm, rectified-flow … have")
    if frames < 2:
        raise RecipeError(f"frames must be at least 2, found {frames}: both ends are among them")
    fitted.check_options(options)
    n, options = starting(fitted, 8 if n is None and options.get("start") is None else n, options)
    own, of = steering(fitted, condition, n, seed, options)
    codes = fitted.conditions(own, n, seed)
    given = {name: place(code, fitted.device) for name, code in codes.items()} if codes else None
    seen: list[Tensor] = []
    with torch.no_grad():
        draws = Draws(mix(seed, 0x5A), 0, n, n, fitted.device)
        chosen = of(0, n)
        _, nodes = model.grid(chosen.get("steps"), chosen.get("sampler"), chosen.get("grid"), chosen.get("path"))
        # noise and data are independent; data and what they are coupled to are weighed as points
        scale = [a + s if fitted.family.source_data else np.hypot(a, s) for a, s in nodes.levels]
        show = lambda i, x, data: seen.append((data if guess else x / scale[i]).clone())
        model.sample(n, given, draws, watch=show, **chosen)
        kept = [seen[i] for i in np.linspace(0, len(seen) - 1, frames).round().astype(int)]
        ways = torch.stack([model.preprocess.push(state) for state in kept], 1).flatten(0, 1).cpu()
    repeated = {name: code.repeat_interleave(frames, 0) for name, code in (codes or {}).items()}
    return Rows(ways, repeated)
