"""The source documents, and for every formula that they print the entries that cover it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATH = Path(__file__).parent / "coverage.toml"


@dataclass(frozen=True)
class PrintedRow:
    """One printed formula: its row number, where it stands, its status, the entries that cover it, in order.

    out_of_scope: why no entry covers it; "" where one does.
    """

    row: str
    where: str
    status: str
    ids: tuple[str, ...]
    out_of_scope: str = ""


@dataclass(frozen=True)
class Document:
    """A source document: its number (three digits), title, what it describes, and its rows as printed."""

    number: str
    title: str
    about: str
    rows: tuple[PrintedRow, ...]


@cache
def documents() -> dict[str, Document]:
    """Number -> document, in order."""
    table = tomllib.loads(PATH.read_text(encoding="utf-8"))
    return {
        number: Document(
            number,
            given["title"],
            given["about"],
            tuple(PrintedRow(**{**row, "ids": tuple(row["ids"])}) for row in given["rows"]),
        )
        for number, given in sorted(table.items())
    }
