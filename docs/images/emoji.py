"""Emoji by category: python docs/images/emoji.py RUN, a row each, of a run fitted with
pushforward fit emoji rectified-flow --condition category --minutes 4 --out RUN"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import pushforward as pf
from pushforward.data.images import encode, grid, save_png

ACROSS = 12


def main(run: str) -> None:
    model = pf.load(run)
    (column,) = model.schema.conditions
    names = [name for name in column.categories for _ in range(ACROSS)]
    drawn = model.sample(len(names), condition={column.name: names}, guidance=2.0, steps=20, seed=1)
    sheet = grid(model.schema.example, torch.as_tensor(encode(model.schema.example, drawn)), columns=ACROSS)
    save_png(sheet.repeat(2, 0).repeat(2, 1), Path(__file__).with_name("emoji.png"))
    print(*column.categories, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
