"""Counts of symbols and their neighbours, which say something of a hidden place without the network.

For every pattern of visible neighbours a smoothed probability of the symbol,

    p̂(x | pattern) = (c(neighbours, x) + κ p̂(x | pattern without its last neighbour)) / (c(neighbours) + κ).

The neighbours are those at the two distances, on both sides, that tell most of a symbol: 1 and 2 in a text, 1 and the
width in an image that is read row by row. Contexts are hashed into tables of a bounded size, so that any vocabulary
does. For controls nothing here needs to be right: of every function of a place and its neighbourhood's pattern the mean
is known. A model that is mixed with the tables (`calibration.py`) normalises what it makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.process.tokens import counts

PATTERNS = 16
"""Of four neighbours."""
DISTANCES = 64
"""Largest distance of a neighbour that is looked at."""
_CLASSES = 32
"""Symbols that are told apart when neighbours are chosen: the most frequent ones, and the others as one."""
_SEQUENCES = 256
"""Most sequences that neighbours are chosen by."""
LARGEST = 1 << 18
"""Entries of a table of one pattern."""
_AT_ONCE = 1 << 18
"""Places that are hashed at once."""
SMOOTHING = 3.0
"""κ."""


@dataclass(frozen=True, eq=False)
class NGrams:
    """offsets: of the neighbours, those that tell most first. unigram (V,): counts. contexts, joints (16, size): hashed
    counts of neighbours, and of neighbours and symbol.

    own: 1 where the tables hold what they are asked about, whose own occurrence is taken away; else 0.
    """

    offsets: tuple[int, ...]
    unigram: Tensor
    contexts: Tensor
    joints: Tensor
    own: int

    @classmethod
    def fit(cls, x: Tensor, scored: Tensor, vocabulary: int, own: int = 1) -> NGrams:
        """From sequences x (N, L) int64 and the places (N, L) that are scored. Whole numbers: exact anywhere."""
        places = max(1, int(scored.sum()))
        unigram = torch.bincount(x[scored], minlength=vocabulary)
        offsets = telling(x[:_SEQUENCES], scored[:_SEQUENCES], unigram)
        size = min(LARGEST, 1 << max(8, (2 * places).bit_length()))
        contexts = torch.zeros(PATTERNS, size, dtype=torch.int32)
        joints = torch.zeros_like(contexts)
        rows = max(1, _AT_ONCE // max(1, x.shape[1]))
        for part, there in zip(x.split(rows), scored.split(rows), strict=True):
            every = bool(there.all())
            for p, *hashed in _hashes(part, offsets, vocabulary, size):
                for table, entries in zip((contexts, joints), hashed, strict=True):
                    chosen = entries.flatten() if every else entries[there]
                    table[p] += torch.bincount(chosen, minlength=size)
        return cls(offsets, unigram, contexts, joints, own)

    def nll(self, x: Tensor) -> Tensor:
        """−log p̂ of every symbol of x (B, L) given each pattern of visible neighbours, (B, L, 16) float64."""
        V, size = len(self.unigram), self.contexts.shape[1]
        total = int(self.unigram.sum())
        p = torch.zeros(*x.shape, PATTERNS, dtype=torch.float64)
        p[..., 0] = ((self.unigram[x] - self.own).clamp_min(0) + 0.5) / (total + 0.5 * V)
        for pattern, of_context, of_joint in _hashes(x, self.offsets, V, size):
            context = (self.contexts[pattern][of_context] - self.own).clamp_min(0)
            joint = (self.joints[pattern][of_joint] - self.own).clamp_min(0)
            joint = torch.minimum(joint, context)  # where hashes collide
            back = p[..., pattern ^ (1 << pattern.bit_length() - 1)]
            p[..., pattern] = (joint + SMOOTHING * back) / (context + SMOOTHING)
        return -p.log()

    def log_law(self, pattern: Tensor, neighbours: Tensor) -> Tensor:
        """log p̂ of every symbol at m places, (m, V) float64, for the pattern (m,) of the visible neighbours of each and
        the symbols (m, 4) at them, read only where they are visible. Symbols may share an entry by accident, so
        that the sum is about 1. The tables hold other sequences (own = 0)."""
        V, size = len(self.unigram), self.contexts.shape[1]
        symbols = torch.arange(V)
        p = ((self.unigram + 0.5) / (self.unigram.sum() + 0.5 * V)).double().repeat(len(pattern), 1)
        for k in range(len(self.offsets)):
            rows = (pattern >> k & 1).nonzero()[:, 0]
            seen = pattern[rows] & (2 << k) - 1
            key = seen.clone()
            for j in range(k + 1):
                key = torch.where((seen >> j & 1).bool(), key * (V + 1) + neighbours[rows, j] + 1, key)
            context = self.contexts[seen, _mixed(key, size)][:, None]
            joint = self.joints[seen[:, None], _mixed(key[:, None] * V + symbols, size)]
            joint = torch.minimum(joint, context)
            p[rows] = (joint + SMOOTHING * p[rows]) / (context + SMOOTHING)
        return p.log()


def telling(x: Tensor, scored: Tensor, unigram: Tensor) -> tuple[int, ...]:
    """The offsets (d, −d, e, −e) of the two distances d < e ≤ `DISTANCES` at which symbols of x (n, L) have most mutual
    information, the larger first; counted over pairs of which both places are scored, by the commonest symbols (V,).
    Ties go to the nearer."""
    of_symbol = torch.full((len(unigram),), _CLASSES - 1)
    common = unigram.argsort(descending=True, stable=True)[: _CLASSES - 1]
    of_symbol[common] = torch.arange(len(common))
    classes, most = of_symbol[x], min(DISTANCES, x.shape[1] - 1)
    information = [_information(classes, scored, d) for d in range(1, most + 1)] + [0.0] * 2  # of a place or two
    first, second = sorted(range(len(information)), key=lambda k: -information[k])[:2]
    return (-first - 1, first + 1, -second - 1, second + 1)


def _information(classes: Tensor, scored: Tensor, distance: int) -> float:
    """Σ p(a, b) log p(a, b)/(p(a) p(b)) of places at a distance, by counts, times the number of pairs: few places have
    a neighbour far away."""
    both = scored[:, distance:] & scored[:, :-distance]
    pairs = (classes[:, distance:] * _CLASSES + classes[:, :-distance])[both]
    joint = torch.bincount(pairs, minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES).double()
    total = joint.sum().clamp_min(1)
    entropies = [torch.special.entr(n / total).sum() for n in (joint.sum(0), joint.sum(1), joint)]
    return float(entropies[0] + entropies[1] - entropies[2]) * float(total)


def _hashes(x: Tensor, offsets: tuple[int, ...], V: int, size: int):
    """Of every pattern but the empty one, small ones first: its number, and the entries (B, L) of the neighbours and of
    neighbours with symbol."""
    neighbours = [counts.shifted(x + 1, offset, False) for offset in offsets]  # 0 where there is none
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
