"""The network's law of the symbols of a place, guided where that is asked for, and draws from laws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.errors import NumericalError
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens.levels import TokenLevels
from nelbo.sampling.guidance import Guidance
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Laws:
    """A model with rows of its condition, and its guidance: log p ∝ log p_null + w (log p_condition − log p_null),
    normalised; two evaluations. Source: Nisonoff et al. 2024, "Unlocking guidance for discrete state-space diffusion".
    """

    model: TokenModel
    condition: Condition
    guidance: Guidance | None

    def at(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, places: Tensor) -> Tensor:
        """log probabilities (m, V) float64 at the m places of `places` (B, L). Errors: NumericalError."""
        log_p = self.model.law_at(z, hidden, at, places, self.condition)
        if self.guidance is not None:
            null = {k: v.to(z.device).expand(len(z), *v.shape) for k, v in self.guidance.null.items()}
            free = self.model.law_at(z, hidden, at, places, null)
            both = free.isneginf() | log_p.isneginf()
            log_p = (free + self.guidance.scale * (log_p - free)).masked_fill(both, -torch.inf).log_softmax(-1)
        if bool(log_p.isnan().any()):
            raise NumericalError(
                "the network gives nan as the probability of a symbol",
                "evaluate the model first: nelbo evaluate names the place",
            )
        return log_p


def drawn(p: Tensor, u: Tensor) -> Tensor:
    """The symbol (…) at which the distribution function of p (…, V) passes u (…)."""
    cdf = p.cumsum(-1)
    return torch.searchsorted(cdf, u[..., None] * cdf[..., -1:])[..., 0].clamp(max=p.shape[-1] - 1)
