"""Numbers for people: a value beside its error, so many decimals, a minus sign, a dash where there is no number."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number (true and false are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def plus_minus(value: float, error: float | None) -> tuple[str, str | None]:
    """`value` and `error` to two significant digits of the error, with three decimals at least."""
    if not is_number(error) or not error:
        return fixed(value, 3), None
    decimals = min(8, max(3, 1 - math.floor(math.log10(abs(error)))))
    return fixed(value, decimals), f"{error:.{decimals}f}"


def fixed(value: float, decimals: int, sign: str = "") -> str:
    """A number with so many decimals; what rounds to zero has no sign."""
    return f"{value:{sign}z.{decimals}f}"


def number(value: Any, decimals: int = 5, sign: str = "") -> str:
    """`fixed` with a typeset minus, or a dash where there is no number."""
    return fixed(value, decimals, sign).replace("-", "−") if is_number(value) else "–"


def in_short(value: float, error: float, unit: str) -> str:
    """A line such as 1.889 ± 0.013 bits/dim, with the digits that the error leaves."""
    shown, spread = plus_minus(value, error)
    return f"{shown} ± {spread} {unit}" if spread is not None else f"{shown} {unit}"


def without_nan(value: Any) -> Any:
    """`value` with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
