"""Arrays as tensors of examples, and which of several named arrays is the data and which the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples
from nelbo.typing import Json

LABEL_KEYS = ("labels", "labels_inferred", "y", "label")
"""Keys that hold labels if their length is that of the data."""
CHANNELS = (1, 3, 4)
"""Numbers of channels by which the axis of the channels is recognised."""
LISTED = 100
"""Names of what was passed over that a result lists, at most."""

# Unsigned types that torch can store but hardly compute with, and the signed ones that hold the same numbers.
_WIDER = {"uint16": np.int32, "uint32": np.int64}
_TORCH_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


class Described(Protocol):
    """Something with the shape and the type of an array: an array, or the header of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


def tensor(array: np.ndarray, what: str) -> Tensor:
    """`array` (N, …) as a tensor of examples, with the numbers and the type it has.

    uint16 becomes int32, uint32 and uint64 become int64, with the same numbers; byte order becomes the machine's.
    Errors: DataError for anything but real numbers, for fewer than two axes and for an empty array.
    """
    array = np.asarray(array)
    if array.dtype.kind == "c":
        raise DataError(
            f"{what} holds {array.dtype} values, which are neither codes nor real numbers",
            "give real and imaginary parts as two channels: np.stack([x.real, x.imag], axis=1)",
        )
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


def plain(data: Tensor, what: str) -> Tensor:
    """A tensor with numbers that torch computes with; unsigned codes wider than 8 bits become signed ones.

    Errors: DataError for sparse, nested, complex and quantised tensors, and for one without values.
    """
    if data.is_nested:
        raise DataError(
            f"{what} is nested: its examples may differ in shape",
            "give torch.stack(list(x.unbind())) where they do not; nothing is padded",
        )
    if data.layout is not torch.strided:
        raise DataError(f"{what} is sparse ({str(data.layout).removeprefix('torch.')})", "give x.to_dense()")
    if data.is_complex():
        raise DataError(
            f"{what} is complex", "give real and imaginary parts as channels: torch.stack([x.real, x.imag], dim=1)"
        )
    if data.is_quantized:
        raise DataError(f"{what} is quantised", "give its codes, x.int_repr(), or its values, x.dequantize()")
    if data.is_meta:
        raise DataError(f"{what} is on the device meta and has no values", "give a tensor with values")
    wide = _TORCH_WIDER.get(data.dtype)
    if wide is None:
        return data.detach()
    if data.dtype == torch.uint64 and data.numel() and bool((data.view(torch.int64) < 0).any()):
        raise DataError(f"{what} holds integers beyond 2^63 − 1", "codes run from 0 to K − 1")
    return data.detach().to(wide)


def examples_of(data: Tensor, what: str) -> Tensor:
    """The tensor itself. Errors: DataError for fewer than two axes and for an empty one."""
    if data.ndim < 2 or data.numel() == 0:
        raise DataError(
            f"{what} has shape {tuple(data.shape)}, which is not a set of examples",
            "give a tensor of shape (N, H, W), (N, C, H, W) or (N, D) with N ≥ 1",
        )
    return data


def labels(values: Iterable[int] | np.ndarray) -> Tensor:
    """Labels (N,) int64."""
    return torch.from_numpy(np.asarray(values).astype(np.int64).reshape(-1))


def channels_first(examples: Examples, layout: str | None) -> Examples:
    """The examples with channels before rows and columns; layout: "nchw", as they are, or "nhwc", channels last.

    Errors: UnknownNameError for another layout; DataError where there is no axis of channels to move.
    """
    if layout is None or layout == "nchw":
        return examples
    if layout != "nhwc":
        raise UnknownNameError.of("layout", layout, ("nchw", "nhwc"))
    if examples.data.ndim != 4 or not isinstance(examples.data, Tensor):
        raise DataError(
            f'layout="nhwc" for {examples.name}, of shape {tuple(examples.data.shape)}',
            "it is for arrays of shape (N, H, W, C); leave it out",
        )
    return replace(examples, data=examples.data.permute(0, 3, 1, 2).contiguous())


def check_channels_first(examples: Examples) -> None:
    """Errors: DataError for examples (H, W, C) that are square and have 1, 3 or 4 channels in the last place."""
    if examples.data.ndim != 4:
        return
    first, second, last = examples.data.shape[1:]
    if last in CHANNELS and first not in (1, last) and (first == second or first not in CHANNELS):
        raise DataError(
            f"{examples.name} has shape {tuple(examples.data.shape)}, which is {last} channels in the last place",
            "give x.transpose(0, 3, 1, 2), or a file with #layout=nhwc behind its name; if they are in their place, "
            '#layout=nchw, in Python nelbo.data.resolve(x, layout="nchw")',
        )


# ---------------------------------------------------------------- named arrays


def chosen_key(arrays: Mapping[str, Described], key: str | None, where: str, line: Callable[[str], str]) -> str:
    """`key`, or without it the only key that does not hold labels. line: how to write a choice, for the hint.

    Errors: DataError for an unknown key and for several candidates.
    """
    if key is not None and key not in arrays:
        raise DataError(f"{where} has no array {key!r}", f"it has {listed(arrays)}")
    candidates = [k for k in arrays if not _is_label_key(k, arrays)]
    if key is None and len(candidates) != 1:
        example = next(iter(candidates or arrays), "KEY")
        raise DataError(
            f"{where} holds {len(arrays)} arrays, and it is not clear which one is the data: {listed(arrays)}",
            f"name it, {line(example)}",
        )
    return candidates[0] if key is None else key


def label_key(arrays: Mapping[str, Described], chosen: str, n: int) -> str | None:
    """The key of whole-number labels (n,) that belong to the array `chosen`, if any."""
    paired = [chosen.replace(a, b) for a, b in (("x_", "y_"), ("X_", "y_"), ("images", "labels")) if a in chosen]
    for key in (*paired, *LABEL_KEYS):
        values = arrays.get(key)
        fits = values is not None and tuple(values.shape) in ((n,), (n, 1)) and values.dtype.kind in "ui"
        if key != chosen and fits:
            return key
    return None


def listed(arrays: Mapping[str, Described]) -> str:
    """Keys, types and shapes as text."""
    return ", ".join(f"{k} {a.dtype}{list(a.shape)}" for k, a in arrays.items()) or "no array at all"


def _is_label_key(key: str, arrays: Mapping[str, Described]) -> bool:
    return (key in LABEL_KEYS or key.startswith("y_")) and len(arrays) > 1


def passed_over(entries: Sequence[tuple[str, str]]) -> Json:
    """What a source holds and is not read, as a fact for the result: how many entries, and name and reason of each.

    The first `LISTED` are named. {} where there is nothing.
    """
    if not entries:
        return {}
    named = [{"name": name, "reason": reason} for name, reason in entries[:LISTED]]
    return {"passed_over": {"count": len(entries), "entries": named}}
