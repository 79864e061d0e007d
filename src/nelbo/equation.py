"""The `@equation` marker: ties a function to the catalogue entries that it implements.

A marker costs nothing at run time: the function is returned unchanged, with the ids on it and in `MARKED`,
where floor 5 joins them to the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=Callable)

MARKED: dict[str, list[str]] = {}
"""Catalogue id -> qualified names of the functions and classes that implement it, in order of import."""


def equation(*ids: str) -> Callable[[T], T]:
    """Mark a function or class as the implementation of the catalogue entries `ids`."""
    if not ids or not all(isinstance(i, str) and i for i in ids):
        raise TypeError(f"@equation needs at least one catalogue id, got {ids!r}")

    def mark(target: T) -> T:
        target.__equations__ = ids  # type: ignore[attr-defined]
        for i in ids:
            MARKED.setdefault(i, []).append(f"{target.__module__}.{target.__qualname__}")
        return target

    return mark
