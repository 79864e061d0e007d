"""Images on a stack by bits-back coding, in Bit-Swap order (Kingma, Abbeel & Ho 2019, algorithm 1).

    encode                                    decode is every line undone, from the last to the first
        pop  z_1 ~ q(z_1 | x)
        push x under p(x | z_1)
        for j = 2 … L:
            pop  z_j ~ q(z_j | z_{j−1})
            push z_{j−1} under p_θ(z_{j−1} | z_j)
        push z_L under p(z_L)

Bits pushed less bits popped are −log₂ p(x, z) + log₂ q(z | x), whose mean over z is the bound: the choice of z costs
nothing, since decoding gives its bits back. The images of a chunk are coded in groups that grow: what is popped first
has to be borrowed, and a small first group borrows little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.archive import Chunk
from nelbo.codec.header import Header
from nelbo.codec.lattice import MEAN_BITS, Guard, LatticeChain, as_mean, clipped_width
from nelbo.codec.stack import START, Damaged, Stack, key_of
from nelbo.codec.symbols import symbols_of
from nelbo.codec.tables import LOW, OCTAVE, PRECISION
from nelbo.equation import equation
from nelbo.errors import NumericalError
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.mixture import Mixture
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition

COARSE_GROUPS = 4
"""Groups at the beginning of a chunk, of one image or few, that are coded on lattices of twice the width."""
_PRIOR_MEAN, _PRIOR_WIDTH, _FIRST_GROUP = 0, 1, 8
"""Numbers of roundings: those of the prior, 2 in `symbols`, and from 8 on those of the groups."""
_BORROWED_SHARE = 0.6
"""Share of what an image is expected to leave on the stack that the next group may borrow; the rest is a reserve for
images that leave less than the first two."""
_LEAST_GROWTH = 26
"""In 256ths: below a tenth, groups of one image cost more time than the few borrowed words are worth."""
_FIRST_LOAN = 1024
"""Words below the stack, and two more per dimension, at the first attempt to encode a chunk."""
_LARGEST_LOAN = 512
"""Words per dimension beyond which an image is given up; sane models borrow less than one."""


@dataclass
class Clock:
    """Seconds spent in the network and its formulas, and in the coder itself."""

    network: float = 0.0
    coder: float = 0.0

    def time(self, what: str, do: Callable[[], Any]) -> Any:
        """The result of `do`, whose time is added to `what`."""
        started = time.perf_counter()
        try:
            return do()
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)


@dataclass
class Tally:
    """What is encoded by the model's own probabilities, in float64, at the latents that were drawn.

    bits: −log₂ p(x, z) + log₂ q(z | x), whose mean over z is the bound. The coder's tables give everything at least
    2⁻²⁴ and what is beyond 6.5 standard deviations an escape, where a model that is badly off gives it less: then the
    stack has fewer bits than these, and on lattices that are too wide it has more.
    rare_codes, rare_latents: how many have less than 2⁻²⁴ under the model, of all `codes` and `latents`.
    """

    bits: float = 0.0
    codes: int = 0
    latents: int = 0
    rare_codes: int = 0
    rare_latents: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def add_codes(self, bits: Tensor) -> None:
        """Codes pushed, of so many bits each."""
        self.bits += float(bits.sum())
        self.codes, self.rare_codes = self.codes + bits.numel(), self.rare_codes + int((bits > PRECISION).sum())

    def add_latents(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> None:
        """Lattice points pushed under Gaussians of the model with these means and widths, before rounding."""
        bits = gaussian_bits(k, mean, width)
        self.bits += float(bits.sum())
        self.latents, self.rare_latents = self.latents + k.size, self.rare_latents + int((bits > PRECISION).sum())

    def add_draws(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> None:
        """Lattice points popped as draws of q, whose bits are given back."""
        self.bits -= float(gaussian_bits(k, mean, width).sum())


def gaussian_bits(k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """−log₂ of densities at lattice points k, in units of the lattice: ½ ((k − m)/s)² log₂ e + log₂(s √(2π)).

    mean, width: 2⁷ m and 256 log₂ s, not rounded.
    """
    octaves = np.broadcast_to(width / OCTAVE, k.shape)
    error = (k - mean / 2**MEAN_BITS) * 2.0**-octaves
    return 0.5 * error**2 / math.log(2) + octaves + 0.5 * math.log2(2 * math.pi)


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

    def __post_init__(self):
        self.fine = LatticeChain(self.model, self.r, self.widths)
        # coarse lattices borrow less, which helps while the stack holds little; for the rate they are too coarse
        self.coarse = LatticeChain(self.model, self.r, [max(w - OCTAVE, LOW) for w in self.fine.widths])
        self.chain = self.fine
        self.symbols = symbols_of(self.model.decoder, self.model.domain)

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


def group_sizes(total: int, growth: int, largest: int) -> Iterator[int]:
    """The sizes of the groups of `total` images."""
    n = 0
    while n < total:
        size = size_after(n, total, growth, largest)
        yield size
        n += size


def size_after(n: int, total: int, growth: int, largest: int) -> int:
    """The size of the group after n images: ⌊n · growth/256⌋, from 1 to `largest` and at most what remains of `total`.

    Bits popped before they are pushed are borrowed from the stack; growth/256 is what an image leaves there as a share
    of what it borrows, so that only the first has to borrow from outside.
    """
    return min(max(1, n * growth // 256), largest, total - n)


def encode(
    coder: Coder,
    header: Header,
    codes: Tensor,
    condition: Condition | None,
    metadata: bytes = b"",
    progress: Callable[[int, float], None] | None = None,
) -> Chunk:
    """The chunk of codes (n, *shape). progress: called after every group with the images and the net bits so far.

    Errors: NumericalError where the model's numbers cannot be coded.
    """
    loan = _FIRST_LOAN + 2 * codes[0].numel()
    while True:
        try:
            return _encoded(coder, header, codes, condition, metadata, loan, progress)
        except Damaged:  # the stack ran empty: the chunk needs a larger loan
            loan *= 4
            if loan > _LARGEST_LOAN * codes[0].numel() + 2**20:
                raise NumericalError(
                    "the model's latents cannot be coded: they lie beyond every lattice",
                    "evaluate the model on these images first: its bound is absurd, or infinite",
                ) from None


def _encoded(coder: Coder, header: Header, codes, condition, metadata: bytes, loan: int, progress) -> Chunk:
    stack, guard, coder.tally = Stack(np.zeros(loan, np.uint32), START), Guard(2.0**-header.tau), Tally()
    begin, least, borrowed, growth = stack.bits, loan, 1.0, _LEAST_GROWTH
    group, n = 0, 0
    while n < len(codes):
        if group == 2:  # the first two groups are one image each, whatever the growth
            growth = growth_of((stack.bits - begin) / n, borrowed)
        size = size_after(n, len(codes), growth, header.group_size)
        before = stack.bits
        stack.mark()
        rows = slice(n, n + size)
        coder.push(stack, guard, codes[rows], rows_of(condition, rows), group, header.group_size)
        least = min(least, stack.least)
        borrowed = max(borrowed, before - 32 * stack.least) if size == 1 else borrowed
        n, group = n + size, group + 1
        if progress is not None:
            progress(n, stack.bits - begin)
    words = stack.buf[least : stack.height].copy()
    exceptions = tuple(sorted(set(guard.exceptions)))
    return Chunk(growth, exceptions, loan - least, int(stack.state[0]), words, metadata, stack.bits - begin)


def growth_of(net: float, borrowed: float) -> int:
    """The growth of the groups in 256ths, from the bits that an image leaves on the stack and those that it borrows."""
    return int(min(255, max(_LEAST_GROWTH, 256 * _BORROWED_SHARE * net / borrowed)))


def decode(
    coder: Coder,
    header: Header,
    chunk: Chunk,
    n: int,
    condition: Condition | None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The n images of a chunk, int64 (n, *shape). progress: called after every group with the images so far.

    Errors: `Damaged`.
    """
    stack = Stack(chunk.words, chunk.state)
    guard = Guard(2.0**-header.tau, chunk.exceptions)
    sizes = list(group_sizes(n, chunk.growth, header.group_size))
    groups: list[Tensor] = []
    first = n
    for group in range(len(sizes) - 1, -1, -1):
        first -= sizes[group]
        rows = slice(first, first + sizes[group])
        groups.append(coder.pop(stack, guard, sizes[group], rows_of(condition, rows), group, header.group_size))
        if progress is not None:
            progress(n - first)
    if stack.height != chunk.borrowed or int(stack.state[0]) != START or stack.buf[: chunk.borrowed].any():
        raise Damaged("it does not end where it began")
    return torch.cat(groups[::-1])


def rows_of(condition: Condition | None, rows: slice) -> Condition | None:
    """Some rows of a condition."""
    return None if condition is None else {name: values[rows] for name, values in condition.items()}
