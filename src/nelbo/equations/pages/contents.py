"""The contents of the site: the catalogue with its code, derivations, source documents, and results of the checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nelbo.equations.coverage import Document
from nelbo.equations.derivation import Derivation, derivations, verify_derivations
from nelbo.equations.entry import Entry
from nelbo.equations.places import Place
from nelbo.equations.registry import catalogue
from nelbo.equations.verify import verify as run
from nelbo.errors import DataError
from nelbo.typing import Json


@dataclass(frozen=True)
class Contents:
    """The whole catalogue, and the results of its checks.

    results, walked: id of an entry, of a derivation -> its part of the output of `equations verify --json`; empty
    where nothing was run.
    """

    entries: Mapping[str, Entry]
    documents: Mapping[str, Document]
    walks: Mapping[str, Derivation]
    places: Mapping[str, tuple[Place, ...]]
    results: Mapping[str, Json]
    walked: Mapping[str, Json]


def read(report: Json | None = None) -> Contents:
    """The catalogue of this package, with the figures of a report. Errors: DataError where a file of it is damaged."""
    entries = catalogue()
    places = {id: entries.implementations(id) for id in entries}
    reports = [{r["id"]: r for r in (report or {}).get(part, ())} for part in ("entries", "derivations")]
    return Contents(entries, entries.documents, derivations(), places, *reports)


def measured(verify: bool | str | Path, progress: Callable[[int, int], None] | None = None) -> Json | None:
    """The results of the checks: run now (True), none (False), or read from a file of `equations verify --json`.

    progress: called with (done, planned) as they run. Errors: DataError for a file that is no such report.
    """
    if verify is False:
        return None
    if verify is not True:
        return _report(Path(verify))
    planned, walks = len(catalogue()), len(derivations())

    def first(done: int, _: int) -> None:
        if progress is not None:
            progress(done, planned + walks)

    def then(done: int, _: int) -> None:
        first(planned + done, 0)

    entries = run(progress=first).to_dict()["entries"]
    return {"entries": entries, "derivations": verify_derivations(progress=then).to_dict()["entries"]}


_REPORT = {"id": str, "ok": bool, "seconds": (int, float), "checks": list}
_CHECK = {"name": str, "kind": str, "expected": str, "observed": (int, float, str), "ok": bool}


def _report(path: Path) -> Json:
    hint = "make one with: nelbo equations verify --json > checks.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the results {path} cannot be read: {error}", hint) from None
    parts = [report.get("entries"), report.get("derivations", [])] if isinstance(report, dict) else [None]
    if not all(isinstance(part, list) and all(map(_result, part)) for part in parts):
        raise DataError(f"the file {path} does not hold the results of the checks", hint)
    return report


def _result(entry: object) -> bool:
    return _fits(entry, _REPORT) and all(_fits(check, _CHECK) for check in entry["checks"])  # type: ignore[index]


def _fits(table: object, shape: dict) -> bool:
    return isinstance(table, dict) and all(isinstance(table.get(name), kind) for name, kind in shape.items())
