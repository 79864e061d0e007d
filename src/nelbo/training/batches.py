"""Which examples a step takes, and which places of its batch are computed here and now.

Everything is keyed by the step: no state but its number says what comes next, so that a run can go on from any step, on
any number of processes, with the same batches. The places of a batch are dealt out like cards: of P parts (processes
times micro-batches) part p gets the places p, p + P, p + 2P, …, and the parts together are the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
