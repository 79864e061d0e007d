"""Tables of named columns, from a file or a data frame: which column holds labels, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nelbo.data import arrays, classes
from nelbo.errors import DataError

LABELS = (*arrays.LABEL_KEYS, "class", "classes", "target")
"""Names, in any case, of columns that hold labels."""
COUNTERS = ("id", "idx", "index", "row", "row_id", "rowid", "nr", "no", "#")
"""Names, in any case, of columns that may number the rows."""
_EXACT = 2.0**53
"""Whole numbers below are kept by float64."""


def label_column(names: Sequence[str], choice: str | None, where: str, line: str) -> int | None:
    """The number of the column that may hold labels, if any.

    choice: its name, "none", or None to go by the names of the columns. line: how to choose, for the hint. Errors:
    DataError for several candidates, and for a choice that is not there.
    """
    if choice == "none" or (choice is None and len(names) < 2):
        return None
    if choice is not None:
        if choice not in names:
            raise DataError(f"{where} has no column {choice!r}", f"its columns are {', '.join(names)}")
        return list(names).index(choice)
    candidates = [k for k, name in enumerate(names) if name.strip().lower() in LABELS]
    if len(candidates) > 1:
        some = " and ".join(repr(names[k]) for k in candidates)
        raise DataError(f"{where} has the columns {some}, which may both be labels", f"choose one: {line}")
    return candidates[0] if candidates else None


def labels_of(
    column: np.ndarray, name: str, names: Sequence[str], where: str, line: str, chosen: bool
) -> tuple[Tensor, tuple[str, ...]] | None:
    """The labels (N,) of a column of numbers or text, and the names of their classes; None where the column is data.

    That is a column y of numbers that are not whole. chosen: whether the user named the column. Errors: DataError for
    labels that are neither whole numbers nor names, and for whole numbers y beside an x, which may be coordinates.
    """
    if column.dtype.kind not in "buif":
        missing = [row for row, value in enumerate(column.tolist()) if is_missing(value)]
        if missing:
            raise DataError(
                f"{where} has no label in row {missing[0]}" + f" ({len(missing)} in all)" * (len(missing) > 1),
                "leave these rows out, or fill them in",
            )
        return classes.numbered([str(value) for value in column.tolist()], where)
    values = column.astype(np.float64)
    whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) <= _EXACT)
    if not chosen and name.strip().lower() == "y":
        if not whole.all():
            return None
        if "x" in (other.strip().lower() for other in names):
            raise DataError(
                f"{where} has the columns x and {name}, and {name} holds whole numbers: labels, or a coordinate",
                f"choose: {line.replace('NAME', name)} or {line.replace('NAME', 'none')}",
            )
    if not whole.all():
        raise DataError(
            f"{where} has the label {column[~whole][0]} in the column {name!r}, which is no number of a class",
            f"give whole numbers or names; if the column is data, choose {line.replace('NAME', 'none')}",
        )
    return arrays.labels(column), ()


def counts(values: Sequence[float]) -> bool:
    """Whether the numbers of a column count its rows, from 0 or from 1."""
    return len(values) > 1 and values[0] in (0, 1) and all(v == values[0] + k for k, v in enumerate(values))


def is_counter(name: str, values: Sequence[float]) -> bool:
    """Whether a column may number the rows, by its name and its numbers."""
    return name.strip().lower() in COUNTERS and counts(values)


def is_missing(value: object) -> bool:
    """Whether a value of a data frame is none: None, not a number, or pandas' NA or NaT."""
    absent = type(value).__name__ in ("NAType", "NaTType")
    return value is None or absent or (isinstance(value, float) and math.isnan(value))
