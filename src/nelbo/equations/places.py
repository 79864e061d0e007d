"""Where the library implements an equation: the marked functions, with file, line and source."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nelbo
from nelbo.equation import MARKED

ROOMS = (
    "maths",
    "process",
    "model",
    "nets",
    "bound",
    "likelihood",
    "training",
    "sampling",
    "tightening",
    "codec",
    "data",
    "adapters",
)
"""The rooms that may carry markers: the floors below the catalogue."""


@dataclass(frozen=True)
class Place:
    """One implementation: `nelbo.process.forward.noised`, its file below src/, first line, and source text."""

    name: str
    file: str
    line: int
    source: str

    @classmethod
    def of(cls, name: str) -> Place:
        """Look up the function or class with this qualified name, where it is defined."""
        target: Any = _target(name)
        lines, first = inspect.getsourcelines(target)
        file = Path(inspect.getsourcefile(inspect.unwrap(target)) or "").resolve()
        root = Path(nelbo.__file__).resolve().parent.parent
        return cls(name, file.relative_to(root).as_posix(), first, textwrap.dedent("".join(lines)))


def _target(name: str):
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            target = inspect.getattr_static(target, part)
            target = getattr(target, "fget", None) or getattr(target, "__func__", target)
        return target
    raise LookupError(f"nothing is named {name}")


@cache
def markers() -> dict[str, tuple[str, ...]]:
    """Catalogue id -> qualified names of what implements it, sorted, after importing every room.

    A module whose third-party extra is not installed is passed over.
    """
    for room in ROOMS:
        try:
            package = importlib.import_module(f"nelbo.{room}")
        except ModuleNotFoundError as error:
            if error.name != f"nelbo.{room}":
                raise
            continue
        for module in pkgutil.walk_packages(package.__path__, f"nelbo.{room}."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.split(".")[0] == "nelbo":
                    raise
    return {id: tuple(sorted(set(names))) for id, names in MARKED.items()}
