"""Closed-form features of examples that foretell their bound: no network, no noise, all examples.

Two surrogates of the network give the expected error E‖ε − ε̂‖² of an example at a few λ; their logarithms are features:

    Gaussian     x ~ N(μ, C): right for textures and for the bulk of the data (`surrogate.py`)
    shrinkage    in an orthonormal basis with coefficients d_k the best diagonal estimator of *this* example,
                 Σ_k v_k/(1 + v_k) with v_k = snr d_k²: right for what is flat in places and busy in others
                 (Donoho & Johnstone 1994, eq. 4, with the squared bias and the variance at their least)

The basis is Haar's over pixels where the data are images, else the Gaussian's own. Further features: the share of
numbers at either end of the range of discrete data, where the decoder's bins are open, and for images the total
variation and the share of neighbours that are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.model.domain import DataDomain

LEVELS = 8
"""Log-SNRs, evenly from the first level to the last, at which a surrogate is asked for features."""
PLACES = 3 * (LEVELS - 1) + 1
"""Log-SNRs, those among them, at which it is asked for expected errors."""


def of(
    x: Tensor, domain: DataDomain, surrogate: GaussianSurrogate, first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Features (B, q) of values x (B, *shape) of a chain between two log-SNRs, and the Gaussian's expected errors
    (B, PLACES); float32 on the CPU."""
    logsnr = torch.linspace(float(first), float(last), PLACES, dtype=torch.float64, device=x.device)
    x = x.float()
    expected = surrogate.expected(x, logsnr).float()
    gaussian, few = expected[:, ::3], logsnr[::3].float()
    shrunk = shrinkage(_coefficients(x, surrogate), few).clamp_min(1e-9)
    return torch.cat([gaussian.log(), shrunk.log(), counts(x, domain)], 1).cpu(), expected.cpu()


def shrinkage(coefficients: Tensor, logsnr: Tensor) -> Tensor:
    """Σ_k v_k/(1 + v_k), v_k = e^λ d_k², of coefficients d (B, D) at every λ of `logsnr` (K,), (B, K)."""
    square = coefficients.square()
    return torch.stack([(v := square * snr).div_(1 + v).sum(1) for snr in logsnr.exp()], 1)


def haar(x: Tensor) -> Tensor:
    """Coefficients of x (B, C, H, W) in the orthonormal Haar basis, halved as long as both sides are even, (B, D).

    Three channels are first turned to their sum and two differences, which natural colours have in common.
    """
    if x.shape[1] == 3:
        turn = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=x.dtype, device=x.device)
        x = torch.einsum("ij,bjhw->bihw", turn / turn.norm(dim=1, keepdim=True), x)
    bands = []
    while x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        a, b, c, d = x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]
        bands += [a - b + c - d, a + b - c - d, a - b - c + d]
        x = (a + b + c + d) / 2
    return torch.cat([band.flatten(1) / 2 for band in bands] + [x.flatten(1)], 1)


def _coefficients(x: Tensor, surrogate: GaussianSurrogate) -> Tensor:
    """(B, D) or fewer: of images the Haar coefficients, else those in the surrogate's basis; without the mean."""
    centred = x - surrogate.mean.reshape(x.shape[1:])
    if _image(x):
        # the mean of each channel alone: a flat stretch of one example is to stay flat
        level = surrogate.mean.reshape(1, -1, *x.shape[-2:]).mean((2, 3), keepdim=True)
        return haar(x.reshape(len(x), x.shape[1:-2].numel(), *x.shape[-2:]) - level)
    return centred.flatten(1) @ surrogate.basis.to(x.dtype)


def _image(x: Tensor) -> bool:
    """Whether the last two dimensions are those of an image and the one before, if there is one, its channels."""
    return x.ndim in (3, 4) and x.shape[-1] > 3 and x.shape[-2] > 3


def counts(x: Tensor, domain: DataDomain) -> Tensor:
    """(B, 0 to 4): what is counted on the numbers of every example."""
    counts = []
    if domain.discrete:
        ends = domain.lattice(device=x.device)[[0, -1]].to(x.dtype)
        counts += [(x == end).flatten(1).to(x.dtype).mean(1) for end in ends]
    if _image(x):
        steps = [(x[..., 1:, :] - x[..., :-1, :]).flatten(1).abs(), (x[..., 1:] - x[..., :-1]).flatten(1).abs()]
        counts += [
            sum(s.mean(1) for s in steps) / len(steps),
            sum((s > 0).to(x.dtype).mean(1) for s in steps) / len(steps),
        ]
    return torch.stack(counts, 1) if counts else torch.zeros(len(x), 0, dtype=x.dtype, device=x.device)
