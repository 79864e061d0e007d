"""A mapped file that somebody truncates: reading what is gone is a SIGBUS, which would end the process without a word.

The signal comes from the very instruction that reads the mapping, so that no lock but Python's own can be held, and
Python can answer. What the instruction wanted cannot be had: the command ends with two lines and status 2. Its
temporary files are deleted by the next run, and its state and checkpoints are whole, as after SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

from nelbo import files

_kept: list[Any] = []
"""The handler, which the C library knows by its address alone."""


def end_in_words() -> None:
    """Handle SIGBUS in this process, where the system has it."""
    if not hasattr(signal, "SIGBUS") or _kept:
        return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    try:
        library = ctypes.CDLL(None)
        install = library.signal
    except (OSError, AttributeError, TypeError):  # no C library that can be asked
        return
    install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p

    def handle(number: int) -> None:
        path = files.truncated()
        if path is None:  # of another cause: the instruction is repeated, and ends the process
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            return
        lines = f"error: {path} was truncated while it was used\nhint: start again when nothing writes to it\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, lines.encode(errors="backslashreplace"))
        os._exit(2)

    _kept.append(kind(handle))
    install(signal.SIGBUS, _kept[0])
