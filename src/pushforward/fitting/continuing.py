"""Texts continued beyond the length that was learned: a window over the end of the text, moved on as it fills.

What is drawn follows p(next | up to T − ⌈T/2⌉ … T − 1 characters before it) for a model of texts of T characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pushforward.core.errors import RecipeError
from pushforward.core.random import mix
from pushforward.core.schema import Tokens
from pushforward.fitting.progress import Progress

if TYPE_CHECKING:
    from pushforward.fitting.fitted import Fitted


def continued(fitted: Fitted, texts: Sequence[str], length: int, *, seed: int = 0, **how: Any) -> list[str]:
    """``texts`` with what follows them, ``length`` characters each, or fewer where the model ends a text.

    Each window is filled by ``fitted.complete`` with the options ``how``. Raises RecipeError for a length below 1.
    """
    kind = fitted.schema.example
    assert isinstance(kind, Tokens)
    if length < 1:
        raise RecipeError(f"length must be at least 1, found {length}")
    kept = kind.length // 2  # characters that a full window is moved on with
    done, rest = [text[:length] for text in texts], [i for i, text in enumerate(texts) if len(text) < length]
    most, rounds = max([length - len(done[i]) for i in rest], default=0), 0
    with Progress("complete") as progress:
        while rest:
            ends = [done[i] if len(done[i]) < kind.length else done[i][len(done[i]) - kept :] for i in rest]
            filled = fitted.complete(ends, seed=mix(seed, rounds) if rounds else seed, **how)
            for i, end, whole in zip(rest, ends, filled, strict=True):
                done[i] = (done[i] + whole[len(end) :])[:length]
            ended = {i for i, whole in zip(rest, filled, strict=True) if len(whole) < kind.length}
            rest, rounds = [i for i in rest if len(done[i]) < length and i not in ended], rounds + 1
            progress.update(1 - max([length - len(done[i]) for i in rest], default=0) / most)
    return done
