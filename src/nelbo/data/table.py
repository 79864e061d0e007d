"""A table of real numbers: `.csv`, one example a line, comma-separated UTF-8 with or without a byte order mark."""

from __future__ import annotations

import csv
import io
import itertools
import math

import numpy as np

from nelbo.data import arrays, classes, columns, places
from nelbo.data.places import Place
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

OPTIONS = ("header", "index", "labels", "empty")
COUNTED = 8
"""Lines from which on a first column without a name that counts them is taken for row numbers, perhaps."""
_MISSING = ("?", "-", "--", ".", "na", "n/a", "#n/a", "nan", "null", "none", "missing")
_YEARS = range(1800, 2101)

_Lines = list[tuple[int, list[str]]]


def read_csv(place: Place, limit: int | None = None) -> Examples:
    """The numbers of a comma-separated file as real examples (N, D) float64; a first line without numbers names the
    columns.

    A column named as in `columns.LABELS`, in any case, holds labels: whole numbers, or names of classes. Options behind
    the path decide what the file leaves open: `#header=yes` or `no`; `#index=yes` (the column without a name, or else
    the first, numbers the rows and is no data) or `no`; `#labels=NAME` or `none`; `#empty=nan` reads fields that are
    empty, or say that nothing is there, as NaN. limit: only so many examples.
    Errors: DataError for a missing or unreadable file, lines of unequal length, fields that are not numbers, and a
    table whose first line, unnamed column or column y can be read in two ways, with the option to write.
    """
    path, options = str(place.path), place.checked(OPTIONS)
    if options.get("empty") not in (None, "nan"):
        raise UnknownNameError.of("value of #empty", options["empty"], ("nan",))
    for name in ("header", "index"):
        if options.get(name) not in (None, "yes", "no"):
            raise UnknownNameError.of(f"value of #{name}", options[name], ("yes", "no"))
    lines = _lines(place)
    names = _header(lines, options.get("header"), path)
    if not lines:
        raise DataError(f"{path} holds no numbers", "give a table with one example a line")
    width, total = len(names) or len(lines[0][1]), len(lines)
    for number, fields in lines:
        if len(fields) != width:
            raise DataError(
                f"line {number} of {path} has {len(fields)} fields, not {width}", "give every line the same columns"
            )
    index, choice = _index_column(names, lines, options.get("index"), path), options.get("labels")
    lines = lines[:limit]
    labels, known, label = None, (), None
    if not names and choice not in (None, "none"):
        raise DataError(f"{path} has no header that names a column {choice!r}", "add one to the file")
    if names:
        line = f"{path}#labels=NAME"
        label = columns.label_column(names, choice, path, line)
    if label is not None:
        split = columns.labels_of(_label_texts(lines, label, path), names[label], names, path, line, choice is not None)
        labels, known = split or (None, ())
        label = None if split is None else label
    kept = [k for k in range(width) if k not in (index, label)]
    if not kept:
        raise DataError(f"{path} has no column of data", "give a table with one example a line")
    rows = np.empty((len(lines), len(kept)))
    for row, (number, fields) in enumerate(lines):
        for place_in_row, column in enumerate(kept):
            if "empty" in options and fields[column].strip().lower() in ("", *_MISSING):
                rows[row, place_in_row] = math.nan
                continue
            if classes.NUMBER.fullmatch(fields[column]) is None or math.isinf(float(fields[column])):
                called = f" ({names[column]})" if names else ""
                raise DataError(
                    f"line {number} of {path}: {fields[column]!r} in column {column + 1}{called} is not a number",
                    "remove that line, or fill the field in on purpose",
                )
            rows[row, place_in_row] = float(fields[column])
    name = path if len(rows) == total else f"{path}[:{len(rows)}]"
    passed = [] if index is None else [(f"column {index + 1}", "row numbers")]
    return Examples(arrays.tensor(rows, path), name, labels, classes=known, facts=arrays.passed_over(passed))


