"""A model on lattices: integer latents z_1 … z_L, and the rounded means and widths of every Gaussian on them.

z_j lives on a lattice of spacing δ_j in the basis of the step that predicts it, z_L in the basis of the elements; q is
isotropic and the same in every orthonormal basis. With z = δ k, mean and width of a Gaussian N(μ, s²) of z_j are

    m = 2⁷ μ/δ_j,     w = 256 log₂(s/δ_j)

both rounded by `Guard`. δ_j = s_q/WIDTH, s_q the deviation of q(z_j | z_{j−1}), is r · min(s_q, √β̃) to a 256th of an
octave; the index of WIDTH is written to the file.

A network's output differs in its last digits between batch sizes, threads and machines, and one number rounded the
other way ruins all that is decoded after it. The encoder therefore records which way it rounded every number within
the guard band τ of a boundary between two whole numbers; a decoder whose numbers are off by less than τ then rounds all
of them alike. Larger differences are detected by the checksums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.stack import Damaged
from nelbo.codec.tables import FRACTION, HIGH, LOW, OCTAVE
from nelbo.errors import NumericalError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition

MEAN_BITS = 7
"""Fractional bits of a rounded mean; rounding costs at most (1/512)²/2 = 2e-6 nats where δ = s/2. Less than the coder's
`FRACTION`, so that fewer means fall into the guard band."""
LARGEST = float(1 << 46)
"""Larger numbers are refused: no latent of a sane model comes near, and those below fit int64 in the coder's units."""


class Guard:
    """Rounds with a band of `tau`; collects the exceptions of an encoder, or applies those a decoder was given.

    An exception is (number of the rounding, position in its array, 0 down or 1 up). The caller numbers the roundings,
    in the same way on both sides.
    """

    def __init__(self, tau: float, exceptions: Iterable[tuple[int, int, int]] | None = None):
        self.tau = tau
        self.decoding = exceptions is not None
        self.exceptions: list[tuple[int, int, int]] = []
        self._given: dict[int, list[tuple[int, int]]] = {}
        for rounding, position, up in exceptions or ():
            self._given.setdefault(rounding, []).append((position, up))

    def __call__(self, values: np.ndarray, rounding: int, first: int = 0) -> np.ndarray:
        """`values` float64 rounded to int64; `first`: their position in the whole array of this rounding.

        Errors: NumericalError for NaN, infinity and numbers beyond `LARGEST` (`Damaged` when decoding).
        """
        if not bool(np.all(np.abs(values) < LARGEST)):
            if self.decoding:
                raise Damaged("numbers beyond all bounds")
            raise NumericalError(
                "the model predicts NaN, infinity or absurdly large numbers, which cannot be coded",
                "evaluate it on these images first: nelbo evaluate names the place",
            )
        below = np.floor(values)
        part = values - below
        up = part >= 0.5
        whole = below.astype(np.int64) + up
        if self.decoding:
            flat, floor = whole.reshape(-1), below.reshape(-1)
            for position, bit in self._given.get(rounding, ()):
                if first <= position < first + flat.size:
                    flat[position - first] = int(floor[position - first]) + bit
            return flat.reshape(values.shape)
        near = np.flatnonzero(np.abs(part - 0.5) < self.tau)
        self.exceptions += [(rounding, first + int(i), int(up.reshape(-1)[i])) for i in near]
        return whole


