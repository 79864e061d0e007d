"""The verdict of a diagnosis in words."""

from __future__ import annotations

import math

from nelbo.diagnosis.ranking import LEAST, Ranking
from nelbo.diagnosis.result import Check, Row, Verdict

NAMED = 4
"""Declarations that are named as not to be told apart, at most."""


def verdict(ranking: Ranking, checks: list[Check], unit: str = "bits/dim") -> Verdict:
    """What follows from the ranking and from the checks, of which each may fail by itself."""
    declared, best = ranking.declared, ranking.best
    failed = "; ".join(check.text for check in checks if not check.ok)
    if best is not None:
        text = f"{best.claim}: {_of(best)} {unit}, not {_of(declared)}"
        if ranking.whole is not None:
            text += f", on the levels that are declared, and {_of(ranking.whole)} on its own levels"
        if ranking.alike:
            text += f"; cannot be told apart from it: {_names(ranking.alike)}"
        return Verdict(False, f"{failed}; {text}" if failed else text, best.change, ranking.alike)
    text = "as declared is best"
    if ranking.alike:
        text = f"as declared is as good as any; cannot be told apart from it: {_names(ranking.alike)}"
        rows = [row for row in ranking.rows if row.name in ranking.alike]
        unseen = max(2 * row.difference_error for row in rows)
        if unseen > 5 * LEAST:
            text += f" (within {unseen:.1g} {unit}, which more evaluations would narrow)"
    if (choice := ranking.choice) is not None:
        text += f"; {choice.claim}: {_of(choice)} {unit}, not {_of(declared)}, which is another model and no mistake"
    return Verdict(not failed, f"{failed}; otherwise {text}" if failed else text, None, ranking.alike)


def _names(names: tuple[str, ...]) -> str:
    named = ", ".join(names[:NAMED])
    return named if len(names) <= NAMED else f"{named} and {len(names) - NAMED} more"


def _of(row: Row) -> str:
    return "infinitely many" if math.isnan(row.bits_per_dim) else f"{row.bits_per_dim:.3f}"
