"""The section of a diagnosis: the verdict, the declarations that come nearest, and what was looked at by itself."""

from __future__ import annotations

from nelbo.documents import tables
from nelbo.typing import Json


def view(diagnosis: Json | None) -> Json | None:
    """What the template shows of a diagnosis (schema nelbo.diagnosis/1); None where there is none."""
    if diagnosis is None:
        return None
    rows = diagnosis["rows"]
    shown = tables.declarations(diagnosis)
    verdict = diagnosis["verdict"]
    return {
        "ok": bool(verdict["ok"]),
        "verdict": str(verdict["text"]),
        "change": None if verdict["change"] is None else str(verdict["change"]),
        "unit": str(diagnosis["unit"]),
        "rows": shown,
        "others": len(rows) - len(shown),
        "failed": [str(check["text"]) for check in diagnosis["checks"] if not check["ok"]],
        "passed": [str(check["name"]) for check in diagnosis["checks"] if check["ok"]],
        "skipped": len(diagnosis["skipped"]),
        "nfe": int(diagnosis["nfe_total"]),
        "examples": int(diagnosis["examples"]),
        "choices": any(row["choice"] for row in shown),
    }
