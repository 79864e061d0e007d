"""Numbers that users give: numpy's and torch's become Python's own, and what is no number there is refused by name.

A public verb or constructor is decorated with `@numbers`, which reads the annotations of its parameters:

    int, float         a whole number, a finite number; of any library, and never a bool
    bool               True or False, of any library
    tuple[int, …]      every member so

`None`, names and other types beside these in the annotation pass. What a number may be besides (at least 1, say) is
checked by its owner. Python's own numbers stay as they are, since a part writes its fields into fingerprints.
`checked_path` and `check_function` are for who takes the path of a file, or a function to call.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nelbo.errors import UsageError

Target = TypeVar("Target", bound=Callable[..., Any])

LARGEST = 2**63
"""Whole numbers are below it, but for the seed."""
_OTHERS = {"None", "int", "float", "bool"}
_TUPLE = re.compile(r"(?:tuple|Sequence)\[(int|float)\b.*\]|(Shape)")


def numbers(target: Target) -> Target:
    """A function or class whose parameters that are annotated as numbers take those of any library.

    Errors of a call: UsageError for a bool, nan or infinity (unless that is the default), and for what is no number.
    """
    if isinstance(target, type):
        cls: Any = target
        cls.__init__ = numbers(cls.__init__)
        return cls
    signature = inspect.signature(target)
    rules = {name: rule for name, p in signature.parameters.items() if (rule := _rule(p)) is not None}
    positions = [*signature.parameters]

    @functools.wraps(target)
    def called(*args: Any, **kwargs: Any) -> Any:
        checked = [rules[n](n, v) if (n := name) in rules else v for name, v in zip(positions, args, strict=False)]
        given = {name: rules[name](name, v) if name in rules else v for name, v in kwargs.items()}
        return target(*checked, *args[len(positions) :], **given)

    return called  # type: ignore[return-value]


def plain(value: Any) -> Any:
    """`value` with Python's own in the place of numpy's and torch's scalars, also inside dicts, lists and tuples."""
    if callable(value):
        return value  # a list that is called, too: whoever gave it looks at it later
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(plain(inner) for inner in value)
    item = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "ndim", None) == 0 else value


def whole(name: str, value: Any) -> int:
    """`value` as an int. Errors: UsageError for a bool, a float, and for a number beyond 64 bits."""
    number = plain(value)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise UsageError(f"{name}={value!r} is no whole number", f"give {name} as an int")
    if name != "seed" and abs(number.__index__()) >= LARGEST:
        raise UsageError(f"{name}={value!r} is too large", f"give {name} as an int below 2^63")
    return number if type(number) is int else number.__index__()


def real(name: str, value: Any, *, infinite: bool = False, finite: bool = True) -> float:
    """`value` as a float; a Python int stays one. Errors: UsageError for a bool; where it must be `finite`, for nan and
    infinity, but not for the positive one where it may be `infinite`."""
    number = plain(value)
    single = getattr(number, "ndim", 0) == 0  # an array has __float__, too
    if isinstance(number, bool) or not (isinstance(number, (int, float)) or (single and hasattr(number, "__float__"))):
        raise UsageError(f"{name}={value!r} is no number", f"give {name} as a float")
    number = number if type(number) in (int, float) else float(number)
    if finite and not ((infinite and number == math.inf) or _finite(number)):
        raise UsageError(f"{name}={value!r} is not finite", f"give {name} as a finite number")
    return number


def flag(name: str, value: Any) -> bool:
    """`value`, True or False. Errors: UsageError for anything else."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is neither True nor False", f"give {name}=True or {name}=False")
    return value


def checked_path(name: str, value: Any, *, file: bool = False) -> Path:
    """The path that a user gives; file: of a file to write. Errors: UsageError for what is no path, and for a folder in
    the place of a file."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{name}={value!r} is no path", f"give {name} as a string or a pathlib.Path")
    if file and Path(text).is_dir():
        raise UsageError(f"{name}={text!r} is a folder", "give the name of a file")
    return Path(text)


def check_function(name: str, value: Any, takes: str) -> None:
    """Errors: UsageError where `value` is neither None nor can be called; takes: what it is called with."""
    if value is not None and not callable(value):
        raise UsageError(f"{name}={value!r} cannot be called", f"give a function of ({takes}), or leave {name} out")


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond all floats
        return False


def _rule(parameter: inspect.Parameter) -> Callable[[str, Any], Any] | None:
    """What becomes of an argument (its name, its value); None where its annotation names no number."""
    annotation = parameter.annotation
    members = _members(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))
    inner = next((m for member in members if (m := _TUPLE.fullmatch(member))), None)
    scalars = members & {"int", "float", "bool"}
    if not scalars and inner is None:
        return None
    of_member = whole if inner is not None and (inner[2] or inner[1] == "int") else real
    infinite = parameter.default == math.inf if isinstance(parameter.default, float) else False
    others = bool(members - _OTHERS)
    nothing = others or "None" in members
    only_flag = not others and scalars == {"bool"}

    def rule(name: str, value: Any) -> Any:
        value = plain(value)
        if (value is None and nothing) or ("bool" in scalars and isinstance(value, bool)):
            return value
        if only_flag:
            return flag(name, value)
        listed = getattr(value, "tolist", None)
        if inner is not None and listed is not None and not inner[0].startswith("Seq"):
            value = listed()
        if inner is not None and isinstance(value, (list, tuple)):
            return tuple(of_member(name, v) for v in value)
        number = not isinstance(value, (str, bytes)) and (hasattr(value, "__index__") or hasattr(value, "__float__"))
        single = getattr(value, "ndim", 0) == 0
        if not scalars & {"int", "float"} or (others and not (number and single)):
            return value
        # where a name may stand in its place, the owner says what may
        return real(name, value, infinite=infinite, finite=not others) if "float" in scalars else whole(name, value)

    return rule


def _members(annotation: str) -> set[str]:
    """The members of a union that is written with |."""
    members, depth, start = [], 0, 0
    for i, letter in enumerate(annotation):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            members.append(annotation[start:i])
            start = i + 1
    return {member.strip() for member in [*members, annotation[start:]]}
