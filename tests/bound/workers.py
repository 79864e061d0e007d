"""Two workers that are threads of this process and meet at every gather."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch


class Worker:
    """One of the two. rows: those it has gathered, but the ones that say how long they took."""

    size, stopping = 2, False

    def __init__(self, rank: int, meeting: threading.Barrier, table: dict[int, torch.Tensor]):
        self.rank, self.meeting, self.table, self.rows = rank, meeting, table, 0

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        self.meeting.wait()
        self.table[self.rank] = values
        self.rows += len(values) - 1
        self.meeting.wait()
        return [self.table[0], self.table[1]]


def on_two(work: Callable[[Worker], Any]) -> tuple[list[Any], list[Worker]]:
    """The results of `work` on both workers at once, and the workers."""
    meeting, table, results = threading.Barrier(2, timeout=60), {}, {}
    workers = [Worker(rank, meeting, table) for rank in (0, 1)]

    def run(worker: Worker) -> None:
        results[worker.rank] = work(worker)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return [results[0], results[1]], workers
