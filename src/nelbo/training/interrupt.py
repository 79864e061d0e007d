"""Ctrl-C and SIGTERM wait for the end of a step, and all processes of a run stop after the same one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nelbo.workers import Workers


@contextmanager
def deferred(workers: Workers) -> Iterator[Callable[[], bool]]:
    """Yields what tells, after a step, whether to stop: the same on every process. Called by all of them or none.

    Alone, a second signal does not wait. Of several processes none leaves before the others know: a launcher hands
    one Ctrl-C on more than once. Errors (of what is yielded): WorkerError where a process is gone.
    """
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked and workers.size == 1:
            raise KeyboardInterrupt
        asked.append(number)

    def stop() -> bool:
        if workers.size == 1:
            return bool(asked)
        told = workers.gather(torch.tensor([[float(bool(asked))]], dtype=torch.float64))
        return any(bool(row[0, 0]) for row in told)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
