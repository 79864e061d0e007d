"""A Gaussian surrogate that the network has taught: a law of the data under which it would predict as it does.

The denoiser of N(μ, C) is x̂ = μ + C (C + 1/snr)⁻¹ (z/α − μ). Solved for the law it is linear in it, at every level:

    x̂ − μ = C e,     e = snr (z/α − x̂).

So the network's predictions of the pilot's draws at all levels together tell μ and C, in the leading directions of the
surrogate fitted to the data: by least squares of what that leaves of x̂, in which an equation of direction a weighs as
(1 − g_a)², g = c/(c + 1/snr), the error of x̂ that its residual makes, over the mean square of such errors at its level.
Changes of C are symmetric and held back by a ridge, in units of the standard deviations of the data. Its strength is
chosen by how well the denoiser of the law predicts examples that it was not fitted to; where none does clearly better
than the surrogate of the data, as of networks that are far from any Gaussian's, nothing is learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import tiles

LEADING = 64
"""Most directions that are taught."""
FOLDS = 4
"""Parts of the examples that laws are tried on."""
_RIDGES = (1.0, 0.1, 1e-3, 1e-6)
"""Strengths to try, of the mean of squares, one after the other while they help."""
_FLOOR = 0.01
"""Least variance that a direction is taken to have by these units, of the mean one: in the data some have none."""
_BETTER = 0.9
"""Squared errors of a law that is learned, over those of the surrogate of the data."""
_LEAST_VARIANCE = 1e-9


class Predictions(NamedTuple):
    """A network's predictions at n draws: x̂ − μ and z/α − x̂ in the leading directions, (n, r); 1/snr and the number of
    the level, (n,); and the part of the examples (n,), 0..FOLDS−1."""

    x0: Tensor
    rest: Tensor
    inverse_snr: Tensor
    level: Tensor
    part: Tensor

    @classmethod
    def of(cls, seen: Tensor, surrogate: GaussianSurrogate, logsnr: Tensor, examples: Tensor) -> Predictions:
        """From `projections` (n, 2 R), with zeros in what is beyond the surrogate's, of draws of `examples` (n,) at
        log-SNRs (n,)."""
        x0, rest = (part[:, : directions(surrogate)] for part in seen.chunk(2, 1))
        inverse, level = (-logsnr).exp().unique(return_inverse=True)
        return cls(x0, rest, inverse[level], level, examples.unique(return_inverse=True)[1] % FOLDS)


class _Law(NamedTuple):
    """Mean (r,), in directions and from the surrogate's, and covariance (r, r)."""

    mean: Tensor
    covariance: Tensor

    def left(self, seen: Predictions, rows: Tensor) -> Tensor:
        """x̂ less the denoiser's, (b, r), at the draws `rows`."""
        w, Q = torch.linalg.eigh(self.covariance)
        w = w.clamp_min(_LEAST_VARIANCE)
        gain = w / (w + seen.inverse_snr[rows, None])
        z = seen.x0[rows] + seen.rest[rows] - self.mean
        return seen.x0[rows] - self.mean - ((z @ Q) * gain) @ Q.mT


def directions(surrogate: GaussianSurrogate) -> int:
    """r, of those that are taught."""
    return min(LEADING, surrogate.basis.shape[1])


def projections(surrogate: GaussianSurrogate, z: Tensor, x0: Tensor, alpha: Tensor) -> Tensor:
    """x̂ − μ and z/α − x̂ in the leading directions, (b, 2 r) float64, of z and x̂ (b, …) at α (b,)."""
    basis = surrogate.basis[:, : directions(surrogate)]
    parts = []
    for some in tiles.tiles(len(z), surrogate.dimensions, z.device):
        prediction = x0[some].flatten(1).double()
        rest = z[some].flatten(1).double() / alpha[some, None] - prediction
        parts.append(torch.cat([(v.to(basis.dtype) @ basis).double() for v in (prediction - surrogate.mean, rest)], 1))
    return torch.cat(parts)


