"""Dataclasses from JSON objects: every field by its type hint, and null for a number that does not exist."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, TypeVar

from nelbo.fields import described, fits, shown
from nelbo.typing import Json

Kind = TypeVar("Kind")


def filled(kind: type[Kind], values: Json, /, **given: Any) -> Kind:
    """A dataclass `kind` from an object of its fields' names; `given`: fields that are made elsewhere.

    A float that is null is nan; a field that is missing has its default. Errors: KeyError for a missing field without
    one, ValueError for a value of another type.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in given and (field.name in values or not optional):
            given[field.name] = _value(hints[field.name], values[field.name], field.name)
    return kind(**given)


def _value(hint: Any, value: Any, name: str) -> Any:
    if hint is float and value is None:
        return math.nan
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return filled(hint, value)  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = typing.get_args(hint)
        every = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_value(one, each, name) for one, each in zip(every, value, strict=True))
    if not fits(value, hint):
        raise ValueError(f"{name} is {shown(value)}, not {described(hint)}")
    return value
