"""Files that list the pictures of a folder with their labels: `dataset.json`, `metadata.csv`, `metadata.jsonl`.

dataset.json (StyleGAN, EDM): {"labels": [["00000/img00000000.png", 4], …]}, or "labels": null for none; sub-folders are
then no classes but shards. metadata.csv and metadata.jsonl (the image folders of Hugging Face's datasets): a row a
picture, with its `file_name` and a column of labels. Names are relative to the folder that holds the listing.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.data import classes, places
from nelbo.data.walk import File
from nelbo.errors import DataError
from nelbo.fields import parse_json

NAMES = ("dataset.json", "metadata.csv", "metadata.jsonl")
UNREAD = ("metadata.parquet",)
LABELS = ("label", "labels", "class", "fine_label")
_AWAY = "or move it out of the folder, to read the pictures without it"


@dataclass(frozen=True)
class Listing:
    """labels: of the pictures by name, None where it has none; unused: columns that are not read."""

    path: Path
    labels: dict[str, Any] | None
    unused: tuple[str, ...] = ()

    def of(self, pictures: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
        """Labels (N,) of the pictures, and their names where they are text. Errors: DataError."""
        if self.labels is None:
            return None, ()
        missing = [name for name in pictures if name not in self.labels]
        absent = sorted(set(self.labels) - set(pictures))
        for names, what in ((missing, "has no row for"), (absent, "has rows for pictures that are not there,")):
            if names:
                raise DataError(
                    f"{self.path} {what} {classes.shortened(list(map(places.printable, names[:3])))}"
                    + (f" ({len(names)} in all)" if len(names) > 1 else ""),
                    f"give every picture one row, {_AWAY}",
                )
        values = [self.labels[name] for name in pictures]
        if all(isinstance(value, int) for value in values):
            return torch.tensor(values, dtype=torch.int64), ()
        return classes.numbered([str(value) for value in values], str(self.path))


def listing(files: Sequence[File]) -> Listing | None:
    """The listing among the files of a folder, if any. Errors: DataError for several, and for one that is not read."""
    present = [file for file in files if posixpath.basename(file.name) in (*NAMES, *UNREAD)]
    if not present:
        return None
    if len(present) > 1:
        raise DataError(
            f"the folder holds {present[0].path} and {present[1].path}, which both list its pictures",
            "keep one of them, or give one of the sub-folders",
        )
    file = present[0]
    if "/" in file.name:
        raise DataError(
            f"{file.path} lists the pictures of a sub-folder", f"give the sub-folder {posixpath.dirname(file.name)}"
        )
    if file.name in UNREAD:
        raise DataError(f"{file.path} is not read", f"write it as metadata.csv, {_AWAY}")
    with places.opened(file.path) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
        if file.name == "dataset.json":
            return _of_json(file.path, parse_json(text))
        if file.name == "metadata.jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        else:
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            rows = list(reader)
            if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                raise ValueError("two columns have one name")
    except (ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{file.path} cannot be read: {error}", f"repair it, {_AWAY}") from None
    return _of_rows(file.path, rows)


def _of_json(path: Path, document: Any) -> Listing:
    if not isinstance(document, dict) or "labels" not in document:
        raise DataError(
            f'{path} is not the listing of StyleGAN and EDM, a table with the key "labels"', f"repair it, {_AWAY}"
        )
    pairs = document["labels"]
    if pairs is None:
        return Listing(path, None)
    if not isinstance(pairs, list):
        raise DataError(f"the labels of {path} are no list of pairs", f"repair it, {_AWAY}")
    labels: dict[str, Any] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise DataError(
                f"{path} has an entry that is no pair of name and label: {str(pair)[:80]}", f"repair it, {_AWAY}"
            )
        _add(labels, path, pair[0], pair[1])
    return Listing(path, labels)


def _of_rows(path: Path, rows: list[Any]) -> Listing:
    if not rows or not all(isinstance(row, dict) and isinstance(row.get("file_name"), str) for row in rows):
        raise DataError(f"{path} has not the column file_name in every row", f"repair it, {_AWAY}")
    columns = list(dict.fromkeys(str(column) for row in rows for column in row))
    lower = {column: column.strip().lower() for column in columns}
    chosen = [column for column in columns if lower[column] in LABELS]
    if len(chosen) > 1:
        raise DataError(
            f"{path} has the columns {', '.join(chosen)}, and it is not clear which of them holds the labels",
            "keep one of them",
        )
    unused = tuple(places.printable(c) for c in columns if c not in ("file_name", *chosen))
    labels: dict[str, Any] = {}
    for row in rows:
        _add(labels, path, row["file_name"], _value(row.get(chosen[0])) if chosen else 0)
    return Listing(path, labels, unused) if chosen else Listing(path, None, unused)


def _add(labels: dict[str, Any], path: Path, name: str, value: Any) -> None:
    """Errors: DataError for a second row of a picture and for a label that is neither a number nor a text."""
    key = posixpath.normpath(name.replace("\\", "/"))
    if key in labels:
        raise DataError(f"{path} has two rows for {places.printable(key)}", f"give every picture one row, {_AWAY}")
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not whole and not (isinstance(value, str) and value.strip()):
        raise DataError(
            f"{path} has the label {str(value)[:80]!r} for {places.printable(key)}, neither a whole number nor a name",
            f"give one class a picture, {_AWAY}",
        )
    labels[key] = value


def _value(value: Any) -> Any:
    """A whole number, also one written as 1.0 or as text, as that number; other numbers as they are, and no names."""
    number = isinstance(value, float) or (isinstance(value, str) and classes.NUMBER.fullmatch(value) is not None)
    if not number:
        return value
    if isinstance(value, str) and len(value) < 19 and value.strip().lstrip("+-").isdigit():
        return int(value)
    real = float(value)
    return int(real) if real.is_integer() and abs(real) <= 2.0**53 else real
