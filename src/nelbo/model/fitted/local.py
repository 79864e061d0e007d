"""`LocalVariance`: a fitted variance that follows the local energy of the image.

A denoiser makes larger errors where an image is busy. In a basis of cosines over small blocks log V is linear, for each
colour and frequency, in logarithms of local energies of x̂ and of ε̂ = (z − α x̂)/σ: where ε̂ is large the image was
hard to denoise, where x̂ is flat it was easy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nelbo.model.fitted.basis import Cosine
from nelbo.model.fitted.log_linear import NOISE_FLOOR, LogLinearVariance
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Shape

FEATURES = 9


@dataclass(frozen=True, eq=False)
class LocalVariance(LogLinearVariance, kind="fitted_local"):
    """V of block-cosine coordinates, log-linear in local energies.

    basis: cosines over blocks of n pixels. The groups of the tables are (C, n, n): colour and frequency; the other
    fields are those of `LogLinearVariance`.
    """

    basis: Cosine
    logsnr: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    mean: Tensor
    floor: float

    def __post_init__(self):
        C, n = len(self.basis.colours), self.basis.block
        self.check_tables((C, n, n), FEATURES, f"blocks of {n} in {C} colours")

    def coordinates(self, values: Tensor, t: Levels) -> Tensor:
        return self.basis.coordinates(values)

    def values(self, coordinates: Tensor, t: Levels) -> Tensor:
        return self.basis.values(coordinates)

    def features(self, t: Levels, prediction: Prediction) -> Iterator[Tensor]:
        return energies(self.basis, t, prediction, self.floor)

    def assembled(self, values: Tensor, shape: torch.Size) -> Tensor:
        return from_blocks(self.basis, values, shape)

    def check_shape(self, shape: Shape) -> None:
        self.basis.check(shape)


def energies(basis: Cosine, t: Levels, prediction: Prediction, floor: float) -> Iterator[Tensor]:
    """The `FEATURES` features of a prediction at levels t (B,), each broadcastable to the coordinates by block.

    Logarithms of these energies of x̂: of the coordinate, of its neighbours (3×3 blocks, same colour and frequency), of
    the block without its mean in the same colour, and of the same in the first colour; then the block's mean in the
    first colour and its square. Logarithms of these energies of ε̂ in the same colour: of the neighbours, of the block
    and of the image.
    """
    x0, z = prediction.x0, prediction.z
    assert z is not None, "DiffusionModel.predict carries z where the policy reads it"
    X = by_block(basis, basis.coordinates(x0))
    eps = (z - column(t.alpha, z) * x0) / column(t.sigma, z)
    E = by_block(basis, basis.coordinates(eps)).square()
    present = by_block(basis, torch.ones_like(x0[:1]))
    n = len(present[0, 0])
    X2 = X.square()
    yield (X2 + floor).log()
    yield (_neighbourhood(X2, present) + floor).log()
    without_mean = (X2.sum((2, 3)) - X2[:, :, 0, 0]) / (present.sum((2, 3)) - 1).clamp_min(1)
    yield (without_mean + floor).log()[:, :, None, None]
    yield (without_mean[:, :1] + floor).log()[:, :, None, None]
    mean = X[:, :1, :1, :1] / n
    yield mean
    yield mean.square()
    yield (_neighbourhood(E, present) + NOISE_FLOOR).log()
    yield (E.sum((2, 3)) / present.sum((2, 3)) + NOISE_FLOOR).log()[:, :, None, None]
    yield (E.sum((2, 3, 4, 5)) / present.sum((2, 3, 4, 5)) + NOISE_FLOOR).log()[:, :, None, None, None, None]


def by_block(basis: Cosine, coordinates: Tensor) -> Tensor:
    """Coordinates (B, …) by colour, frequency and block, (B, C, n, n, rows, columns); 0 where a block is cut short."""
    H, W = coordinates.shape[-2:]
    n = basis.block
    (rows, y), (columns, x) = (_positions(basis, side) for side in (H, W))
    c = coordinates.reshape(len(coordinates), -1, H, W)
    if n * rows != H or n * columns != W:
        padded = c.new_zeros(*c.shape[:2], n * rows, n * columns)
        padded[..., y[:, None], x] = c
        c = padded
    return c.reshape(*c.shape[:2], rows, n, columns, n).permute(0, 1, 3, 5, 2, 4).contiguous()


def from_blocks(basis: Cosine, by_block: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `by_block`, in the shape of examples (B, …)."""
    H, W = shape[-2:]
    n = basis.block
    (rows, y), (columns, x) = (_positions(basis, side) for side in (H, W))
    c = by_block.permute(0, 1, 4, 2, 5, 3).reshape(len(by_block), -1, n * rows, n * columns)
    if n * rows != H or n * columns != W:
        c = c[..., y[:, None], x]
    return c.reshape(shape)


def _positions(basis: Cosine, side: int) -> tuple[int, Tensor]:
    """The number of blocks of a side, and where its coordinates lie when all blocks are padded to full length."""
    block, frequency = basis.frequencies(side)
    return int(block[-1]) + 1, block * basis.block + frequency


def _neighbourhood(values: Tensor, present: Tensor) -> Tensor:
    """Mean over a block and its neighbours inside the image, (B, C, n, n, rows, columns)."""

    def pooled(v: Tensor) -> Tensor:
        return avg_pool2d(v.flatten(0, 3)[:, None], 3, 1, 1)[:, 0].reshape(v.shape)

    return pooled(values) / pooled(present).clamp_min(1e-9)
