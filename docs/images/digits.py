"""The picture of the README from the runs of ``make demo``: python docs/images/digits.py runs/demo docs/images/digits.png"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import pushforward as pf
from pushforward.data.images import grid

SHOWN = ("independent", "gaussian", "wgan-gp", "gmm", "vae", "nice", "made", "rectified-flow")
COLUMNS, SCALE, MARGIN = 24, 4, 150


def main(runs: Path, out: Path) -> None:
    """A row of real digits and one of samples for each family that samples."""
    rows, ink = [], 40
    for name in SHOWN:
        model = pf.load(runs / name)
        if not rows:
            rows.append(("real digits", grid(model.schema.example, model.preview.x[:COLUMNS], columns=COLUMNS)))
        rows.append((name, grid(model.schema.example, model.sample_rows(COLUMNS, seed=1).x, columns=COLUMNS)))
    height, width = (SCALE * side for side in rows[0][1].shape[:2])
    picture = Image.new("RGB", (MARGIN + width, (height + 8) * len(rows)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(17)
    for i, (name, pixels) in enumerate(rows):
        top = i * (height + 8)
        strip = Image.fromarray(np.asarray(pixels).squeeze()).convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        picture.paste(strip, (MARGIN, top))
        draw.text((MARGIN - 10, top + height / 2), name, (ink, ink, ink), font, anchor="rm")
    picture.crop((0, 0, picture.width, picture.height - 8)).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
