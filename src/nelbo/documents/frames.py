"""Rows as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from typing import Any

from nelbo.errors import UsageError


def frame(rows: Any, index: str | None = None) -> Any:
    """A DataFrame of rows (dicts of one set of keys) or of columns (a dict of sequences); index: the column that names
    the rows. Errors: UsageError without pandas."""
    try:
        import pandas
    except ImportError:
        raise UsageError("a data frame needs pandas, which is not installed", "pip install pandas") from None
    made = pandas.DataFrame(rows)
    return made if index is None else made.set_index(index)
