"""Masks with a given count: which places are hidden, and how likely a pattern of hidden neighbours is.

A chain over masked places visits counts L = l_K > … > l_1 > 0 and reveals l_k − l_{k−1} of l_k hidden places at once.
With M uniform among the subsets of size l, and h(l) = E Σ_{i∈M} −log p_i(x_i | x outside of M),

    bound = Σ_k (l_k − l_{k−1}) h(l_k)/l_k,

for K = L the mean cost of revealing the places one by one in a random order, and the bound of every law of survival
(∫ C(L, l) u^{l−1} (1 − u)^{L−l} du = 1/l). With a mask rate u the same sum of a random count is

    E_{M ~ u} Σ_{i∈M} c_i / u = L E[ mean of c_i over M' ],    M' = a uniform place, and each other one with rate u,

which stays bounded as u → 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nelbo.equation import equation

OFFSETS = (-2, -1, 1, 2)
"""Neighbours whose being hidden or visible makes a pattern: 16 patterns."""


def even(n: int, steps: int) -> list[int]:
    """Counts l_1 < … < l_K = n of K = `steps` even steps, 1 ≤ K ≤ n."""
    return [round(n * k / steps) for k in range(1, steps + 1)]


def subset(v: Tensor, scored: Tensor, count: Tensor) -> Tensor:
    """Uniform subsets (B, L) of the `scored` places, of `count` (B,) of them, no more than there are: those of the
    smallest v (B, L)."""
    rank = v.masked_fill(~scored, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < count[:, None]


def block_of(scored: Tensor, block: int) -> Tensor:
    """The block (B, L) of every scored place, 0, 1, …: `block` of the scored places (B, L) after each other make one;
    of a place that is not scored, that of the scored one before it."""
    return ((scored.long().cumsum(1) - 1) // block).clamp(min=0)


def later_blocks_first(values: Tensor, scored: Tensor, block: int | None) -> Tensor:
    """values (B, L) in [0, 1] less the number of the place's block: in their order the later blocks come first, so that
    the last to be revealed is among them. As they are where block is None."""
    return values if block is None else values - block_of(scored, block)


@equation("token-count-weight")
def around_a_place(v: Tensor, place: Tensor, scored: Tensor, rate: Tensor) -> Tensor:
    """Subsets (B, L): one scored place, chosen by `place` (B,) in [0, 1), and each other one with probability `rate`
    (B,), by v (B, L)."""
    number = scored.sum(1)
    chosen = (place * number).floor().long().clamp(max=(number - 1).clamp(min=0))
    rank = scored.long().cumsum(1) - 1
    return ((v < rate[:, None]) | (rank == chosen[:, None])) & scored


def shifted(values: Tensor, offset: int, fill: bool) -> Tensor:
    """values (B, L) of the neighbour at an offset, `fill` where there is none."""
    L = values.shape[1]
    out = torch.full_like(values, fill)
    if abs(offset) < L:
        inside, there = slice(max(0, -offset), min(L, L - offset)), slice(max(0, offset), min(L, L + offset))
        out[:, inside] = values[:, there]
    return out


def patterns(masked: Tensor, offsets: Sequence[int] = OFFSETS) -> Tensor:
    """The pattern 0..2^K − 1 of every place (B, L): bit k is set where the neighbour at `offsets[k]`, of K, exists and
    is visible."""
    patterns = torch.zeros_like(masked, dtype=torch.long)
    for k, offset in enumerate(offsets):
        patterns |= shifted(~masked, offset, False).long() << k
    return patterns


@equation("token-pattern-probability")
def pattern_probabilities(scored: Tensor, count: Tensor, offsets: Sequence[int] = OFFSETS) -> Tensor:
    """P(pattern p around i | i ∈ M) for uniform M of `count` (B,) of the `scored` places (B, L), (B, L, 2^K).

        C(n − 1 − a − b, l − 1 − a) / C(n − 1, l − 1),    a of the scored neighbours hidden, b visible

    Places that are given are always visible. Zero where i is not scored or a count is 0.
    """
    scored, hidden, visible, possible = _neighbourhoods(scored, offsets)
    a, b = _numbers(len(offsets), scored.device)
    others, masked = scored.sum(1)[:, None, None] - 1, count[:, None, None] - 1  # of those besides i
    table = (_choose(others - a - b, masked - a) - _choose(others, masked)).exp()
    return _looked_up(table, hidden, visible, possible)


def independent_probabilities(scored: Tensor, rate: Tensor, offsets: Sequence[int] = OFFSETS) -> Tensor:
    """The same for M of one uniform place and each other one with probability `rate` (B,), of a uniform place i of M:
    rate^a (1 − rate)^b, (B, L, 2^K). M is `around_a_place`, and i has in it the law of that place."""
    scored, hidden, visible, possible = _neighbourhoods(scored, offsets)
    a, b = _numbers(len(offsets), scored.device)
    rate = rate[:, None, None]
    return _looked_up(rate**a * (1 - rate) ** b, hidden, visible, possible)


def _neighbourhoods(scored: Tensor, offsets: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The scored places, one row where all are alike; of every pattern (B, L, 2^K) how many of the scored neighbours it
    hides and shows; and whether it is possible."""
    if bool(scored.all()):
        scored = scored[:1]
    every = torch.arange(1 << len(offsets), device=scored.device)
    hidden = torch.zeros(*scored.shape, len(every), dtype=torch.long, device=scored.device)
    visible, possible = torch.zeros_like(hidden), scored[..., None].expand(hidden.shape)
    for k, offset in enumerate(offsets):
        seen = (every >> k & 1).bool()
        there = shifted(torch.ones_like(scored), offset, False)[..., None]
        free = shifted(scored, offset, False)[..., None]
        possible = possible & torch.where(seen, there, ~there | free)
        hidden += (free & ~seen).long()
        visible += (free & seen).long()
    return scored, hidden, visible, possible


def _numbers(most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers a of hidden and b of visible neighbours, 0 to `most`, each (K + 1, K + 1)."""
    a, b = torch.meshgrid(*[torch.arange(most + 1, device=device)] * 2, indexing="ij")
    return a, b


def _looked_up(table: Tensor, hidden: Tensor, visible: Tensor, possible: Tensor) -> Tensor:
    """Probabilities (B, L, 2^K) of patterns from a table (B, K + 1, K + 1) by their numbers; 0 of impossible ones."""
    of_place = (hidden * table.shape[2] + visible).flatten(1).expand(len(table), -1)
    return torch.where(possible, table.flatten(1).gather(1, of_place).reshape(-1, *hidden.shape[1:]), 0.0)


def _choose(n: Tensor, k: Tensor) -> Tensor:
    """log C(n, k), −∞ where there is no such subset."""
    good = (k >= 0) & (k <= n) & (n >= 0)
    n, k = n.clamp(min=0).double(), torch.minimum(k.clamp(min=0), n.clamp(min=0)).double()
    value = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(good, value, -torch.inf)
