"""Data sets of the `datasets` library: `hf:NAME[:split]`, folders of its `save_to_disk`, and the objects themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nelbo.data import arrays, classes, pictures, places
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64")


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
    return read_rows(_load(name, split), f"hf:{spec}", limit)


def read_saved(spec: str, limit: int | None = None) -> Examples:
    """A folder that `save_to_disk` wrote: FOLDER, or FOLDER:split where it has several. Errors: as of `read_hub`."""
    path, _, split = (spec, "", "") if is_saved(places.path_of(spec)) else spec.rpartition(":")
    library = _library(spec)
    try:
        loaded = library.load_from_disk(str(places.path_of(path)))
    except Exception as error:  # whatever the library and its formats raise
        raise DataError(
            f"{path} cannot be loaded by datasets.load_from_disk: {_reason(error)}", "save it again"
        ) from None
    return read_rows(_split(loaded, split, path, f"{path}:SPLIT") if hasattr(loaded, "keys") else loaded, spec, limit)


def is_saved_spec(spec: str) -> bool:
    """Whether a DATA string names such a folder, or one of its splits."""
    return is_saved(places.path_of(spec)) or (":" in spec and is_saved(places.path_of(spec.rpartition(":")[0])))


def is_saved(path: Path) -> bool:
    """Whether the folder is one that `save_to_disk` wrote."""
    return places.is_file(path / "dataset_dict.json") or all(
        places.is_file(path / name) for name in ("dataset_info.json", "state.json")
    )


def read_rows(rows: Any, where: str, limit: int | None = None) -> Examples:
    """The rows of a `datasets.Dataset`: as of `read_hub`, or the only column of arrays. Errors: as of `read_hub`."""
    column = _column(rows, where)
    if len(rows) == 0:
        raise DataError(f"the data {where!r} have no rows", "choose another split")
    name = where
    if limit is not None and limit < len(rows):
        rows, name = rows.select(range(limit)), f"{where}[:{limit}]"

    declared = getattr(rows.features[column], "dtype", None)  # of columns of arrays; they come as lists

    def read(indices: list[int]) -> list[tuple[np.ndarray, str]]:
        values = rows.select(indices)[column]
        return [_codes(value, f"row {i} of {name}", declared) for i, value in zip(indices, values, strict=True)]

    data, kind = pictures.stacked(len(rows), read, lambda i: f"row {i}", name)
    labels, named = _labels(rows, name)
    return Examples(data, name, labels, 2 if kind == pictures.MODES["1"] else None, classes=named)


def _labels(rows: Any, where: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and the names of classes, of the first column of `LABEL_COLUMNS` that holds whole numbers or names."""
    key = next((k for k in LABEL_COLUMNS if k in rows.column_names), None)
    if key is None:
        return None, ()
    names = tuple(getattr(rows.features.get(key), "names", None) or ())
    values = list(rows[key])
    if values and all(isinstance(value, str) for value in values):
        return classes.numbered(values, where)
    array = np.asarray(values)
    if array.dtype.kind not in "ui" or array.ndim != 1 or (names and not 0 <= array.min() <= array.max() < len(names)):
        return None, ()
    return arrays.labels(array), names


def _codes(value: Any, what: str, declared: str | None) -> tuple[np.ndarray, str]:
    """A row of the column of pictures as codes, and its kind."""
    mode = getattr(value, "mode", None)
    if mode is None:
        array = np.asarray(value)
        if array.dtype.kind in "buif" and declared in _TYPES:
            array = array.astype(declared)
        if array.dtype.kind not in "buif":
            raise DataError(f"{what} holds {array.dtype} values, not numbers", "save the numbers as an .npz file")
        return array, "an array"
    return pictures.codes(value, what), pictures.MODES[mode]


def _load(name: str, split: str) -> Any:
    library = _library(f"hf:{name}")
    try:
        splits: Any = library.load_dataset(name)
    except Exception as error:  # whatever the hub, the network or the cache raise
        raise DataError(
            f"the data set {name!r} cannot be loaded from the hub or its cache: {_reason(error)}",
            "check the name and the connection; without a connection, save its images as an .npz file and give that",
        ) from None
    return _split(splits, split, f"hf:{name}", f"hf:{name}:SPLIT")


def _library(what: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise DataError(
            f"the data {what!r} need the library datasets, which is not installed", "pip install 'nelbo[data]'"
        ) from None
    return datasets


def _split(splits: Any, split: str, where: str, line: str) -> Any:
    """One of several splits. Errors: DataError where none is chosen, UnknownNameError."""
    if split and split not in splits:
        raise UnknownNameError.of(f"split of {where}", split, splits)
    if not split and len(splits) != 1:
        raise DataError(f"the data set {where!r} has the splits {', '.join(splits)}", f"choose one: {line}")
    return splits[split or next(iter(splits))]


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _column(rows: Any, where: str) -> str:
    images = [k for k, v in rows.features.items() if type(v).__name__ == "Image"]
    for column in IMAGE_COLUMNS:
        if column in rows.column_names:
            return column
    grids = [k for k, v in rows.features.items() if type(v).__name__.startswith(("Array2D", "Array3D"))]
    if len(images) == 1 or (not images and len(grids) == 1):
        return (images or grids)[0]
    raise DataError(
        f"the data set {where!r} has no single column of images; its columns are {', '.join(rows.column_names)}",
        "give the column itself as an array: numpy.stack(rows.with_format('numpy')['NAME'])",
    )
