"""Data sets of the Hugging Face hub and of the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pushforward.core.errors import DataError, did_you_mean
from pushforward.data.dataset import Data
from pushforward.data.tabular import open_table


def fetch(name: str) -> Any:
    """The data set ``name`` of the hub. Raises DataError where it cannot be had."""
    from pushforward.data.known import NAMES

    try:
        import datasets

        return datasets.load_dataset(name)
    except Exception as error:  # many kinds: no network, no such name, a script, a gated set
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = did_you_mean(name, NAMES)
        raise DataError(
            f"'{name}' is neither a file nor a bundled data set ({hint}), "
            f"and it could not be fetched from the Hugging Face hub, which could not be reached or does not have it ({reason})"
        ) from error


def only_tables(types: Any, drop: Any, what: str) -> None:
    """Raises DataError where ``types`` or ``drop`` is given: ``what`` is no table."""
    if types or drop:
        raise DataError(f"{'types' if types else 'drop'} is for tables that are read here, which {what} is not")


def open_hub(source: Any, *, types: Any, drop: Sequence[str], resize: Any, length: int | None, name: str, **rest: Any) -> Data:
    """A ``datasets.Dataset`` or ``DatasetDict`` as images, texts or a table. A test split is set aside."""
    dataset, test, notes = splits(source, name)
    pictures = [n for n, feature in dataset.features.items() if type(feature).__name__ == "Image"]
    others = [n for n in dataset.column_names if n not in pictures]
    text_like = "text" in others and all(n in ("text", "label", "labels") for n in others)
    if pictures:
        only_tables({column: word for column, word in (types or {}).items() if word != "category"}, (), name)
        data = _hub_images(dataset, pictures[0], [n for n in others if n not in drop], resize, name, test)
    elif text_like and str(getattr(dataset.features["text"], "dtype", "")).endswith("string") and not types:
        from pushforward.data import text

        data = text.open_text(list(dataset["text"]), length=length)
        if test is not None:
            data = replace(data, test=test, index=np.setdiff1d(data.index, test))
    else:
        data = open_table(dataset, types=types, drop=drop, name=name, **rest)
        if test is not None:
            data = replace(data, test=test, index=np.setdiff1d(data.index, test))
    return replace(data, name=name, notes=(*data.notes, *notes))


def splits(source: Any, name: str) -> tuple[Any, np.ndarray | None, tuple[str, ...]]:
    """All rows in one data set, which of them are set aside as a test set, and notes on splits that are not used."""
    import datasets

    if isinstance(source, datasets.Dataset):
        return source, None, ()
    if not isinstance(source, datasets.DatasetDict) or not source:
        raise DataError(f"{name} is a {type(source).__name__}: expected a datasets.Dataset or DatasetDict")
    first = "train" if "train" in source else next(iter(source))
    train, test = source[first], source.get("test")
    unused = [split for split in source if split not in (first, "test")]
    notes = (f"of its splits, {', '.join(unused)} are not used",) if unused else ()
    if test is None or first == "test" or test.features != train.features:
        return train, None, notes
    aside = np.arange(len(train), len(train) + len(test))
    return datasets.concatenate_datasets([train, test]), aside, notes


def _hub_images(dataset: Any, column: str, others: Sequence[str], resize: Any, name: str, test: Any) -> Data:
    from pushforward.data import images

    pictures = list(dataset[column])
    mode = "L" if all(p.mode in ("1", "L") for p in pictures) else "RGB"
    sizes = {p.size for p in pictures}
    if len(sizes) > 1 and resize is None:
        raise DataError(f"the images of {name} have {len(sizes)} different sizes: use --resize N to bring them to one size")
    if resize is not None:
        height, width = (resize, resize) if isinstance(resize, int) else resize
        pictures = [p.convert(mode).resize((width, height)) for p in pictures]
    side = {}
    for other in others:
        feature, values = dataset.features[other], list(dataset[other])
        names = getattr(feature, "names", None)
        if names:
            values = [names[v] if v is not None and v >= 0 else None for v in values]
        if all(isinstance(v, (int, str, bool, type(None))) for v in values):
            side[other] = np.array(values, dtype=object) if None in values else np.array(values)
    pixels = np.stack([np.asarray(p.convert(mode)) for p in pictures])
    return images.from_array(pixels, side, name=name, levels=256, test=test)
