"""Forward kernels over V symbols, each place by itself: q(z_t | x) and everything that follows from it, exact.

Absorbing   z_t = x with probability α_t, else the mask
Uniform     z_t = x with probability α_t, else any of the V symbols alike
Rates       q(z_t | x) = exp(τ_t R), τ_t = −log α_t, with a generator R (V, V) whose rows sum to 0
Steps       q(z_t | z_{t−1}) = Q_t, a table of T stochastic matrices, `gaussian_steps` among them

(Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces".) A matrix M says M[x, y] =
probability of y after x. Shapes: symbols z, x (B, L), weights over symbols (B, L, V), levels
(B,), one a row.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nelbo.equation import equation
from nelbo.errors import DomainError, UsageError
from nelbo.parts import Part
from nelbo.process.tokens.levels import TokenLevels, cells


class Kernel(Part, family="kernel"):
    """Abstract: how noise replaces a symbol."""

    absorbing: ClassVar[bool] = False

    def check(self, vocabulary: int) -> None:
        """Errors: UsageError where the kernel is not for so many symbols."""

    @property
    def table_length(self) -> int | None:
        """T of a table of matrices; None for a kernel that has a law of survival."""
        return None

    @abstractmethod
    def likelihood(self, z: Tensor, at: TokenLevels, V: int) -> Tensor:
        """q(z_t = z | x = k) of every k, (B, L, V)."""

    @abstractmethod
    def marginal(self, w: Tensor, at: TokenLevels) -> Tensor:
        """Σ_k w_k q(z_t = y | x = k) of every y, for w (B, L, V)."""

    @abstractmethod
    def backward(self, z: Tensor, s: TokenLevels, t: TokenLevels, V: int) -> Tensor:
        """q(z_t = z | z_s = y) of every y, (B, L, V)."""

    def rates(self, z: Tensor, V: int) -> Tensor:
        """R[y, z] of every y, (B, L, V): the rate of y → z per unit of τ = −log α. Errors: UsageError for a table."""
        raise UsageError(
            f"the continuous bound was asked of the kernel {self.kind!r}, which is a table of steps",
            "use nelbo.grids.full() or even(K), or give a generator whose rows sum to 0",
        )

    def noised(self, x: Tensor, at: TokenLevels, u: Tensor, V: int) -> Tensor:
        """z_t from x and uniform numbers u (B, L, 1) or (B, L, 2), by inversion of q(z_t | x)."""
        law = self.marginal(one_hot(x, V).double(), at)
        return (u[..., :1] * law.sum(-1, keepdim=True) > law.cumsum(-1)).sum(-1).clamp(max=V - 1)


@dataclass(frozen=True, eq=False)
class Absorbing(Kernel, kind="absorbing"):
    """z_t = x with probability α_t, else the symbol `mask`: V, one more than the vocabulary has, or one of its own."""

    mask: int
    absorbing: ClassVar[bool] = True

    def check(self, vocabulary: int) -> None:
        if not 0 <= self.mask <= vocabulary:
            raise UsageError(
                f"the mask {self.mask} of a vocabulary of {vocabulary} symbols",
                f"give {vocabulary} for a symbol of its own, or that symbol of the vocabulary that is the mask",
            )

    @equation("token-forward-masked")
    def likelihood(self, z: Tensor, at: TokenLevels, V: int) -> Tensor:
        visible = one_hot(z.clamp(max=V - 1), V).double() * cells(at.alpha)
        return torch.where((z == self.mask)[..., None], cells(at.noise), visible)

    def marginal(self, w: Tensor, at: TokenLevels) -> Tensor:
        raise UsageError("the marginal of masked places over V symbols", "it has one more symbol, the mask")

    def backward(self, z: Tensor, s: TokenLevels, t: TokenLevels, V: int) -> Tensor:
        raise UsageError("a step of masked places over V symbols", "it has one more symbol, the mask")


@dataclass(frozen=True, eq=False)
class Uniform(Kernel, kind="uniform"):
    """z_t = x with probability α_t, else one of all V symbols."""

    @equation("token-forward-uniform")
    def likelihood(self, z: Tensor, at: TokenLevels, V: int) -> Tensor:
        return cells(at.alpha) * one_hot(z, V) + cells(at.noise) / V

    def marginal(self, w: Tensor, at: TokenLevels) -> Tensor:
        return cells(at.alpha) * w + cells(at.noise) / w.shape[-1] * w.sum(-1, keepdim=True)

    def backward(self, z: Tensor, s: TokenLevels, t: TokenLevels, V: int) -> Tensor:
        kept = cells(t.alpha / s.alpha)
        lost = cells((t.noise - s.noise) / s.alpha)
        return kept * one_hot(z, V) + lost / V

    def rates(self, z: Tensor, V: int) -> Tensor:
        return torch.full((*z.shape, V), 1 / V, dtype=torch.float64, device=z.device) - one_hot(z, V)

    def noised(self, x: Tensor, at: TokenLevels, u: Tensor, V: int) -> Tensor:
        other = (u[..., 1] * V).floor().long().clamp(max=V - 1)
        return torch.where(u[..., 0] < at.noise[:, None], other, x)


class _Matrices(Kernel):
    """A kernel whose q(z_t | x) is a full matrix at every level."""

    @abstractmethod
    def cumulative(self, at: TokenLevels) -> Tensor:
        """q(z_t | x), (B, V, V)."""

    @abstractmethod
    def between(self, s: TokenLevels, t: TokenLevels) -> Tensor:
        """q(z_t | z_s), (B, V, V)."""

    def likelihood(self, z: Tensor, at: TokenLevels, V: int) -> Tensor:
        return _columns(self.cumulative(at), z)

    def marginal(self, w: Tensor, at: TokenLevels) -> Tensor:
        return w @ self.cumulative(at)

    def backward(self, z: Tensor, s: TokenLevels, t: TokenLevels, V: int) -> Tensor:
        return _columns(self.between(s, t), z)


@dataclass(frozen=True, eq=False)
class Rates(_Matrices, kind="rates"):
    """q(z_t | x) = exp(τ_t R), τ_t = −log α_t; R (V, V): rates ≥ 0 off the diagonal, rows that sum to 0."""

    generator: Tensor

    def __post_init__(self):
        R = torch.as_tensor(self.generator, dtype=torch.float64)
        square = R.ndim == 2 and R.shape[0] == R.shape[1] >= 2
        off = R - torch.diag(R.diagonal()) if square else R
        if not square or not bool((off >= 0).all()) or not torch.allclose(R.sum(1), torch.zeros(len(R)).double()):
            raise DomainError(
                f"a generator of shape {tuple(R.shape)}", "give (V, V): rates ≥ 0 off the diagonal, rows that sum to 0"
            )
        object.__setattr__(self, "generator", R)

    def check(self, vocabulary: int) -> None:
        _check_size(self.generator, vocabulary)

    def _exp(self, tau: Tensor) -> Tensor:
        distinct, of = tau.unique(return_inverse=True)
        return torch.linalg.matrix_exp(distinct[:, None, None] * self.generator.to(tau.device)).clamp_min(0)[of]

    def cumulative(self, at: TokenLevels) -> Tensor:
        return self._exp(-torch.log1p(-at.noise))

    def between(self, s: TokenLevels, t: TokenLevels) -> Tensor:
        return self._exp(s.alpha.log() - t.alpha.log())

    def rates(self, z: Tensor, V: int) -> Tensor:
        return self.generator.to(z.device).mT[z]


@dataclass(frozen=True, eq=False)
class Steps(_Matrices, kind="steps"):
    """q(z_t | z_{t−1}) = Q_t: matrices (T, V, V), rows that sum to 1."""

    matrices: Tensor

    def __post_init__(self):
        Q = torch.as_tensor(self.matrices, dtype=torch.float64)
        cubic = Q.ndim == 3 and Q.shape[1] == Q.shape[2] >= 2 and len(Q) > 0
        if not cubic or not bool((Q >= 0).all()) or not torch.allclose(Q.sum(2), torch.ones(Q.shape[:2]).double()):
            raise DomainError(
                f"a table of steps of shape {tuple(Q.shape)}", "give (T, V, V): probabilities, rows that sum to 1"
            )
        object.__setattr__(self, "matrices", Q)

    def check(self, vocabulary: int) -> None:
        _check_size(self.matrices[0], vocabulary)

    @property
    def table_length(self) -> int | None:
        return len(self.matrices)

    @cached_property
    def _products(self) -> Tensor:
        """q(z_t | x) of t = 0 … T, (T + 1, V, V)."""
        with torch.inference_mode(False):  # kept, and perhaps differentiated through later
            products = [torch.eye(self.matrices.shape[1], dtype=torch.float64)]
            for Q in self.matrices:
                products.append(products[-1] @ Q)
            return torch.stack(products)

    def respaced(self, indices: list[int]) -> Steps:
        """The steps between data and the levels `indices`, rising, in 1 … T."""
        ends = [0, *indices]
        parts = [self.matrices[a:b] for a, b in pairwise(ends)]
        return Steps(torch.stack([Steps(part)._products[-1] for part in parts]))

    def _index(self, at: TokenLevels) -> Tensor:
        assert at.index is not None  # levels of a table have one
        return at.index

    def cumulative(self, at: TokenLevels) -> Tensor:
        return self._products.to(at.t.device)[self._index(at)]

    def between(self, s: TokenLevels, t: TokenLevels) -> Tensor:
        if not bool((self._index(t) - self._index(s) == 1).all()):
            raise UsageError("a step over several matrices of a table", "take those of `respaced`")
        return self.matrices.to(t.t.device)[self._index(s)]


@equation("token-gaussian-steps")
def gaussian_steps(vocabulary: int, betas: Tensor) -> Steps:
    """D3PM's discretised Gaussian: with K = V − 1 and β_t > 0,

        Q_t[i, j] = exp(−4 (i − j)²/(K² β_t)) / Σ_{n=−K..K} exp(−4 n²/(K² β_t)),   i ≠ j,    rows that sum to 1

    symmetric, hence doubly stochastic, with the uniform law as its limit (Austin et al. 2021, app. A.2.3).
    """
    betas = torch.as_tensor(betas, dtype=torch.float64)
    if vocabulary < 2 or betas.ndim != 1 or not len(betas) or not bool((betas > 0).all()):
        raise UsageError(
            f"Gaussian steps of {vocabulary} symbols with betas of shape {tuple(betas.shape)}",
            "give at least 2 symbols and (T,) positive betas",
        )
    K = vocabulary - 1
    distance = torch.arange(-K, K + 1, dtype=torch.float64).square() * (4 / K**2)
    weights = (-distance / betas[:, None]).softmax(1)
    place = torch.arange(vocabulary)
    Q = weights[:, (place[:, None] - place).abs() + K]
    Q.diagonal(dim1=1, dim2=2).zero_()
    Q.diagonal(dim1=1, dim2=2).copy_(1 - Q.sum(2))
    return Steps(Q)


def _columns(matrices: Tensor, z: Tensor) -> Tensor:
    """M_b[y, z_bl] of every y, (B, L, V), for matrices (B, V, V) and z (B, L)."""
    return matrices.mT.gather(1, z[..., None].expand(*z.shape, matrices.shape[-1]))


def _check_size(matrix: Tensor, vocabulary: int) -> None:
    if len(matrix) != vocabulary:
        raise UsageError(f"a kernel over {len(matrix)} symbols for a vocabulary of {vocabulary}", "they must agree")
