"""One group of images on a stack, in Bit-Swap order (Kingma, Abbeel & Ho 2019, algorithm 1).

    encode                                    decode is every line undone, from the last to the first
        pop  z_1 ~ q(z_1 | x)
        push x under p(x | z_1)
        for j = 2 … L:
            pop  z_j ~ q(z_j | z_{j−1})
            push z_{j−1} under p_θ(z_{j−1} | z_j)
        push z_L under p(z_L)

What is pushed less what is popped is −log p(x, z) + log q(z | x), whose mean over z is the bound: no bit is spent on
the choice of z, since decoding gives it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.chain import Chain, as_mean, width_number
from nelbo.codec.guard import Guard
from nelbo.codec.normal import LOW, OCTAVE
from nelbo.codec.stack import Stack, key_of
from nelbo.codec.symbols import symbols_of
from nelbo.equation import equation
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.mixture import Mixture
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition

ALONE = 4
"""Groups at the beginning of a chunk, of one image or few, that are coded on lattices of twice the width."""
_PRIOR_MEAN, _PRIOR_WIDTH, _FREE = 0, 1, 8
"""Numbers of roundings: two constants, one of `symbols`, and from 8 on those of the groups."""


@dataclass
class Clock:
    """Seconds spent in the network and its formulas, and in the coder itself."""

    network: float = 0.0
    coder: float = 0.0

    def time(self, what: str, do: Callable[[], Any]) -> Any:
        """The result of `do`, its time put down to `what`."""
        started = time.perf_counter()
        try:
            return do()
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)


@dataclass
class Coder:
    """A model in float64 ready to code: `batch` is how many images the network sees at once."""

    model: DiffusionModel
    r: float
    batch: int
    widths: tuple[int, ...] | None = None
    seed: int = 0
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self):
        self.fine = Chain(self.model, self.r, self.widths)
        # what has little to borrow from borrows less on lattices of twice the width; for the rate they are too coarse
        self.coarse = Chain(self.model, self.r, [max(w - OCTAVE, LOW) for w in self.fine.widths])
        self.chain = self.fine
        self.symbols = symbols_of(self.model.decoder, self.model.domain)

    def roundings(self, most: int) -> int:
        """How many numbers of roundings a group of at most `most` images has."""
        return 4 * self.chain.L + 4 + most

    @equation("bits-back-code-length")
    def push(
        self, stack: Stack, guard: Guard, codes: Tensor, condition: Condition | None, group: int, most: int
    ) -> None:
        """Put a group of codes (B, *shape) int64 on the stack."""
        self.chain = self.coarse if group < ALONE else self.fine
        chain, base = self.chain, _FREE + group * self.roundings(most)
        x = self.model.domain.values(codes)
        k = self._pop_forward(stack, guard, 1, base, x, None)
        z, said = self._first(k, condition)
        at = base + 4 * chain.L + 4
        self.clock.time("coder", lambda: self.symbols.push(stack, codes, z, chain.level(1, len(z)), said, guard, at))
        for j in range(2, chain.L + 1):
            following = self._pop_forward(stack, guard, j, base, None, k)
            mean, width = self._reverse(guard, j, base, following, condition)
            self.clock.time("coder", lambda k=k, m=mean, w=width: stack.push_normal(k, m, w))
            k = following
        mean, width = self._prior(guard, k)
        self.clock.time("coder", lambda: stack.push_normal(k, mean, width))

    def pop(self, stack: Stack, guard: Guard, n: int, condition: Condition | None, group: int, most: int) -> Tensor:
        """Take a group of n images off the stack: the inverse of `push`."""
        self.chain = self.coarse if group < ALONE else self.fine
        chain, base = self.chain, _FREE + group * self.roundings(most)
        mean, width = self._prior(guard, np.empty((n, *chain.shape)))
        k = self.clock.time("coder", lambda: stack.pop_normal(mean, width))
        for j in range(chain.L, 1, -1):
            mean, width = self._reverse(guard, j, base, k, condition)
            before = self.clock.time("coder", lambda m=mean, w=width: stack.pop_normal(m, w))
            self._push_forward(stack, guard, j, base, None, before, k)
            k = before
        z, said = self._first(k, condition)
        at = base + 4 * chain.L + 4
        codes = self.clock.time("coder", lambda: self.symbols.pop(stack, z, chain.level(1, n), said, guard, at))
        self._push_forward(stack, guard, 1, base, self.model.domain.values(codes), None, k)
        return codes

    def _forward(self, guard: Guard, j: int, base: int, x: Tensor | None, k: np.ndarray | None):
        mean = as_mean(guard(self.chain.forward_mean(j, x, k), base + 4 * j))
        return mean, self.chain.forward_width(j, mean.shape), key_of(self.seed, base + 4 * j)

    def _pop_forward(self, stack: Stack, guard: Guard, j: int, base: int, x: Tensor | None, k: np.ndarray | None):
        return self.clock.time("coder", lambda: stack.pop_normal(*self._forward(guard, j, base, x, k)))

    def _push_forward(self, stack, guard, j: int, base: int, x: Tensor | None, before, k: np.ndarray) -> None:
        self.clock.time("coder", lambda: stack.push_normal(k, *self._forward(guard, j, base, x, before)))

    def _reverse(self, guard: Guard, j: int, base: int, k: np.ndarray, condition: Condition | None):
        """Rounded mean and width of p_θ(z_{j−1} | z_j)."""
        z = self.chain.values(k, j)

        def say() -> list[tuple[np.ndarray, np.ndarray]]:
            return [self.chain.reverse(z[rows], j, self._predict(z, j, condition, rows)) for rows in self._rows(len(z))]

        said = self.clock.time("network", say)
        mean = as_mean(guard(np.concatenate([m for m, _ in said]), base + 4 * j + 1))
        width = guard(width_number(np.concatenate([w for _, w in said])), base + 4 * j + 2) - LOW
        return mean, np.broadcast_to(width, mean.shape)

    def _prior(self, guard: Guard, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, width = self.chain.prior_mean_and_width()
        mean = as_mean(guard(mean, _PRIOR_MEAN))
        width = guard(width_number(width), _PRIOR_WIDTH) - LOW
        return np.full(like.shape, mean[0]), np.full(like.shape, width[0])

    def _first(self, k: np.ndarray, condition: Condition | None) -> tuple[Tensor, Prediction | None]:
        """z_1, and what the network says of it where the decoder asks."""
        z = self.chain.values(k, 1)
        if not self.model.decoder.calls_network:
            return z, None
        said = self.clock.time("network", lambda: [self._predict(z, 1, condition, rows) for rows in self._rows(len(z))])
        return z, joined(said)

    def _predict(self, z: Tensor, j: int, condition: Condition | None, rows: slice) -> Prediction:
        some = None if condition is None else {name: value[rows] for name, value in condition.items()}
        return self.chain.predict(z[rows], j, some)

    def _rows(self, n: int) -> list[slice]:
        return [slice(i, i + self.batch) for i in range(0, n, self.batch)]


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of some images each, as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    tensors = {
        name: torch.cat([getattr(p, name) for p in parts])
        for name, value in vars(first).items()
        if isinstance(value, Tensor)
    }
    mixture = None
    if first.mixture is not None:
        mixture = Mixture(
            *(torch.cat(list(field)) for field in zip(*(p.mixture.read() for p in parts if p.mixture), strict=True))
        )
    return Prediction(**tensors, mixture=mixture)


def size_after(n: int, total: int, growth: int, most: int) -> int:
    """The size of the group after n images: ⌊n · growth/256⌋, from 1 to `most` and no more than are left of `total`.

    Bits popped before they are pushed are borrowed from what lies on the stack; growth/256 is what an image leaves
    there as a share of what it borrows, so that only the first has to borrow from outside.
    """
    return min(max(1, n * growth // 256), most, total - n)


def sizes(total: int, growth: int, most: int) -> Iterator[int]:
    """The sizes of the groups of `total` images."""
    n = 0
    while n < total:
        size = size_after(n, total, growth, most)
        yield size
        n += size
