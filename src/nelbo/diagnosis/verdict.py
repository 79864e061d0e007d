"""The verdict: what the ranking says in words."""

from __future__ import annotations

import math

from nelbo.diagnosis.contest import Candidate
from nelbo.diagnosis.result import Check, Row, Verdict
from nelbo.maths.units import bits_per_dim

LEAST = 0.02
"""Bits/dim below which two declarations are not told apart."""
DEVIATIONS, AT_LEAST = 3.5, 2.0
"""Standard errors of a paired difference by which another declaration must be better; and how many of them are enough
where so many standard deviations more of its draws cost less, for a term that explodes has a large error of its own."""
NAMED = 4
"""Declarations that are named as not to be told apart."""


def verdict(rows: list[Row], checks: list[Check], near: dict[str, list[str]]) -> Verdict:
    """Of the rows, best first. near: as of `nearness`."""
    declared = next(row for row in rows if row.as_declared)
    others = [row for row in rows if row.kind == "declaration"]
    choices = [row for row in rows if row.kind == "choice" and better(row)]
    failed = "; ".join(check.text for check in checks if not check.ok)
    winner = next((row for row in others if row.complete and better(row)), None)
    if winner is not None:
        text = f"{winner.claim}: {_of(winner)} bits/dim, not {_of(declared)}"
        alike = [row.name for row in others if better(row) and row.name in near.get(winner.name, [])]
        if alike:
            text += f"; cannot be told apart from it: {_names(alike)}"
        return Verdict(False, text if not failed else f"{failed}; {text}", winner.change)
    alike = [row.name for row in others if row.complete and _like(row)]
    text = "as declared is best"
    if alike:
        text = f"as declared is as good as any; cannot be told apart from it: {_names(alike)}"
    if choices:
        best = choices[0]
        text += f"; {best.claim}: {_of(best)} bits/dim, not {_of(declared)}, which is another model and no mistake"
    return Verdict(not failed, text if not failed else f"{failed}; otherwise {text}")


def nearness(candidates: list[Candidate], D: int) -> dict[str, list[str]]:
    """For every declaration that was tried to the end, the others that are not told apart from it: whose paired
    difference is below `LEAST` bits/dim or within two standard errors."""
    last = max(max(candidate.values, default=-1) for candidate in candidates)
    tried = {c.name: c for c in candidates if c.sibling is not None and last in c.values}
    found: dict[str, list[str]] = {}
    for name, one in tried.items():
        for other_name, other in tried.items():
            value, variance = other.difference(one)
            bits, error = float(bits_per_dim(abs(value), D)), float(bits_per_dim(variance**0.5, D))
            if other is not one and bits < max(LEAST, 2 * error):
                found.setdefault(name, []).append(other_name)
    return found


def better(row: Row) -> bool:
    """Whether a row is better than what was declared, by enough and for sure; where that is not finite, any is."""
    if math.isnan(row.difference):
        return not math.isnan(row.bits_per_dim)
    deviations = AT_LEAST if row.wins > DEVIATIONS else DEVIATIONS
    return -row.difference > max(LEAST, deviations * row.difference_error)


def _like(row: Row) -> bool:
    """Whether it cannot be told from what was declared: within the least difference, or within its errors."""
    return row.difference < max(LEAST, 2 * row.difference_error)


def _names(names: list[str]) -> str:
    named = ", ".join(names[:NAMED])
    return named if len(names) <= NAMED else f"{named} and {len(names) - NAMED} more"


def _of(row: Row) -> str:
    return "infinitely many" if math.isnan(row.bits_per_dim) else f"{row.bits_per_dim:.3f}"
