"""A chunk: some images on one stack, as bytes that decode without any other chunk."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.fields import Reader, Writer
from nelbo.codec.groups import Coder, size_after, sizes
from nelbo.codec.guard import Guard
from nelbo.codec.header import Header
from nelbo.codec.stack import LEAST, START, Damaged, Stack
from nelbo.errors import NumericalError
from nelbo.typing import Condition

_SAFETY = 0.6
"""Share of what an image is expected to leave on the stack that the next group may borrow."""
_MOST_BORROWED = 512
"""Words a dimension that an image may borrow before it is given up."""
_SLOWEST = 26
"""Least growth: groups of one image for too long cost more time than a few borrowed words are worth."""


@dataclass(frozen=True)
class Chunk:
    """What a chunk's body holds. words: the stack from its least height on; borrowed: how many of these lay below its
    beginning, all of them 0 once everything is popped; extra: what belongs to the images beside their codes."""

    growth: int
    exceptions: tuple[tuple[int, int, int], ...]
    borrowed: int
    state: int
    words: np.ndarray
    extra: bytes = b""
    net_bits: float = 0.0

    def to_bytes(self) -> bytes:
        """The body."""
        body = Writer().varint(self.growth).varint(len(self.exceptions))
        last = 0
        for which, position, up in sorted(self.exceptions):
            body.varint(which - last).varint(2 * position + up)
            last = which
        body.varint(self.borrowed).block(self.extra).raw(self.state.to_bytes(8, "little"))
        return bytes(body.raw(self.words.astype("<u4").tobytes()).data)

    @classmethod
    def of(cls, data: bytes) -> Chunk:
        """From a body. Errors: `Damaged`."""
        body = Reader(data)
        growth, count, which = body.varint(255), body.varint(len(data)), 0
        exceptions = []
        for _ in range(count):
            which += body.varint()
            position = body.varint()
            exceptions.append((which, position // 2, position % 2))
        borrowed, extra = body.varint(len(data)), body.block()
        state = int.from_bytes(body.raw(8), "little")
        if body.left % 4 or borrowed > body.left // 4 or state < LEAST:
            raise Damaged("a stack that is none")
        words = np.frombuffer(body.raw(body.left), "<u4")
        return cls(growth, tuple(exceptions), borrowed, state, words, extra)


def encode(
    coder: Coder,
    header: Header,
    codes: Tensor,
    condition: Condition | None,
    extra: bytes = b"",
    told: Callable[[int, float], None] | None = None,
) -> Chunk:
    """The chunk of codes (n, *shape). told: called after every group with the images and the net bits so far.

    Errors: NumericalError where the model says what cannot be coded.
    """
    below = 1024 + 2 * codes[0].numel()
    while True:
        try:
            return _encoded(coder, header, codes, condition, extra, below, told)
        except Damaged:  # the stack ran empty: more has to be borrowed than was thought
            below *= 4
            if below > _MOST_BORROWED * codes[0].numel() + 2**20:
                raise NumericalError(
                    "the model's latents cannot be coded: they lie beyond every lattice",
                    "evaluate the model on these images first: its bound is absurd, or infinite",
                ) from None


def _encoded(coder: Coder, header: Header, codes, condition, extra: bytes, below: int, told) -> Chunk:
    stack, guard = Stack(np.zeros(below, np.uint32), START), Guard(2.0**-header.tau)
    before, least, debt, growth = stack.bits, below, 1.0, _SLOWEST
    group, n = 0, 0
    while n < len(codes):
        if group == 2:  # the first two are one image each, whatever the growth
            growth = ramp((stack.bits - before) / n, debt)
        size = size_after(n, len(codes), growth, header.most)
        here = stack.bits
        stack.mark()
        coder.push(stack, guard, codes[n : n + size], rows_of(condition, n, size), group, header.most)
        least = min(least, stack.least)
        debt = max(debt, here - 32 * stack.least) if size == 1 else debt
        n, group = n + size, group + 1
        if told is not None:
            told(n, stack.bits - before)
    words = stack.buf[least : stack.height].copy()
    exceptions = tuple(sorted(set(guard.found)))
    return Chunk(growth, exceptions, below - least, int(stack.state[0]), words, extra, stack.bits - before)


def ramp(net: float, debt: float) -> int:
    """The growth of the groups, from what an image leaves on the stack and what it borrows meanwhile, in bits."""
    return int(min(255, max(_SLOWEST, 256 * _SAFETY * net / debt)))


def decode(
    coder: Coder,
    header: Header,
    chunk: Chunk,
    n: int,
    condition: Condition | None,
    told: Callable[[int], None] | None = None,
) -> Tensor:
    """The n images of a chunk, int64 (n, *shape). told: called after every group with the images so far.

    Errors: `Damaged`.
    """
    stack = Stack(chunk.words, chunk.state)
    guard = Guard(2.0**-header.tau, chunk.exceptions)
    groups = list(sizes(n, chunk.growth, header.most))
    found: list[Tensor] = []
    first = n
    for group in range(len(groups) - 1, -1, -1):
        first -= groups[group]
        some = rows_of(condition, first, groups[group])
        found.append(coder.pop(stack, guard, groups[group], some, group, header.most))
        if told is not None:
            told(n - first)
    if stack.height != chunk.borrowed or int(stack.state[0]) != START or stack.buf[: chunk.borrowed].any():
        raise Damaged("it does not end where it began")
    return torch.cat(found[::-1])


def checksum(codes: Tensor) -> int:
    """CRC-32 of codes, each two bytes, least first."""
    return zlib.crc32(codes.to(torch.int32).numpy().astype("<u2").tobytes())


def rows_of(condition: Condition | None, first: int, n: int) -> Condition | None:
    """The rows of a condition that belong to n images."""
    return None if condition is None else {name: rows[first : first + n] for name, rows in condition.items()}
