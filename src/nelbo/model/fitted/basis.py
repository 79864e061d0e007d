"""Fixed orthonormal bases of an example: where the errors of a denoiser are uncorrelated, or nearly.

    Pixel         the elements themselves
    Cosine        turned colours × cosines over the image, or over its blocks (the transform of JPEG, orthonormal)
    Reflections   x ↦ Qᵀx with Q a product of reflections, the first columns any given directions (principal ones)

Coordinates keep the shape of the example, so that they go wherever values go. A basis also says which of its
coordinates are alike (`bands`), for fits that have too few examples to tell them apart.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.errors import ShapeError, UsageError
from nelbo.parts import Part
from nelbo.typing import Shape

MIN_SIDE = 4
"""Least height and width of what is an image."""


class Basis(Part, family="basis"):
    """Abstract: an orthonormal basis of examples. Both maps are linear and keep the sum of squares."""

    @abstractmethod
    def coordinates(self, values: Tensor) -> Tensor:
        """The coordinates of values (B, …), in the same shape and dtype."""

    @abstractmethod
    def values(self, coordinates: Tensor) -> Tensor:
        """The values (B, …) of coordinates: the inverse of `coordinates`."""

    @abstractmethod
    def bands(self, shape: Shape) -> Tensor:
        """For every coordinate of examples of `shape` the number of its band, 0, 1, …; int64, of that shape."""

    def check(self, shape: Shape) -> None:
        """Raise ShapeError or UsageError where examples of `shape` have no such basis."""


@dataclass(frozen=True, eq=False)
class Pixel(Basis, kind="pixel"):
    """The elements as they are; those of one channel are alike (of a vector all)."""

    def coordinates(self, values: Tensor) -> Tensor:
        return values

    def values(self, coordinates: Tensor) -> Tensor:
        return coordinates

    def bands(self, shape: Shape) -> Tensor:
        channels = torch.arange(shape[0]) if len(shape) > 1 else torch.zeros(1, dtype=torch.int64)
        return channels.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)


@dataclass(frozen=True, eq=False)
class Cosine(Basis, kind="cosine"):
    """Colours turned by an orthonormal matrix (C, C), rows and columns by cosines.

        c_k = √(2/n) Σ_j cos(π k (j + ½)/n) x_j,  k ≥ 1;    c_0 = Σ_j x_j/√n

    over whole rows and columns, n = H or W (block = 0), or over blocks of n = `block` pixels; where the block does not
    divide a side its last block is shorter. Coordinates lie where their block lies. Ahmed, Natarajan & Rao 1974.
    """

    limits: ClassVar[dict[str, int]] = {"block": 1 << 12}
    colours: Tensor
    block: int = 0

    def __post_init__(self):
        C = torch.as_tensor(self.colours, dtype=torch.float64)
        if C.ndim != 2 or C.shape[0] != C.shape[1] or not torch.allclose(C @ C.mT, torch.eye(len(C)).to(C), atol=1e-9):
            raise UsageError(f"colours turned by a matrix of shape {tuple(C.shape)}", "give an orthonormal matrix")
        if not isinstance(self.block, int) or self.block < 0 or self.block == 1:
            raise UsageError(f"cosines over blocks of {self.block!r}", "give a whole number ≥ 2, or 0 for whole sides")
        object.__setattr__(self, "colours", C)

    def coordinates(self, values: Tensor) -> Tensor:
        rows, columns = (self._matrix(n, values) for n in values.shape[-2:])
        x = rows @ self._channels(values) @ columns.mT
        return torch.einsum("dc,bchw->bdhw", self.colours.to(x), x).reshape(values.shape)

    def values(self, coordinates: Tensor) -> Tensor:
        rows, columns = (self._matrix(n, coordinates) for n in coordinates.shape[-2:])
        c = self._channels(coordinates)
        x = rows.mT @ torch.einsum("dc,bdhw->bchw", self.colours.to(c), c) @ columns
        return x.reshape(coordinates.shape)

    def bands(self, shape: Shape) -> Tensor:
        C = len(self.colours)
        fy, fx = (self.frequencies(n)[1] for n in shape[-2:])
        if self.block:
            band = fy[:, None] * self.block + fx
        else:  # rings, each half as wide again as the one within it
            radius = (fy[:, None].double().square() + fx.double().square()).sqrt()
            band = ((radius + 1).log() / math.log(1.5)).long()
        return (torch.arange(C)[:, None, None] * (int(band.max()) + 1) + band).reshape(shape)

    def frequencies(self, n: int) -> tuple[Tensor, Tensor]:
        """Of the coordinates along a side of n pixels: which block each belongs to, and its frequency, (n,) each.

        Frequencies of a shorter last block are put on the scale of a whole one.
        """
        size = self.block or n
        j = torch.arange(n)
        of, k = j // size, j % size
        last = n % size
        return of, torch.where((of == n // size) & (last > 0), (k * size / max(last, 1)).round().long(), k)

    def check(self, shape: Shape) -> None:
        if len(shape) not in (2, 3) or min(shape[-2:]) < MIN_SIDE:
            raise UsageError(
                f"a basis of cosines for examples of shape {tuple(shape)}",
                f"it needs images, (H, W) or (C, H, W) of at least {MIN_SIDE}×{MIN_SIDE}; vectors have 'pca'",
            )
        if math.prod(shape[:-2]) != len(self.colours):
            raise ShapeError(
                f"colours turned by a {len(self.colours)}×{len(self.colours)} matrix in images of shape {tuple(shape)}",
                "the matrix has one row a channel",
            )

    def _channels(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), len(self.colours), *values.shape[-2:])

    def _matrix(self, n: int, like: Tensor) -> Tensor:
        """The transform of a side of n pixels, (n, n), block diagonal; rows are basis vectors."""
        if n not in self._matrices:
            size = self.block or n
            with torch.inference_mode(False):  # kept, and perhaps differentiated through later
                blocks = [cosines(size)] * (n // size) + ([cosines(n % size)] if n % size else [])
                self._matrices[n] = torch.block_diag(*blocks)
        return self._matrices[n].to(like)

    @cached_property
    def _matrices(self) -> dict[int, Tensor]:
        return {}


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform of n numbers (type II), (n, n) float64; rows are basis vectors."""
    j = torch.arange(n, dtype=torch.float64)
    matrix = math.sqrt(2 / n) * torch.cos(math.pi / n * j[:, None] * (j + 0.5))
    matrix[0] = 1 / math.sqrt(n)
    return matrix


