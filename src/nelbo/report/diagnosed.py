"""The section of a diagnosis: the verdict, the declarations that come nearest, and what was looked at by itself."""

from __future__ import annotations

from typing import Any

from nelbo.report.contents import is_number
from nelbo.typing import Json

ROWS = 10
"""Declarations that are shown."""


def view(diagnosis: Json | None) -> Json | None:
    """What the template shows of a diagnosis (schema nelbo.diagnosis/1); None where there is none."""
    if diagnosis is None:
        return None
    rows = diagnosis["rows"]
    shown = [row for place, row in enumerate(rows) if place < ROWS or row["as_declared"]]
    verdict = diagnosis["verdict"]
    return {
        "ok": bool(verdict["ok"]),
        "verdict": str(verdict["text"]),
        "change": None if verdict["change"] is None else str(verdict["change"]),
        "unit": str(diagnosis["unit"]),
        "rows": [_row(row) for row in shown],
        "others": len(rows) - len(shown),
        "failed": [str(check["text"]) for check in diagnosis["checks"] if not check["ok"]],
        "passed": [str(check["name"]) for check in diagnosis["checks"] if check["ok"]],
        "skipped": len(diagnosis["skipped"]),
        "nfe": int(diagnosis["nfe_total"]),
        "examples": int(diagnosis["examples"]),
        "choices": any(row["kind"] == "choice" for row in shown),
    }


def _row(row: Json) -> Json:
    own = bool(row["as_declared"])
    return {
        "name": str(row["name"]) + (" *" if row["kind"] == "choice" else ""),
        "own": own,
        "bits": _number(row["bits_per_dim"], "{:.3f}"),
        "error": _number(row["standard_error"], "{:.3f}"),
        "difference": "" if own else _number(row["difference"], "{:+.3f}"),
        "difference_error": "" if own else _number(row["difference_error"], "{:.3f}"),
    }


def _number(value: Any, form: str) -> str:
    return form.format(value).replace("-", "−") if is_number(value) else "–"
