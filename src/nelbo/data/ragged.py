"""Examples of different size, as points (n_i, …) each: from a list of arrays, and from an npz file.

    FILE.npz#x#mask=KEY         x (N, n, …) padded; KEY: bools (N, n) or of the shape of x, or lengths (N,)
    FILE.npz#x#lengths=KEY      x (Σ n_i, …), one example after the other; KEY: the lengths n_i, (N,)
    FILE.npz#x#offsets=KEY      the same; KEY: where examples begin, and the end: 0, n_1, n_1 + n_2, …, (N + 1,)

Nothing is taken by its name alone but labels, as of every npz file.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.data import arrays, numpy_files
from nelbo.data.places import Place
from nelbo.errors import DataError, ShapeError
from nelbo.model.examples import Examples

OPTIONS = ("lengths", "offsets")
"""Options of an npz file whose examples stand one after the other."""


def is_ragged(data: Any) -> bool:
    """Whether `data` is a list of arrays of different shapes."""
    if not isinstance(data, (list, tuple)) or not data or not all(hasattr(one, "shape") for one in data):
        return False
    return len({tuple(one.shape) for one in data}) > 1


def read_list(data: Any) -> Examples:
    """A list of arrays (n_i, …) as examples (N, n, …) with a mask (N, n). Errors: ShapeError, DataError."""
    if any(len(one.shape) == 0 or tuple(one.shape[1:]) != tuple(data[0].shape[1:]) for one in data):
        shapes = sorted({tuple(one.shape) for one in data})[:4]
        raise ShapeError(
            f"arrays of shapes {', '.join(map(str, shapes))}", "only the first axis, that of the points, may differ"
        )
    tensors = [_plain(one, k) for k, one in enumerate(data)]
    dtype = tensors[0].dtype
    for one in tensors[1:]:
        dtype = torch.promote_types(dtype, one.dtype)
    lengths = torch.tensor([len(one) for one in tensors])
    whole, mask = padded(torch.cat([one.to(dtype) for one in tensors]), lengths)
    return Examples(whole, "the list", mask=mask)


def padded(points: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Points (Σ n_i, …) of one example after the other as (N, n, …) with zeros behind each, and the mask (N, n)."""
    mask = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
    whole = torch.zeros(*mask.shape, *points.shape[1:], dtype=points.dtype)
    whole[mask] = points
    return whole, mask


def read_npz(place: Place, limit: int | None) -> Examples:
    """The examples of an npz file whose options say which of its numbers are there; see the module. Errors: DataError,
    and those of `numpy_files.read_npz`."""
    options = place.checked(("mask", *OPTIONS), words=1)
    name, key = next(iter(options.items()))
    where = f"{place.path}#{key}"
    if len(options) > 1:
        raise DataError(f"{place.path} with {' and '.join(f'#{n}' for n in options)}", "give one of them")
    if not place.words:
        raise DataError(f"{place.path}#{name}={key} without the array of the data", f"as in FILE.npz#x#{name}={key}")
    if name == "mask":
        examples = numpy_files.read_npz(place.path, place.words[0], limit)
        mask = _mask(numpy_files.read_key(place.path, key, limit), tuple(examples.data.shape), where)
        return dataclasses.replace(examples, mask=mask)
    lengths = _lengths(name, numpy_files.read_key(place.path, key), where)
    chosen = lengths[:limit]
    points = numpy_files.read_npz(place.path, place.words[0])
    if len(points) != int(lengths.sum()):
        raise DataError(
            f"{where} says that there are {int(lengths.sum())} points, and {points.name} has {len(points)}",
            f"give the lengths of all examples, whose points stand one after the other; of padded examples #mask={key}",
        )
    data, mask = padded(points.data[: int(chosen.sum())], chosen)
    return Examples(data, points.name, _labels(place, len(lengths), limit), facts=points.facts, mask=mask)


def read_mask(text: str, n: int, positions: int) -> Tensor:
    """The mask of n samples from an array of an npz file, FILE.npz#KEY: bools (n, …), or lengths (n,) up to the number
    of positions. Errors: DataError."""
    place = Place.of(text)
    place.checked((), words=1)
    if not place.words:
        raise DataError(f"a mask from {text}", "name its array: FILE.npz#KEY")
    values = numpy_files.read_key(place.path, place.words[0])
    if values.shape == (n,):
        return _mask(values, (n, positions), text)
    if values.ndim < 2 or len(values) != n:
        raise DataError(
            f"{text} holds an array of shape {values.shape} for {n} samples", "give a row, or a length, each"
        )
    return _mask(values, values.shape, text)


def _labels(place: Place, n: int, limit: int | None) -> Tensor | None:
    """Labels of the n examples, whose number is not that of the points."""
    for key in arrays.LABEL_KEYS:
        if key in numpy_files.keys(place.path) and key != place.words[0]:
            values = numpy_files.read_key(place.path, key)
            if values.shape == (n,) and values.dtype.kind in "ui":
                return arrays.labels(values[:limit])
    return None


def _mask(values: np.ndarray, shape: tuple[int, ...], where: str) -> Tensor:
    """Bools (N, n) or of `shape`, from bools, 0 and 1, or lengths. Errors: DataError."""
    zero_one = values.dtype.kind in "ui" and values.ndim > 1 and values.size and values.max() <= 1 and values.min() >= 0
    if values.shape in (shape, shape[:2]) and (values.dtype == bool or zero_one):
        return torch.from_numpy(values.astype(bool))
    whole = values.dtype.kind in "ui" and values.shape == shape[:1] and values.size > 0
    if whole and values.min() >= 1 and values.max() <= shape[1]:
        return torch.arange(shape[1]) < torch.from_numpy(values.astype(np.int64))[:, None]
    raise DataError(
        f"{where} holds {values.dtype} of shape {values.shape}, which says nothing of what is there of data {shape}",
        f"give bools {shape[:2]} or {shape}, or lengths ({shape[0]},) from 1 to {shape[1]}",
    )


def _lengths(name: str, values: np.ndarray, where: str) -> Tensor:
    """Of lengths or offsets. Errors: DataError."""
    numbers = values.astype(np.int64) if values.dtype.kind in "ui" and values.ndim == 1 else np.zeros(0, np.int64)
    lengths = np.diff(numbers) if name == "offsets" else numbers
    if not len(lengths) or lengths.min() < 1 or (name == "offsets" and numbers[0] != 0):
        wanted = "0, n_1, n_1 + n_2, …, rising" if name == "offsets" else "whole numbers ≥ 1"
        raise DataError(
            f"{where} holds {values.dtype} of shape {values.shape}, which are no {name} of examples", f"give {wanted}"
        )
    return torch.from_numpy(lengths)


def _plain(one: Any, k: int) -> Tensor:
    what = f"example {k} of the list"
    return arrays.plain(one, what) if isinstance(one, Tensor) else torch.as_tensor(np.asarray(one))