@dataclass(frozen=True, eq=False)
class Reflections(Basis, kind="reflections"):
    """Q = (I − 2 u_1 u_1ᵀ) ⋯ (I − 2 u_r u_rᵀ), u_i the normalised columns of V (D, r): orthonormal whatever V is.

    By `through`, the first r columns of Q are given directions, and the others any that complete them: D r numbers in
    place of D². Q = I − V T Vᵀ with T⁻¹ = ½ diag(VᵀV) + the part of VᵀV above its diagonal (Schreiber & Van Loan 1989).
    """

    vectors: Tensor

    def __post_init__(self):
        V = torch.as_tensor(self.vectors)
        if V.ndim != 2 or not V.is_floating_point() or V.shape[1] > V.shape[0]:
            raise UsageError(f"reflections by vectors of shape {tuple(V.shape)}", "give (D, r), r ≤ D, real numbers")
        if not bool(torch.isfinite(V).all()) or not bool((V.square().sum(0) > 0).all()):
            raise UsageError("a reflection by a vector that is 0 or not finite", "give (D, r), columns not 0")

    @classmethod
    def through(cls, directions: Tensor) -> Reflections:
        """The reflections whose product begins with orthonormal `directions` (D, r), each up to its sign."""
        a, _ = torch.geqrf(directions.double())
        V = a.tril(-1)
        V.diagonal().fill_(1.0)
        return cls(V.float())

    def coordinates(self, values: Tensor) -> Tensor:
        x = values.flatten(1)
        V, T = (m.to(x) for m in self._factors)
        return (x - (x @ V) @ T @ V.mT).reshape(values.shape)

    def values(self, coordinates: Tensor) -> Tensor:
        c = coordinates.flatten(1)
        V, T = (m.to(c) for m in self._factors)
        return (c - (c @ V) @ T.mT @ V.mT).reshape(coordinates.shape)

    def bands(self, shape: Shape) -> Tensor:
        """Octaves of the given directions, and one band of all the others."""
        D, r = self.vectors.shape
        octave = (torch.arange(D) + 1).double().log2().floor().long()
        return torch.where(torch.arange(D) < r, octave, int(octave[r - 1]) + 1 if r else 0).reshape(shape)

    def check(self, shape: Shape) -> None:
        if math.prod(shape) != len(self.vectors):
            raise ShapeError(
                f"reflections in {len(self.vectors)} dimensions for examples of shape {tuple(shape)}",
                "they must agree; fit the policy to the model it is for",
            )

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False):  # as in `Cosine`
            return _product(self.vectors.double())


def _product(V: Tensor) -> tuple[Tensor, Tensor]:
    """V and T of Q = I − V T Vᵀ, the product of the reflections by the columns of V (D, r)."""
    gram = V.mT @ V
    return V, torch.linalg.inv(gram.triu(1) + 0.5 * gram.diagonal().diag())
