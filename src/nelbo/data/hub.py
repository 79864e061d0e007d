"""`hf:NAME[:split]`: a data set of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

from typing import Any

import numpy as np

from nelbo.data import arrays, pictures
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def read_hub(spec: str, limit: int | None = None) -> Examples:
    """The pictures of `NAME` or `NAME:split` as codes (N, H, W) or (N, 3, H, W) uint8, with labels if it has them.

    The column is `image` or `img`, else the only one of images. Without a split the data set must have just one.
    If there are many pictures, they are decoded when they are needed and not kept (see `LazyRows`).
    Errors: DataError if `datasets` is missing, the hub cannot be reached, the data set does not exist, there is no
    column of images, or sizes differ; UnknownNameError for an unknown split.
    """
    name, _, split = spec.partition(":")
    if not name:
        raise DataError("the data 'hf:' name no data set", "write hf:NAME or hf:NAME:split, as in hf:ylecun/mnist:test")
    rows = _load(name, split)
    column = _column(rows, name)
    where = f"hf:{spec}"
    if len(rows) == 0:
        raise DataError(f"the data {where!r} have no rows", "choose another split")
    if limit is not None and limit < len(rows):
        rows, where = rows.select(range(limit)), f"{where}[:{limit}]"

    def read(indices: list[int]) -> list[tuple[np.ndarray, str]]:
        values = rows.select(indices)[column]
        return [_codes(value, f"row {i} of {where}") for i, value in zip(indices, values, strict=True)]

    data, kind = pictures.stacked(len(rows), read, lambda i: f"row {i}", where)
    key = next((k for k in LABEL_COLUMNS if k in rows.column_names), None)
    values = None if key is None else np.asarray(rows[key])
    labels = arrays.labels(values) if values is not None and values.dtype.kind in "ui" and values.ndim == 1 else None
    return Examples(data, where, labels, 2 if kind == pictures.MODES["1"] else None)


def _codes(value: Any, what: str) -> tuple[np.ndarray, str]:
    """A row of the column of pictures as codes, and its kind."""
    mode = getattr(value, "mode", None)
    if mode is None:
        return np.asarray(value), "an array"
    return pictures.codes(value, what), pictures.MODES[mode]


def _load(name: str, split: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise DataError(
            f"the data 'hf:{name}' need the library datasets, which is not installed", "pip install 'nelbo[data]'"
        ) from None
    try:
        splits: Any = datasets.load_dataset(name)
    except Exception as error:  # whatever the hub, the network or the cache raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise DataError(
            f"the data set {name!r} cannot be loaded from the hub or its cache: {reason}",
            "check the name and the connection; without a connection, save its images as an .npz file and give that",
        ) from None
    if split and split not in splits:
        raise UnknownNameError.of(f"split of hf:{name}", split, splits)
    if not split and len(splits) != 1:
        raise DataError(f"the data set 'hf:{name}' has the splits {', '.join(splits)}", f"choose one: hf:{name}:SPLIT")
    return splits[split or next(iter(splits))]


def _column(rows: Any, name: str) -> str:
    images = [k for k, v in rows.features.items() if type(v).__name__ == "Image"]
    for column in IMAGE_COLUMNS:
        if column in rows.column_names:
            return column
    if len(images) == 1:
        return images[0]
    raise DataError(
        f"the data set 'hf:{name}' has no single column of images; its columns are {', '.join(rows.column_names)}",
        "save the images as an .npz file and give that",
    )
