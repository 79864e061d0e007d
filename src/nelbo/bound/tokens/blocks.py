"""The chain over hidden places that are revealed block by block, as a `Problem`.

    bound = Σ_b Σ_k (l_k − l_{k−1}) E[ mean cost of a hidden place of block b ],

l_k of its places hidden at random, all earlier blocks visible and all later ones hidden
(Arriola et al. 2025, "Block diffusion", eq. 5, over counts.) A cell is a step of a block; its coordinate is the number
of all hidden places. With blocks of one place this is the chain rule from left to right, and nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Cells, Draws
from nelbo.bound.tokens import terms
from nelbo.bound.tokens.chain import SLICES, TokenChain, logsnr
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.process.grid import Full
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Absorbing
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class BlockChain(TokenChain):
    """See the module. Sequences of unequal length take their counts by share, c = ⌈u n⌉ with u uniform in a slice."""

    def __post_init__(self):
        if self.ragged and not isinstance(self.model.grid, Full):
            raise UsageError(
                "blocks in a few steps each, of sequences with unequal numbers of scored places",
                "leave the grid as it is, in which every place is a step, or give sequences of one length",
            )

    @cached_property
    def edges(self) -> Tensor:
        """Counts of hidden places before and after every step, or shares of them."""
        if self.ragged:
            return torch.linspace(0, 1, SLICES + 1, dtype=torch.float64)
        return torch.tensor([0, *self.model.counts(int(self.number[0]))], dtype=torch.float64)

    @cached_property
    def cells(self) -> Cells:
        """A cell a step, or a slice."""
        start, stop = self.edges[:-1], self.edges[1:]
        return Cells(start, stop, (start + stop) / 2 if self.ragged else stop, stop - start, self.ragged)

    @property
    def first_cost(self) -> int:
        """0: there is no such term."""
        return 0

    @property
    def alike(self) -> bool:
        """Of blocks of one place nothing is random, and a draw of every step is exact."""
        return self.model.reverse.block != 1 or self.ragged

    def position(self, u: float) -> tuple[float, float]:
        """The share of hidden places, and log-SNR, at a fraction of the cells."""
        place = u * len(self.cells)
        before = min(int(place), len(self.edges) - 2)
        value = self.edges[before] + (place - before) * self.edges.diff()[before]
        rate = float(value / self.edges[-1])
        return rate, logsnr(rate, self.dimensions)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 1): the term."""
        if draws.cells is None:
            return torch.zeros(len(rows), 1, dtype=torch.float64)
        assert draws.inner is not None  # every draw of a cell has a place in it
        examples, cells = draws.examples[rows], draws.cells[rows]
        keys, numbers = draws.keys[rows], draws.numbers[rows]
        x, scored = self.rows(examples)
        number, weight = self.number[examples], self.edges.diff()[cells]
        if self.ragged:
            count = torch.ceil(self.cells.at(cells, draws.inner[rows].double()) * number).long().clamp(min=1)
            weight = weight * number
        else:
            count = self.edges[cells + 1].long()
        v = Purpose.TERM_NOISE.uniform(self.seed, examples, keys, numbers, (x.shape[1],), device=self.device)
        with torch.no_grad():
            cost = weight * self.mean_cost(x, scored, count.to(self.device), v, self.condition_of(examples)).cpu()
        return self.finite(cost[:, None], examples, "diffusion")

    def mean_cost(self, x: Tensor, scored: Tensor, count: Tensor, v: Tensor, condition: Condition) -> Tensor:
        """The mean cost (b,) of a hidden place of the block that is being revealed, where `count` (b,) of the places
        are hidden, in its block those of the smallest v (b, L)."""
        block = self.model.reverse.block or x.shape[1]
        hidden = counts.subset(counts.later_blocks_first(v, scored, block), scored, count)
        current = (scored.sum(1) - count) // block
        of_block = hidden & (counts.block_of(scored, block) == current[:, None])
        assert isinstance(self.model.kernel, Absorbing)  # as every model with blocks
        z = x.masked_fill(hidden, self.model.kernel.mask)
        return terms.mean_over(self.model.costs(x, z, hidden, None, condition, of_block), of_block)
