"""The entropy coder once more, from its specification and with Python's unbounded integers: what numba must equal."""

from __future__ import annotations

import math
from fractions import Fraction

ONE, WHOLE = 1 << 24, 1 << 30
MASK = 2**64 - 1


def exp(y: float) -> float:
    u = y / 1024.0
    p = 1.0 + u * (1.0 + u * (0.5 + u * (1 / 6.0 + u * (1 / 24.0 + u * (1 / 120.0 + u / 720.0)))))
    for _ in range(10):
        p = p * p
    return p


def phi_table() -> list[int]:
    density = [exp(-0.5 * (i / 512.0) * (i / 512.0)) for i in range(4097)]
    tail = [0.0] * 2049
    for i in range(2047, -1, -1):
        tail[i] = tail[i + 1] + (density[2 * i] + 4.0 * density[2 * i + 1] + density[2 * i + 2])
    return [math.floor(t / tail[0] * 2.0**29) for t in tail]


PHI = phi_table()
EXP = [math.floor(2.0**26 * exp(-i / 64.0)) for i in range(1281)]


def width_of(number: int) -> float:
    """2^{number/256}, as the product of square roots that it is made of."""
    octave, part = divmod(number, 256)
    value, root = 1.0, 2.0
    for bit in range(7, -1, -1):
        root = math.sqrt(root)
        if part >> bit & 1:
            value = value * root
    return value * 2.0**octave


class Coder:
    """State and words."""

    def __init__(self, words: list[int], state: int):
        self.words, self.state = list(words), state

    def push(self, start: int, freq: int) -> None:
        if self.state >= freq << 40:
            self.words.append(self.state & 0xFFFFFFFF)
            self.state >>= 32
        self.state = (self.state // freq << 24) + self.state % freq + start

    def normals(self, k, mean, number, key: int) -> None:
        """Push lattice points, last to first."""
        for q in range(len(k) - 1, -1, -1):
            width = width_of(int(number[q]))
            inverse = math.floor(2.0**24 / math.sqrt(max(width * width - 1.0 / 12.0, 0.04)))
            W = math.floor(6.5 * width) + 2
            c = (int(mean[q]) + 512) // 1024
            f, o = int(mean[q]) - 1024 * c, int(k[q]) - c
            if abs(o) > W and not key:
                beyond = abs(o) - W - 1
                length = beyond.bit_length()
                for piece in range((length - 1) // 16 * 16, -1, -16) if length else ():
                    bits = min(16, length - piece)
                    self.push((beyond >> piece & ((1 << bits) - 1)) << (24 - bits), 1 << (24 - bits))
                self.push(length << 18, 1 << 18)
                o = W + 1 if o > 0 else -W - 1
            start = edge(o, f, inverse, W)
            self.push(start, edge(o + 1, f, inverse, W) - start)
            self.state ^= turned(key, q)

    def masses(self, codes, cost) -> None:
        for q in range(len(codes) - 1, -1, -1):
            weights = [EXP[min(max(int(v), 0), 1280)] for v in cost[q]]
            total, K, code = sum(weights) + 1, len(weights), int(codes[q])
            edges = [sum(weights[:j]) * (ONE - K) // total + j for j in range(K)] + [ONE]
            self.push(edges[code], edges[code + 1] - edges[code])

    def gaussians(self, codes, K: int, mean, number) -> None:
        for q in range(len(codes) - 1, -1, -1):
            inverse = math.floor(2.0**24 / width_of(int(number[q])))
            edges = [0]
            for code in range(1, K):
                edges.append((phi((2 * code - 1) * 512 - int(mean[q]), inverse) * (ONE - K) >> 30) + code)
            edges.append(ONE)
            code = int(codes[q])
            self.push(edges[code], edges[code + 1] - edges[code])


def phi(e: int, inverse: int) -> int:
    x = Fraction(abs(e) * inverse, 2**26)
    cell = math.floor(x)
    q = 0
    if cell < 2048:
        f = math.floor((x - cell) * 65536)
        q = PHI[cell] - (PHI[cell] - PHI[cell + 1]) * f // 65536
    return q if e < 0 else WHOLE - q


def edge(o: int, f: int, inverse: int, W: int) -> int:
    if o <= -W - 1:
        return 0
    if o >= W + 2:
        return ONE
    return (phi((2 * o - 1) * 512 - f, inverse) * (ONE - 2 * W - 3) >> 30) + o + W + 1


def turned(key: int, q: int) -> int:
    if not key:
        return 0
    z = key + (q + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) >> 40
