"""Sequences of symbols on a stack, in the order in which a chain over masked places reveals them.

    encode: for every step of the chain, from the last to the first      decode: from the first to the last
        push the symbols that the step reveals under p_i(x_i | what is visible before it)

The order is random, keyed by the archive's seed and the sequence, and the same on both sides, so that nothing is
borrowed and a single sequence costs its own bits alone: the mean over orders is the bound. A chain of K steps takes K
evaluations of the network a sequence. Of a sequence that is cut short the places behind its end stay hidden, as if they
came last in the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.header import Header
from nelbo.codec.lattice import Guard
from nelbo.codec.stack import Stack
from nelbo.codec.symbols import LN2, MAX_CODES
from nelbo.codec.tables import EXP, EXP_BITS, LOG_FLOOR, LOG_GRID
from nelbo.codec.tally import Clock, Tally
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.revealing import Reveal, prior_law, reveals
from nelbo.typing import Condition

AT_ONCE = 1 << 21
"""Probabilities of one call of the entropy coder."""


@dataclass
class SequenceCoder:
    """A model in float64 that codes groups of sequences; `batch`: sequences per call of the network; `seed`: of the
    orders. `Coder` of images has the same methods."""

    model: TokenModel
    batch: int
    seed: int = 0
    clock: Clock = field(default_factory=Clock)
    tally: Tally = field(default_factory=Tally)
    short: int = -1
    """The sequence of the chunk that is cut short, and `kept`, its length; −1 where none is."""
    kept: int = 0
    borrows: ClassVar[bool] = False

    def start_chunk(self, header: Header, index: int) -> None:
        """Prepare for a chunk of an archive."""
        self.seed = header.seed + index
        last, tail = header.images - 1 - index * header.chunk_size, header.text.get("tail")
        self.short, self.kept = (-1, 0) if tail is None else (last, tail)

    def push(
        self, stack: Stack, guard: Guard, codes: Tensor, condition: Condition | None, group: int, group_size: int
    ) -> None:
        """Push a group of sequences (B, L) int64 on the stack; group_size: the largest B of any group."""
        steps = list(self._steps(len(codes), group, group_size))
        base = group * (self.most_steps + 1)
        for number, step in reversed(list(enumerate(steps))):
            z = codes.masked_fill(step.hidden, self.mask)
            for places, before, log_p in reversed(list(self._laws(z, step, condition))):
                symbols = codes[places]
                self.tally.add_codes(log_p.gather(-1, symbols[:, None])[:, 0] / -LN2)
                self._push(stack, guard, symbols.numpy(), log_p, base + number, before)

    def pop(
        self, stack: Stack, guard: Guard, size: int, condition: Condition | None, group: int, group_size: int
    ) -> Tensor:
        """The inverse of `push`: the sequences (size, L) int64."""
        z = torch.full((size, self.model.domain.length), self.mask)
        base = group * (self.most_steps + 1)
        for number, step in enumerate(self._steps(size, group, group_size)):
            for places, before, log_p in self._laws(z, step, condition):
                z[places] = torch.from_numpy(self._pop(stack, guard, log_p, base + number, before))
        return z.masked_fill(~self._there(group * group_size + torch.arange(size)), 0)

    @property
    def mask(self) -> int:
        """The symbol of a hidden place."""
        return self.model.kernel.mask  # type: ignore[attr-defined]  # checked before

    @property
    def most_steps(self) -> int:
        """Steps of a group at most: a chain in continuous time reveals places one by one, and the prior is a step."""
        return 1 + (self.model.steps or self.model.domain.length)

    def count_steps(self, n: int) -> int:
        """Steps of a group of n sequences."""
        return sum(1 for _ in self._steps(n, 0, n))

    def numbers(self, codes: Tensor, condition: Condition | None, rows: slice, step: int) -> np.ndarray:
        """All numbers of a step before rounding, one row a sequence of `rows`; to measure how they depend on the batch.

        Where a sequence reveals fewer places than another, the rest of its row is 0.
        """
        chosen = list(self._steps(len(codes), 0, len(codes)))[step]
        part = Reveal(*(None if v is None else v[rows] for v in chosen[:3]), chosen.by_prior)  # type: ignore[arg-type]
        z = codes[rows].masked_fill(part.hidden, self.mask)
        some = None if condition is None else {k: v[rows] for k, v in condition.items()}
        wide = torch.zeros(*z.shape, self.model.domain.vocabulary, dtype=torch.float64)
        wide[part.places] = torch.from_numpy(_costs(self._law(z, part, some)))
        return wide.flatten(1).numpy()

    def _steps(self, n: int, group: int, group_size: int) -> Iterator[Reveal]:
        number = group * group_size + torch.arange(n)
        L = self.model.domain.length
        v = Purpose.CODING_ORDER.uniform(self.seed, number, shape=(L,))
        there = self._there(number)
        for step in reveals(self.model, torch.where(there, v, v * 2.0**-60), torch.ones_like(there)):
            if bool((step.places & there).any()):
                yield step._replace(after=step.after | step.hidden & ~there)

    def _there(self, number: Tensor) -> Tensor:
        """The places (n, L) of sequences of these numbers in the chunk that are coded."""
        ends = torch.where(number == self.short, self.kept, self.model.domain.length)
        return torch.arange(self.model.domain.length) < ends[:, None]

    def _laws(
        self, z: Tensor, step: Reveal, condition: Condition | None
    ) -> Iterator[tuple[tuple[Tensor, ...], int, Tensor]]:
        """In parts of the group: the places that the step reveals, how many come before them, and log p (m, V) there.

        The parts of the batches change nothing: places are in the order of sequences, then in that of a sequence.
        """
        before, V = 0, self.model.domain.vocabulary
        for start in range(0, len(z), self.batch):
            rows = slice(start, start + self.batch)
            part = Reveal(
                step.hidden[rows], step.after[rows], None if step.at is None else step.at[rows], step.by_prior
            )
            row, place = part.places.nonzero(as_tuple=True)
            if not len(row):
                continue
            some = None if condition is None else {k: v[rows] for k, v in condition.items()}
            log_p = self.clock.time("network", lambda part=part, rows=rows, some=some: self._law(z[rows], part, some))
            for a in range(0, len(row), max(1, AT_ONCE // V)):
                b = slice(a, a + max(1, AT_ONCE // V))
                yield (row[b] + start, place[b]), before + a, log_p[b]
            before += len(row)

    def _law(self, z: Tensor, step: Reveal, condition: Condition | None) -> Tensor:
        if step.by_prior:
            return prior_law(self.model).log().expand(int(step.places.sum()), -1)
        return self.model.law_at(z, step.hidden, step.at, step.places, condition)

    def _push(self, stack: Stack, guard: Guard, symbols: np.ndarray, log_p: Tensor, rounding: int, before: int) -> None:
        cost = guard(_costs(log_p), rounding, before * log_p.shape[1])
        self.clock.time("coder", lambda: push_large(stack, symbols, cost))

    def _pop(self, stack: Stack, guard: Guard, log_p: Tensor, rounding: int, before: int) -> np.ndarray:
        cost = guard(_costs(log_p), rounding, before * log_p.shape[1])
        return self.clock.time("coder", lambda: pop_large(stack, cost))


def _costs(log_p: Tensor) -> np.ndarray:
    return (-LOG_GRID * log_p).clamp(max=LOG_FLOOR).numpy()


def push_large(stack: Stack, symbols: np.ndarray, cost: np.ndarray) -> None:
    """Symbols (m,) under masses ∝ e^{−cost/64}, cost (m, V) whole numbers. Of a vocabulary beyond what one table of
    frequencies holds, first the block of a symbol, and then the symbol in its block."""
    blocks = _blocks(cost.shape[1])
    if len(blocks) == 1:
        stack.push_masses(symbols, cost)
        return
    which = symbols // MAX_CODES
    of_blocks = _block_costs(cost, blocks)
    for m in range(len(symbols) - 1, -1, -1):
        inner = cost[m : m + 1, blocks[which[m]]]
        stack.push_masses(symbols[m : m + 1] % MAX_CODES, np.ascontiguousarray(inner))
        stack.push_masses(which[m : m + 1], of_blocks[m : m + 1])


def pop_large(stack: Stack, cost: np.ndarray) -> np.ndarray:
    """The inverse of `push_large`."""
    blocks = _blocks(cost.shape[1])
    if len(blocks) == 1:
        return stack.pop_masses(cost)
    of_blocks = _block_costs(cost, blocks)
    symbols = np.empty(len(cost), np.int64)
    for m in range(len(cost)):
        which = int(stack.pop_masses(of_blocks[m : m + 1])[0])
        inner = np.ascontiguousarray(cost[m : m + 1, blocks[which]])
        symbols[m] = which * MAX_CODES + int(stack.pop_masses(inner)[0])
    return symbols


def _blocks(V: int) -> list[slice]:
    return [slice(a, min(V, a + MAX_CODES)) for a in range(0, V, MAX_CODES)]


def _block_costs(cost: np.ndarray, blocks: list[slice]) -> np.ndarray:
    """Costs of whole blocks, of whole numbers alone: −64 log of the sum of integer masses, by a search in their table.

    Integers decide it, so that every machine gets the same.
    """
    total = np.stack([EXP[np.clip(cost[:, b], 0, LOG_FLOOR)].sum(1) for b in blocks], 1)
    share = (total << 24) // total.max(1, keepdims=True)  # of 2³⁸ at most
    return np.searchsorted(-(EXP >> EXP_BITS - 24), -share).clip(0, LOG_FLOOR).astype(np.int64)
