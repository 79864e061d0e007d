"""A torch `Dataset`: its items stacked, in its order; labels where items are pairs (x, y) or tables with a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.data import arrays, pictures
from nelbo.errors import DataError
from nelbo.model.examples import Examples

IMAGE_KEYS = ("image", "img", "images", "pixel_values")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "y")


def read_dataset(dataset: Any, limit: int | None = None) -> Examples:
    """The items 0..N−1 of a `Dataset` with `__len__`: tensors, arrays, Pillow images, pairs (x, label), or tables of
    one such x and a label.

    Tensors keep their type. Labels are kept if every one is an integer.
    Errors: DataError for a dataset without a length or without items, for items of another kind, and for shapes or
    types that differ (two of them are named).
    """
    name = type(dataset).__name__
    try:
        total = len(dataset)
    except TypeError:
        raise DataError(
            f"the dataset {name} has no length", "give a map-style Dataset, or an array of its items"
        ) from None
    if total == 0:
        raise DataError(f"the dataset {name} has no items", "give at least one example")
    count = total if limit is None else min(limit, total)
    values: list[Tensor] = []
    bins: list[int | None] = []
    labels: list[int] = []
    for i in range(count):
        item = _item(dataset, i, name)
        paired = isinstance(item, (tuple, list))
        value, codes = _value(item[0] if paired and item else item, f"item {i} of the dataset {name}")
        if values and (value.shape, value.dtype, codes) != (values[0].shape, values[0].dtype, bins[0]):
            raise DataError(
                f"the items of the dataset {name} differ: item 0 is {_about(values[0], bins[0])}, "
                f"item {i} is {_about(value, codes)}",
                "give items of one shape and type; nothing is resized or converted",
            )
        values.append(value)
        bins.append(codes)
        if paired and len(item) > 1 and (label := _label(item[1])) is not None:
            labels.append(label)
    name = name if count == total else f"{name}[:{count}]"
    return Examples(torch.stack(values), name, arrays.labels(labels) if len(labels) == count else None, bins[0])


def _item(dataset: Any, i: int, name: str) -> Any:
    """Item i; of a table, the pair of its only picture, array or tensor and of its label. Errors: DataError."""
    try:
        item = dataset[i]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"item {i} of {name} cannot be had by its number: {type(error).__name__}: {error}",
            "give a sequence of examples, or numpy.stack of them",
        ) from None
    if not isinstance(item, Mapping):
        return item
    many = [key for key, value in item.items() if _is_image(value)]
    chosen = next((key for key in IMAGE_KEYS if key in many), many[0] if len(many) == 1 else None)
    if chosen is None:
        raise DataError(
            f"item {i} of the dataset {name} is a table with the keys {', '.join(map(str, item))}, and it is not clear "
            "which one is the data",
            "give the values: [item[KEY] for item in data]",
        )
    label = next((item[key] for key in LABEL_KEYS if key in item and key != chosen), None)
    return item[chosen], label


def _is_image(value: Any) -> bool:
    return hasattr(value, "getbands") or (isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0)


def _value(item: Any, what: str) -> tuple[Tensor, int | None]:
    """The item as a tensor, and its number of codes if it is a picture."""
    bins = None
    if isinstance(item, Tensor):
        return arrays.plain(item, what).cpu(), bins
    if hasattr(item, "mode") and hasattr(item, "getbands"):
        bins, item = pictures.bins(item.mode), pictures.codes(item, what)
    if not isinstance(item, np.ndarray):
        raise DataError(
            f"{what} is a {type(item).__name__}, not a tensor, an array or a picture",
            "give a Dataset whose items are x or (x, y)",
        )
    return arrays.tensor(item[None], what)[0], bins


def _label(value: Any) -> int | None:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def _about(value: Tensor, bins: int | None) -> str:
    kind = str(value.dtype).removeprefix("torch.") if bins is None else f"a picture of {bins} codes"
    return f"{kind} of shape {tuple(value.shape)}"
