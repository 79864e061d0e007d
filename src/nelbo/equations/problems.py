"""Faults of the catalogue as a whole: entries, code, checks and source rows that do not agree."""

from __future__ import annotations

from nelbo.equations.check import CHECKS
from nelbo.equations.derivation import derivations
from nelbo.equations.places import markers
from nelbo.equations.registry import Catalogue, catalogue


def problems() -> list[str]:
    """One sentence for each fault, [] where there is none.

    The faults: an entry without code and without a reason, or with both; a marker without entry; an entry without
    check and a check without entry; a printed row without entry, or mapped otherwise than the entries say; a related
    id that does not exist, or none; an entry whose list of derivations is not that of the derivations with such a step.
    """
    known = catalogue()
    return [*_of_code(known), *_of_checks(known), *_of_rows(known), *_of_relations(known), *_of_derivations(known)]


def _of_code(known: Catalogue) -> list[str]:
    marked = markers()
    faults = [
        f"{', '.join(names)} implement {id!r}, which is no entry" for id, names in marked.items() if id not in known
    ]
    for id, e in known.items():
        if id in marked and e.code:
            faults.append(f"{id} says that it has no code, but {marked[id][0]} is marked with it")
        if id not in marked and not e.code:
            faults.append(f'{id} has no code: mark a function with @equation("{id}"), or say code = "none: reason"')
    return faults


def _of_checks(known: Catalogue) -> list[str]:
    faults = [f"{id} has no check" for id in known if known.check(id) is None]
    return faults + [f"the check of {id!r} has no entry" for id in CHECKS if id not in known]


def _of_rows(known: Catalogue) -> list[str]:
    faults, printed = [], {}
    for document in known.documents.values():
        for row in document.rows:
            printed[row.row] = row
            if bool(row.ids) == bool(row.out_of_scope):
                faults.append(f"row {row.row} has no entry, or has one and is out of scope")
            for id in row.ids:
                if id not in known:
                    faults.append(f"row {row.row} is mapped to {id!r}, which is no entry")
                elif row.row not in {s.row for s in known[id].sources}:
                    faults.append(f"row {row.row} is mapped to {id}, which does not list it")
    for id, e in known.items():
        for s in e.sources:
            row = printed.get(s.row)
            if row is None or id not in row.ids:
                faults.append(f"{id} lists row {s.row}, which is not mapped to it")
            elif (row.status, row.where) != (s.status, s.where):
                faults.append(f"{id} and the coverage disagree about row {s.row}")
            if s.document != s.row[:3]:
                faults.append(f"{id} lists row {s.row} under document {s.document}")
    return faults


def _of_relations(known: Catalogue) -> list[str]:
    faults = [f"{id} has no related entry" for id, e in known.items() if not e.related]
    for id, e in known.items():
        faults += [
            f"{id} is related to {o!r}, which is {'itself' if o == id else 'no entry'}"
            for o in e.related
            if o not in known or o == id
        ]
    return faults


def _of_derivations(known: Catalogue) -> list[str]:
    used: dict[str, set[str]] = {}
    for walk in derivations().values():
        for step in walk.steps:
            used.setdefault(step.entry, set()).add(walk.id)
    faults = []
    for id, e in known.items():
        if set(e.derivations) != used.get(id, set()):
            faults.append(
                f"{id} lists the derivations {list(e.derivations)}, but is a step of {sorted(used.get(id, ()))}"
            )
    return faults
