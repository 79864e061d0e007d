"""Gamma regression: squares of errors whose variance depends on features, log V = X w.

    minimise  Σ_i (y_i e^{−x_i·w} + x_i·w)/R + ½ ridge ‖w without w_0‖²

which is the Gaussian code length of errors with squares y, and a convex problem in w. McCullagh & Nelder 1989, §8.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 40
_HALVINGS = 12
_LIMIT = 40.0


def fit(X: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Weights (G, p) of G regressions, X (G, R, p) with X[..., 0] = 1, y (G, R) ≥ 0.

    Scoring with the expected information, which for this family is XᵀX and does not change; steps are halved in the
    regressions where they do not help.
    """
    X, y = X.double(), y.double()
    G, R, p = X.shape
    penalty = torch.full((p,), float(ridge), dtype=torch.float64, device=X.device)
    penalty[0] = 0.0
    information = torch.linalg.cholesky(X.mT @ X / R + (penalty + 1e-10).diag())
    w = torch.zeros(G, p, dtype=torch.float64, device=X.device)
    w[:, 0] = y.mean(1).clamp_min(1e-300).log()
    value, rest = _value(X, y, w, penalty)
    for _ in range(_STEPS):
        gradient = (X.mT @ (1 - rest)[..., None] / R)[..., 0] + penalty * w
        step = torch.cholesky_solve(gradient[..., None], information)[..., 0]
        size = torch.ones(G, 1, dtype=torch.float64, device=X.device)
        before = value
        for _ in range(_HALVINGS):
            tried, tried_rest = _value(X, y, w - size * step, penalty)
            worse = tried > value + 1e-12
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        better = (tried <= value)[:, None]
        w, value = torch.where(better, w - size * step, w), torch.minimum(tried, value)
        rest = torch.where(better, tried_rest, rest)
        if float((before - value).max()) < 1e-8:
            break
    return w


def scores(X: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Mean of y e^{−η} + η of each regression, (G,): twice the code length of the errors but for a constant."""
    return _value(X.double(), y.double(), w, torch.zeros_like(w[0]))[0]


def _value(X: Tensor, y: Tensor, w: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    eta = (X @ w[..., None])[..., 0].clamp(-_LIMIT, _LIMIT)
    rest = y * (-eta).exp()
    return (rest + eta).mean(1) + 0.5 * (penalty * w.square()).sum(1), rest
