"""What Python code reads by name, and whose it is: the user's, or that of an installed library."""

from __future__ import annotations

import dis
import sys
import sysconfig
import types
from typing import Any

_INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def written_in_python(kind: type) -> bool:
    """Whether the objects of a class hold nothing but their attributes."""
    heap_type = 1 << 9  # Py_TPFLAGS_HEAPTYPE, which classes of C have only where their module is no file of Python
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind is object or bool(
        kind.__flags__ & heap_type and (kind.__module__ == "__main__" or str(file).endswith(".py"))
    )


def names_in(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Names of globals that the code reads, and of attributes."""
    names: set[str] = set()
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(step.argval)
        elif isinstance(step.argval, types.CodeType):
            inner = names_in(step.argval)
            names, attributes = names | inner[0], attributes | inner[1]
    return names, attributes


def stable(constants: list[Any]) -> list[str]:
    """Constants as text that is the same in every process: sets have an order of their own in each."""
    return [repr(sorted(map(repr, c))) if isinstance(c, frozenset) else repr(c) for c in constants]


def installed(file: str | None, module: str | None) -> bool:
    """Whether code comes from an installed library: its name then says which code it is. module: None for what was made
    by a library at run time."""
    if module is None or module.partition(".")[0] in ("nelbo", "builtins"):
        return True
    return file is None or file.startswith((*_INSTALLED, "<frozen"))


def library_of(kind: type) -> str | None:
    """The library that a class comes from; None where it is the user's."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    main = kind.__module__ == "__main__"
    return None if main or not installed(file, kind.__module__) else str(kind.__module__).partition(".")[0]
