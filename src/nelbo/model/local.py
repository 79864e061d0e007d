"""A fitted variance that depends on the input: where an image is busy, a denoiser errs more.

In a basis of cosines over small blocks log V is linear, per colour and frequency, in logarithms of local energies of x̂
and of ε̂ = (z − α x̂)/σ (`log_linear`). Both are functions of z_t: V is known before z_s is drawn, so that
p_θ(z_s | z_t) stays a Gaussian with an exact KL. Where ε̂ is large, denoising was hard; where x̂ is flat, it was easy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nelbo.model.basis import Cosine
from nelbo.model.fitted import Fitted, check_table, log_error_at
from nelbo.model.log_linear import NOISE_FLOOR, check_weights, log_linear
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Shape

FEATURES = 9


@dataclass(frozen=True, eq=False)
class LocalVariance(Fitted, kind="fitted_local"):
    """V of block-cosine coordinates, log-linear in local energies.

    basis: cosines over blocks of n. logsnr (N,); weights (N, C, n, n, 1 + 2k), which are w_0, w and h; centres and
    scales (N, C, n, n, k); mean (N,), the mean V; floor: an energy of x̂ below which nothing counts, in units of x².
    """

    basis: Cosine
    logsnr: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    mean: Tensor
    floor: float
    reads_state = True

    def __post_init__(self):
        check_table(self.logsnr, self.weights, self.centres, self.scales, self.mean)
        C, n = len(self.basis.colours), self.basis.block
        tables = {"weights": self.weights, "centres": self.centres, "scales": self.scales}
        check_weights(f"blocks of {n} in {C} colours", (C, n, n), FEATURES, **tables)

    def coordinates(self, values: Tensor, t: Levels) -> Tensor:
        return self.basis.coordinates(values)

    def values(self, coordinates: Tensor, t: Levels) -> Tensor:
        return self.basis.values(coordinates)

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        t = t.expand(len(prediction.x0))
        shape = prediction.x0.shape
        features = energies(self.basis, t, prediction, self.floor)
        eta = log_linear(t, self.logsnr, self.weights, self.centres, self.scales, features)
        return unfolded(self.basis, eta, shape).to(prediction.x0.dtype).exp()

    def mean_error(self, t: Levels) -> Tensor:
        return log_error_at(self.logsnr, self.mean.log(), t).exp()

    def check_shape(self, shape: Shape) -> None:
        self.basis.check(shape)


def energies(basis: Cosine, t: Levels, prediction: Prediction, floor: float) -> Iterator[Tensor]:
    """The `FEATURES` features of a prediction at levels t (B,), each broadcastable to `folded` coordinates.

    Of x̂: the coordinate's energy, that of its neighbours (3×3 blocks, same colour and frequency), the block's energy
    without its mean in the same colour and in the first, the block's mean in the first and its square. Of ε̂: the
    energy of the neighbours, of the block, and of the image, in the same colour.
    """
    x0, z = prediction.x0, prediction.z
    assert z is not None, "DiffusionModel.predict carries z where the policy reads it"
    X = folded(basis, basis.coordinates(x0))
    eps = (z - column(t.alpha, z) * x0) / column(t.sigma, z)
    E = folded(basis, basis.coordinates(eps)).square()
    there = folded(basis, torch.ones_like(x0[:1]))
    n = len(there[0, 0])
    X2 = X.square()
    yield (X2 + floor).log()
    yield (_near(X2, there) + floor).log()
    busy = (X2.sum((2, 3)) - X2[:, :, 0, 0]) / (there.sum((2, 3)) - 1).clamp_min(1)
    yield (busy + floor).log()[:, :, None, None]
    yield (busy[:, :1] + floor).log()[:, :, None, None]
    mean = X[:, :1, :1, :1] / n
    yield mean
    yield mean.square()
    yield (_near(E, there) + NOISE_FLOOR).log()
    yield (E.sum((2, 3)) / there.sum((2, 3)) + NOISE_FLOOR).log()[:, :, None, None]
    yield (E.sum((2, 3, 4, 5)) / there.sum((2, 3, 4, 5)) + NOISE_FLOOR).log()[:, :, None, None, None, None]


def folded(basis: Cosine, coordinates: Tensor) -> Tensor:
    """Coordinates (B, …) by colour, frequency and block, (B, C, n, n, rows, columns); 0 where there is none."""
    H, W = coordinates.shape[-2:]
    n = basis.block
    (rows, y), (columns, x) = (_places(basis, side) for side in (H, W))
    c = coordinates.reshape(len(coordinates), -1, H, W)
    if n * rows != H or n * columns != W:
        padded = c.new_zeros(*c.shape[:2], n * rows, n * columns)
        padded[..., y[:, None], x] = c
        c = padded
    return c.reshape(*c.shape[:2], rows, n, columns, n).permute(0, 1, 3, 5, 2, 4).contiguous()


def unfolded(basis: Cosine, by_block: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `folded`, in the shape of examples (B, …)."""
    H, W = shape[-2:]
    n = basis.block
    (rows, y), (columns, x) = (_places(basis, side) for side in (H, W))
    c = by_block.permute(0, 1, 4, 2, 5, 3).reshape(len(by_block), -1, n * rows, n * columns)
    if n * rows != H or n * columns != W:
        c = c[..., y[:, None], x]
    return c.reshape(shape)


def _places(basis: Cosine, side: int) -> tuple[int, Tensor]:
    """How many blocks a side has, and where its coordinates lie when all of them are whole."""
    of, frequency = basis.frequencies(side)
    return int(of[-1]) + 1, of * basis.block + frequency


def _near(values: Tensor, there: Tensor) -> Tensor:
    """Mean over a block and its neighbours, of those that are there; (B, C, n, n, rows, columns)."""

    def pooled(v: Tensor) -> Tensor:
        return avg_pool2d(v.flatten(0, 3)[:, None], 3, 1, 1)[:, 0].reshape(v.shape)

    return pooled(values) / pooled(there).clamp_min(1e-9)
