"""What a hidden place costs, foretold from the pattern of its visible neighbours: a regression on costs of places.

    f(i, p, u) = Σ_j u^j θ_{p, j} · [1, c_p, e^{−c_p}, c_0, …, c_15],      j = 0, 1

with c_p the n-gram's cost of place i given the neighbours that pattern p shows, and all sixteen of them: what some
neighbours say against others tells what farther ones, which the network sees, will say. u is the share of hidden
places. The coefficients of [1, c_p, e^{−c_p}, c_15, c_0], with all neighbours shown and none, are each pattern's own,
the others are shared by all. A draw of the chain yields the costs of all its hidden places, dozens of observations, so
that a hundred draws fit it. Nothing here needs to be right, since the mean of f over a random set of places is known
for any f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.model.tokens.ngrams import PATTERNS

POWERS = 2
"""Powers of u, from 0."""
OF_PATTERN = 3
"""Regressors that depend on the pattern of the place, which come first; the costs c_0 … c_15 follow."""
REGRESSORS = OF_PATTERN + PATTERNS
_OWN = (0, 1, 2, OF_PATTERN, OF_PATTERN + PATTERNS - 1)
"""Regressors with a coefficient for every pattern."""
FOLDS = 3
"""Groups of sequences: what is foretold of one is fitted to the others."""
_RIDGE, _OF_MAIN = 100.0, 1.0
"""Observations, of mean weight 1, that a regressor of mean square 1 must have to count half: in general, and of the
regressors in `_OWN` with the coefficient that all patterns share, which tell most."""


@dataclass(frozen=True, eq=False)
class PlaceFit:
    """coefficients (2, 16, 19): θ by power of u, pattern and regressor."""

    coefficients: Tensor

    def foretold(self, nll: Tensor, share: Tensor) -> Tensor:
        """f (B, L, 16) for nll (B, L, 16) of every place and pattern and the shares u (B,) of hidden places."""
        theta = self.coefficients[0] + share[:, None, None] * self.coefficients[1][None]
        value = nll @ theta[:, :, OF_PATTERN:].mT
        value += theta[:, None, :, 1] * nll
        value += theta[:, None, :, 2] * (-nll).exp()
        return value.add_(theta[:, None, :, 0])

    @classmethod
    def fit(cls, sums: Sequence[Sums]) -> PlaceFit:
        """From sums over observations: their mean, and ridge regression of what that leaves on coefficients that all
        patterns share and each one's deviations from them, together. Costs that are all the same are foretold exactly.
        """
        A = torch.stack([s.gram for s in sums]).sum(0)
        b = torch.stack([s.target for s in sums]).sum(0)
        mean = b[:, 0].sum() / A[:, 0, 0].sum().clamp_min(1e-300)
        b = b - mean * A[:, :, 0]
        scale = (A.diagonal(dim1=1, dim2=2).sum(0) / A[:, 0, 0].sum().clamp_min(1e-300)).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        A, b = A / scale / scale[:, None], b / scale
        own = torch.tensor([power * REGRESSORS + k for power in range(POWERS) for k in _OWN])
        ridge = torch.full((A.shape[1],), _RIDGE, dtype=A.dtype)
        of_own = A[:, own[:, None], own] + ridge[own].diag()
        ridge[own] = _OF_MAIN
        gain = torch.linalg.solve(of_own, A[:, own]).mT  # with it the deviations are eliminated
        without = b - (gain @ b[:, own, None])[..., 0]
        shared = torch.linalg.solve((A - gain @ A[:, own]).sum(0) + ridge.diag(), without.sum(0))
        theta = shared.repeat(len(A), 1)
        theta[:, own] += torch.linalg.solve(of_own, (b - A @ shared)[:, own])
        theta = theta / scale
        theta[:, 0] += mean
        return cls(theta.reshape(PATTERNS, POWERS, REGRESSORS).transpose(0, 1).contiguous())


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over observed places: of products of regressors (16, 38, 38), and with their costs (16, 38)."""

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
        phi = torch.cat([torch.stack([torch.ones_like(here), here, (-here).exp()], 1), nll], 1)
        u, w, y = share[rows, None], weight[rows, None], costs[rows, places]
        X = torch.cat([phi, u * phi], 1)
        for k in range(PATTERNS):
            mine = p == k
            weighted = X[mine] * w[mine]
            gram[k], target[k] = weighted.mT @ X[mine], weighted.mT @ y[mine]
        return cls(gram, target)
