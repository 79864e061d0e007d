"""Values that come from files: JSON that says one thing, and fields that have the type that the code declares.

One mechanism for all: a value is compared with a type hint, such as `int`, `float | None` or `tuple[int, ...]`, and
what does not fit is named together with what is allowed. A whole number is never true or false, and a number is finite.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

DEEPEST = 32
"""Levels of lists and objects within each other; what nelbo writes has a handful."""
LARGEST = 2**63
"""Whole numbers are smaller than this, as in every integer type that reads them."""
_BRACKETS = re.compile(r"[\[\]{}]")
_LISTS = (tuple, list, Sequence)
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    dict: "an object",
}


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Errors: ValueError for what is no JSON, NaN and infinity, a key that stands twice in
    one object, numbers beyond `LARGEST`, and more than `DEEPEST` levels."""
    if isinstance(text, bytes):
        text = text.decode()
    _check_depth(text)
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_number)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of the type `hint`: a list for a tuple or list, an object for a dict."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in typing.get_args(hint))
    if origin in _LISTS:
        inner = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and inner[-1] is not ...:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return all(fits(one, inner[0]) for one in value)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return hint in (str, bool, type(None)) and isinstance(value, hint)


def described(hint: Any) -> str:
    """What is allowed where a value is of the type `hint`: "a whole number or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(one) for one in inner)
    if origin in _LISTS:
        if origin is tuple and inner[-1] is not ...:
            return "a list of " + " and ".join(described(one) for one in inner)
        return f"a list, each entry {described(inner[0])}"
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin is dict:
        return _WORDS[dict]
    return _WORDS.get(hint, "an object with a kind")


def shown(value: Any) -> str:
    """A value in a message, on one line and cut if it is long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return made


def _constant(word: str) -> Any:
    raise ValueError(f"it contains {word}, which is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= LARGEST:
        raise ValueError(f"it contains the number {digits[:30]}…, which is too large")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it contains the number {digits[:30]}, which is too large")
    return value


def _check_depth(text: str) -> None:
    """Errors: ValueError where brackets outside of strings are nested more than `DEEPEST` deep."""
    depth = 0
    for i, piece in enumerate(text.replace("\\\\", "").replace('\\"', "").split('"')):
        for bracket in _BRACKETS.findall(piece) if i % 2 == 0 else ():
            depth += 1 if bracket in "{[" else -1
            if depth > DEEPEST:
                raise ValueError(f"its objects and lists are nested more than {DEEPEST} deep")
