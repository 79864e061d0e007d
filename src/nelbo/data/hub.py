"""`hf:NAME[:split]`: a data set of the Hugging Face hub, through the `datasets` library."""

from __future__ import annotations

from typing import Any

import numpy as np

from nelbo.data import arrays, picture
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


def read_hub(spec: str, limit: int | None = None) -> Examples:
    """The pictures of `NAME` or `NAME:split` as codes (N, H, W) or (N, 3, H, W) uint8, with labels where it has them.

    The column is `image` or `img`, else the only one of images. Without a split the data set must have just one.
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
    stack: list[np.ndarray] = []
    kinds: list[tuple[tuple[int, ...], str]] = []
    for i, value in enumerate(rows[column]):
        mode = getattr(value, "mode", None)
        stack.append(np.asarray(value) if mode is None else picture.codes(value, f"row {i} of {where}"))
        kinds.append((stack[i].shape, "an array" if mode is None else picture.MODES[mode]))
        if kinds[i] != kinds[0]:
            raise DataError(
                f"the pictures of {where} differ: row 0 is {kinds[0][1]} of shape {kinds[0][0]}, "
                f"row {i} is {kinds[i][1]} of shape {kinds[i][0]}",
                "choose a data set of one size and mode; nothing is resized, cropped or converted",
            )
    key = next((k for k in LABEL_COLUMNS if k in rows.column_names), None)
    found = None if key is None else np.asarray(rows[key])
    labels = arrays.labels(found) if found is not None and found.dtype.kind in "ui" and found.ndim == 1 else None
    bins = 2 if kinds[0][1] == picture.MODES["1"] else None
    return Examples(arrays.tensor(np.stack(stack), where), where, labels, bins)


def _load(name: str, split: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise DataError(
            f"the data 'hf:{name}' need the library datasets, which is not installed", "pip install 'nelbo[data]'"
        ) from None
    try:
        found = datasets.load_dataset(name)
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
