"""From pictures, or other examples, to the numbers a Fréchet or kernel distance compares; none needs a download.

A distance between features means nothing without what made them, so an ``Extractor`` carries its provenance: a name, a hash
of its weights, the size pictures are brought to and the precision. Every one takes (N, C, H, W), uint8 or numbers in [0, 1];
those that do not resize take any (N, …).

Raw pixels see colours and layout; random convolutions see textures too, as they were never trained on anything they are fair
to all data; a classifier of the data's own labels (``of_module``) sees what those labels need. Any torch module will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pushforward.core.errors import DataError
from pushforward.metrics._arrays import Values, to_numpy

Size: TypeAlias = tuple[int, int]
"""Height and width."""

_CHUNK = 256


@dataclass(frozen=True)
class Extractor:
    """``of(x)``: a batch (B, …) on the CPU in ``dtype`` → features (B, D) or (B, …), which are flattened.

    ``weights`` is a hash of what was learned or drawn, "" where there is nothing. ``resize`` is the height and width pictures
    are brought to (bilinear, with antialiasing), None for as they are.
    """

    name: str
    weights: str
    of: Callable[[Tensor], Tensor] = field(repr=False)
    resize: Size | None = None
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def __call__(self, examples: Values) -> NDArray[np.float64]:
        """Features (N, D) of ``examples`` (N, …); DataError for other arrays and for features that are not finite."""
        if isinstance(examples, Tensor):
            array = examples.detach().cpu()
        else:
            array = torch.from_numpy(np.ascontiguousarray(to_numpy(examples, "examples")))
        if array.dim() < 2 or len(array) == 0:
            raise DataError(f"found examples of shape {tuple(array.shape)}: expected (N, …), pictures as (N, C, H, W)")
        if self.resize is not None and array.dim() != 4:
            raise DataError(f"found examples of shape {tuple(array.shape)}: {self.name} expects pictures (N, C, H, W)")
        parts = [self.of(self._prepared(part)).flatten(1).double().cpu() for part in array.split(_CHUNK)]
        features = torch.cat(parts).numpy()
        if not np.isfinite(features).all():
            raise DataError(f"found features of {self.name} that are not finite: expected numbers; look at its input range")
        return features

    def _prepared(self, part: Tensor) -> Tensor:
        x = part.to(self.dtype) / 255 if part.dtype == torch.uint8 else part.to(self.dtype)
        if self.resize is None or tuple(x.shape[2:]) == self.resize:
            return x
        return functional.interpolate(x, self.resize, mode="bilinear", antialias=True, align_corners=False)


def raw(resize: Size | None = None) -> Extractor:
    """The numbers as they are, flattened; pictures brought to ``resize`` first where given."""
    return Extractor("raw", "", lambda x: x, resize)


def random_convolutions(channels: int, features: int = 128, seed: int = 0, resize: Size | None = (32, 32)) -> Extractor:
    """Three layers of 3×3 convolutions with random weights, pooled: ``features`` means and as many standard deviations.

    Weights are drawn once from ``seed``, normal with He's variance, and never trained. ``channels`` are the pictures' own and
    ``features`` is a multiple of 4. DataError otherwise.
    """
    if channels < 1 or features < 4 or features % 4:
        raise DataError(f"found {channels} channels and {features} features: expected at least 1, and a multiple of 4")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for width, out, stride in ((channels, features // 4, 1), (features // 4, features // 2, 2), (features // 2, features, 2)):
        # uninitialised, since the default would take numbers from the user's own stream
        layer = nn.utils.skip_init(nn.Conv2d, width, out, 3, stride=stride, padding=1, padding_mode="reflect")
        nn.init.normal_(layer.weight, std=(2 / (9 * width)) ** 0.5, generator=generator)
        nn.init.uniform_(layer.bias, -0.1, 0.1, generator=generator)
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers).eval()

    def pooled(x: Tensor) -> Tensor:
        maps = net(2 * x - 1).flatten(2)
        return torch.cat([maps.mean(2), maps.std(2, correction=0)], 1)

    return Extractor(f"random-convolutions-{features}-seed-{seed}", weights_hash(net), pooled, resize)


def of_module(
    module: nn.Module,
    name: str,
    encode: Callable[[Tensor], Tensor] | None = None,
    resize: Size | None = None,
    dtype: torch.dtype = torch.float32,
) -> Extractor:
    """Any torch module, in evaluation mode; ``encode`` gives features (its own ``encode`` method by default, else the module).

    The hash is that of its state; the module keeps its mode and is moved nowhere.
    """
    method = encode or getattr(module, "encode", None) or module

    def of(x: Tensor) -> Tensor:
        training = module.training
        module.eval()
        try:
            return method(x)
        finally:
            module.train(training)

    return Extractor(name, weights_hash(module), of, resize, dtype)


def of_callable(function: Callable[[Tensor], Tensor], name: str, weights: str, resize: Size | None = None) -> Extractor:
    """Any function of a batch. ``weights`` says which version of it: figures of unlike versions must not be compared."""
    if not weights:
        raise DataError(f"found no version of extractor {name!r}: expected a hash of its weights or some such text")
    return Extractor(name, weights, function, resize)


def weights_hash(module: nn.Module) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def rows_hash(x: NDArray[np.floating]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the rows of an array and its shape, in their order."""
    digest = hashlib.sha256(f"{x.dtype} {x.shape};".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()[:16]
