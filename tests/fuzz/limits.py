"""Limits on one attempt of a fuzzer: processor time and memory of this process, and what may change on disk."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

SECONDS = 20
"""Of processor time."""
MEMORY = 1 << 30
"""Bytes more than there are at the beginning."""


class TookTooLong(BaseException):
    """An attempt that did not end; no `except Exception` on its way hides it."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within the block, memory beyond `MEMORY` cannot be had; the timer starts again with `restart`."""

    def stop(number: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


def restart() -> None:
    """Give the next attempt its time."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)


def tree(folder: Path) -> dict[str, int]:
    """Every path below a folder, and the size of files."""
    return {str(p.relative_to(folder)): p.stat().st_size if p.is_file() else -1 for p in folder.rglob("*")}


def check_words(message: str) -> None:
    """A refusal is in words: it names no exception, and it is not that memory ran out."""
    for word in ("Traceback", "MemoryError", "memory", "internal", "Errno"):
        assert word not in message, message
