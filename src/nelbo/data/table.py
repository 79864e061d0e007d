"""A table of real numbers: `.csv`, one example a line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from nelbo.data import arrays
from nelbo.errors import DataError
from nelbo.model.examples import Examples


def read_csv(path: Path) -> Examples:
    """The numbers of a comma-separated file as real examples (N, D) float64; a first line without numbers names the
    columns.

    A column named as in `arrays.LABEL_KEYS` that holds integers is the labels and no part of the data.
    Errors: DataError for a missing or unreadable file, lines of unequal length, and fields that are not numbers.
    """
    try:
        with path.open(newline="") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if any(map(str.strip, line))]
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable table: {error}", "write it as comma-separated UTF-8") from None
    names: list[str] = []
    if lines and not any(_is_number(field) for field in lines[0][1]):
        names = [name.strip() for name in lines.pop(0)[1]]
    if not lines:
        raise DataError(f"{path} holds no numbers", "give a table with one example a line")
    width = len(names) or len(lines[0][1])
    rows = np.empty((len(lines), width))
    for row, (number, fields) in enumerate(lines):
        if len(fields) != width:
            raise DataError(
                f"line {number} of {path} has {len(fields)} fields, not {width}", "give every line the same columns"
            )
        for column, field in enumerate(fields):
            if not _is_number(field):
                where = f" ({names[column]})" if names else ""
                raise DataError(
                    f"line {number} of {path}: {field!r} in column {column + 1}{where} is not a number",
                    "remove that line, or fill the field in on purpose",
                )
            rows[row, column] = float(field)
    labels = None
    for key in arrays.LABEL_KEYS:
        if key in names and width > 1 and bool((rows[:, names.index(key)] % 1 == 0).all()):
            labels = arrays.labels(rows[:, names.index(key)])
            rows = np.delete(rows, names.index(key), axis=1)
            break
    return Examples(arrays.tensor(rows, str(path)), str(path), labels)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
