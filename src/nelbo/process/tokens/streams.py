"""Sets of hidden places of one sequence that together cover its places evenly: consecutive pieces of permutations.

A stream is a random permutation of the places after the other, of which every set takes the next l. Where a permutation
ends within a set, the set is completed from the next one by its first places that are not in it yet; those are then
used up, and the others of that permutation follow. The sizes do not depend on the permutations, so that every set by
itself is uniform among those of its size, while all of them together hold each place about as often: the errors of the
sets of a stream cancel in part.
"""

from __future__ import annotations

import torch
from torch import Tensor


def subsets(v: Tensor, scored: Tensor, count: Tensor) -> Tensor:
    """K sets of each of S streams, (S, K, L), of `count` (S, K) of the `scored` places (S, L), 1 ≤ count ≤ n.

    v (S, K, L): uniform numbers, of which those of a set make the permutation that begins in it.
    """
    number, sets = scored.sum(1), []
    rank, used = _ranks(v[:, 0], scored), torch.zeros_like(number)
    for k in range(count.shape[1]):
        size = count[:, k]
        taken = (rank >= used[:, None]) & (rank < (used + size)[:, None]) & scored
        missing = used + size - number
        if bool((missing > 0).any()):
            ends = (missing > 0)[:, None]
            fresh = _ranks(v[:, k], scored)
            first = _ranks(fresh.double().masked_fill(taken, float("inf")), scored) < missing[:, None]
            added = first & ~taken & scored & ends
            rank = torch.where(ends, _ranks(fresh.double().masked_fill(added, -1.0), scored), rank)
            taken = taken | added
        used = torch.where(missing > 0, missing, used + size)
        sets.append(taken)
    return torch.stack(sets, 1)


def _ranks(key: Tensor, scored: Tensor) -> Tensor:
    """The rank of every scored place by `key` (S, L), smallest first; the others come last."""
    key = key.masked_fill(~scored, float("inf"))
    return key.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
