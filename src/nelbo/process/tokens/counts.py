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

import torch
from torch import Tensor

from nelbo.equation import equation

WIDTH = 2
"""Neighbours on each side whose being hidden or visible makes a pattern: 16 patterns."""
OFFSETS = tuple(o for o in range(-WIDTH, WIDTH + 1) if o)


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


def patterns(masked: Tensor) -> Tensor:
    """The pattern 0..15 of every place (B, L): bit k is set where the neighbour at `OFFSETS[k]` exists and is
    visible."""
    patterns = torch.zeros_like(masked, dtype=torch.long)
    for k, offset in enumerate(OFFSETS):
        patterns |= shifted(~masked, offset, False).long() << k
    return patterns


@equation("token-pattern-probability")
def pattern_probabilities(scored: Tensor, count: Tensor) -> Tensor:
    """P(pattern p around i | i ∈ M) for uniform M of `count` (B,) of the `scored` places (B, L), (B, L, 16).

        C(n − 1 − a − b, l − 1 − a) / C(n − 1, l − 1),    a of the scored neighbours hidden, b visible

    Places that are given are always visible. Zero where i is not scored or a count is 0.
    """
    if bool(scored.all()):
        scored = scored[:1]  # all alike
    number = scored.sum(1)
    every = torch.arange(1 << len(OFFSETS), device=scored.device)
    hidden = torch.zeros(*scored.shape, len(every), dtype=torch.long, device=scored.device)
    visible, possible = torch.zeros_like(hidden), scored[..., None].expand(hidden.shape)
    for k, offset in enumerate(OFFSETS):
        seen = (every >> k & 1).bool()
        there = shifted(torch.ones_like(scored), offset, False)[..., None]
        free = shifted(scored, offset, False)[..., None]
        possible = possible & torch.where(seen, there, ~there | free)
        hidden += (free & ~seen).long()
        visible += (free & seen).long()
    size = len(OFFSETS) + 1
    a, b = (v.to(scored.device) for v in torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij"))
    others, masked = number[:, None, None] - 1, count[:, None, None] - 1  # of those besides i
    table = (_choose(others - a - b, masked - a) - _choose(others, masked)).exp().flatten(1)
    of_place = (hidden * size + visible).flatten(1).expand(len(table), -1)
    return torch.where(possible, table.gather(1, of_place).reshape(len(table), *hidden.shape[1:]), 0.0)


def _choose(n: Tensor, k: Tensor) -> Tensor:
    """log C(n, k), −∞ where there is no such subset."""
    good = (k >= 0) & (k <= n) & (n >= 0)
    n, k = n.clamp(min=0).double(), torch.minimum(k.clamp(min=0), n.clamp(min=0)).double()
    value = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(good, value, -torch.inf)
