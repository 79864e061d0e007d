"""Which form a DATA string has. A new form is one file with its reader and one entry in `_FORMS`.

`digits` and `hf:` are names, everything else is a path: a folder called digits is written `./digits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.data import arrays, dataset, digits, folder, hub, idx, table
from nelbo.errors import DataError, UsageError
from nelbo.model.examples import Examples


@dataclass(frozen=True)
class Form:
    """A form of DATA: how it is written, which strings have it, and how they are read (at most `limit` examples)."""

    text: str
    matches: Callable[[str], bool]
    read: Callable[[str, int | None], Examples]


def _path(spec: str) -> Path:
    return Path(spec).expanduser()


def _npz(spec: str) -> tuple[Path, str | None]:
    file, mark, key = spec.partition("#")
    return _path(file), (key if mark else None)


def _ends_in(suffix: str, path: Path) -> bool:
    return path.suffix.lower() == suffix and not path.is_dir()


_FORMS = (
    Form(
        "digits[:train|:test]",
        lambda spec: spec.partition(":")[0] == "digits",
        lambda spec, _: digits.read_digits(spec.partition(":")[2] if ":" in spec else "all"),
    ),
    Form("hf:NAME[:split]", lambda spec: spec.startswith("hf:"), lambda spec, n: hub.read_hub(spec[3:], n)),
    Form(
        "FILE.npz[#key]",
        lambda spec: _ends_in(".npz", _npz(spec)[0]),
        lambda spec, _: arrays.read_npz(*_npz(spec)),
    ),
    Form("FILE.npy", lambda spec: _ends_in(".npy", _path(spec)), lambda spec, _: arrays.read_npy(_path(spec))),
    Form("FILE.csv", lambda spec: _ends_in(".csv", _path(spec)), lambda spec, _: table.read_csv(_path(spec))),
    Form(
        "an IDX file (…-ubyte, …-ubyte.gz)",
        lambda spec: idx.is_idx(_path(spec)) and not _path(spec).is_dir(),
        lambda spec, _: idx.read_idx(_path(spec)),
    ),
    Form("a folder of images", lambda spec: _path(spec).is_dir(), lambda spec, n: folder.read_folder(_path(spec), n)),
)

FORMS = tuple(form.text for form in _FORMS)
"""How DATA may be written, for help texts and errors."""


@numbers
def read(spec: str, *, limit: int | None = None) -> Examples:
    """The examples that a DATA string names, or the first `limit` of them.

    Codes keep their integer type, reals their floating type; shapes are (N, H, W), (N, C, H, W) or (N, D).
    Errors: DataError for a missing or unreadable source, UnknownNameError for an unknown split, UsageError for
    limit < 1.

    >>> read("digits:test", limit=10).data.shape
    torch.Size([10, 8, 8])
    """
    _check_limit(limit)
    for form in _FORMS:
        if spec and form.matches(spec):
            return form.read(spec, limit).first(limit)
    path = _path(spec)
    problem = "is a file of no known form" if spec and path.exists() else "is neither a known name nor an existing path"
    raise DataError(f"the data {spec!r}: this {problem}", f"give one of: {'; '.join(FORMS)}")


@numbers
def resolve(data: str | Path | Examples | Tensor | np.ndarray | Any, *, limit: int | None = None) -> Examples:
    """The data that `nelbo.evaluate` and `nelbo.train` accept, as `Examples`.

    A string or path is read as DATA. An array or tensor (N, …) is used as it is. A torch `Dataset`, or anything with
    `__getitem__` and `__len__`, is stacked; its items are x or (x, label). Errors: as of `read`.
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
        return dataset.read_dataset(data, limit)
    raise DataError(
        f"data of type {type(data).__name__}",
        f"give an array, a tensor, a torch Dataset, or one of: {'; '.join(FORMS)}",
    )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit!r} examples", "give an integer ≥ 1")
