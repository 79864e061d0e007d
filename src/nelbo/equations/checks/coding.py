"""Group D: the bound as a code length. Every draw of a short chain is coded, and its bits are counted over the tables.

The coder's own chain runs on a stack that counts in the place of the one that codes. What it counts are frequencies
of the coder's integer tables, and the mean is over all draws that bits-back can make, each as often as its frequency
says, so that nothing is random. The bound comes from plain numbers and Gauss–Hermite sums, which know no library.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from nelbo.codec.bitswap import COARSE_GROUPS, Coder
from nelbo.codec.lattice import Guard
from nelbo.codec.tables import CELLS, CORRECTED, FRACTION, INVERSE, LOW, ONE, PHI, PHI_BITS, REACH, SPAN
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.quadrature import expectation
from nelbo.equations.twins import AffineNet
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Reverse, parse_variance
from nelbo.process import grid, schedule

BETAS = np.array([0.3, 0.4, 0.5])
GAINS, OFFSETS = np.array([0.9, 0.7, 0.4]), np.array([0.02, -0.05, 0.1])
"""x̂ = g z + h at every level, right for no data at all."""
DECODER_VARIANCE = 0.2
CODES = 4
_HALF = 1 << (FRACTION - 1)
_CELL = FRACTION + 24 - 8


def _phi(e: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """⌊2³⁰ Φ⌋ from the coder's table."""
    x = e * inverse
    at, part = np.minimum(np.abs(x) >> _CELL, CELLS * REACH - 1), (np.abs(x) >> (_CELL - 16)) & 0xFFFF
    low = PHI[at] - ((PHI[at] - PHI[at + 1]) * part >> 16)
    low = np.where(np.abs(x) >> _CELL < CELLS * REACH, low, 0)
    return np.where(x < 0, low, (1 << PHI_BITS) - low)


class CountingStack:
    """Stands in for the coder's stack with one path of draws an element: what is popped is chosen, not read.

    weights: how often a path is drawn, the product of its frequencies; pushed, popped: bits of each path.
    """

    def __init__(self, offsets: list[np.ndarray], corrected: np.ndarray = CORRECTED):
        self.offsets, self.corrected, n = list(offsets), corrected, len(offsets[0])
        self.weights, self.pushed, self.popped = np.ones(n), np.zeros(n), np.zeros(n)

    def _share(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray, escapes: bool) -> np.ndarray:
        """Frequency of lattice points as a share of all, of escapes with the bits behind them."""
        k, mean, width = (np.asarray(v, np.int64).reshape(-1) for v in (k, mean, width))
        W, inverse, c = SPAN[width], self.corrected[width], (mean + _HALF) >> FRACTION
        o, f = k - c, mean - (c << FRACTION)
        behind = np.ceil(np.log2(np.maximum(np.abs(o) - W, 1)))
        behind = np.where(escapes & (np.abs(o) > W), 6 + behind, 0.0)
        o = np.clip(o, -W - 1, W + 1)
        below, above = (
            np.where(i <= -W - 1, 0, np.where(i >= W + 2, ONE, self._edge(i, f, inverse, W))) for i in (o, o + 1)
        )
        return (above - below) / ONE * 2.0**-behind

    @staticmethod
    def _edge(o: np.ndarray, f: np.ndarray, inverse: np.ndarray, W: np.ndarray) -> np.ndarray:
        return (_phi((2 * o - 1) * _HALF - f, inverse) * (ONE - 2 * W - 3) >> PHI_BITS) + o + W + 1

    def pop_normal(self, mean: np.ndarray, width: np.ndarray, key: int = 0) -> np.ndarray:
        """The draws of the next level; `key` turns bits, of which there are none here."""
        k = ((mean + _HALF) >> FRACTION) + self.offsets.pop(0).reshape(mean.shape)
        share = self._share(k, mean, width, escapes=False)
        self.weights, self.popped = self.weights * share, self.popped - np.log2(share)
        return k

    def push_normal(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray, key: int = 0) -> None:
        """What a model predicts."""
        self.pushed -= np.log2(self._share(k, mean, width, escapes=True))

    def push_mixture(self, codes: np.ndarray, K: int, mean: np.ndarray, width: np.ndarray) -> None:
        """Codes by one Gaussian each, in units of codes."""
        code, mean, inverse = codes.reshape(-1), mean.reshape(-1), INVERSE[width.reshape(-1)]

        def edge(i: np.ndarray) -> np.ndarray:
            inner = (_phi((2 * i - 1) * _HALF - mean, inverse) * (ONE - K) >> PHI_BITS) + i
            return np.where(i <= 0, 0, np.where(i >= K, ONE, inner))

        self.pushed -= np.log2((edge(code + 1) - edge(code)) / ONE)