class LatticeChain:
    """The lattices of a model whose grid is finite; `widths`: those of an archive, or None to choose them by r."""

    def __init__(self, model: DiffusionModel, r: float, widths: Sequence[int] | None = None):
        self.model, self.levels, self.shape = model, model.levels(), model.domain.shape
        self.L = len(self.levels)
        assert isinstance(model.prior, GaussianPrior)
        self.prior = model.prior
        self.std = q_std = self._std_of_q()
        if widths is None:
            p_std = [self._posterior_std(j) for j in range(2, self.L + 1)] + [math.sqrt(self.prior.variance)]
            widths = [
                min(max(round(OCTAVE * math.log2(max(1.0, q / p) / r)), LOW), HIGH)
                for q, p in zip(q_std, p_std, strict=True)
            ]
        self.widths = [int(w) for w in widths]
        if len(self.widths) != self.L or not all(LOW <= w <= HIGH for w in self.widths):
            raise UsageError("the lattices of the file are not those of this model", "give the model that wrote it")
        self.delta = [s * 2.0 ** (-w / OCTAVE) for s, w in zip(q_std, self.widths, strict=True)]

    def level(self, j: int, batch: int = 1) -> Levels:
        """Level z_j, j = 1 … L, for every example of a batch."""
        return self.levels[slice(j - 1, j)].expand(batch)

    def values(self, k: np.ndarray, j: int) -> Tensor:
        """z_j (B, *shape) of lattice points k."""
        z = torch.from_numpy(k.astype(np.float64) * self.delta[j - 1]).reshape(-1, *self.shape)
        return z if j == self.L else self.model.reverse.variance.values(z, self.level(j + 1, len(z)))

    def coordinates(self, values: Tensor, j: int) -> np.ndarray:
        """m, before rounding, of values (B, *shape) of level j: coordinates in the basis of its lattice over δ_j."""
        if j < self.L:
            values = self.model.reverse.variance.coordinates(values, self.level(j + 1, len(values)))
        return values.numpy() * (2**MEAN_BITS / self.delta[j - 1])

    def forward_mean(self, j: int, x: Tensor | None, k: np.ndarray | None) -> np.ndarray:
        """m of q(z_1 | x) for values x, or of q(z_j | z_{j−1}) for lattice points k of z_{j−1}; (B, *shape)."""
        if j == 1:
            assert x is not None
            return self.coordinates(float(self.levels.alpha[0]) * x, 1)
        assert k is not None
        return self.coordinates(self._ratio(j) * self.values(k, j - 1), j)

    def forward_width(self, j: int, shape: tuple[int, ...]) -> np.ndarray:
        """Indices of the widths of q(z_j | ·), all the same."""
        return np.full(shape, self.widths[j - 1] - LOW, np.int64)

    def prior_mean_and_width(self) -> tuple[np.ndarray, np.ndarray]:
        """m and w of p(z_L), each (1,)."""
        delta = self.delta[-1]
        mean = self.prior.mean / delta * 2**MEAN_BITS
        return np.array([mean]), np.array([OCTAVE * math.log2(math.sqrt(self.prior.variance) / delta)])

    def predict(self, z: Tensor, j: int, condition: Condition | None) -> Prediction:
        """The model's prediction at z_j."""
        return self.model.predict(z, self.level(j, len(z)), condition)

    def reverse(self, z: Tensor, j: int, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """m (B, *shape) of p_θ(z_{j−1} | z_j) and w, of which there are as many as the policy has variances."""
        s, t = self.level(j - 1, len(z)), self.level(j, len(z))
        mean, variance = self.model.reverse.step(z, prediction, s, t)
        width = (0.5 * variance.double().log2() - math.log2(self.delta[j - 2])) * OCTAVE
        return self.coordinates(mean, j - 1), width.numpy()

    def _ratio(self, j: int) -> float:
        """α_{j|j−1}."""
        return float((self.levels.log_alpha[j - 1] - self.levels.log_alpha[j - 2]).exp())

    def _posterior_std(self, j: int) -> float:
        """√β̃, the standard deviation of q(z_{j−1} | z_j, x)."""
        return math.sqrt(float(forward.posterior(self.level(j - 1), self.level(j)).variance))

    def _std_of_q(self) -> list[float]:
        steps = [forward.transition(self.level(j - 1), self.level(j)).variance for j in range(2, self.L + 1)]
        return [float(self.levels.sigma[0]), *(math.sqrt(float(v)) for v in steps)]


def clipped_width(w: np.ndarray) -> np.ndarray:
    """w before rounding, clipped to the widths in the tables."""
    return np.clip(w, LOW, HIGH)


def as_mean(m: np.ndarray) -> np.ndarray:
    """A rounded mean with the coder's number of fractional bits."""
    return m << (FRACTION - MEAN_BITS)
