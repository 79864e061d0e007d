"""Controls and features of a chain over hidden places: functions of a place and the pattern of its neighbours.

For M uniform among the subsets of its size, and any function φ(place, pattern of visible neighbours),

    E[ mean of φ over M ] = (1/n) Σ_i Σ_p P(pattern p around i | i ∈ M) φ(i, p)

in closed form (`counts.pattern_probabilities`), so that the difference is a control of mean zero, whatever φ. Here
φ is the cost that an n-gram of the visible neighbours foretells, its probability, the costs given all neighbours and
given none, and whether both nearest neighbours are hidden, or both visible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.tokens.ngrams import PATTERNS, NGrams
from nelbo.process.tokens import counts

COLUMNS = 6
_NEAREST = sum(1 << k for k, offset in enumerate(counts.OFFSETS) if abs(offset) == 1)
_LEFT = sum(1 << k for k, offset in enumerate(counts.OFFSETS) if offset == -1)


def columns(tables: NGrams, x: Tensor, scored: Tensor, masked: Tensor, probabilities: Tensor | None = None) -> Tensor:
    """The controls (B, 6): means of φ over the masked places less their expectations given the count.

    x, scored, masked (B, L) on the CPU. probabilities: as of `counts.pattern_probabilities` of the counts, if known.
    """
    nll = tables.nll(x)
    if probabilities is None:
        probabilities = counts.pattern_probabilities(scored, masked.sum(1))
    number, hidden = scored.sum(1).double(), masked.sum(1).double()
    pattern = counts.patterns(masked)
    here = nll.gather(-1, pattern[..., None])[..., 0]
    every = torch.arange(PATTERNS) & _NEAREST
    means, expected = [], []
    for of_place, of_pattern in ((here, nll), ((-here).exp(), (-nll).exp())):
        means.append((of_place * masked).sum(1) / hidden)
        expected.append((probabilities * of_pattern).sum((1, 2)) / number)
    for value in (nll[..., -1], nll[..., 0]):
        means.append((value * masked).sum(1) / hidden)
        expected.append((value * scored).sum(1) / number)
    for which in (every == 0, every == _NEAREST):
        means.append((which[pattern] & masked).sum(1) / hidden)
        expected.append((probabilities[..., which].sum((1, 2)) / number).expand(len(x)))
    return torch.stack(means, 1) - torch.stack(expected, 1)


def features(tables: NGrams, x: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Mean costs (n, 3) of the scored places given no neighbour, the left one, and all; and the last, as an expected
    error (n, 1)."""
    nll = tables.nll(x)[..., [0, _LEFT, PATTERNS - 1]]
    means = (nll * scored[..., None]).sum(1) / scored.sum(1, keepdim=True).clamp_min(1)
    number = scored.sum(1, keepdim=True).double()
    return torch.cat([means, number], 1).float(), (number * (0.1 + means[:, 2:])).float()
