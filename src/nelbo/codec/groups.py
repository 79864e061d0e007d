"""The images of a chunk on one stack, in groups that grow: what is popped first has to be borrowed, and a small first
group borrows little."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.archive import Chunk
from nelbo.codec.bitswap import Coder, rows_of
from nelbo.codec.header import Header
from nelbo.codec.lattice import Guard
from nelbo.codec.sequences import SequenceCoder
from nelbo.codec.stack import START, Damaged, Stack
from nelbo.codec.tally import Tally
from nelbo.errors import NumericalError
from nelbo.typing import Condition

AnyCoder = Coder | SequenceCoder
_BORROWED_SHARE = 0.6
"""Share of what an image is expected to leave on the stack that the next group may borrow; the rest is a reserve for
images that leave less than the first two."""
_LEAST_GROWTH = 26
"""In 256ths: below a tenth, groups of one image cost more time than the few borrowed words are worth."""
_FIRST_LOAN = 1024
"""Words below the stack, and two more per dimension, at the first attempt to encode a chunk."""
_LARGEST_LOAN = 512
"""Words per dimension beyond which an image is given up; sane models borrow less than one."""
_FREE, _ELEMENTS_A_WORD = 1 << 24, 512
"""Elements of a group that are decoded whatever the chunk's length, and more of them for each of its words: a group of
an altered file takes memory before its first bit is read, and a latent of the prior takes more than 1/16 bit."""


def group_sizes(total: int, growth: int, largest: int) -> Iterator[int]:
    """The sizes of the groups of `total` images."""
    n = 0
    while n < total:
        size = size_after(n, total, growth, largest)
        yield size
        n += size


def size_after(n: int, total: int, growth: int, largest: int) -> int:
    """The size of the group after n images: ⌊n · growth/256⌋, from 1 to `largest` and at most what remains of `total`;
    growth 0 is that of a coder that borrows nothing, whose groups are all as large as they may be.

    Bits popped before they are pushed are borrowed from the stack; growth/256 is what an image leaves there as a share
    of what it borrows, so that only the first has to borrow from outside.
    """
    return min(max(1, n * growth // 256) if growth else largest, largest, total - n)


def encode(
    coder: AnyCoder,
    header: Header,
    codes: Tensor,
    condition: Condition | None,
    metadata: bytes = b"",
    progress: Callable[[int, float], None] | None = None,
) -> Chunk:
    """The chunk of codes (n, *shape). progress: called after every group with the images and the net bits so far.

    Errors: NumericalError where the model's numbers cannot be coded.
    """
    loan = _FIRST_LOAN + 2 * codes[0].numel() if coder.borrows else 0
    while True:
        try:
            return _encoded(coder, header, codes, condition, metadata, loan, progress)
        except Damaged:  # the stack ran empty: the chunk needs a larger loan
            loan *= 4
            if not coder.borrows or loan > _LARGEST_LOAN * codes[0].numel() + 2**20:
                raise NumericalError(
                    "the model's latents cannot be coded: they lie beyond every lattice",
                    "evaluate the model on these images first: its bound is absurd, or infinite",
                ) from None


def _encoded(coder: AnyCoder, header: Header, codes, condition, metadata: bytes, loan: int, progress) -> Chunk:
    stack, guard, coder.tally = Stack(np.zeros(loan, np.uint32), START), Guard(2.0**-header.tau), Tally()
    begin, least, borrowed, growth = stack.bits, loan, 1.0, _LEAST_GROWTH if coder.borrows else 0
    group, n = 0, 0
    while n < len(codes):
        if group == 2 and growth:  # the first two groups are one image each, whatever the growth
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
    coder: AnyCoder,
    header: Header,
    chunk: Chunk,
    n: int,
    condition: Condition | None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The n images of a chunk, int64 (n, *shape). progress: called after every group with the images so far.

    Errors: `Damaged`.
    """
    sizes = list(group_sizes(n, chunk.growth, header.group_size))
    if max(sizes) * coder.model.domain.dimensions > _FREE + _ELEMENTS_A_WORD * len(chunk.words):
        raise Damaged("it has too few bits for its images")
    stack = Stack(chunk.words, chunk.state)
    guard = Guard(2.0**-header.tau, chunk.exceptions)
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
