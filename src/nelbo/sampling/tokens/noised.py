"""Ancestral sampling of a chain over symbols without a mask: z_T from the prior, then every step from p(z_s | z_t)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.model.tokens.reverse import SymbolPrior
from nelbo.process.tokens.levels import TokenLevels
from nelbo.sampling.tokens.laws import Laws, drawn


def prior_draw(prior: SymbolPrior, u: Tensor) -> Tensor:
    """z_T (B, L) by uniform u (B, L)."""
    p = prior.probabilities.to(u.device)
    return drawn(p.expand(*u.shape, -1), u)


def ancestral(
    laws: Laws, z: Tensor, free: Tensor, uniform: Callable[[int], Tensor], tick: Callable[[int], None]
) -> Tensor:
    """Draws (B, L) from z (B, L) at the last level, of its `free` places (B, L). uniform: numbers (B, L) of a step that
    ends at level j, 0 for the data."""
    model, (levels, kernel) = laws.model, laws.model.levels()
    levels = levels.to(z.device)
    hidden, everywhere = torch.zeros_like(free), torch.ones_like(free)
    for j in range(len(levels), 0, -1):
        t = levels[torch.full((len(z),), j - 1, device=z.device)]
        clean = TokenLevels.clean(len(z), z.device)
        s = levels[torch.full((len(z),), j - 2, device=z.device)] if j > 1 else clean
        log_p = laws.at(z, hidden, t, everywhere).reshape(*z.shape, -1)
        tick(len(z))
        z = torch.where(free, drawn(model.step(log_p, z, s, t, kernel), uniform(j - 1)), z)
    return z
