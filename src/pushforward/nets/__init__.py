"""Functions of tensors with learned weights, chosen by a recipe.

Lives here: nets that map tensors to tensors, and the layers they are made of. Never here: a loss, a density, a
sampler, a paper's training procedure. No layer here looks across the examples of a batch, and what is dropped at random
is drawn from numbers that belong to its rows, so a batch cut in two gives the same values as a whole one.
"""

from pushforward.nets.dit import DiT, SequenceTransformer, SetTransformer
from pushforward.nets.embed import FourierFeatures, TimeEmbedding
from pushforward.nets.masked import MaskedLinear, MaskedMLP, MaskedState
from pushforward.nets.mlp import MLP, TimeMLP
from pushforward.nets.norm import GroupNorm
from pushforward.nets.resnet import ConvDecoder, ResNet
from pushforward.nets.unet import UNet, default_multipliers

__all__ = [
    "MLP",
    "ConvDecoder",
    "DiT",
    "FourierFeatures",
    "GroupNorm",
    "MaskedLinear",
    "MaskedMLP",
    "MaskedState",
    "ResNet",
    "SequenceTransformer",
    "SetTransformer",
    "TimeEmbedding",
    "TimeMLP",
    "UNet",
    "default_multipliers",
]
