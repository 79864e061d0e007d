"""Arrays: `.npz` and `.npy` files, and the conversion of numpy arrays to tensors of examples.

Files are read with `allow_pickle=False`, so that reading data never runs code.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import DataError
from nelbo.model.examples import Examples

LABEL_KEYS = ("labels", "labels_inferred", "y", "label")
"""npz keys that hold labels if their length is that of the data."""

MAPPED = 16 << 20
"""Bytes from which on an npy file is mapped instead of read; below, reading is as fast and needs little memory."""

# Unsigned types that torch can store but hardly compute with, and the signed ones that hold the same numbers.
_WIDER = {"uint16": np.int32, "uint32": np.int64}


def read_npz(path: Path, key: str | None = None) -> Examples:
    """The array `key` of an npz file as examples (N, …); without `key`, its only array that does not hold labels.

    Labels come from a key of `LABEL_KEYS` (for `x_train` also `y_train`, for `images` also `labels`) that holds N
    integers. The name is the file's, with `#key` if a key was given.
    Errors: DataError for an unreadable file, an unknown key, several candidates, object arrays, an empty array.
    """
    arrays = load(path)
    if not isinstance(arrays, dict):
        raise DataError(f"{path} is named .npz but holds a single array", "name it .npy")
    candidates = [k for k in arrays if not _is_label_key(k, arrays)]
    if key is not None and key not in arrays:
        raise DataError(f"{path} has no array {key!r}", f"it has {_listed(arrays)}")
    if key is None and len(candidates) != 1:
        example = next(iter(candidates or arrays), "key")
        raise DataError(
            f"{path} holds {len(arrays)} arrays, and it is not clear which one is the data: {_listed(arrays)}",
            f"name it after the file, as in {path}#{example}",
        )
    chosen = candidates[0] if key is None else key
    where = str(path) if key is None else f"{path}#{key}"
    data = tensor(arrays[chosen], where)
    return Examples(data, where, _labels(chosen, len(data), arrays))


def read_npy(path: Path) -> Examples:
    """The array of an npy file as examples (N, …); a large file is mapped, so that its size costs no memory.

    Errors: DataError as for `read_npz`.
    """
    array = load(path)
    if isinstance(array, dict):
        raise DataError(f"{path} is named .npy but holds several arrays: {_listed(array)}", "name it .npz")
    data = tensor(array, str(path))
    if isinstance(array, np.memmap) and data.data_ptr() == array.ctypes.data:
        return Examples(data, str(path), release=_releasing(array, data))
    return Examples(data, str(path))


def _releasing(array: np.memmap, data: Tensor) -> Callable[[], None]:
    """A function that returns the pages of a mapped file to the system, unless the tensor was written to."""
    mapped, advice = getattr(array, "_mmap", None), getattr(mmap, "MADV_DONTNEED", None)

    def release() -> None:
        if mapped is not None and advice is not None and data._version == 0:
            mapped.madvise(advice)

    return release


def load(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """The array of an npy file, or the arrays of an npz file by key; nothing is unpickled.

    Errors: DataError for a missing, truncated or altered file and for object arrays.
    """
    try:
        mapped = _mapped(path)
        if mapped is not None:
            return mapped
        with path.open("rb") as file:  # numpy would leave it open where it fails to read it
            loaded = np.load(file, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "check the path") from None
    except Exception as error:  # numpy, zipfile and zlib raise a dozen types on foreign bytes, all meaning the same
        if "allow_pickle" in str(error) and "Object arrays" in str(error):
            raise DataError(
                f"{path} holds an array of Python objects, which could run code when read",
                "save it as an array of numbers; arrays of different shapes cannot be one array",
            ) from None
        raise DataError(
            f"{path} is not a readable numpy file: {_reason(error)}",
            "it is truncated, altered or of another format; write it again with numpy.savez or numpy.save",
        ) from None


def _mapped(path: Path) -> np.ndarray | None:
    """The array of a large npy file, mapped (writing changes a private copy); None if it is to be read."""
    if path.suffix.lower() != ".npy" or path.stat().st_size < MAPPED:
        return None
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:
        return None  # the error of reading it names the cause
    return array if isinstance(array, np.memmap) else None


def tensor(array: np.ndarray, what: str) -> Tensor:
    """`array` (N, …) as a tensor of examples, with the numbers and the type it has.

    uint16 becomes int32, uint32 and uint64 become int64, with the same numbers; byte order becomes the machine's.
    Errors: DataError for anything but real numbers, for fewer than two axes and for an empty array.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "buif" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise DataError(
            f"{what} holds {array.dtype} values, which are neither codes nor real numbers",
            "give integers, or floats of at most 64 bits",
        )
    if array.ndim < 2:
        raise DataError(
            f"{what} has shape {array.shape}, which is not a set of examples",
            "give an array of shape (N, H, W), (N, C, H, W) or (N, D); one example is an array with N = 1",
        )
    if array.size == 0:
        raise DataError(f"{what} is empty: shape {array.shape}", "give at least one example of at least one value")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what} holds integers up to {array.max()}, beyond 2^63 − 1", "codes run from 0 to K − 1")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(_WIDER.get(array.dtype.newbyteorder("=").name, np.int64))
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def labels(values: Iterable[int] | np.ndarray) -> Tensor:
    """Labels (N,) int64."""
    return torch.from_numpy(np.asarray(values).astype(np.int64).reshape(-1))


def _labels(chosen: str, n: int, arrays: dict[str, np.ndarray]) -> Tensor | None:
    paired = [chosen.replace(a, b) for a, b in (("x_", "y_"), ("X_", "y_"), ("images", "labels")) if a in chosen]
    for key in (*paired, *LABEL_KEYS):
        values = arrays.get(key)
        if key != chosen and values is not None and values.shape in ((n,), (n, 1)) and values.dtype.kind in "ui":
            return labels(values)
    return None


def _is_label_key(key: str, arrays: dict[str, np.ndarray]) -> bool:
    return (key in LABEL_KEYS or key.startswith("y_")) and len(arrays) > 1


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{k} {a.dtype}{list(a.shape)}" for k, a in arrays.items()) or "no array at all"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
