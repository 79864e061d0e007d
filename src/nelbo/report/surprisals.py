"""The section of surprisals: sequences, every symbol on a ground that says what it cost, and all numbers as a table.

Six classes of cost, each with a shade and a bar of its own height, so that the picture says the same without colours.
"""

from __future__ import annotations

from nelbo.documents.numbers import number
from nelbo.typing import Json

EDGES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Nats at which the classes of cost end."""
PLACES = 1024
"""Places of a sequence that are shown, at most."""
MOST = 6
"""Places that are named as the costliest of a sequence."""
CONTEXT = 8
"""Symbols before such a place that are shown with it."""
_SIGNS = {"\n": "⏎\n", "\t": "⇥\t", "\r": "␍", "\0": "␀"}


def view(document: Json | None) -> Json | None:
    """What the template shows of surprisals (schema nelbo.surprisal/1); None where there are none."""
    if document is None:
        return None
    sequences = [_sequence(number_, places) for number_, places in enumerate(document["sequences"])]
    return {
        "sequences": sequences,
        "classes": [{"grade": grade, "text": _between(grade)} for grade in range(len(EDGES) + 1)],
        "nfe": int(document["nfe_total"]),
        "given": any(place["grade"] is None for sequence in sequences for place in sequence["places"]),
    }


def _sequence(number_: int, places: list[Json]) -> Json:
    nats = [float(place["nats"]) for place in places if place["nats"] is not None]
    costly = sorted((k for k, p in enumerate(places) if p["nats"] is not None), key=lambda k: -places[k]["nats"])
    return {
        "number": number_,
        "total": number(sum(nats), 1),
        "scored": len(nats),
        "places": [_place(k, place) for k, place in enumerate(places[:PLACES])],
        "hidden": max(0, len(places) - PLACES),
        "most": [
            {
                **_place(k, places[k]),
                "before": "".join(_shown(p["text"]) for p in places[max(0, k - CONTEXT) : k]),
            }
            for k in costly[:MOST]
        ],
    }


def _place(k: int, place: Json) -> Json:
    text, nats = _shown(str(place["text"])), place["nats"]
    if nats is None:
        return {"k": k, "text": text, "grade": None, "says": "given or padding, not scored", "nats": "", "error": ""}
    value, error = number(float(nats), 2), number(float(place["standard_error"]), 2)
    grade = sum(float(nats) >= edge for edge in EDGES)
    return {"k": k, "text": text, "grade": grade, "says": f"{value} ± {error} nats", "nats": value, "error": error}


def _shown(text: str) -> str:
    """With signs for what would not be seen."""
    return "".join(_SIGNS.get(sign, sign if sign.isprintable() else "·") for sign in text)


def _between(grade: int) -> str:
    if grade == 0:
        return f"below {EDGES[0]:g}"
    return f"{EDGES[-1]:g} and more" if grade == len(EDGES) else f"{EDGES[grade - 1]:g} to {EDGES[grade]:g}"
