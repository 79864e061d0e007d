"""How measured figures are written on the pages."""

from __future__ import annotations

import re
from typing import Any

from nelbo.typing import Json

KIND = {
    "holds": "holds",
    "must_fail": "must fail",
    "z": "z-test",
    "z_must_fail": "z-test, must fail",
    "true": "true",
    "info": "measured",
}
"""Kind of a check -> its words."""


def without_id(line: str) -> str:
    """Evidence without the id of the entry whose check found it."""
    return re.sub(r"^[a-z0-9-]+: ", "", line)


def condition(text: str) -> str:
    """A condition with the signs of print: `<= 1e-12` as ≤ 10⁻¹²."""
    text = text.replace("<=", "≤").replace(">=", "≥")
    return re.sub(r"(?<![\d.])(-?[\d.]+)?e([+-]?\d+)", _power, text)


def _power(match: re.Match[str]) -> str:
    raised = str(int(match[2])).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if match[1] == "1" else f"{match[1]}·10{raised}"


def how_close(check: Json) -> str:
    """How closely a line equals the one before, or how far it is above or below."""
    if isinstance(check["observed"], bool):
        return ""
    shown = figure(check["observed"])
    if check["kind"] == "holds":
        return ", exactly" if check["observed"] == 0 else f", to {shown}"
    return f", by {shown} or more" if check["ok"] else f": {shown}"


def figure(observed: Any) -> str:
    """A measured figure in three digits, or yes and no; values that are not finite are text already."""
    if isinstance(observed, bool):
        return "yes" if observed else "no"
    return observed if isinstance(observed, str) else condition(f"{observed:.3g}").replace("-", "−")
