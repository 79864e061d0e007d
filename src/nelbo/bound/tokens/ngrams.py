"""Counts of symbols and their neighbours, from which the costs of hidden places are foretold without the network.

For every pattern of visible neighbours within ±2 (`counts.OFFSETS`) a smoothed probability of the symbol,

    p̂(x | pattern) = (c(neighbours, x) + κ p̂(x | pattern without its farthest neighbour)) / (c(neighbours) + κ).

Contexts are hashed into tables of a bounded size, so that any vocabulary does. Nothing here needs to be right: every
function of a place and its neighbourhood's pattern is a control whose mean is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.process.tokens import counts

PATTERNS = 1 << len(counts.OFFSETS)
LARGEST = 1 << 18
"""Entries of a table of one pattern."""
SMOOTHING = 3.0
"""κ."""


@dataclass(frozen=True, eq=False)
class NGrams:
    """unigram (V,): counts. contexts, joints (16, size): hashed counts of neighbours, and of neighbours and symbol.

    own: 1 where the tables hold what they are asked about, whose own occurrence is taken away; else 0.
    """

    unigram: Tensor
    contexts: Tensor
    joints: Tensor
    own: int

    @classmethod
    def fit(cls, x: Tensor, scored: Tensor, vocabulary: int, own: int = 1) -> NGrams:
        """From sequences x (N, L) int64 and the places (N, L) that are scored. Whole numbers: exact anywhere."""
        places = max(1, int(scored.sum()))
        size = min(LARGEST, 1 << max(8, (2 * places).bit_length()))
        contexts = torch.zeros(PATTERNS, size, dtype=torch.int32)
        joints = torch.zeros_like(contexts)
        for part, there in zip(x.split(256), scored.split(256), strict=True):
            for p, of_context, of_joint in _hashes(part, vocabulary, size):
                contexts[p] += torch.bincount(of_context[there], minlength=size).int()
                joints[p] += torch.bincount(of_joint[there], minlength=size).int()
        return cls(torch.bincount(x[scored], minlength=vocabulary), contexts, joints, own)

    def nll(self, x: Tensor) -> Tensor:
        """−log p̂ of every symbol of x (B, L) given each pattern of visible neighbours, (B, L, 16) float64."""
        V, size = len(self.unigram), self.contexts.shape[1]
        total = int(self.unigram.sum())
        p = torch.zeros(*x.shape, PATTERNS, dtype=torch.float64)
        p[..., 0] = ((self.unigram[x] - self.own).clamp_min(0) + 0.5) / (total + 0.5 * V)
        for pattern, of_context, of_joint in _hashes(x, V, size):
            context = (self.contexts[pattern][of_context] - self.own).clamp_min(0)
            joint = (self.joints[pattern][of_joint] - self.own).clamp_min(0)
            joint = torch.minimum(joint, context)  # where hashes collide
            back = p[..., _without_farthest(pattern)]
            p[..., pattern] = (joint + SMOOTHING * back) / (context + SMOOTHING)
        return -p.log()


def _without_farthest(pattern: int) -> int:
    visible = [k for k in range(len(counts.OFFSETS)) if pattern >> k & 1]
    return pattern ^ (1 << max(visible, key=lambda k: abs(counts.OFFSETS[k])))


def _hashes(x: Tensor, V: int, size: int):
    """Of every pattern but the empty one, small ones first: its number, and the entries (B, L) of the neighbours and of
    neighbours with symbol."""
    neighbours = [counts.shifted(x + 1, offset, False) for offset in counts.OFFSETS]  # 0 where there is none
    for pattern in sorted(range(1, PATTERNS), key=int.bit_count):
        key = torch.full_like(x, pattern)
        for k, symbol in enumerate(neighbours):
            if pattern >> k & 1:
                key = key * (V + 1) + symbol
        yield pattern, _mixed(key, size), _mixed(key * V + x, size)


def _mixed(key: Tensor, size: int) -> Tensor:
    """Entries 0..size−1 by a multiplicative hash; size is a power of 2 (Knuth, vol. 3, §6.4)."""
    key = (key ^ (key >> 31)) * 0x1E3779B97F4A7C15
    return ((key >> 40) & 0xFFFFFF) & (size - 1)
