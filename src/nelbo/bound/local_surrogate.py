"""A surrogate of one image at a time: independent Haar coefficients with variances of its own, band by band.

The coefficients d_k of the image that is scored, in an orthonormal Haar basis, say where it is flat and where it is
busy. With v_k the variance that a network could know from the neighbourhood, and p_k = snr v_k/(1 + snr v_k), the error
of the optimal denoiser of N(0, diag(v)) and its mean over ε are

    h = Σ_k (p_k e_k − (1 − p_k) √snr d_k)²,     E[h | x] = Σ_k p_k² + (1 − p_k)² snr d_k²,     e the coefficients of ε,

    v_k = ( mean of d² over the 3×3 coefficients around k  ×  mean of d² over the band )^½

which follow the network's own error as those of a Gaussian of all data do (`surrogate.py`), where that cannot: it knows
one covariance. Neighbourhoods as in Mihçak et al. 1999 (IEEE Signal Processing Letters 6, 300).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_SIDE = 3
"""Coefficients a side from which a band has neighbourhoods; in a smaller one every coefficient is its own."""

_FLAT = 0.1
"""Share of coefficients with a variance up to which an image is flat."""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether the last two dimensions are those of an image and the one before, if there is one, its channels."""
    return len(shape) in (2, 3) and min(shape[-2:]) > _LEAST_SIDE


def bands(x: Tensor) -> list[Tensor]:
    """Coefficients of x (B, C, H, W) in the orthonormal Haar basis, halved as long as both sides are even: of every
    scale from the finest its three bands, (B, 3 C, h, w), and what is left, (B, C, h, w).

    Three channels are first turned to their sum and two differences, which natural colours have in common.
    """
    if x.shape[1] == 3:
        turn = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=x.dtype, device=x.device)
        x = (turn / turn.norm(dim=1, keepdim=True) @ x.flatten(2)).reshape(x.shape)
    found = []
    while x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        upper, lower = x[:, :, ::2], x[:, :, 1::2]
        s, t = upper + lower, upper - lower
        a, b, c, d = s[..., ::2], s[..., 1::2], t[..., ::2], t[..., 1::2]
        found.append(torch.cat([a - b, c + d, c - d], 1).div_(2))
        x = (a + b).div_(2)
    return [*found, x]


def haar(x: Tensor) -> Tensor:
    """All `bands` of x (B, C, H, W), (B, D)."""
    return torch.cat([band.flatten(1) for band in bands(x)], 1)


@dataclass(frozen=True, eq=False)
class LocalSurrogate:
    """level: the mean of every channel, (C, 1, 1), which flat images are to differ from alone."""

    level: Tensor

    @classmethod
    def of(cls, mean: Tensor, shape: tuple[int, ...]) -> LocalSurrogate | None:
        """For data of `shape` with `mean` (D,); None where they are no images."""
        if not is_image(shape):
            return None
        return cls(mean.reshape(-1, *shape[-2:]).mean((1, 2))[:, None, None])

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """d and v of x (B, *shape), each (B, D)."""
        d = bands(_with_channels(x) - self.level.to(x))
        return torch.cat([band.flatten(1) for band in d], 1), torch.cat([_variances(band) for band in d], 1)

    def expected(self, x: Tensor, logsnr: Tensor) -> Tensor:
        """E[h | x] at every λ of `logsnr` (K,), (B, K)."""
        d, v = self.coefficients(x)
        return risk(d.square_(), v, logsnr)

    def excess(self, x: Tensor, eps: Tensor, logsnr: Tensor, of: Tensor | None = None) -> Tensor:
        """h − E[h | x], (B,) float64, for x, ε (B, *shape) and λ (B,): a draw of mean zero over ε, for every x.

            Σ_k p_k² (e_k² − 1) − 2 p_k (1 − p_k) √snr e_k d_k

        of (B,): the row of x that each row of ε belongs to, where several share an example. 0 where an image is flat,
        all but `_FLAT` of it: a coefficient that is fitted to such ones says nothing of others.
        """
        d, v = self.coefficients(x)
        busy = (v > 0).double().mean(1) > _FLAT
        if of is not None:
            busy = busy[of]
            d, v = d[of], v[of]
        e = haar(_with_channels(eps))
        snr = logsnr.to(d)[:, None].exp()
        p = v.mul_(snr).div_(v + 1)
        linear = (1 - p).mul_(d).mul_(2 * snr.sqrt())
        return (p * e).sub_(linear).mul_(e).sub_(p).mul_(p).sum(1).double() * busy


def risk(square: Tensor, variances: Tensor, logsnr: Tensor) -> Tensor:
    """Σ_k p_k² + (1 − p_k)² snr d_k², p_k = snr v_k/(1 + snr v_k), of d² (B, D) and v (B, D) at every λ of `logsnr`
    (K,), (B, K): with v = d² the least risk of a diagonal estimator, Σ_k p_k (Donoho & Johnstone 1994, eq. 4)."""
    columns = []
    for snr in logsnr.to(square).exp():
        rest = (variances * snr).add_(1).reciprocal_()  # 1 − p
        # p² + rest² snr d² = 1 − 2 rest + rest² (1 + snr d²)
        columns.append((square * snr).add_(1).mul_(rest).sub_(2).mul_(rest).sum(1) + square.shape[1])
    return torch.stack(columns, 1)


def _with_channels(x: Tensor) -> Tensor:
    """x (B, *shape) as (B, C, H, W); B may be 0, the share of a worker that has no example."""
    return x.reshape(len(x), x.shape[1:-2].numel(), *x.shape[-2:])


def _variances(d: Tensor) -> Tensor:
    """v of bands d (B, C, h, w), (B, C·h·w)."""
    square = d.square()
    near = square
    if min(d.shape[-2:]) >= _LEAST_SIDE:
        wide = torch.cat([square[..., :1], square, square[..., -1:]], 3)
        rows = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
        high = torch.cat([rows[..., :1, :], rows, rows[..., -1:, :]], 2)
        near = (high[..., :-2, :] + high[..., 1:-1, :] + high[..., 2:, :]).div_(9)
    return (near * square.mean((2, 3), keepdim=True)).sqrt_().flatten(1)
