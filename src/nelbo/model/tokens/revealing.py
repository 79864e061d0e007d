"""In which order the hidden places of sequences are revealed: the chain of a masked model, for given random numbers.

Every scored place has a number v in (0, 1), and is hidden for as long as the chain's noise is above it:

    counts       the l places of the smallest v are hidden               l = l_K, …, l_1, 0
    blocks       the same, of which those of later blocks come first
    levels       those with v < u                                        u = u_K, …, u_1, 0,    u = 1 − α
    continuous   the same for every u, so that they are revealed one by one, each at the level u = v at which it ceases
                 to be hidden; those below the first level's u at once

With independent uniform v this is the law of the chain: a random order of counts, or a reveal with probability
1 − u_s/u_t of each hidden place by itself (Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic
masked models", §4, for the continuous one). Whoever draws symbols, or codes them, needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Continuous
from nelbo.process.tokens import counts
from nelbo.process.tokens.levels import TokenLevels


class Reveal(NamedTuple):
    """A step: the places that are `hidden` before and `after` it, (B, L), and its levels (B,), None over counts.

    by_prior: what it reveals has the prior's law and not the network's: places that are never hidden.
    """

    hidden: Tensor
    after: Tensor
    at: TokenLevels | None
    by_prior: bool = False

    @property
    def places(self) -> Tensor:
        """The places (B, L) that are revealed."""
        return self.hidden & ~self.after


def reveals(model: TokenModel, v: Tensor, scored: Tensor) -> Iterator[Reveal]:
    """The steps of the chain from all `scored` places (B, L) hidden to none, for v (B, L)."""
    if model.counted:
        yield from _by_count(model, counts.later_blocks_first(v, scored, model.reverse.block), scored)
        return
    levels, _ = model.levels()
    levels = levels.to(v.device)
    hidden = scored & (v < levels.noise[-1])
    if bool((scored & ~hidden).any()):
        yield Reveal(scored, hidden, None, True)
    if isinstance(model.grid, Continuous):
        yield from _one_by_one(model, v, hidden, levels)
        return
    for k in range(len(levels) - 1, -1, -1):
        after = hidden & (v < levels.noise[k - 1]) if k else torch.zeros_like(hidden)
        if bool((hidden & ~after).any()):
            yield Reveal(hidden, after, levels[torch.full((len(v),), k, device=v.device)])
        hidden = after


def _by_count(model: TokenModel, v: Tensor, scored: Tensor) -> Iterator[Reveal]:
    rank = v.masked_fill(~scored, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    numbers, of = scored.sum(1).unique(return_inverse=True)
    each = [[0, *(model.counts(int(n)) if n else [])] for n in numbers]
    longest = max(len(c) for c in each)
    table = torch.tensor([c + [c[-1]] * (longest - len(c)) for c in each], device=v.device)[of]
    for k in range(longest - 1, 0, -1):
        yield Reveal((rank < table[:, k, None]) & scored, (rank < table[:, k - 1, None]) & scored, None)


def _one_by_one(model: TokenModel, v: Tensor, hidden: Tensor, levels: TokenLevels) -> Iterator[Reveal]:
    assert model.schedule is not None  # a continuous chain over times has one
    first = levels.noise[0]
    while bool(hidden.any()):
        highest = v.masked_fill(~hidden, -1.0).amax(1)
        noise = torch.maximum(highest, first)  # of a sequence that is done it does not matter
        after = hidden & (v < highest[:, None]) & (highest >= first)[:, None]
        yield Reveal(hidden, after, model.schedule.at(model.schedule.time_of(noise)))
        hidden = after


def prior_law(model: TokenModel) -> Tensor:
    """The law (V,) of what a step `by_prior` reveals: every symbol alike, but for the mask."""
    V = model.domain.vocabulary
    p = torch.ones(V, dtype=torch.float64)
    p[torch.arange(V) == getattr(model.kernel, "mask", V)] = 0
    return p / p.sum()