def counted(code: int, bin_width: float, corrected: np.ndarray = CORRECTED) -> tuple[float, float, float]:
    """Mean bits pushed and popped for one code over every draw there is, and the weight of all draws together."""
    model = DiffusionModel(
        domain=DataDomain((1,), bins=CODES),
        schedule=schedule.from_betas(BETAS),
        grid=grid.full(),
        denoiser=NetworkDenoiser(AffineNet(GAINS, OFFSETS), "x0", "index"),
        reverse=Reverse(parse_variance("beta")),
        decoder=DiscretizedGaussian(DECODER_VARIANCE),
        prior=GaussianPrior(),
    )
    reach = [int(SPAN[w - LOW]) + 1 for w in Coder(model, bin_width, 1).fine.widths]
    offsets = [axis.ravel() for axis in np.meshgrid(*(np.arange(-W, W + 1) for W in reach), indexing="ij")]
    n = len(offsets[0])
    stack = CountingStack(offsets, corrected)
    with torch.inference_mode():
        Coder(model, bin_width, n).push(stack, Guard(2.0**-26), torch.full((n, 1), code), None, COARSE_GROUPS, n)  # type: ignore[arg-type]
    return float(stack.weights @ stack.pushed), float(stack.weights @ stack.popped), float(stack.weights.sum())


def _mass(low: float, high: float, variance: float) -> float:
    """Of N(0, variance) between two ends, in the tail that keeps its digits."""
    low, high = (-high, -low) if low > 0 else (low, high)
    return 0.5 * (math.erfc(-high / math.sqrt(2 * variance)) - math.erfc(-low / math.sqrt(2 * variance)))


def bound(code: int) -> float:
    """The bound of one code in bits: prior, steps and decoder from the definitions, each an integral over one z."""
    x, step = -1 + 2 * code / (CODES - 1), 2 / (CODES - 1)
    alpha_bar = np.cumprod(1 - BETAS)

    def kl(m: np.ndarray, v: float, M: np.ndarray, V: float) -> np.ndarray:
        return 0.5 * (math.log(V / v) + (v + (m - M) ** 2) / V - 1)

    def at(t: int, f) -> float:
        return float(expectation(f, math.sqrt(alpha_bar[t]) * x, 1 - alpha_bar[t], 80))

    def posterior_step(t: int, z: np.ndarray) -> np.ndarray:
        noise = BETAS[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
        off = math.sqrt(alpha_bar[t - 1]) * BETAS[t] / (1 - alpha_bar[t]) * (GAINS[t] * z + OFFSETS[t] - x)
        return kl(np.zeros_like(z), noise, off, BETAS[t])

    def decoder(z: np.ndarray) -> np.ndarray:
        low = -math.inf if code == 0 else x - step / 2
        high = math.inf if code == CODES - 1 else x + step / 2
        return np.array([-math.log(_mass(low - m, high - m, DECODER_VARIANCE)) for m in GAINS[0] * z + OFFSETS[0]])

    last = len(BETAS) - 1
    nats = float(kl(np.array(math.sqrt(alpha_bar[last]) * x), 1 - alpha_bar[last], np.array(0.0), 1.0))
    return (nats + at(0, decoder) + sum(at(t, partial(posterior_step, t)) for t in range(1, last + 1))) / math.log(2)


@check("bits-back-code-length")
def _(c: Checks) -> None:
    bits = np.array([bound(code) for code in range(CODES)])
    pushed, popped, weight = np.array([counted(code, 0.5) for code in range(CODES)]).T
    c.holds("bits-back counts every draw once", weight - 1, 1e-12)
    c.holds("bits pushed − bits popped = the bound in bits, for every code", pushed - popped - bits, 1e-3)
    c.must_fail("the popped bits are not given back", pushed - bits, 1.0)
    c.must_fail("the bound in nats", pushed - popped - bits * math.log(2), 0.3)
    wide = np.array([counted(code, 2.0) for code in range(CODES)])
    plain = np.array([counted(code, 2.0, INVERSE) for code in range(CODES)])
    c.holds("the same in bins of two deviations of q", wide[:, 0] - wide[:, 1] - bits, 1e-2)
    c.must_fail("there, widths that forget what rounding to a lattice adds", plain[:, 0] - plain[:, 1] - bits, 0.1)
