"""Rational-quadratic splines: maps of (0, 1) onto itself with the derivative that autograd finds."""

from __future__ import annotations

import torch

from nelbo.maths import random, spline


def test_spline():
    """T rises from 0 to 1, its slope is autograd's, and ∫ T′ = 1 by the midpoint rule; raw = 0 is the identity."""
    n, K = 4001, 5
    x = ((torch.arange(n) + 0.5) / n).double().requires_grad_()
    for raw in 2 * random.normal(3, torch.arange(6), 0, 0, (spline.parameters(K),)):
        y, log_slope = spline.rational_quadratic(x, raw.expand(n, -1))
        (slope,) = torch.autograd.grad(y.sum(), x)
        y, log_slope = y.detach(), log_slope.detach()
        assert float((slope.log() - log_slope).abs().max()) < 1e-9
        assert bool((y.diff() > 0).all()) and 0 < float(y[0]) < 0.05 and 0.95 < float(y[-1]) < 1
        assert abs(float(log_slope.exp().mean()) - 1) < 2e-3
    x = x.detach()
    y, log_slope = spline.rational_quadratic(x, torch.zeros(n, spline.parameters(K), dtype=torch.float64))
    assert float((y - x).abs().max()) < 1e-12 and float(log_slope.abs().max()) < 1e-12
