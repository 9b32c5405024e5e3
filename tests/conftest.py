"""What all tests share: one thread, fixed seeds, an empty cache, and tiny data of every kind (the fixture ``tiny``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from pushforward.catalog import FAMILIES, Family
from pushforward.core.derived import made
from pushforward.core.model import Batch, Model
from pushforward.core.random import Draws
from pushforward.core.schema import PAD, Column, ColumnKind, Image, Kind, Part, Points, Schema, Signal, Table, Tokens, Vector

settings.register_profile(
    "tests", deadline=None, max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tests")
torch.set_num_threads(1)

_SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "width": 8,
    "components": 2,
    "latent": 3,
    "size": 8,
    "projection": 4,
    "transforms": 3,
    "sampling_steps": 4,
    "score_steps": 4,
    "source_rows": 32,
    "latents": (3, 2),
    "state": 12,
    "variables": 3,
    "classes": 4,
    "codes": 7,
    "places": 3,
    "prior_hidden": (16,),
    "units": 12,
}


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing a test keeps goes to the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUSHFORWARD_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Tiny:
    """Tiny schemas, codes, batches and models of every kind of data."""

    columns = (
        Column("height", ColumnKind.NUMBER, missing=True, mean=1.0, std=2.0),
        Column("price", ColumnKind.NUMBER, resolution=0.01, missing=True, mean=10.0, std=3.0),
        Column("colour", ColumnKind.CATEGORY, categories=("red", "green", "blue")),
        Column("paid", ColumnKind.BOOLEAN, categories=(False, True), missing=True),
        Column("count", ColumnKind.INTEGER, resolution=1.0, mean=4.0, std=2.0),
    )
    kinds: dict[str, Kind] = {  # noqa: RUF012 (never changed)
        "vector": Vector(3),
        "plane": Vector(2),
        "table": Table(columns),
        "image": Image(1, 6, 6, levels=17),
        "photo": Image(3, 5, 4, levels=256),
        "binary": Image(1, 4, 4, levels=2),
        "tokens": Tokens(("a", "b", "c", "d", "e"), 4),
        "signal": Signal(2, 16),
        "points": Points(8, 2),
    }
    conditions = (
        Column("season", ColumnKind.CATEGORY, categories=("dry", "wet", "cold")),
        Column("age", ColumnKind.NUMBER, missing=True, mean=30.0, std=10.0),
    )
    target = Column("label", ColumnKind.CATEGORY, categories=("no", "yes", "maybe"))

    def schema(self, kind: str, *, conditions: bool = False, target: bool = False) -> Schema:
        return Schema(self.kinds[kind], self.conditions if conditions else (), self.target if target else None)

    def rich(self, kind: str) -> Schema:
        """A schema with conditions of every sort that the kind takes: category, vector, text, picture, derived picture."""
        what = self.kinds[kind]
        parts: list[Column | Part | None] = [
            self.conditions[0],
            Part("place", Vector(2), "", (1.0, -2.0), (2.0, 0.5)),
            Part("caption", Tokens((PAD, "<unknown>", "a", "red", "cat"), 4)),
        ]
        if isinstance(what, Image):
            parts += [
                Part("other", Image(2, what.height, what.width, 9)),
                made("grey" if what.channels > 1 else "small:2", what),
            ]
        if isinstance(what, Signal):
            parts.append(Part("other", Signal(1, what.length), "", (0.5,), (2.0,)))
        return Schema(what, tuple(p for p in parts if p is not None))

    def told(self, schema: Schema, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Codes of the conditions of a ``rich`` schema, but those made from the example."""
        generator = torch.Generator().manual_seed(seed + 2000)
        found = {"season": self.condition(n, seed)["season"]}
        for part in schema.conditions:
            if isinstance(part, Part) and not part.made:
                normal = torch.randn(n, *part.kind.shape, generator=generator, dtype=torch.float64)
                if isinstance(part.kind, (Tokens, Image)):
                    levels = part.kind.levels if isinstance(part.kind, Image) else len(part.kind.vocabulary)
                    normal = (torch.special.ndtr(normal) * levels).floor().clamp(0, levels - 1)
                found[part.name] = normal.to(torch.uint8) if isinstance(part.kind, Image) else normal
        if "caption" in found:
            found["caption"] = found["caption"].long().sort(1, descending=True).values  # what fills up comes last
        return found

    def codes(self, kind: str, n: int, seed: int = 0) -> Tensor:
        """Codes (n, …) with dependence between coordinates, gaps where the schema has them, and every level seen."""
        generator = torch.Generator().manual_seed(seed)
        what = self.kinds[kind]
        noise = torch.randn(n, *what.shape, generator=generator, dtype=torch.float64)
        common = torch.randn(n, generator=generator, dtype=torch.float64).view(-1, *(1,) * len(what.shape))
        value = 0.7 * common + 0.7 * noise
        if isinstance(what, Vector):
            return 3 * value.sinh() + torch.arange(what.length)
        if isinstance(what, Signal):
            return 3 * value
        if isinstance(what, Points):
            return 3 * value + torch.arange(what.dims)
        if isinstance(what, Image):
            return (torch.special.ndtr(value) * what.levels).floor().clamp(0, what.levels - 1).to(torch.uint8)
        if isinstance(what, Tokens):
            return (torch.special.ndtr(value) * len(what.vocabulary)).long().clamp(0, len(what.vocabulary) - 1)
        gap = torch.rand(n, 2, generator=generator) < 0.25
        u = torch.special.ndtr(value)
        height = (1 + 2 * value[:, 0]).masked_fill(gap[:, 0], math.nan)
        price = ((1000 + 300 * value[:, 1]).round() / 100).masked_fill(gap[:, 1], math.nan)
        levels = [(u[:, 2] * 3).floor().clamp(max=2), (u[:, 3] * 3).floor().clamp(max=2)]
        return torch.stack([height, price, *levels, (4 + 2 * value[:, 4]).round()], 1)

    def condition(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Conditions (n,) of each name; every fifth age is missing."""
        generator = torch.Generator().manual_seed(seed + 1000)
        season = torch.randint(0, 3, (n,), generator=generator).double()
        age = 30 + 10 * torch.randn(n, generator=generator, dtype=torch.float64)
        return {"season": season, "age": age.masked_fill(torch.arange(n) % 5 == 4, math.nan)}

    def batch(self, schema: Schema, kind: str, n: int, seed: int = 0) -> Batch:
        condition = self.condition(n, seed) if schema.conditions else {}
        target = (torch.arange(n) % 3).double() if schema.target is not None else None
        return Batch(self.codes(kind, n, seed), Draws(seed + 7, 0, n), condition, target)

    def config(self, family: Family, **changes: Any) -> Any:
        """Options with every size small."""
        names = {f.name for f in dataclasses.fields(family.options)}
        return family.configure({k: v for k, v in {**_SMALL, **changes}.items() if k in names})

    def perturb(self, module: nn.Module, scale: float = 0.5, seed: int = 3) -> None:
        """Noise on every parameter, so that nothing is zero or the identity."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in module.parameters():
                fan_in = p[0].numel() if p.dim() > 1 else 4
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                p.add_((scale * noise / fan_in**0.5).to(p.dtype))

    def model(
        self,
        name: str,
        kind: str,
        *,
        conditions: bool = False,
        perturb: float = 0.5,
        rows: int = 256,
        schema: Schema | None = None,
        **options: Any,
    ) -> Model:
        """A small prepared model of the family with random weights, in evaluation mode."""
        family = FAMILIES[name]
        schema = schema or self.schema(kind, conditions=conditions, target=family.target)
        torch.manual_seed(0)
        model = family.build(schema, self.config(family, **options))
        x = self.codes(kind, rows, seed=11)
        if family.source_data:
            model.source.codes.copy_(self.codes(kind, len(model.source.codes), seed=12))
        model.prepare(x)
        if hasattr(model, "start"):
            model.start(x, Draws(5, 0, len(x)))
        if perturb:
            self.perturb(model, perturb)
        return model.eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()
