"""Real pictures and samples of families that were compared, a row each: the README's are of ``make demo``,

    python docs/images/digits.py runs/demo docs/images/digits.png

and with ``all`` behind it every family that samples is shown, in the order of the leaderboard.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import pushforward as pf
from pushforward.data.images import grid

SHOWN = ("independent", "gaussian", "wgan-gp", "gmm", "vae", "nice", "made", "rectified-flow")
COLUMNS, SIDE, MARGIN = 24, 32, 150


def every(runs: Path) -> list[str]:
    """The families of the leaderboard that sample."""
    with (runs / "leaderboard.csv").open(newline="") as lines:
        return [row["family"] for row in csv.DictReader(lines) if row["samples_per_second"]]


def main(runs: Path, out: Path, shown: Sequence[str] = SHOWN) -> None:
    """A row of real pictures and one of samples for each family that samples."""
    rows, ink, scale = [], 40, 1
    for name in shown:
        model = pf.load(runs / name)
        if not rows:
            rows.append(("real", grid(model.schema.example, model.preview.x[:COLUMNS], columns=COLUMNS)))
            scale = max(1, SIDE // model.schema.example.height)
        rows.append((name, grid(model.schema.example, model.sample_rows(COLUMNS, seed=1).x, columns=COLUMNS)))
    height, width = (scale * side for side in rows[0][1].shape[:2])
    picture = Image.new("RGB", (MARGIN + width, (height + 8) * len(rows)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(17)
    for i, (name, pixels) in enumerate(rows):
        top = i * (height + 8)
        strip = Image.fromarray(np.asarray(pixels).squeeze()).convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        picture.paste(strip, (MARGIN, top))
        draw.text((MARGIN - 10, top + height / 2), name, (ink, ink, ink), font, anchor="rm")
    picture.crop((0, 0, picture.width, picture.height - 8)).save(out, optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    main(folder, Path(sys.argv[2]), every(folder) if sys.argv[3:] == ["all"] else sys.argv[3:] or SHOWN)
