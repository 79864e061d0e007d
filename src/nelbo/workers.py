"""Who computes, and how: one process or several that share the draws of an estimate; device, precision, batches.

Floor 4 (`nelbo.runtime`) supplies the workers of a distributed run; down here only their interface is known. All
workers plan the same draws, each computes its share of every round, and `gather` makes all values known to all, in
the order of ranks; nothing is padded, dropped or computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class Workers(Protocol):
    """rank of this process, number of processes, and an all-gather of float64 rows of any number per rank."""

    rank: int
    size: int
    stopping: bool
    """Whether the user asked to stop, and every worker knows: the same on all of them after a gather."""

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every rank's rows (n_r, columns), in the order of ranks, on every rank."""
        ...


class Alone:
    """The one process of an ordinary run."""

    rank = 0
    size = 1
    stopping = False

    def gather(self, values: Tensor) -> list[Tensor]:
        """The rows themselves."""
        return [values]


@dataclass(frozen=True, eq=False)
class Run:
    """How a verb is run: everything that travels together and changes no number but by the seed and the precision.

    device: where the network computes (the CPU where None). precision: "float32", "float64" or "bf16", of the network
    alone. batch_size: examples of one network call; chosen by the size of an example where None. seed: of all noise.
    state: a file from which an interrupted run goes on to the same number. workers: the processes that share the work.
    progress: called with (evaluations done, evaluations planned, 0 where not known). message: called with a line for a
    person, such as what an evaluation of more than a few seconds will cost.
    """

    device: str | torch.device | None = None
    precision: str = "float32"
    batch_size: int | None = None
    seed: int = 0
    state: str | Path | None = None
    workers: Workers = field(default_factory=Alone)
    progress: Callable[[int, int], None] | None = None
    message: Callable[[str], None] | None = None
