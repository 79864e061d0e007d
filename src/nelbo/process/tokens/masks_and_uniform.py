"""Masks and uniform noise together: a symbol stays, becomes any other, or becomes the mask, which stays.

    q(z_t | x) = (α_t + β_t) at z_t = x,   β_t at each other symbol,   γ_t at the mask,      K β_t = 1 − α_t − γ_t

(Gu et al. 2022, "Vector quantized diffusion", eq. 7-8.) The mask is the last of the V = K + 1 symbols; no x is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nelbo.errors import DomainError
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.levels import TokenLevels, cells


@dataclass(frozen=True, eq=False)
class MasksAndUniform(Kernel, kind="masks_and_uniform"):
    """See the module. masked (T,): γ_1 ≤ … ≤ γ_T of the levels of a table of survivals α, with α_t + γ_t ≤ 1."""

    masked: Tensor

    def __post_init__(self):
        gamma = torch.as_tensor(self.masked, dtype=torch.float64)
        inside = gamma.ndim == 1 and len(gamma) > 0 and bool(((gamma >= 0) & (gamma < 1)).all())
        if not inside or bool((gamma.diff() < 0).any()):
            raise DomainError(
                f"probabilities of the mask of shape {tuple(gamma.shape)}", "give (T,) rising numbers in [0, 1)"
            )
        object.__setattr__(self, "masked", gamma)

    def _gamma(self, at: TokenLevels) -> Tensor:
        table = torch.cat([torch.zeros(1, dtype=torch.float64), self.masked]).to(at.t.device)
        return table[(at.t * len(self.masked)).round().long()]

    def likelihood(self, z: Tensor, at: TokenLevels, V: int) -> Tensor:
        return _into(z, cells(at.alpha), cells(self._gamma(at)), V)

    def marginal(self, w: Tensor, at: TokenLevels) -> Tensor:
        symbols, mask = w[..., :-1], w[..., -1:]
        alpha, gamma = cells(at.alpha), cells(self._gamma(at))
        whole = symbols.sum(-1, keepdim=True)
        other = (1 - alpha - gamma) / symbols.shape[-1]
        return torch.cat([alpha * symbols + other * whole, gamma * whole + mask], -1)

    def backward(self, z: Tensor, s: TokenLevels, t: TokenLevels, V: int) -> Tensor:
        kept = cells(t.alpha / s.alpha)
        masked = cells(1 - (1 - self._gamma(t)) / (1 - self._gamma(s)))
        return _into(z, kept, masked, V)


def _into(z: Tensor, alpha: Tensor, gamma: Tensor, V: int) -> Tensor:
    """P(z | y) of every y, (B, L, V), for survival α, the mask's γ, and (1 − α − γ)/(V − 1) of each symbol."""
    other = (1 - alpha - gamma) / (V - 1)
    symbol = alpha * one_hot(z, V) + other
    masked = (z == V - 1)[..., None]
    into = torch.where(masked, gamma, symbol)
    of_mask = torch.arange(V, device=z.device) == V - 1
    return torch.where(of_mask, masked.double(), into)
