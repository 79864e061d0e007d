"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in one or two units: 40 s, 12 min, 3 h 5 min, 21 days, 900 years."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days = hours / 24
    if days >= 1000:
        return f"{float(f'{days / 365.25:.2g}'):,.0f} years"
    if hours >= 100:
        return f"{days:.0f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