def _lines(place: Place) -> _Lines:
    """The lines that are not empty, with their numbers."""
    with places.opened(place.path) as file:
        raw = file.read()
    try:
        text = io.StringIO(raw.decode("utf-8-sig"), newline="")
        lines = [(k, fields) for k, fields in enumerate(csv.reader(text, strict=True), 1)]
        lines = [(k, fields) for k, fields in lines if any(map(str.strip, fields))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{place.path} is not a readable table: {error}", "write it as comma-separated UTF-8") from None
    if lines and len(lines[0][1]) == 1:  # there may be commas in the numbers below
        for mark, called in ((";", "semicolons"), ("\t", "tabs")):
            if all(mark in ",".join(fields) for _, fields in lines):
                raise DataError(f"{place.path} is separated by {called}", "write it as comma-separated UTF-8")
    return lines


def _header(lines: _Lines, choice: str | None, path: str) -> list[str]:
    """The names of the columns, taken off the lines; [] where there are none. Errors: DataError where that is open."""
    if not lines or choice == "no":
        return []
    first = [field.strip() for field in lines[0][1]]
    numbers = [classes.NUMBER.fullmatch(field) is not None for field in first]
    problem = None
    if choice is None and any(numbers):
        if not all(numbers):
            problem = "mixes numbers and other text"
        elif _like_names(first, lines[1:]):
            problem = "may be the names of the columns or the first example"
        else:
            return []
    elif choice is None and any(field.lower() in _MISSING for field in first):
        problem = "may be the names of the columns or an example with missing values"
    elif choice is None and not any(first):
        return []
    if problem is not None:
        raise DataError(
            f"the first line of {path}, {','.join(first)[:80]!r}, {problem}",
            f"choose: {path}#header=yes or {path}#header=no",
        )
    del lines[0]
    return first


def _like_names(first: list[str], rest: _Lines) -> bool:
    """Whether a first line of numbers may be names: 0, 1, …; years; or whole numbers above others that are not."""
    if not rest or not all(field.isdigit() for field in first):
        return False
    numbers = [int(field[:18]) for field in first]
    if len(first) > 1 and (numbers == list(range(len(first))) or (numbers[0] in _YEARS and _rising(numbers))):
        return True
    lines = [fields for _, fields in rest if len(fields) == len(first)]
    return bool(lines) and all(
        any("." in fields[k] or "e" in fields[k].lower() for fields in lines) for k in range(len(first))
    )


def _rising(numbers: list[int]) -> bool:
    return all(number in _YEARS for number in numbers) and numbers == sorted(set(numbers))


def _index_column(names: list[str], lines: _Lines, choice: str | None, path: str) -> int | None:
    """The number of the column that counts the rows. Errors: DataError for a column that may, by its name and numbers.

    That is one without a name, one called as in `columns.COUNTERS` that counts, and the first where none has a name.
    """
    unnamed = [k for k, name in enumerate(names) if not name or name.startswith("Unnamed: ")]
    called = [k for k, name in enumerate(names) if columns.is_counter(name, _numbers(lines, k))]
    if not names and len(lines) >= COUNTED and len(lines[0][1]) > 1 and columns.counts(_numbers(lines, 0)):
        called = [0]
    if choice == "no":
        return None
    if choice == "yes":
        return next(iter(unnamed or called), 0)
    for k in unnamed or called:
        why = "has no name" if k in unnamed else f"counts the lines ({names[k]})" if names else "counts the lines"
        raise DataError(
            f"column {k + 1} of {path} {why}: row numbers, or data",
            f"choose: {path}#index=yes passes it over, {path}#index=no takes it as data",
        )
    return None


def _numbers(lines: _Lines, column: int) -> list[float]:
    """The fields of a column before the first that is no number."""
    texts = (fields[column] for _, fields in lines)
    return [float(text) for text in itertools.takewhile(classes.NUMBER.fullmatch, texts)]


def _label_texts(lines: _Lines, label: int, path: str) -> np.ndarray:
    """A column as numbers, where all are, or as text. Errors: DataError for a label that is missing."""
    texts = [fields[label].strip() for _, fields in lines]
    if all(map(classes.NUMBER.fullmatch, texts)):
        return np.array([float(text) for text in texts])
    for (number, _), text in zip(lines, texts, strict=True):
        if not text or text.lower() in _MISSING:
            raise DataError(f"line {number} of {path} has no label: {text!r}", "remove that line, or fill it in")
    return np.array(texts)
