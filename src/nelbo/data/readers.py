"""Which form a DATA string has. A new form is one file with its reader and one entry in `_FORMS`.

`digits` and `hf:` are names, everything else is a path: a folder called digits is written `./digits`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.data import (
    arrays,
    containers,
    digits,
    folder,
    hub,
    idx,
    numpy_files,
    others,
    places,
    ragged,
    table,
    text,
    token_arrays,
)
from nelbo.data.places import Place
from nelbo.errors import DataError, UsageError
from nelbo.model.examples import Examples


@dataclass(frozen=True)
class Form:
    """A form of DATA: how it is written, which strings have it, and how they are read (at most `limit` examples)."""

    text: str
    matches: Callable[[str], bool]
    read: Callable[[str, int | None], Examples]


def _ends_in(spec: str, *endings: str) -> bool:
    path = Place.of(spec).path
    return path.suffix.lower() in endings and not places.is_folder(path)


def _read_npz(spec: str, limit: int | None) -> Examples:
    place = Place.of(spec)
    names = {name for name, _ in place.values}
    if names & {*ragged.OPTIONS} or (names == {"mask"} and not token_arrays.holds_symbols(place)):
        return ragged.read_npz(place, limit)
    if names & {*token_arrays.OPTIONS}:
        return token_arrays.read_tokens(place, limit)
    layout = place.checked(("layout", *token_arrays.OPTIONS, *ragged.OPTIONS), words=1).get("layout")
    key = place.words[0] if place.words else None
    return arrays.channels_first(numpy_files.read_npz(place.path, key, limit), layout)


def _read_npy(spec: str, limit: int | None) -> Examples:
    place = Place.of(spec)
    return arrays.channels_first(numpy_files.read_npy(place.path, limit), place.checked(("layout",)).get("layout"))


def _read_idx(spec: str, limit: int | None) -> Examples:
    place = Place.of(spec)
    place.checked(())
    return idx.read_idx(place.path, limit)


_FORMS = (
    Form(
        "digits[:train|:test]",
        lambda spec: spec.partition(":")[0] == "digits",
        lambda spec, _: digits.read_digits(spec.partition(":")[2] if ":" in spec else "all"),
    ),
    Form(
        "text:FILE[#length=L][#stride=S][#documents=…][#tokenizer=bytes|chars|FILE.json]",
        lambda spec: spec.startswith(text.PREFIX),
        lambda spec, n: text.read_text(spec[len(text.PREFIX) :], n),
    ),
    Form("hf:NAME[:split]", lambda spec: spec.startswith("hf:"), lambda spec, n: hub.read_hub(spec[3:], n)),
    Form(
        "FILE.npz[#key][#prompt=KEY][#mask=KEY|#lengths=KEY|#offsets=KEY]",
        lambda spec: _ends_in(spec, ".npz"),
        _read_npz,
    ),
    Form("FILE.npy", lambda spec: _ends_in(spec, ".npy"), _read_npy),
    Form("FILE.csv", lambda spec: _ends_in(spec, ".csv"), lambda spec, n: table.read_csv(Place.of(spec), n)),
    Form(
        "an IDX file (…-ubyte, …-ubyte.gz)",
        lambda spec: idx.is_idx(Place.of(spec).path) and not places.is_folder(Place.of(spec).path),
        _read_idx,
    ),
    Form("a folder that datasets' save_to_disk wrote", hub.is_saved_spec, hub.read_saved),
    Form("a folder of images, or its part FOLDER:train", folder.is_folder, folder.read_folder),
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
    path = Place.of(spec).path
    if not spec or not os.path.lexists(path):
        problem, remedy = "is neither a known name nor an existing path", f"give one of: {'; '.join(FORMS)}"
    else:
        places.status(path)
        problem = "is a file of no known form"
        remedy = others.remedy(path) or f"give one of: {'; '.join(FORMS)}"
    raise DataError(f"the data {spec!r}: this {problem}", remedy)


@numbers
def resolve(
    data: str | Path | Examples | Tensor | np.ndarray | Any, *, limit: int | None = None, layout: str | None = None
) -> Examples:
    """The data that `nelbo.evaluate` and `nelbo.train` accept, as `Examples`.

    A string or path is read as DATA. An array or tensor (N, …) is used as it is. A table of named columns (pandas,
    polars), a mapping of arrays (npz, scikit-learn's `Bunch`) and a `datasets.Dataset` are read by the rules of the
    files that hold the like. A torch `Dataset`, or anything with `__getitem__` and `__len__`, is stacked; its items are
    x, (x, label), or tables with an image. A list of arrays (n_i, …) of different length is padded, and its examples
    have a mask. layout: "nhwc" for arrays (N, H, W, C), whose channels are then moved to the
    front. Errors: as of `read`; what is not taken is refused with the line that makes of it what is.
    """
    _check_limit(limit)
    if isinstance(data, Examples):
        examples = data.first(limit)
    elif isinstance(data, (str, Path)):
        examples = read(str(data), limit=limit)
    elif ragged.is_ragged(data):
        examples = ragged.read_list(data[:limit])
    elif isinstance(data, np.ndarray) or hasattr(data, "__getitem__") or containers.is_known(data):
        examples = containers.read_object(data, limit)
    else:
        raise DataError(
            f"data of type {type(data).__name__}",
            f"give an array, a tensor, a torch Dataset, or one of: {'; '.join(FORMS)}",
        )
    return arrays.channels_first(examples, layout)


def whole(data: Any, what: str, reason: str) -> Examples:
    """As of `resolve`, of what needs examples of one size. Errors: UsageError where these are not, with the reason."""
    examples = resolve(data)
    examples.check_whole(what, reason)
    return examples


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit!r} examples", "give an integer ≥ 1")
