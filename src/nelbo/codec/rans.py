"""The entropy coder: scalar rANS (Duda 2013), 64-bit state, 32-bit words, frequencies of 24 bits; integers only.

A stack of words `buf` with `pos` = [height, least height so far] and `state` in [2³², 2⁶⁴). A symbol of cumulative
frequencies [a, a + f) of 2²⁴ is pushed by

    if x ≥ f 2⁴⁰: move the low 32 bits of x to the stack;     x ← ⌊x/f⌋ 2²⁴ + x mod f + a

and popped by the inverse. Arrays are pushed from the last symbol to the first and popped from the first to the last.
Every function returns True on success and False where the stack was empty or full or the symbol is impossible; no
function reads or writes outside its arrays. Everything here is compiled by numba; `stack.Stack` is the way in.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nelbo.codec.tables import CELLS, EXP, FRACTION, LOG_FLOOR, ONE, PHI, PHI_BITS, PRECISION, REACH

_WORD = np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_LOW24 = np.uint64(ONE - 1)
_BITS = np.uint64(PRECISION)
_FULL = np.uint64(64 - PRECISION)
_LEAST = np.uint64(1 << 32)
_WHOLE = 1 << PHI_BITS
_HALF = 1 << (FRACTION - 1)
_CELL_SHIFT = FRACTION + 24 - 8
_PIECE = 16
"""Bits of an escape that are one symbol; 24 at most would fit the frequencies."""
_MAX_ESCAPE = 40
"""Bits of the farthest escape: c + o stays within int64 by a wide margin, and no real latent comes near it."""


@njit(cache=True)
def push_one(state, buf, pos, start, freq):
    """One symbol of cumulative frequencies [start, start + freq)."""
    x, f = state[0], np.uint64(freq)
    if x >= f << _FULL:
        if pos[0] >= buf.size:
            return False
        buf[pos[0]] = np.uint32(x & _LOW32)
        pos[0] += 1
        x >>= _WORD
    state[0] = ((x // f) << _BITS) + (x % f) + np.uint64(start)
    return True


@njit(cache=True)
def pop_one(state, buf, pos, start, freq):
    """Remove the symbol on top, whose cumulative frequencies are [start, start + freq)."""
    x = state[0]
    x = np.uint64(freq) * (x >> _BITS) + (x & _LOW24) - np.uint64(start)
    if x < _LEAST:
        if pos[0] <= 0:
            return False
        pos[0] -= 1
        x = (x << _WORD) | np.uint64(buf[pos[0]])
        if pos[0] < pos[1]:
            pos[1] = pos[0]
    state[0] = x
    return True


@njit(cache=True)
def mask(key, q):
    """24 bits of SplitMix64 (Steele, Lea & Flood 2014) for symbol q under a key; 0 for key 0."""
    if key == np.uint64(0):
        return key
    z = key + (np.uint64(q) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> _FULL


@njit(cache=True)
def phi(e, inverse):
    """⌊2³⁰ Φ(x)⌋ at x = e 2^{−FRACTION} · inverse 2^{−24}, linear within a cell of the table."""
    x = e * inverse
    a = -x if x < 0 else x
    i = a >> _CELL_SHIFT
    q = np.int64(0)
    if i < CELLS * REACH:
        f = (a >> (_CELL_SHIFT - 16)) & 0xFFFF
        q = PHI[i] - ((PHI[i] - PHI[i + 1]) * f >> 16)
    return q if x < 0 else _WHOLE - q


@njit(cache=True)
def _edge(o, f, inverse, W):
    """Cumulative frequency below lattice point o of a Gaussian with mean f; −W − 1 and W + 1 hold the tails."""
    if o <= -W - 1:
        return np.int64(0)
    if o >= W + 2:
        return np.int64(ONE)
    return (phi((2 * o - 1) * _HALF - f, inverse) * (ONE - 2 * W - 3) >> PHI_BITS) + o + W + 1


@njit(cache=True)
def push_normal(state, buf, pos, k, mean, width, inverse, span, key):
    """Lattice points k (n,) of Gaussians, means in units of 2^{−FRACTION}, `width` an index into `inverse` and `span`.

    key = 0: points beyond the span are written as escapes. Otherwise these are draws of q, which stay within the span;
    the lowest bits of the state are XORed with `mask`, so that draws follow q whatever bits they are made from.
    """
    escape = key == np.uint64(0)
    for q in range(k.size - 1, -1, -1):
        i = width[q]
        if i < 0 or i >= inverse.size:
            return False
        W = span[i]
        c = (mean[q] + _HALF) >> FRACTION
        f = mean[q] - (c << FRACTION)
        o = k[q] - c
        beyond = abs(o) - W - 1
        if beyond >= 0:
            if escape:
                if beyond >= np.int64(1) << _MAX_ESCAPE:
                    return False
                length = 0
                while beyond >> length:
                    length += 1
                piece = (length - 1) // _PIECE * _PIECE if length else -1
                while piece >= 0:
                    bits = min(_PIECE, length - piece)
                    value = (beyond >> piece) & ((1 << bits) - 1)
                    if not push_one(state, buf, pos, value << (PRECISION - bits), 1 << (PRECISION - bits)):
                        return False
                    piece -= _PIECE
                if not push_one(state, buf, pos, length << (PRECISION - 6), 1 << (PRECISION - 6)):
                    return False
                o = W + 1 if o > 0 else -W - 1
            elif beyond > 0:
                return False
        start = _edge(o, f, inverse[i], W)
        if not push_one(state, buf, pos, start, _edge(o + 1, f, inverse[i], W) - start):
            return False
        state[0] ^= mask(key, q)
    return True


@njit(cache=True)
def pop_normal(state, buf, pos, k, mean, width, inverse, span, key):
    """The inverse of `push_normal`, into k."""
    escape = key == np.uint64(0)
    for q in range(k.size):
        i = width[q]
        if i < 0 or i >= inverse.size:
            return False
        W = span[i]
        c = (mean[q] + _HALF) >> FRACTION
        f = mean[q] - (c << FRACTION)
        state[0] ^= mask(key, q)
        target = np.int64(state[0] & _LOW24)
        low, high = -W - 1, W + 2
        start, end = np.int64(0), np.int64(ONE)
        while high - low > 1:
            middle = (low + high) >> 1
            at = _edge(middle, f, inverse[i], W)
            if at <= target:
                low, start = middle, at
            else:
                high, end = middle, at
        if not pop_one(state, buf, pos, start, end - start):
            return False
        if escape and (low == -W - 1 or low == W + 1):
            length = np.int64(state[0] & _LOW24) >> (PRECISION - 6)
            if length > _MAX_ESCAPE:
                return False
            if not pop_one(state, buf, pos, length << (PRECISION - 6), 1 << (PRECISION - 6)):
                return False
            beyond, piece = np.int64(0), 0
            while piece < length:
                bits = min(_PIECE, length - piece)
                value = np.int64(state[0] & _LOW24) >> (PRECISION - bits)
                if not pop_one(state, buf, pos, value << (PRECISION - bits), 1 << (PRECISION - bits)):
                    return False
                beyond |= value << piece
                piece += _PIECE
            low = low + beyond if low > 0 else low - beyond
        k[q] = c + low
    return True


@njit(cache=True)
def _weight(cost):
    return EXP[min(max(cost, 0), LOG_FLOOR)]


@njit(cache=True)
def push_masses(state, buf, pos, codes, cost):
    """Codes (n,) under masses ∝ e^{−cost/64}, cost (n, K) whole numbers."""
    K = cost.shape[1]
    for q in range(codes.size - 1, -1, -1):
        code = codes[q]
        if code < 0 or code >= K:
            return False
        total, below = np.int64(1), np.int64(0)
        for j in range(K):
            if j == code:
                below = total - 1
            total += _weight(cost[q, j])
        start = below * (ONE - K) // total + code
        end = (below + _weight(cost[q, code])) * (ONE - K) // total + code + 1
        if code == K - 1:
            end = np.int64(ONE)
        if not push_one(state, buf, pos, start, end - start):
            return False
    return True


@njit(cache=True)
def pop_masses(state, buf, pos, codes, cost):
    """The inverse of `push_masses`, into codes."""
    K = cost.shape[1]
    for q in range(codes.size):
        total = np.int64(1)
        for j in range(K):
            total += _weight(cost[q, j])
        target = np.int64(state[0] & _LOW24)
        below, start, code, end = np.int64(0), np.int64(0), 0, np.int64(ONE)
        for j in range(K - 1):
            below += _weight(cost[q, j])
            end = below * (ONE - K) // total + j + 1
            if end > target:
                break
            start, code, end = end, j + 1, np.int64(ONE)
        if not pop_one(state, buf, pos, start, end - start):
            return False
        codes[q] = code
    return True


@njit(cache=True)
def _mixture_edge(code, K, mean, width, inverse, parts, shifts, histogram):
    """Cumulative frequency below `code` of parts[0] · histogram + Σ parts[j] · Gaussian of width · 2^{shift/256}."""
    if code <= 0:
        return np.int64(0)
    if code >= K:
        return np.int64(ONE)
    total = parts[0] * histogram[code]
    for j in range(shifts.size):
        if parts[j + 1] > 0:
            i = min(max(width + shifts[j], 0), inverse.size - 1)
            total += parts[j + 1] * phi((2 * code - 1) * _HALF - mean, inverse[i])
    return ((total >> 20) * (ONE - K) >> PHI_BITS) + code


@njit(cache=True)
def push_mixture(state, buf, pos, codes, K, mean, width, inverse, parts, part, shifts, histogram):
    """Codes (n,) under mixtures of Gaussians, in units of codes, and a histogram; parts[part] are shares of 2²⁰."""
    for q in range(codes.size - 1, -1, -1):
        code = codes[q]
        if code < 0 or code >= K or part[q] < 0 or part[q] >= parts.shape[0]:
            return False
        share = parts[part[q]]
        start = _mixture_edge(code, K, mean[q], width[q], inverse, share, shifts, histogram)
        end = _mixture_edge(code + 1, K, mean[q], width[q], inverse, share, shifts, histogram)
        if not push_one(state, buf, pos, start, end - start):
            return False
    return True


@njit(cache=True)
def pop_mixture(state, buf, pos, codes, K, mean, width, inverse, parts, part, shifts, histogram):
    """The inverse of `push_mixture`, into codes."""
    for q in range(codes.size):
        if part[q] < 0 or part[q] >= parts.shape[0]:
            return False
        share = parts[part[q]]
        target = np.int64(state[0] & _LOW24)
        low, high = 0, K
        start, end = np.int64(0), np.int64(ONE)
        while high - low > 1:
            middle = (low + high) >> 1
            at = _mixture_edge(middle, K, mean[q], width[q], inverse, share, shifts, histogram)
            if at <= target:
                low, start = middle, at
            else:
                high, end = middle, at
        if not pop_one(state, buf, pos, start, end - start):
            return False
        codes[q] = low
    return True
