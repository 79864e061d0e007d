r"""Gaussians: log density, entropy and Kullback-Leibler divergence, in nats.

Elementwise (one dimension, `variance` = sigma^2 > 0) except `kl_multivariate`: sum over the dimensions of an example
for a factorised Gaussian. Everything broadcasts and computes in the dtype given. No argument is clamped: a variance of
0 gives the limit (infinity), a negative one NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import NumericalError, ShapeError
from nelbo.maths.stable import x_minus_log1p

LOG_2PI = math.log(2.0 * math.pi)


def log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, variance) = -((x - mean)^2 / variance + log variance + log 2 pi) / 2, elementwise, in nats.

    Bishop 2006, "Pattern recognition and machine learning", equation 1.46.
    """
    return -0.5 * ((x - mean) ** 2 / variance + torch.log(variance) + LOG_2PI)


def entropy(variance: Tensor) -> Tensor:
    """-E log N(x; mean, variance) = (1 + log 2 pi + log variance) / 2, elementwise, in nats.

    Bishop 2006, equation 1.110.
    """
    return 0.5 * (1.0 + LOG_2PI + torch.log(variance))


@equation("kl-gaussian-isotropic")
def kl(mean_q: Tensor, variance_q: Tensor, mean_p: Tensor, variance_p: Tensor) -> Tensor:
    """KL( N(mean_q, variance_q) || N(mean_p, variance_p) ), elementwise, in nats; see `kl_from_difference`.

    Sum over dimensions for vectors. Where the two means share a large part that is known to cancel, form their
    difference analytically and call `kl_from_difference` instead.
    """
    return kl_from_difference(mean_q - mean_p, variance_q, variance_p)


@equation("kl-gaussian-isotropic")
def kl_from_difference(difference: Tensor, variance_q: Tensor, variance_p: Tensor) -> Tensor:
    """KL of two Gaussians from the difference of their means, elementwise, in nats:

        (r - 1 - log r) / 2 + difference^2 / (2 variance_p),    r = variance_q / variance_p.

    Full relative accuracy near r = 1, where the first term is (r - 1)^2 / 4. Kingma and Welling 2014, appendix B, for
    p standard; the general case is Rasmussen and Williams 2006, equation A.23, in one dimension.
    """
    x = (variance_q - variance_p) / variance_p
    near = x.abs() < 0.5
    r = torch.where(near, 1.0, variance_q / variance_p)
    scale = torch.where(near, x_minus_log1p(torch.where(near, x, 0.0)), (r - 1.0) - torch.log(r))
    return 0.5 * (scale + difference**2 / variance_p)


@equation("kl-gaussian-multivariate")
def kl_multivariate(mean_q: Tensor, covariance_q: Tensor, mean_p: Tensor, covariance_p: Tensor) -> Tensor:
    """KL( N(mean_q, covariance_q) || N(mean_p, covariance_p) ) of vectors, in nats.

        ( tr(P^-1 Q) + (mean_p - mean_q)^T P^-1 (mean_p - mean_q) - d + log det P - log det Q ) / 2

    by Cholesky factors Q = L_q L_q^T, P = L_p L_p^T (Rasmussen and Williams 2006, equation A.23). Shapes: means
    (..., d), covariances (..., d, d), result (...); batch dimensions broadcast. Only lower triangles are read. Absolute
    accuracy about d times the rounding unit times the condition of P. ShapeError where sizes disagree; NumericalError
    where a covariance is not positive definite.
    """
    d = mean_q.shape[-1] if mean_q.ndim else 0
    shapes = [tuple(v.shape) for v in (mean_q, covariance_q, mean_p, covariance_p)]
    if d == 0 or any(s[-1:] != (d,) for s in shapes) or any(s[-2:] != (d, d) for s in shapes[1::2]):
        raise ShapeError(
            f"means and covariances have shapes {shapes}", "give means (..., d) and covariances (..., d, d) of one d"
        )
    factor_q, factor_p = _cholesky(covariance_q, "covariance_q"), _cholesky(covariance_p, "covariance_p")
    batch = torch.broadcast_shapes(shapes[0][:-1], shapes[1][:-2], shapes[2][:-1], shapes[3][:-2])
    factor_q, factor_p = factor_q.expand(*batch, d, d), factor_p.expand(*batch, d, d)
    difference = (mean_q - mean_p).expand(*batch, d).unsqueeze(-1)
    whitened = torch.linalg.solve_triangular(factor_p, torch.cat((factor_q, difference), dim=-1), upper=False)
    log_ratio = torch.log(_diagonal(factor_p) / _diagonal(factor_q)).sum(-1)
    return 0.5 * ((whitened**2).sum((-2, -1)) - d) + log_ratio


def _cholesky(covariance: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()) or not bool(torch.isfinite(_diagonal(factor)).all()):
        raise NumericalError(
            f"{name} of shape {tuple(covariance.shape)} is not positive definite",
            "check that it is symmetric and of full rank, or add the noise variance to its diagonal",
        )
    return factor


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)
