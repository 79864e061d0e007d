"""What a hidden place costs, foretold from the pattern of its visible neighbours: a regression on costs of places.

    f(i, p, u) = Σ_j u^j θ_{p, j} · [1, c_p, e^{−c_p}, c_all, c_none],      j = 0, 1

with c_p the n-gram's cost of place i given the neighbours that pattern p shows, c_all and c_none that given all of them
and given none, and u the share of hidden places. A draw of the chain yields the costs of all its hidden places, dozens
of observations, so that a hundred draws fit it. Nothing here needs to be right, since the mean of f over a random set
of places is known for any f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.model.tokens.ngrams import PATTERNS

POWERS = 2
"""Powers of u, from 0."""
REGRESSORS = 5
FOLDS = 3
"""Groups of sequences: what is foretold of one is fitted to the others."""
_RIDGE = 30.0
"""Observations, of mean weight 1, that a regressor of mean square 1 must have to count half."""


@dataclass(frozen=True, eq=False)
class PlaceFit:
    """coefficients (2, 16, 5): θ by power of u, pattern and regressor."""

    coefficients: Tensor

    def foretold(self, nll: Tensor, share: Tensor) -> Tensor:
        """f (B, L, 16) for nll (B, L, 16) of every place and pattern and the shares u (B,) of hidden places."""
        theta = self.coefficients[0] + share[:, None, None] * self.coefficients[1][None]
        value = theta[:, None, :, 1] * nll
        value += theta[:, None, :, 2] * (-nll).exp()
        value += theta[:, None, :, 3] * nll[..., PATTERNS - 1 :]
        value += theta[:, None, :, 4] * nll[..., :1]
        return value.add_(theta[:, None, :, 0])

    @classmethod
    def fit(cls, sums: Sequence[Sums]) -> PlaceFit:
        """From sums over observations: their mean, ridge regression of all of them together on what that leaves, and of
        every pattern on what is left then. Costs that are all the same are foretold exactly."""
        A = torch.stack([s.gram for s in sums]).sum(0)
        b = torch.stack([s.target for s in sums]).sum(0)
        mean = b[:, 0].sum() / A[:, 0, 0].sum().clamp_min(1e-300)
        b = b - mean * A[:, :, 0]
        scale = (A.diagonal(dim1=1, dim2=2).sum(0) / A[:, 0, 0].sum().clamp_min(1e-300)).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        A, b = A / scale / scale[:, None], b / scale
        ridge = _RIDGE * torch.eye(A.shape[1], dtype=A.dtype)
        shared = torch.linalg.solve(A.sum(0) + ridge, b.sum(0))
        own = torch.linalg.solve(A + ridge, b - A @ shared)
        theta = (shared + own) / scale
        theta[:, 0] += mean
        return cls(theta.reshape(PATTERNS, POWERS, REGRESSORS).transpose(0, 1).contiguous())


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over observed places: of products of regressors (16, 10, 10), and with their costs (16, 10)."""

    gram: Tensor
    target: Tensor

    @classmethod
    def of(cls, nll: Tensor, pattern: Tensor, hidden: Tensor, share: Tensor, costs: Tensor, weight: Tensor) -> Sums:
        """Of draws with nll (B, L, 16), patterns, hidden places and costs (B, L), shares u and weights (B,)."""
        width = POWERS * REGRESSORS
        gram = torch.zeros(PATTERNS, width, width, dtype=torch.float64)
        target = torch.zeros(PATTERNS, width, dtype=torch.float64)
        rows, places = hidden.nonzero(as_tuple=True)
        p, nll = pattern[rows, places], nll[rows, places]
        here = nll.gather(1, p[:, None])[:, 0]
        phi = torch.stack([torch.ones_like(here), here, (-here).exp(), nll[:, -1], nll[:, 0]], 1)
        u, w, y = share[rows, None], weight[rows, None], costs[rows, places]
        X = torch.cat([phi, u * phi], 1)
        for k in range(PATTERNS):
            mine = p == k
            weighted = X[mine] * w[mine]
            gram[k], target[k] = weighted.mT @ X[mine], weighted.mT @ y[mine]
        return cls(gram, target)
