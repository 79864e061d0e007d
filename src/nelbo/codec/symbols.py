"""The first term of the bound as symbols: codes pushed and popped under a decoder p(x | z_1).

Masses    a table of log masses a pixel, rounded to 1/64 nat (network_categorical, network_mixture, categorical)
Normals   a Gaussian in units of codes, the end codes open (discretized_gaussian)
Causal    a mixture of Gaussians whose mean and width follow from the codes before, pixel after pixel (context)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec import normal
from nelbo.codec.guard import Guard
from nelbo.codec.normal import FRACTION, LOG_FLOOR, LOG_GRID, LOW, OCTAVE
from nelbo.codec.stack import Stack
from nelbo.errors import UsageError
from nelbo.model.context import ContextGaussian
from nelbo.model.decoder import DiscretizedGaussian, MassDecoder
from nelbo.model.domain import DataDomain
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

MOST_CODES = 4096


class Symbols(ABC):
    """How a decoder's codes go on a stack and come off it. `base`: the number of the group's first rounding."""

    def __init__(self, decoder: Any, domain: DataDomain):
        self.decoder, self.domain = decoder, domain
        self.K = domain._bins()
        self.step = (domain.high - domain.low) / (self.K - 1)

    @abstractmethod
    def push(self, stack: Stack, codes: Tensor, z: Tensor, t: Levels, said: Prediction | None, guard: Guard, base: int):
        """Push codes (B, *shape) int64 given z_1 at levels t (B,)."""

    @abstractmethod
    def pop(self, stack: Stack, z: Tensor, t: Levels, said: Prediction | None, guard: Guard, base: int) -> Tensor:
        """The inverse of `push`."""

    @abstractmethod
    def numbers(self, codes: Tensor, z: Tensor, t: Levels, said: Prediction | None) -> np.ndarray:
        """What is rounded, as one array (B, ·), for a look at how far it depends on the batch size."""


class Masses(Symbols):
    """Codes by a table of masses each; image after image, since the tables are large."""

    def _costs(self, z: Tensor, t: Levels, said: Prediction | None, i: int) -> np.ndarray:
        row = slice(i, i + 1)
        log_p = self.decoder.log_pmf(z[row], t[row], said and said.rows(row), self.domain)
        return (-LOG_GRID * log_p).clamp_(max=LOG_FLOOR).reshape(-1, self.K).numpy()

    def push(self, stack, codes, z, t, said, guard, base):
        for i in range(len(z) - 1, -1, -1):
            stack.push_masses(codes[i].numpy(), guard(self._costs(z, t, said, i), base + i))

    def pop(self, stack, z, t, said, guard, base):
        popped = [stack.pop_masses(guard(self._costs(z, t, said, i), base + i)) for i in range(len(z))]
        return torch.from_numpy(np.stack(popped)).reshape(z.shape)

    def numbers(self, codes, z, t, said):
        return np.stack([self._costs(z, t, said, i).ravel() for i in range(len(z))])


class Normals(Symbols):
    """Codes by the mean and the width of a Gaussian each, in units of codes."""

    def _numbers(self, said: Prediction | None) -> tuple[np.ndarray, np.ndarray]:
        x0, std = self.decoder._moments(said)
        return self._mean(x0), self._width(std.log()).reshape(-1 if std.ndim == 0 else x0.shape)

    def _mean(self, x: Tensor) -> np.ndarray:
        far = 2 * self.K  # beyond it the end codes take all there is
        return ((x - self.domain.low) / self.step).clamp(-far, far).numpy() * 2**FRACTION

    def _width(self, log_s: Tensor) -> np.ndarray:
        w = (log_s - math.log(self.step)) * (OCTAVE / math.log(2))
        return w.clamp(LOW, normal.HIGH).numpy()

    def _rounded(self, said, guard, base):
        mean, width = self._numbers(said)
        mean = guard(mean, base)
        return mean, np.broadcast_to(guard(width, base + 1) - LOW, mean.shape)

    def push(self, stack, codes, z, t, said, guard, base):
        mean, width = self._rounded(said, guard, base)
        stack.push_mixture(codes.numpy(), self.K, mean, width)

    def pop(self, stack, z, t, said, guard, base):
        mean, width = self._rounded(said, guard, base)
        return torch.from_numpy(stack.pop_mixture(self.K, mean, width)).reshape(z.shape)

    def numbers(self, codes, z, t, said):
        mean, width = self._numbers(said)
        return np.concatenate([mean.reshape(len(z), -1), np.broadcast_to(width, mean.shape).reshape(len(z), -1)], 1)


class Causal(Normals):
    """Codes one pixel after the other, channel after channel, for all images of a group at once."""

    def __init__(self, decoder: ContextGaussian, domain: DataDomain):
        super().__init__(decoder, domain)
        log_parts = decoder.mixture.double().numpy()
        shares = np.floor(2.0**20 * normal.exp(np.clip(log_parts, -60.0, 0.0))).astype(np.int64)
        shares[:, 3] += (1 << 20) - shares.sum(1)
        self.parts = np.ascontiguousarray(shares)
        masses = normal.exp(np.clip(decoder.log_histogram.double().numpy(), -60.0, 0.0))
        total = np.concatenate([[0.0], np.cumsum(masses)])
        self.histogram = np.floor(total / total[-1] * 2.0**normal.PHI_BITS).astype(np.int64)

    def _classes(self, width: np.ndarray, guard: Guard) -> np.ndarray:
        cuts = guard(self._width(self.decoder.cuts.double()), 2) - LOW
        return np.searchsorted(cuts, width)

    def push(self, stack, codes, z, t, said, guard, base):
        mean, width = self._teacher(codes, z, t, said)
        mean, width = guard(mean, base), guard(width, base + 1) - LOW
        inner = codes.reshape(mean.shape[::-1][:1] + self._planes())  # (B, C, H, W)
        flat = inner.permute(2, 3, 1, 0).contiguous().numpy()
        of = self._classes(width, guard)
        stack.push_mixture(flat, self.K, mean, width, self.parts, of, self.histogram)

    def pop(self, stack, z, t, said, guard, base):
        place = 0

        def say(m: Tensor, log_s: Tensor) -> Tensor:
            nonlocal place
            mean = guard(self._mean(m), base, place)
            width = guard(self._width(log_s), base + 1, place) - LOW
            place += mean.size
            of = self._classes(width, guard)
            return torch.from_numpy(stack.pop_mixture(self.K, mean, width, self.parts, of, self.histogram))

        return self.decoder.say(z, t, said, self.domain, say)

    def numbers(self, codes, z, t, said):
        return np.stack([np.concatenate([v[..., i].ravel() for v in self._teacher(codes, z, t, said)]) for i in
                         range(len(z))])  # fmt: skip

    def _teacher(self, codes: Tensor, z: Tensor, t: Levels, said: Prediction | None) -> tuple[np.ndarray, np.ndarray]:
        """m and w with all codes known, (H, W, C, B): the order in which they are said."""
        assert said is not None
        m, log_s = self.decoder.moments(codes, said.x0, z, t, self.domain)
        return self._mean(m.permute(2, 3, 1, 0)), self._width(log_s.permute(2, 3, 1, 0))

    def _planes(self) -> tuple[int, int, int]:
        from nelbo.model.context import planes

        return planes(self.domain.shape)


def symbols_of(decoder: Any, domain: DataDomain) -> Symbols:
    """How the codes of `decoder` are coded. Errors: UsageError where they cannot be."""
    if domain.discrete and domain._bins() > MOST_CODES:
        raise UsageError(f"codes of {domain.bins} values", f"the coder takes at most {MOST_CODES} values a pixel")
    if isinstance(decoder, ContextGaussian):
        return Causal(decoder, domain)
    if isinstance(decoder, DiscretizedGaussian):
        return Normals(decoder, domain)
    if isinstance(decoder, MassDecoder):
        return Masses(decoder, domain)
    raise UsageError(
        f"the decoder {getattr(decoder, 'kind', type(decoder).__name__)!r} gives no table of masses that codes could "
        "be written by",
        "code with decoder='discretized_gaussian' or 'categorical', or tighten the model: "
        "nelbo tighten MODEL --data DATA --out DIR",
    )