def learn(surrogate: GaussianSurrogate, seen: Predictions) -> list[GaussianSurrogate] | None:
    """The surrogate taught by all predictions, and for every part by those of the others; None where nothing is
    learned."""
    variances = surrogate.variances[: seen.x0.shape[1]]
    sums = _Sums.of(variances, seen)
    before = _Law(torch.zeros_like(variances), torch.diag(variances))
    all_draws = torch.arange(len(seen.x0))
    weight = sums.weight[seen.level, None]
    bound, kept = _BETTER * float((weight * before.left(seen, all_draws).square()).sum()), None
    if int(torch.bincount(seen.part, minlength=FOLDS).min()) == 0:
        return None
    for ridge in _RIDGES:
        laws, errors = [], 0.0
        for part in range(FOLDS):
            laws.append(sums.law(part, ridge))
            held_out = (seen.part == part).nonzero()[:, 0]
            errors += float((weight[held_out] * laws[-1].left(seen, held_out).square()).sum())
        if not errors < bound:
            break
        bound, kept = errors, (ridge, laws)
    if kept is None:
        return None
    ridge, laws = kept
    return [_surrogate(surrogate, law) for law in (sums.law(None, ridge), *laws)]


class _Sums(NamedTuple):
    """What laws are fitted to: products (FOLDS, K, r + 1, r + 1) of e with a one, and with what it leaves of x̂,
    (FOLDS, K, r, r + 1), both in units of `scale` (r,); weights (K, r) of equations and (K,) of errors of x̂."""

    products: Tensor
    targets: Tensor
    equations: Tensor
    weight: Tensor
    scale: Tensor
    variances: Tensor

    @classmethod
    def of(cls, variances: Tensor, seen: Predictions) -> _Sums:
        scale = (variances + _FLOOR * variances.mean()).sqrt()
        e = seen.rest / seen.inverse_snr[:, None]
        left = (seen.x0 - variances * e) / scale
        one = torch.cat([e * scale, torch.ones(len(e), 1, dtype=e.dtype)], 1)
        K = int(seen.level.max()) + 1
        inverse = torch.zeros(K, dtype=e.dtype).index_copy(0, seen.level, seen.inverse_snr)
        error = inverse[:, None] / (variances + inverse[:, None])  # 1 − g
        square = (error[seen.level] * scale * left).square().mean(1)
        counts = torch.bincount(seen.level, minlength=K)
        weight = counts / torch.zeros(K, dtype=e.dtype).index_add(0, seen.level, square).clamp_min(1e-300)
        groups = [[(seen.part == f) & (seen.level == k) for k in range(K)] for f in range(FOLDS)]
        products = torch.stack([torch.stack([one[g].mT @ one[g] for g in row]) for row in groups])
        targets = torch.stack([torch.stack([left[g].mT @ one[g] for g in row]) for row in groups])
        return cls(products, targets, weight[:, None] * (error * scale).square(), weight, scale, variances)

    def law(self, without: int | None, ridge: float) -> _Law:
        """By all draws but those of one part."""
        used = [f for f in range(FOLDS) if f != without]
        products, targets = self.products[used].sum(0), self.targets[used].sum(0)
        r = len(self.scale)
        gram = (self.equations.mT @ products.flatten(1)).reshape(r, r + 1, r + 1)
        b = torch.einsum("ka,kai->ai", self.equations, targets)
        held = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
        factor = torch.linalg.cholesky(gram + held[:, None, None] * torch.eye(r + 1, dtype=gram.dtype))
        change = torch.cholesky_solve(b[..., None], factor)[..., 0]
        both = self.scale[:, None] * (change[:, :r] + change[:, :r].mT) / 2 * self.scale
        return _Law(change[:, r] * self.scale, torch.diag(self.variances) + both)


def _surrogate(surrogate: GaussianSurrogate, law: _Law) -> GaussianSurrogate:
    """The surrogate with another law in its leading directions."""
    r = len(law.mean)
    w, Q = torch.linalg.eigh(law.covariance)
    leading = surrogate.basis[:, :r].double()
    basis = torch.cat([(leading @ Q.flip(1)).to(surrogate.basis.dtype), surrogate.basis[:, r:]], 1)
    variances = torch.cat([w.flip(0).clamp_min(_LEAST_VARIANCE), surrogate.variances[r:]])
    mean = (surrogate.mean.double() + leading @ law.mean).to(surrogate.mean.dtype)
    return replace(surrogate, mean=mean, basis=basis.contiguous(), variances=variances)
