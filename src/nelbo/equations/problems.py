"""What is wrong with the catalogue as a whole: entries, code, checks and source rows that do not meet."""

from __future__ import annotations

from nelbo.equations.check import CHECKS
from nelbo.equations.derivation import derivations
from nelbo.equations.places import markers
from nelbo.equations.registry import Catalogue, catalogue


def problems() -> list[str]:
    """One sentence for each fault, [] where the catalogue is whole.

    Found are: an entry without code and without a reason, or with both; a marker without entry; an entry without
    check and a check without entry; a printed row without entry, or mapped otherwise than the entries say; a related
    id that does not exist, or none; an entry that lists other derivations than have a step of it.
    """
    known = catalogue()
    return [*_of_code(known), *_of_checks(known), *_of_rows(known), *_of_relations(known), *_of_derivations(known)]


def _of_code(known: Catalogue) -> list[str]:
    marked = markers()
    found = [
        f"{', '.join(names)} implement {id!r}, which is no entry" for id, names in marked.items() if id not in known
    ]
    for id, e in known.items():
        if id in marked and e.code:
            found.append(f"{id} says that it has no code, but {marked[id][0]} is marked with it")
        if id not in marked and not e.code:
            found.append(f'{id} has no code: mark a function with @equation("{id}"), or say code = "none: reason"')
    return found


def _of_checks(known: Catalogue) -> list[str]:
    found = [f"{id} has no check" for id in known if known.check(id) is None]
    return found + [f"the check of {id!r} has no entry" for id in CHECKS if id not in known]


def _of_rows(known: Catalogue) -> list[str]:
    found, printed = [], {}
    for document in known.documents.values():
        for row in document.rows:
            printed[row.row] = row
            if bool(row.ids) == bool(row.out_of_scope):
                found.append(f"row {row.row} has no entry, or has one and is out of scope")
            for id in row.ids:
                if id not in known:
                    found.append(f"row {row.row} is mapped to {id!r}, which is no entry")
                elif row.row not in {s.row for s in known[id].sources}:
                    found.append(f"row {row.row} is mapped to {id}, which does not list it")
    for id, e in known.items():
        for s in e.sources:
            row = printed.get(s.row)
            if row is None or id not in row.ids:
                found.append(f"{id} lists row {s.row}, which is not mapped to it")
            elif (row.status, row.where) != (s.status, s.where):
                found.append(f"{id} and the coverage disagree about row {s.row}")
            if s.document != s.row[:3]:
                found.append(f"{id} lists row {s.row} under document {s.document}")
    return found


def _of_relations(known: Catalogue) -> list[str]:
    found = [f"{id} has no related entry" for id, e in known.items() if not e.related]
    for id, e in known.items():
        found += [
            f"{id} is related to {o!r}, which is {'itself' if o == id else 'no entry'}"
            for o in e.related
            if o not in known or o == id
        ]
    return found


def _of_derivations(known: Catalogue) -> list[str]:
    used: dict[str, set[str]] = {}
    for walk in derivations().values():
        for step in walk.steps:
            used.setdefault(step.entry, set()).add(walk.id)
    found = []
    for id, e in known.items():
        if set(e.derivations) != used.get(id, set()):
            found.append(
                f"{id} lists the derivations {list(e.derivations)}, but is a step of {sorted(used.get(id, ()))}"
            )
    return found
