"""Which examples a step takes, and which places of its batch are computed here and now.

Everything is keyed by the step: no state but its number says what comes next, so that a run can go on from any step, on
any number of processes, with the same batches. The places of a batch are dealt out like cards: of P parts (processes
times micro-batches) part p gets the places p, p + P, p + 2P, …, and the parts together are the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.maths import random


class Places(NamedTuple):
    """Places (b,) int64, ascending, of a batch of `whole` examples: the part of it that one call computes."""

    slots: Tensor
    whole: int

    @classmethod
    def all(cls, whole: int) -> Places:
        """The whole batch in one part."""
        return cls(torch.arange(whole), whole)

    @property
    def share(self) -> float:
        """The part's weight in a mean over the batch: b / whole."""
        return len(self.slots) / self.whole

    def below(self, count: int) -> int:
        """How many of these places are among the first `count` of the batch; they stand first."""
        return int((self.slots < count).sum())


def dealt(batch_size: int, rank: int, size: int, accumulate: int) -> list[Places]:
    """The micro-batches of process `rank` of `size`, each with its places. Errors: UsageError where one has none."""
    parts = size * accumulate
    if batch_size < parts:
        split = " × ".join([f"{size} processes"] * (size > 1) + [f"{accumulate} micro-batches"] * (accumulate > 1))
        raise UsageError(f"a batch of {batch_size} examples cannot be split into {split}", f"give batch_size ≥ {parts}")
    every = torch.arange(batch_size)
    return [Places(every[step * size + rank :: parts], batch_size) for step in range(accumulate)]


class Order:
    """The rows of every step's batch out of `rows` (n,): each epoch is a fresh permutation, and batches run on across
    the end of an epoch, so that no example is dropped or comes twice in one."""

    def __init__(self, rows: Tensor, batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def of(self, step: int) -> Tensor:
        """Rows (batch_size,) of the data for the step after `step` steps."""
        n, first = len(self.rows), step * self.batch_size
        found = []
        while len(found) == 0 or first < (step + 1) * self.batch_size:
            lap, place = divmod(first, n)
            if lap != self.epoch:
                self.epoch, self.order = lap, random.permutation(self.seed, n, level=lap)
            end = min(n, place + (step + 1) * self.batch_size - first)
            found.append(self.order[place:end])
            first += end - place
        return self.rows[found[0] if len(found) == 1 else torch.cat(found)]


def held_out(n: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on (n − count,) and rows held out (count,), both ascending; chosen by the seed.

    Errors: UsageError where nothing would be left to train on.
    """
    if count >= n:
        raise UsageError(
            f"{count} of {n} examples were to be held out, which leaves none to train on",
            "give --set validation.examples=… a smaller number, or other data by validation.data",
        )
    shuffled = random.permutation(seed, n, draw=1)
    return shuffled[count:].sort().values, shuffled[:count].sort().values
