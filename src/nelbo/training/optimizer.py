"""The optimiser of a run, AdamW or Muon (for the inner layers, with AdamW for the rest), and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import UsageError
from nelbo.model.latent.model import LatentNetworks
from nelbo.training.config import Optimizer, TrainConfig


def make_optimizer(net: nn.Module, criterion: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Muon for the parameters of `net`, a denoiser, and of the criterion.

    Matrices decay; biases, norms, tables of biases and the criterion's parameters do not. Muon updates the matrices of
    the network's inner layers, which its attribute `hidden` names; AdamW updates those of the first and last layers.
    Errors: UsageError for Muon where the network does not name its inner layers.
    """
    hidden: tuple[str, ...] = ()
    if settings.optimizer is Optimizer.MUON:
        hidden = inner_layers(net)
        if not hidden:
            raise UsageError(
                "optimizer = 'muon' for a network that does not name its inner layers",
                "use optimizer=adamw, or give the network an attribute `hidden`: the names of those modules",
            )
    inner, decayed, others = [], [], []
    for name, parameter in net.named_parameters():
        plain = parameter.ndim < 2 or name.endswith(("bias", "log_scale"))
        if plain or ".norms." in name:  # scale and shift may be one table
            others.append(parameter)
        else:
            (inner if name.startswith(hidden) else decayed).append(parameter)
    others += [p for p in criterion.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if hidden:
        group = {"params": inner, "weight_decay": settings.weight_decay, "orthogonal": True}
        return Muon([group, *groups], settings.lr)
    return torch.optim.AdamW(groups, settings.lr, fused=True)


def inner_layers(net: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names of the weights of inner layers, which the network of a denoiser names by its attribute
    `hidden`; of a latent model those of its three networks."""
    several = isinstance(net, LatentNetworks)
    parts = {f"{n}.": getattr(net, n) for n in ("encoder", "decoder", "prior")} if several else {"": net}
    named = {at: getattr(getattr(part, "net", None), "hidden", ()) for at, part in parts.items()}
    return tuple(f"{at}net.{name}." for at, names in named.items() for name in names)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps times a cosine from 1 to 0.01 over the run."""
    return min(1.0, (step + 1) / max(1, warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of p(s) = a s + b s³ + c s⁵, steep at 0: five rounds take singular values in [0.01, 1] to [0.7, 1.2]."""
_ROUNDS = 5
_RMS = 0.2
"""Root mean square of an element of an update, in learning rates: that of AdamW's (Liu et al. 2025, sec. 2.2)."""


class Muon(torch.optim.AdamW):
    """AdamW in which the groups with `orthogonal=True` take steps along an orthogonal matrix instead:

        M ← μ M + (1 − μ) G,   U = orthogonal((1 − μ) G + μ M),   W ← (1 − η decay) W − η 0.2 √max(r, c) U

    for a weight W of r outputs and c = all other axes, where orthogonal(U S Vᵀ) ≈ U Vᵀ (`orthogonal`). All directions
    of a matrix are learned at one rate, not only the few that dominate its gradient. K. Jordan et al. 2024, "Muon"; the
    scale 0.2 √max(r, c), which makes AdamW's learning rates fit, is of Liu et al. 2025 (arXiv 2502.16982).
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95):
        super().__init__([{"orthogonal": False, **group} for group in groups], lr, fused=True)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all groups, from the gradients that are there."""
        groups = self.param_groups
        for group in groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients: list[Tensor] = [p.grad for p in weights]  # type: ignore[misc]
        for p in weights:
            if "momentum" not in self.state[p]:  # AdamW expects a count in every state that it restores
                self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        momenta = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, momenta, self.momentum)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for indices in _by_shape(weights):  # matrices of one shape are made orthogonal together
            r, c = _matrix(weights[indices[0]]).shape
            updates = orthogonal(torch.stack([_matrix(ahead[i]) for i in indices]))
            for i, update in zip(indices, updates, strict=True):
                weights[i].sub_(update.reshape(weights[i].shape), alpha=group["lr"] * _RMS * max(r, c) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """(..., r, c) → the matrix with the same singular vectors and all singular values near 1.

    Five rounds of X ← Q X, Q = a + b S + c S², S = XXᵀ, which is p(s) = a s + b s³ + c s⁵ on the singular values, from
    X of Frobenius norm 1. All Q are polynomials of one S and commute, so that S ← Q S Q and the product of the Q need
    only matrices of the shorter side: less than half of the work. A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    X = matrices.mT if tall else matrices
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)  # any number below a gradient's norm
    S = X @ X.mT
    identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    product = identity
    for _ in range(_ROUNDS):
        Q = a * identity + b * S + c * (S @ S)
        product, S = Q @ product, Q @ S @ Q
    X = product @ X
    return X.mT if tall else X


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def _by_shape(weights: list[Tensor]) -> list[list[int]]:
    """Indices of weights, grouped by the shape of their matrices."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, weight in enumerate(weights):
        groups.setdefault((len(weight), weight[0].numel()), []).append(i)
    return list(groups.values())
