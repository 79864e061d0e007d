"""The first term of the bound as symbols: codes pushed and popped under a decoder p(x | z_1).

MassSymbols       a table of log masses per pixel, in 1/64 nat (network_categorical, network_mixture, categorical)
GaussianSymbols   a Gaussian in units of codes, the end codes open (discretized_gaussian)
CausalSymbols     a mixture of Gaussians whose mean and width depend on the previous codes, pixel by pixel (context)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec import tables
from nelbo.codec.lattice import Guard, clipped_width
from nelbo.codec.stack import Stack
from nelbo.codec.tables import FRACTION, LOG_FLOOR, LOG_GRID, LOW, OCTAVE, PHI_BITS
from nelbo.errors import UsageError
from nelbo.maths import bins
from nelbo.model.decoder import DiscretizedGaussian, MassDecoder
from nelbo.model.domain import DataDomain
from nelbo.model.fitted.context import ContextGaussian
from nelbo.model.fitted.neighbours import planes
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

LN2 = math.log(2)
MAX_CODES = 4096
"""Of a pixel; more would overflow the sums of `EXP`."""


class Symbols(ABC):
    """How a decoder's codes are pushed on a stack and popped. `base`: the number of the group's first rounding."""

    def __init__(self, decoder: Any, domain: DataDomain):
        self.decoder, self.domain = decoder, domain
        self.K = domain._bins()
        self.step = (domain.high - domain.low) / (self.K - 1)

    @abstractmethod
    def push(
        self, stack: Stack, codes: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, guard: Guard, base: int
    ) -> Tensor:
        """Push codes (B, *shape) int64 given z_1 at levels t (B,); −log₂ p of each by the decoder itself, float64."""

    @abstractmethod
    def pop(self, stack: Stack, z: Tensor, t: Levels, prediction: Prediction | None, guard: Guard, base: int) -> Tensor:
        """The inverse of `push`."""

    @abstractmethod
    def numbers(self, codes: Tensor, z: Tensor, t: Levels, prediction: Prediction | None) -> np.ndarray:
        """All numbers before rounding (B, ·), to measure how much they depend on the batch size."""


class MassSymbols(Symbols):
    """Codes by a table of masses each; one image at a time, since the tables are large."""

    def _log_masses(self, z: Tensor, t: Levels, prediction: Prediction | None, i: int) -> Tensor:
        row = slice(i, i + 1)
        log_p = self.decoder.log_pmf(z[row], t[row], prediction and prediction.rows(row), self.domain)
        return log_p.reshape(-1, self.K)

    def _costs(self, z: Tensor, t: Levels, prediction: Prediction | None, i: int) -> np.ndarray:
        return self._cost(self._log_masses(z, t, prediction, i))

    @staticmethod
    def _cost(log_p: Tensor) -> np.ndarray:
        return (-LOG_GRID * log_p).clamp_(max=LOG_FLOOR).numpy()

    def push(self, stack, codes, z, t, prediction, guard, base):
        bits = torch.empty(codes.shape, dtype=torch.float64)
        for i in range(len(z) - 1, -1, -1):
            log_p = self._log_masses(z, t, prediction, i)
            stack.push_masses(codes[i].numpy(), guard(self._cost(log_p), base + i))
            bits[i] = log_p.gather(-1, codes[i].reshape(-1, 1)).reshape(codes[i].shape) / -LN2
        return bits

    def pop(self, stack, z, t, prediction, guard, base):
        popped = [stack.pop_masses(guard(self._costs(z, t, prediction, i), base + i)) for i in range(len(z))]
        return torch.from_numpy(np.stack(popped)).reshape(z.shape)

    def numbers(self, codes, z, t, prediction):
        return np.stack([self._costs(z, t, prediction, i).ravel() for i in range(len(z))])


class GaussianSymbols(Symbols):
    """Codes by the mean and the width of a Gaussian each, in units of codes."""

    def _mean_and_width(self, prediction: Prediction | None) -> tuple[np.ndarray, np.ndarray]:
        x0, std = self.decoder._moments(prediction)
        return self._mean(x0), self._width(std.log()).reshape(-1 if std.ndim == 0 else x0.shape)

    def _mean(self, x: Tensor) -> np.ndarray:
        limit = 2 * self.K  # beyond it an end code has all the mass
        return ((x - self.domain.low) / self.step).clamp(-limit, limit).numpy() * 2**FRACTION

    def _width(self, log_s: Tensor) -> np.ndarray:
        return clipped_width(((log_s - math.log(self.step)) * (OCTAVE / math.log(2))).numpy())

    def _rounded(self, prediction, guard, base):
        mean, width = self._mean_and_width(prediction)
        mean = guard(mean, base)
        return mean, np.broadcast_to(guard(width, base + 1) - LOW, mean.shape)

    def push(self, stack, codes, z, t, prediction, guard, base):
        mean, width = self._rounded(prediction, guard, base)
        stack.push_mixture(codes.numpy(), self.K, mean, width)
        x0, std = self.decoder._moments(prediction)
        return bins.bin_log_mass(codes, x0, std, self.K, self.domain.low, self.domain.high) / -LN2

    def pop(self, stack, z, t, prediction, guard, base):
        mean, width = self._rounded(prediction, guard, base)
        return torch.from_numpy(stack.pop_mixture(self.K, mean, width)).reshape(z.shape)

    def numbers(self, codes, z, t, prediction):
        mean, width = self._mean_and_width(prediction)
        return np.concatenate([mean.reshape(len(z), -1), np.broadcast_to(width, mean.shape).reshape(len(z), -1)], 1)


class CausalSymbols(GaussianSymbols):
    """Codes one pixel after the other, channel by channel, for all images of a group at once."""

    def __init__(self, decoder: ContextGaussian, domain: DataDomain):
        super().__init__(decoder, domain)
        log_parts = decoder.mixture.double().numpy()
        shares = np.floor(2.0**20 * tables.exp(np.clip(log_parts, -60.0, 0.0))).astype(np.int64)
        shares[:, 3] += (1 << 20) - shares.sum(1)
        self.parts = np.ascontiguousarray(shares)
        masses = tables.exp(np.clip(decoder.log_histogram.double().numpy(), -60.0, 0.0))
        total = np.concatenate([[0.0], np.cumsum(masses)])
        self.histogram = np.floor(total / total[-1] * 2.0**PHI_BITS).astype(np.int64)

    def _classes(self, width: np.ndarray, guard: Guard) -> np.ndarray:
        cuts = guard(self._width(self.decoder.cuts.double()), 2) - LOW
        return np.searchsorted(cuts, width)

    def push(self, stack, codes, z, t, prediction, guard, base):
        m, log_s = self._moments_of_all(codes, z, t, prediction)
        mean, width = self._in_order(m, log_s)
        mean, width = guard(mean, base), guard(width, base + 1) - LOW
        in_order = codes.reshape(len(codes), *planes(self.domain.shape)).permute(2, 3, 1, 0).contiguous().numpy()
        part = self._classes(width, guard)
        stack.push_mixture(in_order, self.K, mean, width, self.parts, part, self.histogram)
        return self.decoder.log_mass(codes.reshape(m.shape), m, log_s, self.domain) / -LN2

    def pop(self, stack, z, t, prediction, guard, base):
        position = 0

        def pop_pixel(m: Tensor, log_s: Tensor) -> Tensor:
            nonlocal position
            mean = guard(self._mean(m), base, position)
            width = guard(self._width(log_s), base + 1, position) - LOW
            position += mean.size
            part = self._classes(width, guard)
            return torch.from_numpy(stack.pop_mixture(self.K, mean, width, self.parts, part, self.histogram))

        return self.decoder.in_order(z, t, prediction, self.domain, pop_pixel)

    def numbers(self, codes, z, t, prediction):
        numbers = self._in_order(*self._moments_of_all(codes, z, t, prediction))
        return np.stack([np.concatenate([v[..., i].ravel() for v in numbers]) for i in range(len(z))])

    def _moments_of_all(
        self, codes: Tensor, z: Tensor, t: Levels, prediction: Prediction | None
    ) -> tuple[Tensor, Tensor]:
        """m and log s of every pixel given all codes, (B, C, H, W)."""
        assert prediction is not None
        return self.decoder.moments(codes, prediction.x0, z, t, self.domain)

    def _in_order(self, m: Tensor, log_s: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """m and w of every pixel, each (H, W, C, B): the order in which pixels are coded."""
        return self._mean(m.permute(2, 3, 1, 0)), self._width(log_s.permute(2, 3, 1, 0))


def symbols_of(decoder: Any, domain: DataDomain) -> Symbols:
    """How the codes of `decoder` are coded. Errors: UsageError where they cannot be."""
    if domain.discrete and domain._bins() > MAX_CODES:
        raise UsageError(f"codes of {domain.bins} values", f"the coder takes at most {MAX_CODES} values per pixel")
    kinds = {ContextGaussian: CausalSymbols, DiscretizedGaussian: GaussianSymbols, MassDecoder: MassSymbols}
    for kind, symbols in kinds.items():
        if isinstance(decoder, kind):
            return symbols(decoder, domain)
    raise UsageError(
        f"the decoder {getattr(decoder, 'kind', type(decoder).__name__)!r} has no table of masses by which codes could "
        "be written",
        "code with decoder='discretized_gaussian' or 'categorical', or tighten the model: "
        "nelbo.tighten(model, data, out=FOLDER)",
    )
