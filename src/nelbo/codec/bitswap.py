"""Images on a stack by bits-back coding, in Bit-Swap order (Kingma, Abbeel & Ho 2019, algorithm 1).

    encode                                    decode is every line undone, from the last to the first
        pop  z_1 ~ q(z_1 | x)
        push x under p(x | z_1)
        for j = 2 … L:
            pop  z_j ~ q(z_j | z_{j−1})
            push z_{j−1} under p_θ(z_{j−1} | z_j)
        push z_L under p(z_L)

Bits pushed less bits popped are −log₂ p(x, z) + log₂ q(z | x), whose mean over z is the bound: the choice of z costs
nothing, since decoding gives its bits back. `groups` codes the images of a chunk in groups, of which `Coder` codes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.header import Header
from nelbo.codec.lattice import Guard, LatticeChain, as_mean, clipped_width
from nelbo.codec.stack import Stack, key_of
from nelbo.codec.symbols import symbols_of
from nelbo.codec.tables import LOW, OCTAVE
from nelbo.codec.tally import Clock, Tally
from nelbo.equation import equation
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.mixture import Mixture
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition

COARSE_GROUPS = 4
"""Groups at the beginning of a chunk, of one image or few, that are coded on lattices of twice the width."""
_PRIOR_MEAN, _PRIOR_WIDTH, _FIRST_GROUP = 0, 1, 8
"""Numbers of roundings: those of the prior, 2 in `symbols`, and from 8 on those of the groups."""
Moments = tuple[np.ndarray, np.ndarray]
"""Means and widths of Gaussians on a lattice."""


@dataclass
class Coder:
    """A model in float64 that codes groups of images; `batch`: images per call of the network; `seed`: of the draws."""

    model: DiffusionModel
    r: float
    batch: int
    widths: tuple[int, ...] | None = None
    seed: int = 0
    clock: Clock = field(default_factory=Clock)
    tally: Tally = field(default_factory=Tally)
    borrows: ClassVar[bool] = True

    def __post_init__(self):
        self.fine = LatticeChain(self.model, self.r, self.widths)
        # coarse lattices borrow less, which helps while the stack holds little; for the rate they are too coarse
        self.coarse = LatticeChain(self.model, self.r, [max(w - OCTAVE, LOW) for w in self.fine.widths])
        self.chain = self.fine
        self.symbols = symbols_of(self.model.decoder, self.model.domain)

    def start_chunk(self, header: Header, index: int) -> None:
        """Prepare for a chunk of an archive."""
        self.seed = header.seed + index

    @equation("bits-back-code-length")
    def push(
        self, stack: Stack, guard: Guard, codes: Tensor, condition: Condition | None, group: int, group_size: int
    ) -> None:
        """Push a group of codes (B, *shape) int64 on the stack; group_size: the largest B of any group."""
        base, symbols_base = self._start(group, group_size)
        chain = self.chain
        k = self._pop_forward(stack, guard, 1, base, self.model.domain.values(codes), None)
        z, prediction = self._first(k, condition)
        t = chain.level(1, len(z))
        push = self.symbols.push
        bits = self.clock.time("coder", lambda: push(stack, codes, z, t, prediction, guard, symbols_base))
        self.tally.add_codes(bits)
        for j in range(2, chain.L + 1):
            k_next = self._pop_forward(stack, guard, j, base, None, k)
            moments = self._reverse_moments(j, k_next, condition)
            self._push_latents(stack, k, moments, self._rounded(guard, j, base, moments))
            k = k_next
        self._push_latents(stack, k, chain.prior_mean_and_width(), self._prior(guard, k.shape))

    def _push_latents(self, stack: Stack, k: np.ndarray, moments: Moments, rounded: Moments) -> None:
        self.clock.time("coder", lambda: stack.push_normal(k, *rounded))
        self.tally.add_latents(k, *moments)

    def pop(
        self, stack: Stack, guard: Guard, n: int, condition: Condition | None, group: int, group_size: int
    ) -> Tensor:
        """Pop a group of n images, the inverse of `push`; int64 (n, *shape)."""
        base, symbols_base = self._start(group, group_size)
        chain = self.chain
        mean, width = self._prior(guard, (n, *chain.shape))
        k = self.clock.time("coder", lambda: stack.pop_normal(mean, width))
        for j in range(chain.L, 1, -1):
            mean, width = self._rounded(guard, j, base, self._reverse_moments(j, k, condition))
            k_before = self.clock.time("coder", lambda m=mean, w=width: stack.pop_normal(m, w))
            self._push_forward(stack, guard, j, base, None, k_before, k)
            k = k_before
        z, prediction = self._first(k, condition)
        t = chain.level(1, n)
        codes = self.clock.time("coder", lambda: self.symbols.pop(stack, z, t, prediction, guard, symbols_base))
        self._push_forward(stack, guard, 1, base, self.model.domain.values(codes), None, k)
        return codes

    def predict(self, z: Tensor, j: int, condition: Condition | None, rows: slice) -> Prediction:
        """The model's prediction of some rows of z_j."""
        return self.chain.predict(z[rows], j, rows_of(condition, rows))

    def _start(self, group: int, group_size: int) -> tuple[int, int]:
        """Choose the group's lattices; the numbers of its first rounding and of the first one of the decoder."""
        self.chain = self.coarse if group < COARSE_GROUPS else self.fine
        steps = 4 * self.chain.L + 4
        base = _FIRST_GROUP + group * (steps + group_size)
        return base, base + steps

    def _forward(self, guard: Guard, j: int, base: int, mean: np.ndarray):
        return (
            as_mean(guard(mean, base + 4 * j)),
            self.chain.forward_width(j, mean.shape),
            key_of(self.seed, base + 4 * j),
        )

    def _pop_forward(self, stack: Stack, guard: Guard, j: int, base: int, x: Tensor | None, k: np.ndarray | None):
        mean = self.chain.forward_mean(j, x, k)
        drawn = self.clock.time("coder", lambda: stack.pop_normal(*self._forward(guard, j, base, mean)))
        self.tally.add_draws(drawn, mean, self.chain.forward_width(j, mean.shape) + LOW)
        return drawn

    def _push_forward(self, stack, guard, j: int, base: int, x: Tensor | None, k_before, k: np.ndarray) -> None:
        mean = self.chain.forward_mean(j, x, k_before)
        self.clock.time("coder", lambda: stack.push_normal(k, *self._forward(guard, j, base, mean)))

    def _reverse_moments(self, j: int, k: np.ndarray, condition: Condition | None) -> Moments:
        """Mean and width of p_θ(z_{j−1} | z_j), before rounding."""
        z = self.chain.values(k, j)

        def by_batch() -> list[Moments]:
            return [self.chain.reverse(z[rows], j, self.predict(z, j, condition, rows)) for rows in self._rows(len(z))]

        parts = self.clock.time("network", by_batch)
        return np.concatenate([m for m, _ in parts]), np.concatenate([w for _, w in parts])

    def _rounded(self, guard: Guard, j: int, base: int, moments: Moments) -> Moments:
        mean = as_mean(guard(moments[0], base + 4 * j + 1))
        width = guard(clipped_width(moments[1]), base + 4 * j + 2) - LOW
        return mean, np.broadcast_to(width, mean.shape)

    def _prior(self, guard: Guard, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        mean, width = self.chain.prior_mean_and_width()
        mean = as_mean(guard(mean, _PRIOR_MEAN))
        width = guard(clipped_width(width), _PRIOR_WIDTH) - LOW
        return np.full(shape, mean[0]), np.full(shape, width[0])

    def _first(self, k: np.ndarray, condition: Condition | None) -> tuple[Tensor, Prediction | None]:
        """z_1, and the network's prediction there if the decoder needs one."""
        z = self.chain.values(k, 1)
        if not self.model.decoder.calls_network:
            return z, None
        rows = self._rows(len(z))
        return z, joined(self.clock.time("network", lambda: [self.predict(z, 1, condition, r) for r in rows]))

    def _rows(self, n: int) -> list[slice]:
        return [slice(i, i + self.batch) for i in range(0, n, self.batch)]


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of consecutive images as one."""
    if len(parts) == 1:
        return parts[0]
    tensors = {
        name: torch.cat([getattr(p, name) for p in parts])
        for name, value in vars(parts[0]).items()
        if isinstance(value, Tensor)
    }
    mixture = None
    if parts[0].mixture is not None:
        mixture = Mixture(
            *(torch.cat(list(field)) for field in zip(*(p.mixture.read() for p in parts if p.mixture), strict=True))
        )
    return Prediction(**tensors, mixture=mixture)


def rows_of(condition: Condition | None, rows: slice) -> Condition | None:
    """Some rows of a condition."""
    return None if condition is None else {name: values[rows] for name, values in condition.items()}
