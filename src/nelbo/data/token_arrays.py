"""Sequences of symbols in an npz file: which of its arrays say what is given, padded, and how many bytes a place is.

    FILE.npz#tokens [#prompt=KEY] [#mask=KEY] [#bytes=KEY]      tokens (N, L) of integers
    FILE.npz#tokens #length=L [#stride=S]                       tokens (n,): one stream, cut as in `windows.py`

`prompt` and `mask` are bools, or 0 and 1, (N, L), or one number a sequence, (N,): the length of the prompt, or of the
sequence before its padding. Nothing is taken by its name alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from nelbo.data import numpy_files
from nelbo.data.places import Place
from nelbo.data.text import cut_of, described_cut
from nelbo.data.windows import Stream, windows
from nelbo.errors import DataError
from nelbo.model.examples import Examples

OPTIONS = ("prompt", "mask", "bytes", "length", "stride", "pad")


def read_tokens(place: Place, limit: int | None) -> Examples:
    """The sequences of an npz file, at most `limit`; see the module. Errors: DataError."""
    options = place.checked(OPTIONS, words=1)
    if not place.words:
        name = next(iter(options))
        raise DataError(
            f"{place.path}#{name}={options[name]} without the array of the symbols", "as in FILE.npz#tokens"
        )
    if "length" in options:
        return _stream(place, options, limit)
    for name in ("stride", "pad"):
        if name in options:
            raise DataError(f"{place.path}#{name}={options[name]}", f"it is of windows: #length=L#{name}=…")
    examples = numpy_files.read_npz(place.path, place.words[0], limit)
    shape = tuple(examples.data.shape)
    if len(shape) != 2 or not _whole(examples.data.numpy()):
        raise _no_symbols(examples.name, examples.data.numpy(), "(N, L)")
    rows: dict[str, Tensor] = {}
    for name, key in options.items():
        values, where = numpy_files.read_key(place.path, key, limit), f"{place.path}#{key}"
        if name == "bytes":
            rows["place_bytes"] = _bytes(values, shape, where)
        else:
            rows[name] = _places(values, shape, where)
    facts = dict(examples.facts)
    if "place_bytes" in rows and not {"prompt", "mask"} & rows.keys():
        facts["bytes"] = int(rows["place_bytes"].sum())
    return dataclasses.replace(examples, facts=facts, **rows)


def holds_symbols(place: Place) -> bool:
    """Whether the array that the place names is one of sequences: integers (N, L)."""
    if not place.words:
        return False
    shape, dtype = numpy_files.described(place.path, place.words[0])
    return len(shape) == 2 and dtype.kind in "ui"


def _stream(place: Place, options: dict[str, str], limit: int | None) -> Examples:
    """The windows of a stream (n,), and of its bytes a symbol where they are there."""
    key = place.words[0]
    where = f"{place.path}#{key}"
    for name in ("prompt", "mask"):
        if name in options:
            raise DataError(f"{where}#{name}={options[name]} of a stream", "leave out #length for an array (N, L)")
    symbols = numpy_files.read_key(place.path, key, None)
    if symbols.ndim != 1 or not _whole(symbols):
        raise _no_symbols(where, symbols, "(n,), one stream")
    widths = None
    if "bytes" in options:
        widths = numpy_files.read_key(place.path, options["bytes"], None)
        if widths.shape != symbols.shape or not _whole(widths):
            raise _no_symbols(f"{place.path}#{options['bytes']}", widths, f"{symbols.shape}, bytes of every symbol")
    cut = cut_of(options)
    made = windows([Stream(symbols, widths)], cut, limit, where)
    return Examples(
        made.data,
        where,
        facts={**made.facts, **described_cut(cut, made)},
        prompt=made.prompt,
        mask=made.mask,
        place_bytes=made.bytes,
    )


def _places(values: np.ndarray, shape: tuple[int, ...], where: str) -> Tensor:
    """Bools (N, L) of bools, or of one length a sequence. Errors: DataError."""
    if values.shape == shape and (values.dtype == bool or (_whole(values) and set(np.unique(values)) <= {0, 1})):
        return torch.from_numpy(values.astype(bool))
    if values.shape == shape[:1] and _whole(values) and values.min() >= 0 and values.max() <= shape[1]:
        return torch.from_numpy(np.arange(shape[1]) < values[:, None])
    raise DataError(
        f"{where} holds {values.dtype} of shape {values.shape}, which says nothing of the places of sequences {shape}",
        f"give bools {shape}, or lengths ({shape[0]},) from 0 to {shape[1]}",
    )


def _bytes(values: np.ndarray, shape: tuple[int, ...], where: str) -> Tensor:
    if values.shape != shape or not _whole(values) or values.min() < 0:
        raise DataError(
            f"{where} holds {values.dtype} of shape {values.shape}, which are no bytes of the places of sequences "
            f"{shape}",
            "give for every place how many UTF-8 bytes of the text its symbol stands for",
        )
    return torch.from_numpy(values.astype(np.int32))


def _whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "ui" and values.size > 0


def _no_symbols(where: str, values: np.ndarray, shape: str) -> DataError:
    return DataError(
        f"{where} holds {values.dtype} of shape {values.shape}, and integers {shape} are expected",
        "see how DATA is written: sequences (N, L), or a stream (n,) with #length=L",
    )
