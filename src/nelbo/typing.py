"""Names for the few types that every floor speaks of."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from nelbo.errors import UnknownNameError

Shape = tuple[int, ...]
Condition = Mapping[str, Tensor]
"""Explicit conditioning: keyword of the network -> one row an example, (N, ...)."""
Json = dict[str, Any]

E = TypeVar("E", bound=enum.Enum)


def member(kind: type[E], name: str | E, what: str) -> E:
    """The member of an enum that a string at a public edge names. Errors: UnknownNameError listing the members."""
    if isinstance(name, kind):
        return name
    values = {m.value: m for m in kind}
    if name not in values:
        raise UnknownNameError.of(what, name, values)
    return values[name]


__all__ = ["Condition", "Json", "Shape", "Tensor", "member"]
