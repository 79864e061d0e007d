"""Who computes: one process, or several that share the draws of an estimate.

Floor 4 (`nelbo.runtime`) supplies the workers of a distributed run; down here only their interface is known. All
workers plan the same draws, each computes its share of every round, and `gather` makes all values known to all, in
the order of ranks; nothing is padded, dropped or computed twice.
"""

from __future__ import annotations

from typing import Protocol

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
