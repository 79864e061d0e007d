"""Regressions of a variance on features, log V = X w, by what steps of that variance cost.

A step whose errors have squares y and which says V costs, with ρ = SNR(s) − SNR(t),

    f(w) = mean over rows and over ρ of (1 + ρ y)/(1 + ρ V) + log(1 + ρ V),      KL = ½ (f − 1 − …),

up to what does not depend on V. Minimised by scoring with the expected information (ρV/(1 + ρV))² XᵀX: as ρ → ∞ this is
gamma regression, the code length of the errors themselves; at the ρ of real steps what is small against the step's own
noise does not count, as it does not count in the bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 25
_HALVINGS = 12
_LIMIT = 60.0
_FAR = 2.0
"""The most that a weight moves in one step."""
_NEAR = 1e-5
"""What is left to be gained of f, in units of the information of a row, at which a fit is done."""


def fit(
    X: Tensor, y: Tensor, rho: Tensor, ridge: float, start: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Weights (G, p) of G regressions, X (G, R, p) with X[..., 0] = 1, y (G, R) ≥ 0, steps ρ (J,).

    ridge: of all weights but w_0, in units of the information that a row has about log V where V is constant. start:
    weights to begin with; offset (G, R): added to X w.
    """
    X, y, rho = X.float(), y.double(), rho.double()  # float32 where the work is: products of rows
    G, R, p = X.shape
    mean = y.mean(1).clamp_min(1e-300)
    known = (rho * mean[:, None] / (1 + rho * mean[:, None])).square().mean(1)  # (G,)
    penalty = ridge * known[:, None] * torch.ones(p, dtype=torch.float64)
    penalty[:, 0] = 0.0
    if start is None:
        start = torch.zeros(G, p, dtype=torch.float64)
        start[:, 0] = mean.log()
    least = (1e-6 * known + 1e-30)[:, None, None] * torch.eye(p, dtype=torch.float64)
    w, (value, V) = start, _value(X, y, rho, penalty, start, offset)
    for _ in range(_STEPS):
        slope, information = _derivatives(y, rho, V)
        gradient = (X.mT @ slope.float()[..., None])[..., 0].double() / R + penalty * w
        curvature = ((X * information.float()[..., None]).mT @ X).double() / R + penalty.diag_embed() + least
        step = torch.linalg.solve(curvature, gradient)
        falls = (gradient * step).sum(1) > _NEAR * known  # what is left to be gained, twice
        if not bool(falls.any()):
            break
        size = _FAR / step.abs().amax(1, keepdim=True).clamp_min(_FAR)
        for _ in range(_HALVINGS):
            tried, tried_V = _value(X, y, rho, penalty, w - size * step, offset)
            worse = falls & ~(tried <= value)
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        better = (tried <= value)[:, None]
        w, value = torch.where(better, w - size * step, w), torch.where(better[:, 0], tried, value)
        V = torch.where(better, tried_V, V)
        if not bool((better[:, 0] & falls).any()):
            break
    return w


def cost(y: Tensor, V: Tensor, rho: Tensor) -> Tensor:
    """f without its penalty, less 1 and ρ y, for rows y, V (G, R): mean over rows and ρ, (G,). Half of it is a KL."""
    total = torch.zeros(len(y), dtype=torch.float64)
    for r in rho.double().tolist():
        x = r * V
        total += (r * (y - V) / (1 + x) + torch.log1p(x)).mean(1)
    return total / len(rho)


def _value(
    X: Tensor, y: Tensor, rho: Tensor, penalty: Tensor, w: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    eta = (X @ w.float()[..., None])[..., 0].double()
    V = (eta if offset is None else eta + offset).clamp_(-_LIMIT, _LIMIT).exp_()
    return cost(y, V, rho) + 0.5 * (penalty * w.square()).sum(1), V


def _derivatives(y: Tensor, rho: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Of f in log V: the slope and the expected second derivative, (G, R) each."""
    slope, information = torch.zeros_like(V), torch.zeros_like(V)
    for r in rho.tolist():
        share = r * V / (1 + r * V)
        slope += share * (r * (V - y) / (1 + r * V))
        information += share.square()
    return slope / len(rho), information / len(rho)
