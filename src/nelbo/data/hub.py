"""`hf:NAME[:split]`: a data set of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nelbo.data import arrays, picture
from nelbo.data.lazy import STREAMED, LazyRows
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def read_hub(spec: str, limit: int | None = None) -> Examples:
    """The pictures of `NAME` or `NAME:split` as codes (N, H, W) or (N, 3, H, W) uint8, with labels where it has them.

    The column is `image` or `img`, else the only one of images. Without a split the data set must have just one.
    Many pictures are decoded whenever they are asked for, and not kept (see `LazyRows`).
    Errors: DataError where `datasets` is missing, the hub cannot be reached, the data set does not exist, there is no
    column of images, or sizes differ; UnknownNameError for an unknown split.
    """
    name, _, split = spec.partition(":")
    if not name:
        raise DataError("the data 'hf:' name no data set", "write hf:NAME or hf:NAME:split, as in hf:ylecun/mnist:test")
    rows = _load(name, split)
    column = _column(rows, name)
    where = f"hf:{spec}"
    total = len(rows)
    if total == 0:
        raise DataError(f"the data {where!r} have no rows", "choose another split")
    if limit is not None and limit < total:
        rows, where = rows.select(range(limit)), f"{where}[:{limit}]"
    first, kind = _picture(next(iter(rows.select([0])[column])), 0, where)

    def decode(wanted: list[int]) -> torch.Tensor:
        stack = []
        for i, value in zip(wanted, rows.select(wanted)[column], strict=True):
            codes, its = _picture(value, i, where)
            if (codes.shape, its) != (first.shape, kind):
                raise DataError(
                    f"the pictures of {where} differ: row 0 is {kind} of shape {first.shape}, "
                    f"row {i} is {its} of shape {codes.shape}",
                    "choose a data set of one size and mode; nothing is resized, cropped or converted",
                )
            stack.append(codes)
        return arrays.tensor(np.stack(stack), where)

    key = next((k for k in LABEL_COLUMNS if k in rows.column_names), None)
    found = None if key is None else np.asarray(rows[key])
    labels = arrays.labels(found) if found is not None and found.dtype.kind in "ui" and found.ndim == 1 else None
    bins = 2 if kind == picture.MODES["1"] else None
    everything = list(range(len(rows)))
    if first.dtype == np.uint8 and first.nbytes * len(rows) >= STREAMED:
        lazy = LazyRows(torch.tensor(everything), first.shape, decode)
        return Examples(lazy.as_data(), where, labels, bins)
    return Examples(decode(everything), where, labels, bins)


def _picture(value: Any, row: int, where: str) -> tuple[np.ndarray, str]:
    """A row of the column of pictures as codes, and what kind of thing it was."""
    mode = getattr(value, "mode", None)
    if mode is None:
        return np.asarray(value), "an array"
    return picture.codes(value, f"row {row} of {where}"), picture.MODES[mode]


def _load(name: str, split: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise DataError(
            f"the data 'hf:{name}' need the library datasets, which is not installed", "pip install 'nelbo[data]'"
        ) from None
    try:
        found: Any = datasets.load_dataset(name)
    except Exception as error:  # whatever the hub, the network or the cache raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise DataError(
            f"the data set {name!r} cannot be loaded from the hub or its cache: {reason}",
            "check the name and the connection; without a connection, save its images as an .npz file and give that",
        ) from None
    if split and split not in found:
        raise UnknownNameError.of(f"split of hf:{name}", split, found)
    if not split and len(found) != 1:
        raise DataError(f"the data set 'hf:{name}' has the splits {', '.join(found)}", f"choose one: hf:{name}:SPLIT")
    return found[split or next(iter(found))]


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
