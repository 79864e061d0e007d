"""The coder's integer tables: Φ, widths and powers of e, the same on every machine.

They are computed with + − × ÷ and √ of float64 alone, each of which IEEE 754 rounds in one way, and without the
system's exponential and logarithm. The coder works with nothing but these integers:

    PHI[i]   = ⌊2³⁰ Φ(−i/256)⌋,   i = 0 … 2048           (Simpson's rule from 8 down, normalised to Φ(0) = ½)
    WIDTH[i] ≈ 2^{(i + LOW)/256},                           the widths of a Gaussian, in units of its lattice
    INVERSE  = ⌊2²⁴/WIDTH⌋,   CORRECTED = ⌊2²⁴/√(WIDTH² − 1/12)⌋
    EXP[i]   = ⌊2²⁶ e^{−i/64}⌋

The corrected widths are Sheppard's: a Gaussian of that width, rounded to the lattice, has the variance WIDTH².
"""

from __future__ import annotations

import numpy as np

PRECISION = 24
"""Bits of the coder's frequencies; the least mass of one unit for each of 4,096 codes then costs 0.02 % of all mass."""
ONE = 1 << PRECISION
PHI_BITS = 30
"""Bits of the table of Φ; its product with a frequency has 54 and fits int64."""
CELLS = 256
"""Cells of the table of Φ per standard deviation; linear interpolation errs by at most max|Φ″|/(8·256²) = 5e-7."""
REACH = 8
"""Standard deviations that the table of Φ covers; Φ(−8) = 6e-16 is far below 2⁻³⁰."""
FRACTION = 10
"""Fractional bits of a mean."""
OCTAVE = 256
"""Widths per factor of two; rounding to the nearest costs at most (ln 2/512)² = 2e-6 nats a symbol."""
LOW, HIGH = -6 * OCTAVE, 10 * OCTAVE
"""The least and the greatest width, as powers of 2^{1/256}: 1/64 and 1,024."""
LOG_GRID = 64
"""Steps of a log mass per nat; rounding to the nearest costs about (1/64)²/24 = 1e-5 nats a symbol."""
LOG_FLOOR = 20 * LOG_GRID
"""Masses below e^{−20}, less than one unit of the frequencies, are coded as e^{−20}."""
EXP_BITS = 26
"""Bits of the table of e; a sum of 4,096 entries times 2²⁴ has 62 and fits int64."""


def exp(y: np.ndarray) -> np.ndarray:
    """e^y for −32 ≤ y ≤ 0, to about 1e-11: Taylor's polynomial of degree 6 at y/1024, squared ten times."""
    u = np.asarray(y, np.float64) / 1024.0
    p = 1.0 + u * (1.0 + u * (0.5 + u * (1 / 6.0 + u * (1 / 24.0 + u * (1 / 120.0 + u / 720.0)))))
    for _ in range(10):
        p = p * p
    return p


def _phi() -> np.ndarray:
    x = np.arange(2 * CELLS * REACH + 1) / (2.0 * CELLS)
    density = exp(-0.5 * x * x)
    cell = density[:-2:2] + 4.0 * density[1:-1:2] + density[2::2]
    tail = np.cumsum(cell[::-1])[::-1]
    table = np.zeros(CELLS * REACH + 1, np.int64)
    table[:-1] = np.floor(tail / tail[0] * 2.0 ** (PHI_BITS - 1)).astype(np.int64)
    return table


def _widths() -> np.ndarray:
    """2^{i/256} for i = LOW … HIGH: products of 2^{1/2}, 2^{1/4}, …, which are square roots."""
    part = np.ones(OCTAVE)
    root = 2.0
    for bit in range(OCTAVE.bit_length() - 2, -1, -1):
        root = float(np.sqrt(root))
        chosen = (np.arange(OCTAVE) >> bit) & 1 == 1
        part[chosen] = part[chosen] * root
    i = np.arange(LOW, HIGH + 1)
    return part[i % OCTAVE] * 2.0 ** (i // OCTAVE)


PHI = _phi()
WIDTH = _widths()
INVERSE = np.floor(2.0**24 / WIDTH).astype(np.int64)
CORRECTED = np.floor(2.0**24 / np.sqrt(np.maximum(WIDTH * WIDTH - 1.0 / 12.0, 0.04))).astype(np.int64)
SPAN = np.floor(6.5 * WIDTH).astype(np.int64) + 2
"""Lattice points on each side of the mean, 6.5 standard deviations; beyond lies 8e-11 of the mass, coded by escapes."""
EXP = np.floor(2.0**EXP_BITS * exp(-np.arange(LOG_FLOOR + 1) / float(LOG_GRID))).astype(np.int64)
