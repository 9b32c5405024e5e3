"""Models of sequences as recipes: transformers, recurrent networks, n-grams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pushforward.core.context import Conditioner
from pushforward.core.schema import Schema, Tokens
from pushforward.models.autoregressive import Autoregressive
from pushforward.models.blocks import Levels
from pushforward.models.elements import elements
from pushforward.models.ngram import NGram, longest
from pushforward.nets.causal import CausalTransformer
from pushforward.nets.recurrent import Recurrent
from pushforward.nets.sequence import Part, SequenceNet


@dataclass(frozen=True)
class GptOptions:
    """Options of the causal transformer.

    style: llama (rotary places, RMSNorm, SwiGLU) or gpt2 (learned places, LayerNorm, GELU, biases). width, depth, heads: of the
    transformer. dropout: share of channels dropped in training, worth having where the data are seen many times. components:
    logistics in the mixture of a number or 8-bit pixel.
    """

    style: str = "llama"
    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0
    components: int = 5


@dataclass(frozen=True)
class RnnOptions:
    """Options of the recurrent network.

    cell: lstm, gru or rnn. width, depth: of its layers. dropout: share of channels dropped in training, worth having
    where the data are seen many times. components: logistics in the mixture of a number or 8-bit pixel.
    """

    cell: str = "lstm"
    width: int = 256
    depth: int = 2
    dropout: float = 0.0
    components: int = 5


@dataclass(frozen=True)
class NgramOptions:
    """Options of the n-gram model.

    order: symbols of an n-gram, the one that is told among them; None takes 6, or fewer for very large vocabularies.
    """

    order: int | None = None


def gpt(schema: Schema, config: GptOptions) -> Autoregressive:
    """Elements in the order of the data: columns, pixels row by row, characters from left to right."""
    core = CausalTransformer(config.width, config.depth, config.heads, config.style)
    return _sequence(schema, core, config, places=config.style == "gpt2" or not isinstance(schema.example, Tokens))


def rnn(schema: Schema, config: RnnOptions) -> Autoregressive:
    """Elements in the order of the data, each column and pixel told which one it is."""
    core = Recurrent(config.width, config.depth, config.cell)
    return _sequence(schema, core, config, places=not isinstance(schema.example, Tokens))


def _sequence(schema: Schema, core: nn.Module, config: GptOptions | RnnOptions, *, places: bool) -> Autoregressive:
    parts, conditioner = elements(schema.example, config.components, codes=True), Conditioner(schema.conditions)
    blocks: list[Any] = list(parts.blocks)
    looks = [
        Part(b.count, b.features, b.params, b.params if isinstance(b, Levels) and b.shown == "code" else 0) for b in blocks
    ]
    net = SequenceNet(looks, core, places=places, context=conditioner.width, dropout=config.dropout)
    return Autoregressive(schema, parts, net, conditioner)


def ngram(schema: Schema, config: NgramOptions) -> NGram:
    """Texts, their n-grams counted in one pass."""
    order = config.order
    if order is None:
        order = min(6, longest(len(schema.example.vocabulary)) if isinstance(schema.example, Tokens) else 1)
    return NGram(schema, order)
