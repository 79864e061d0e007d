"""One entry of the catalogue, and its TOML file.

An entry is one equation: what it says in LaTeX and in plain words, what its letters mean, under which assumptions it
holds, where it is published, and what the five source documents print for it. `entries/<id>.toml` holds these keys:

    id, title, group, kind, latex, statement            strings, all required
    symbols                                             a table, LaTeX of the symbol -> what it means
    tags, assumptions, related                          lists of strings
    [[references]]  authors, year, arxiv, equation      published works; year is an integer
    [[sources]]     row, document, where, status, printed, right, why, evidence
    derivations                                         ids of the derivation walks that use it (optional)
    code                                                "none: reason" where the library has no function for it
    place                                               its number in the order of reading of its group (optional)

Ids are permanent: an entry may be corrected, never renamed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nelbo.errors import DataError

STATUSES = ("correct", "misprinted", "garbled", "loose", "overclaim")
"""What a printed row can be: right; wrong in a symbol; destroyed by layout; true with a caveat; false as stated."""

KINDS = ("identity", "chain-step", "definition", "inequality", "limit", "algorithm", "claim", "claim refuted")

GROUPS = (
    "A preliminaries",
    "B forward process",
    "C reverse process",
    "D variational bound",
    "E variance-reduced rewriting",
    "F parametrisation and loss",
    "G variational diffusion models",
    "H parametrisations",
    "I weighted losses",
    "J probability-flow ODE",
    "K chains over symbols",
    "L latent models",
)


@dataclass(frozen=True)
class Reference:
    """A published place: authors as one cites them, year, arXiv id ("" where there is none) and equation number."""

    authors: str
    year: int
    arxiv: str
    equation: str

    def __str__(self) -> str:
        arxiv = f", arXiv:{self.arxiv}" if self.arxiv else ""
        return f"{self.authors} {self.year}{arxiv}" + (f", {self.equation}" if self.equation else "")

    @property
    def url(self) -> str:
        """The abstract page on arXiv, or ""."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True)
class SourceRow:
    """One printed formula of a source document: where it stands, what is printed there and whether that is right.

    status: one of `STATUSES`. right, why: the correct form and the reason; of a correct row a remark, or "".
    evidence: figures that show that the printed form fails, one sentence each.
    """

    row: str
    document: str
    where: str
    status: str
    printed: str
    right: str = ""
    why: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One equation of the catalogue; the fields are described at the top of the module."""

    id: str
    title: str
    group: str
    kind: str
    tags: tuple[str, ...]
    symbols: Mapping[str, str]
    latex: str
    statement: str
    assumptions: tuple[str, ...]
    references: tuple[Reference, ...]
    sources: tuple[SourceRow, ...]
    related: tuple[str, ...]
    derivations: tuple[str, ...] = ()
    code: str = ""
    place: int = 999

    @property
    def letter(self) -> str:
        """The letter of the group, A to K."""
        return self.group[0]

    @property
    def documents(self) -> tuple[str, ...]:
        """Numbers of the source documents that print it, in order."""
        return tuple(sorted({s.document for s in self.sources}))

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses of its printed rows, the order of `STATUSES`; () where no source prints it."""
        return tuple(s for s in STATUSES if any(row.status == s for row in self.sources))

    @property
    def beyond(self) -> bool:
        """Whether no source document prints it: the catalogue's own addition."""
        return not self.sources


REQUIRED = ("id", "title", "group", "kind", "tags", "symbols", "latex", "statement", "assumptions", "related")
OPTIONAL = ("references", "sources", "derivations", "code", "place")


