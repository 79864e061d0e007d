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

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.bound.surrogate import GaussianSurrogate

LEVELS = 8
"""Log-SNRs, evenly from the first level to the last, at which a surrogate is asked."""
_BLOCK = 256
_ROUND = 8
"""Blocks that a worker computes between two exchanges."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features (N, q) of all examples: kept in float32, since they grow with the data, and given in float64."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[rows].double()

    @property
    def number(self) -> int:
        """q."""
        return self.values.shape[1]

    def times(self, weights: Tensor, rows: Tensor | None = None) -> Tensor:
        """F·w of all examples or of `rows`, for weights w (q,); no copy of all features is made."""
        if rows is None:
            return torch.cat([part.double() @ weights for part in self.values.split(_BLOCK)])
        return torch.cat([self[part] @ weights for part in rows.split(_BLOCK)])


def of(problem: Problem, surrogate: GaussianSurrogate) -> tuple[Features, Tensor]:
    """Features, standardised over all examples and within ±4, and the Gaussian's expected errors (N, LEVELS)."""
    ends = problem.levels.logsnr
    logsnr = torch.linspace(float(ends[0]), float(ends[-1]), LEVELS, dtype=torch.float64, device=problem.device)
    blocks = torch.arange(problem.examples).split(_BLOCK)
    W, rank = problem.workers.size, problem.workers.rank
    features, expected = torch.empty(0), torch.empty(problem.examples, LEVELS)
    for start in range(0, len(blocks), _ROUND * W):
        some = blocks[start : start + _ROUND * W]
        mine = some[rank::W] or [blocks[0][:0]]
        found = [_of_block(problem, surrogate, logsnr, rows) for rows in mine]
        # every worker computes its share, and all know the same numbers: they are to plan the same draws
        shared = [torch.cat(found)] if W == 1 else problem.workers.gather(torch.cat(found).double())
        for k, theirs in enumerate(shared):
            if some[k::W]:
                rows = torch.cat(some[k::W])
                if not len(features):
                    features = torch.empty(problem.examples, theirs.shape[1] - LEVELS)
                expected[rows], features[rows] = theirs[:, :LEVELS].float(), theirs[:, LEVELS:].float()
    mean = torch.stack([column.double().mean() for column in features.T])
    spread = torch.stack([column.double().std(unbiased=False) for column in features.T])
    told = spread > 1e-6 * (1 + mean.abs())
    if not bool(told.all()):
        features, mean, spread = features[:, told], mean[told], spread[told]
    return Features(features.sub_(mean.float()).div_(spread.float()).clamp_(-4, 4)), expected


def _of_block(problem: Problem, surrogate: GaussianSurrogate, logsnr: Tensor, rows: Tensor) -> Tensor:
    """(n, LEVELS + q) of `rows`: the Gaussian's expected errors and the features, as they are found, on the CPU."""
    x = problem.values(rows).float()
    gaussian = surrogate.expected(x, logsnr).float()
    shrunk = shrinkage(_coefficients(x, surrogate), logsnr.float()).clamp_min(1e-9)
    return torch.cat([gaussian, gaussian.log(), shrunk.log(), _counts(problem, x)], 1).cpu()


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


def _counts(problem: Problem, x: Tensor) -> Tensor:
    """(B, 0 to 4): what is counted on the numbers of every example."""
    found = []
    if problem.model.domain.discrete:
        ends = problem.model.domain.lattice(device=x.device)[[0, -1]].to(x.dtype)
        found += [(x == end).flatten(1).to(x.dtype).mean(1) for end in ends]
    if _image(x):
        steps = [(x[..., 1:, :] - x[..., :-1, :]).flatten(1).abs(), (x[..., 1:] - x[..., :-1]).flatten(1).abs()]
        found += [
            sum(s.mean(1) for s in steps) / len(steps),
            sum((s > 0).to(x.dtype).mean(1) for s in steps) / len(steps),
        ]
    return torch.stack(found, 1) if found else torch.zeros(len(x), 0, dtype=x.dtype, device=x.device)
