"""Which reader a DATA string is for. A new form is one file with its reader and one entry in `READERS`.

`digits` and `hf:` are names, everything else is a path: a folder called digits is `./digits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.data import arrays, digits, folder, hub, idx, items, table
from nelbo.errors import DataError, UsageError
from nelbo.model.examples import Examples


@dataclass(frozen=True)
class Reader:
    """A form of DATA: how it is written, which strings are of it, and how they are read (`limit`: may read no more)."""

    form: str
    matches: Callable[[str], bool]
    read: Callable[[str, int | None], Examples]


def _path(spec: str) -> Path:
    return Path(spec).expanduser()


def _npz(spec: str) -> tuple[Path, str | None]:
    file, mark, key = spec.partition("#")
    return _path(file), (key if mark else None)


READERS = (
    Reader(
        "digits[:train|:test]",
        lambda spec: spec.partition(":")[0] == "digits",
        lambda spec, _: digits.read_digits(spec.partition(":")[2] if ":" in spec else "all"),
    ),
    Reader("hf:NAME[:split]", lambda spec: spec.startswith("hf:"), lambda spec, n: hub.read_hub(spec[3:], n)),
    Reader(
        "FILE.npz[#key]",
        lambda spec: _npz(spec)[0].suffix.lower() == ".npz" and not _npz(spec)[0].is_dir(),
        lambda spec, _: arrays.read_npz(*_npz(spec)),
    ),
    Reader(
        "FILE.npy",
        lambda spec: _path(spec).suffix.lower() == ".npy" and not _path(spec).is_dir(),
        lambda spec, _: arrays.read_npy(_path(spec)),
    ),
    Reader(
        "FILE.csv",
        lambda spec: _path(spec).suffix.lower() == ".csv" and not _path(spec).is_dir(),
        lambda spec, _: table.read_csv(_path(spec)),
    ),
    Reader(
        "an IDX file (…-ubyte, …-ubyte.gz)",
        lambda spec: idx.is_idx(_path(spec)) and not _path(spec).is_dir(),
        lambda spec, _: idx.read_idx(_path(spec)),
    ),
    Reader("a folder of images", lambda spec: _path(spec).is_dir(), lambda spec, n: folder.read_folder(_path(spec), n)),
)

FORMS = tuple(reader.form for reader in READERS)
"""How DATA may be written, for help texts and errors."""


def read(spec: str, *, limit: int | None = None) -> Examples:
    """The examples that a DATA string names, the first `limit` of them where that is given.

    Codes keep their integer type, reals their floating type; shapes are (N, H, W), (N, C, H, W) or (N, D).
    Errors: DataError for a missing or unreadable source, UnknownNameError for an unknown split, UsageError for
    limit < 1.

    >>> read("digits:test", limit=10).data.shape
    torch.Size([10, 8, 8])
    """
    _check_limit(limit)
    for reader in READERS:
        if spec and reader.matches(spec):
            return reader.read(spec, limit).first(limit)
    path = _path(spec)
    problem = "is a file of no known form" if spec and path.exists() else "is neither a known name nor an existing path"
    raise DataError(f"the data {spec!r}: this {problem}", f"give one of: {'; '.join(FORMS)}")


def resolve(data: str | Path | Examples | Tensor | np.ndarray | Any, *, limit: int | None = None) -> Examples:
    """Whatever `nelbo.evaluate` and `nelbo.train` may be handed, as `Examples`.

    A string or path is read as DATA; an array or tensor (N, …) is taken as it is; a torch `Dataset` (or anything with
    `__getitem__` and `__len__`) is stacked, its items being x or (x, label). Errors: as `read`.
    """
    _check_limit(limit)
    if isinstance(data, Examples):
        return data.first(limit)
    if isinstance(data, (str, Path)):
        return read(str(data), limit=limit)
    if isinstance(data, np.ndarray):
        return Examples(arrays.tensor(data, "the array")).first(limit)
    if isinstance(data, Tensor):
        if data.ndim < 2 or data.numel() == 0:
            raise DataError(
                f"the tensor has shape {tuple(data.shape)}, which is not a set of examples",
                "give a tensor of shape (N, H, W), (N, C, H, W) or (N, D) with N ≥ 1",
            )
        return Examples(data.detach()).first(limit)
    if isinstance(data, torch.utils.data.Dataset) or hasattr(data, "__getitem__"):
        return items.read_items(data, limit)
    raise DataError(
        f"data of type {type(data).__name__}",
        f"give an array, a tensor, a torch Dataset, or one of: {'; '.join(FORMS)}",
    )


def _check_limit(limit: int | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UsageError(f"a limit of {limit!r} examples", "give a whole number ≥ 1")