def load(path: Path) -> Entry:
    """The entry in a TOML file named `<id>.toml`.

    Errors: DataError naming the file and the key that is missing, unknown, of the wrong type or out of its range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"the catalogue entry {path.name} cannot be read: {error}", "restore or repair it") from None
    return _Reader(path.name).entry(table, path.stem)


class _Reader:
    """Turn one table into an `Entry`; every error names the file."""

    def __init__(self, file: str):
        self.file = file

    def entry(self, table: dict[str, Any], stem: str) -> Entry:
        self.keys(table, REQUIRED, OPTIONAL, "the entry")
        text = {key: self.text(table, key) for key in ("id", "title", "group", "kind", "latex", "statement")}
        if text["id"] != stem:
            self.fail(f"its id is {text['id']!r}", "an entry lies in <id>.toml")
        if text["group"] not in GROUPS:
            self.fail(f"its group is {text['group']!r}", f"choose one of: {', '.join(GROUPS)}")
        if text["kind"] not in KINDS:
            self.fail(f"its kind is {text['kind']!r}", f"choose one of: {', '.join(KINDS)}")
        symbols = table["symbols"]
        if not isinstance(symbols, dict) or not all(isinstance(v, str) and v for v in symbols.values()):
            self.fail("its symbols are no table of strings", "write [symbols] with '\\beta_t' = \"its meaning\"")
        code = self.text(table, "code") if "code" in table else ""
        if code and not code.startswith("none: "):
            self.fail(f"its code is {code!r}", 'write code = "none: reason", or leave it out and mark a function')
        return Entry(
            **{**text, "latex": text["latex"].strip(), "statement": " ".join(text["statement"].split())},
            tags=self.strings(table, "tags", least=1),
            symbols=symbols,
            assumptions=self.strings(table, "assumptions"),
            references=tuple(self.reference(r) for r in self.tables(table, "references")),
            sources=tuple(self.source(r) for r in self.tables(table, "sources")),
            related=self.strings(table, "related"),
            derivations=self.strings(table, "derivations"),
            code=code,
            place=self.whole(table, "place") if "place" in table else Entry.place,
        )

    def reference(self, table: dict[str, Any]) -> Reference:
        names = tuple(f.name for f in fields(Reference))
        self.keys(table, names, (), "a reference")
        others = {n: self.text(table, n, empty=n != "authors") for n in names if n != "year"}
        return Reference(**others, year=self.whole(table, "year"))

    def source(self, table: dict[str, Any]) -> SourceRow:
        needed = ("row", "document", "where", "status", "printed")
        self.keys(table, needed, ("right", "why", "evidence"), "a source row")
        status, row = self.text(table, "status"), self.text(table, "row")
        if status not in STATUSES:
            self.fail(f"row {row} has the status {status!r}", f"choose one of: {', '.join(STATUSES)}")
        if status != "correct" and not {"right", "why"} <= set(table):
            self.fail(f"row {row} is {status} and does not say what is right, and why", "write both: right, why")
        texts = {n: self.text(table, n) for n in (*needed, "right", "why") if n in table}
        return SourceRow(**texts, evidence=self.strings(table, "evidence"))

    def keys(self, table: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...], what: str) -> None:
        missing = [k for k in required if k not in table]
        unknown = sorted(set(table) - {*required, *optional})
        if missing:
            self.fail(f"{what} lacks the key {missing[0]!r}", f"it needs: {', '.join(required)}")
        if unknown:
            self.fail(f"{what} has the unknown key {unknown[0]!r}", f"known: {', '.join((*required, *optional))}")

    def text(self, table: dict[str, Any], key: str, empty: bool = False) -> str:
        value = table[key]
        if not isinstance(value, str) or not (empty or value.strip()):
            self.fail(f"{key} is {value!r}", "write a string that is not empty")
        return value

    def whole(self, table: dict[str, Any], key: str) -> int:
        value = table[key]
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(f"{key} is {value!r}", "write a whole number")
        return value

    def strings(self, table: dict[str, Any], key: str, least: int = 0) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value) or len(value) < least:
            self.fail(f"{key} is {value!r}", f"write a list of {'at least one string' if least else 'strings'}")
        if len(set(value)) < len(value):
            self.fail(f"{key} repeats itself: {value!r}", "write each once")
        return tuple(value)

    def tables(self, table: dict[str, Any], key: str) -> list[dict[str, Any]]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self.fail(f"{key} is no list of tables", f"write [[{key}]] before each")
        return value

    def fail(self, what: str, hint: str) -> None:
        raise DataError(f"the catalogue entry {self.file}: {what}", hint)
