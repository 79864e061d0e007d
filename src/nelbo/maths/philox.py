"""Philox4x32 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a bijection of
128-bit counters under a 64-bit key, by exact integer arithmetic in int64, the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import UsageError

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""Philox4x32 multipliers (Salmon et al. 2011; also [rand.eng.philox] of the C++26 standard)."""
WEYL = (0x9E3779B9, 0xBB67AE85)
"""Increments of the key per round: golden ratio and sqrt(3) - 1, times 2^32 (ibid.)."""
ROUNDS = 10

MASK = 0xFFFFFFFF
WORD = 1 << 32


class Integers(NamedTuple):
    """The four operations of a round, on int64 buffers with `out=`."""

    mul: Callable[..., Any]
    shift: Callable[..., Any]
    xor: Callable[..., Any]
    land: Callable[..., Any]


TORCH = Integers(torch.mul, torch.bitwise_right_shift, torch.bitwise_xor, torch.bitwise_and)
NUMPY = Integers(np.multiply, np.right_shift, np.bitwise_xor, np.bitwise_and)
"""On one thread of a CPU numpy takes two thirds of the time of torch; the integers are the same."""


def next_key(k0, k1):
    """The key of the next round."""
    return (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK


def apply_rounds(c0, c1, c2, c3, t, k0, k1, rounds: int, do: Integers = TORCH) -> tuple[Any, ...]:
    """`rounds` rounds of Philox4x32, overwriting the five buffers; one round is

        (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0)).

    int64 products wrap modulo 2^64 and keep all bits. Bits above 31, which the arithmetic shift and the unmasked low
    words leave behind, are masked away only where the next product needs it.
    """
    for _ in range(rounds):
        for c, low, m, k in ((c2, c1, MULTIPLIERS[1], k0), (c0, c3, MULTIPLIERS[0], k1)):
            do.shift(do.mul(c, m, out=c), 32, out=t)
            do.land(do.xor(do.xor(low, k, out=low), t, out=low), MASK, out=low)
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = next_key(k0, k1)
    return c0, do.land(c1, MASK, out=c1), c2, do.land(c3, MASK, out=c3)


def begin(counter, buffers, k0: int, k1: int, do: Integers) -> None:
    """The first two rounds of a table of counters, into four buffers (rows, columns), for `apply_rounds` to continue.

    The block differs between columns only and the other words between rows only. That leaves one product and five
    passes over the whole table, in place of four products and twenty passes.
    """
    (block, example, level, draw), (c0, c1, c2, c3) = counter, buffers
    p0, p1 = block * MULTIPLIERS[0], level * MULTIPLIERS[1]
    p2 = ((p1 >> 32) ^ example ^ k0) & MASK
    do.xor((p0 >> 32) & MASK, draw ^ k1, out=c1)
    k0, k1 = next_key(k0, k1)
    p2 = p2 * MULTIPLIERS[0]
    do.shift(do.mul(c1, MULTIPLIERS[1], out=c1), 32, out=c0)
    do.land(do.xor(c0, p1 ^ k0, out=c0), MASK, out=c0)
    do.xor(p0 & MASK, ((p2 >> 32) ^ k1) & MASK, out=c2)
    c3[...] = p2


def word(value: int | Tensor, name: str, device: torch.device | str | None = None) -> Tensor:
    """`value` as an int64 tensor of 32-bit words on `device`, or UsageError."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise UsageError(f"{name} has dtype {value.dtype}", f"give {name} as int64")
        word = value.to(device=device, dtype=torch.int64)
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{name} {value!r} is not an integer", f"give {name} as an int or an int64 tensor")
    else:
        if not 0 <= value.__index__() < WORD:
            raise UsageError(f"{name} {value} is not in [0, 2^32)", "indices are 32-bit words; start them at 0")
        return torch.tensor(value.__index__(), dtype=torch.int64, device=device)
    if word.numel() and bool(((word < 0) | (word >= WORD)).any()):
        low, high = word.min().item(), word.max().item()
        raise UsageError(f"{name} spans {low}..{high}, not within [0, 2^32)", "indices are 32-bit words; start at 0")
    return word
