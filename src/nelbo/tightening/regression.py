"""Regressions of a variance on features, log V = X w, for squares of errors y.

By the cost of steps (`fit_cost`): a step with ρ = SNR(s) − SNR(t) whose error has the square y and whose policy says V
costs ½ (f − 1 − …) nats, where

    f(w) = mean over rows and over ρ of (1 + ρ y)/(1 + ρ V) + log(1 + ρ V).

By the likelihood of the errors (`fit_gamma`), which is the limit ρ → ∞:

    f(w) = mean over rows of y/V + log V        (a gamma regression; McCullagh & Nelder 1989, §8.3)

At the ρ of real steps an error that is small against the step's own noise does not count, as it does not count in the
bound. Both are minimised by Fisher scoring, with ridge penalties of all weights but w_0; steps are halved in the
regressions where they do not help. The gamma regression has a loop of its own: its expected information XᵀX does not
change from step to step and it computes in float64, so that it does not give the same last bits as `fit_cost` at a
large ρ.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 12
"""Most halvings of a step: at 1/4096 of it there is no progress to be made."""

# ---------------------------------------------------------------- by the cost of steps

_STEPS = 25
_LIMIT = 60.0
"""|log V| is clamped here, so that its exponential stays finite."""
_LONGEST = 2.0
"""The most that a weight may move in one step."""
_ENOUGH = 1e-5
"""A fit is done when the decrease of f that is left to be expected is below this, in units of a row's information."""


def fit_cost(
    X: Tensor, y: Tensor, rho: Tensor, ridge: float, start: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Weights (G, p) of G regressions by the cost of steps ρ (J,); X (G, R, p) with X[..., 0] = 1, y (G, R) ≥ 0.

    ridge: in units of the information that a row has about log V where V is constant. start: initial weights;
    offset (G, R): added to X w.
    """
    X, y, rho = X.float(), y.double(), rho.double()  # float32 for the products of rows, which take the time
    G, R, p = X.shape
    mean = y.mean(1).clamp_min(1e-300)
    row_information = (rho * mean[:, None] / (1 + rho * mean[:, None])).square().mean(1)  # (G,)
    penalty = ridge * row_information[:, None] * torch.ones(p, dtype=torch.float64)
    penalty[:, 0] = 0.0
    if start is None:
        start = torch.zeros(G, p, dtype=torch.float64)
        start[:, 0] = mean.log()
    least = (1e-6 * row_information + 1e-30)[:, None, None] * torch.eye(p, dtype=torch.float64)
    w, (value, V) = start, _cost_and_variance(X, y, rho, penalty, start, offset)
    for _ in range(_STEPS):
        slope, information = _derivatives(y, rho, V)
        gradient = (X.mT @ slope.float()[..., None])[..., 0].double() / R + penalty * w
        curvature = ((X * information.float()[..., None]).mT @ X).double() / R + penalty.diag_embed() + least
        step = torch.linalg.solve(curvature, gradient)
        active = (gradient * step).sum(1) > _ENOUGH * row_information  # twice the expected decrease
        if not bool(active.any()):
            break
        size = _LONGEST / step.abs().amax(1, keepdim=True).clamp_min(_LONGEST)
        for _ in range(_HALVINGS):
            new_value, new_V = _cost_and_variance(X, y, rho, penalty, w - size * step, offset)
            worse = active & ~(new_value <= value)
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        better = (new_value <= value)[:, None]
        w, value = torch.where(better, w - size * step, w), torch.where(better[:, 0], new_value, value)
        V = torch.where(better, new_V, V)
        if not bool((better[:, 0] & active).any()):
            break
    return w


def cost(y: Tensor, V: Tensor, rho: Tensor) -> Tensor:
    """f without its penalty, less 1 and ρ y, for y and V (G, R): mean over rows and ρ, (G,). Half of it is a KL."""
    total = torch.zeros(len(y), dtype=torch.float64)
    for r in rho.double().tolist():
        x = r * V
        total += (r * (y - V) / (1 + x) + torch.log1p(x)).mean(1)
    return total / len(rho)


def _cost_and_variance(
    X: Tensor, y: Tensor, rho: Tensor, penalty: Tensor, w: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    eta = (X @ w.float()[..., None])[..., 0].double()
    V = (eta if offset is None else eta + offset).clamp_(-_LIMIT, _LIMIT).exp_()
    return cost(y, V, rho) + 0.5 * (penalty * w.square()).sum(1), V


def _derivatives(y: Tensor, rho: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Of f in log V: the slope and the expected second derivative (ρV/(1 + ρV))², (G, R) each."""
    slope, information = torch.zeros_like(V), torch.zeros_like(V)
    for r in rho.tolist():
        share = r * V / (1 + r * V)
        slope += share * (r * (V - y) / (1 + r * V))
        information += share.square()
    return slope / len(rho), information / len(rho)


# ---------------------------------------------------------------- by the likelihood of the errors

_GAMMA_STEPS = 40
_GAMMA_LIMIT = 40.0
"""|log V| is clamped here, so that its exponential stays finite."""


def fit_gamma(X: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Weights (G, p) of G gamma regressions, X (G, R, p) with X[..., 0] = 1, y (G, R) ≥ 0; a convex problem."""
    X, y = X.double(), y.double()
    G, R, p = X.shape
    penalty = torch.full((p,), float(ridge), dtype=torch.float64, device=X.device)
    penalty[0] = 0.0
    information = torch.linalg.cholesky(X.mT @ X / R + (penalty + 1e-10).diag())
    w = torch.zeros(G, p, dtype=torch.float64, device=X.device)
    w[:, 0] = y.mean(1).clamp_min(1e-300).log()
    value, ratio = _gamma_value(X, y, w, penalty)
    for _ in range(_GAMMA_STEPS):
        gradient = (X.mT @ (1 - ratio)[..., None] / R)[..., 0] + penalty * w
        step = torch.cholesky_solve(gradient[..., None], information)[..., 0]
        size = torch.ones(G, 1, dtype=torch.float64, device=X.device)
        before = value
        for _ in range(_HALVINGS):
            new_value, new_ratio = _gamma_value(X, y, w - size * step, penalty)
            worse = new_value > value + 1e-12
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        better = (new_value <= value)[:, None]
        w, value = torch.where(better, w - size * step, w), torch.minimum(new_value, value)
        ratio = torch.where(better, new_ratio, ratio)
        if float((before - value).max()) < 1e-8:
            break
    return w


def _gamma_value(X: Tensor, y: Tensor, w: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """f with its penalty, (G,), and y/V, (G, R)."""
    eta = (X @ w[..., None])[..., 0].clamp(-_GAMMA_LIMIT, _GAMMA_LIMIT)
    ratio = y * (-eta).exp()
    return (ratio + eta).mean(1) + 0.5 * (penalty * w.square()).sum(1), ratio
