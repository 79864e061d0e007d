"""Muon for the inner layers of a network, AdamW for all else: one optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of p(s) = a s + b s³ + c s⁵, steep at 0: five rounds take singular values in [0.01, 1] to [0.7, 1.2]."""
_ROUNDS = 5
_RMS = 0.2
"""Root mean square of an element of an update, in learning rates: that of AdamW's (Liu et al. 2025, sec. 2.2)."""


class Muon(torch.optim.AdamW):
    """AdamW in which the groups with `orthogonal=True` go where the whole matrix of momenta points:

        M ← μ M + (1 − μ) G,   U = orthogonal((1 − μ) G + μ M),   W ← (1 − η decay) W − η 0.2 √max(r, c) U

    for a weight W of r outputs and c = all other axes, where orthogonal(U S Vᵀ) ≈ U Vᵀ (`orthogonal`). All directions
    of a matrix are learned at one pace, not the few that dominate its gradient. K. Jordan et al. 2024, "Muon"; the
    scale 0.2 √max(r, c), which makes AdamW's learning rates fit, is of Liu et al. 2025 (arXiv 2502.16982).
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95):
        super().__init__([{"orthogonal": False, **group} for group in groups], lr, fused=True)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all groups, from the gradients that are there."""
        every = self.param_groups
        for group in every:
            if group["orthogonal"]:
                self._turn(group)
        self.param_groups = [group for group in every if not group["orthogonal"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = every

    def _turn(self, group: dict[str, Any]) -> None:
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients: list[Tensor] = [p.grad for p in weights]  # type: ignore[misc]
        for p in weights:
            if "momentum" not in self.state[p]:  # AdamW wants a count in whatever state it restores
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        momenta = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, momenta, self.momentum)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for places in _alike(weights):  # matrices of one shape are made orthogonal together
            r, c = _matrix(weights[places[0]]).shape
            turned = orthogonal(torch.stack([_matrix(ahead[i]) for i in places]))
            for i, update in zip(places, turned, strict=True):
                weights[i].sub_(update.reshape(weights[i].shape), alpha=group["lr"] * _RMS * max(r, c) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """(..., r, c) with singular values s → the same singular vectors, with values near 1 in the place of s.

    Five rounds of X ← Q X, Q = a + b S + c S², S = XXᵀ, which is p(s) = a s + b s³ + c s⁵ on the singular values, from
    X of Frobenius norm 1. All Q are polynomials of one S and commute, so that S ← Q S Q and the product of the Q need
    only matrices of the shorter side: less than half of the work. A matrix of zeros stays one.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    X = matrices.mT if tall else matrices
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    S = X @ X.mT
    one = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    product = one
    for _ in range(_ROUNDS):
        Q = a * one + b * S + c * (S @ S)
        product, S = Q @ product, Q @ S @ Q
    X = product @ X
    return X.mT if tall else X


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def _alike(weights: list[Tensor]) -> list[list[int]]:
    """Places of weights by the shape of their matrices."""
    places: dict[tuple[int, int], list[int]] = {}
    for i, weight in enumerate(weights):
        places.setdefault((len(weight), weight[0].numel()), []).append(i)
    return list(places.values())
