"""Terms of the bound at a given noise ε: the noised example is made, the network asked, and the term taken.

Checks choose ε themselves, a node of a quadrature or the noise of another implementation; one evaluation an example.
"""

from __future__ import annotations

from torch import Tensor

from nelbo.bound import terms
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.typing import Condition


def diffusion(
    model: DiffusionModel, x: Tensor, eps: Tensor, s: Levels, t: Levels, condition: Condition | None = None
) -> Tensor:
    """`terms.diffusion` at z_t = α_t x + σ_t ε, (B,)."""
    return terms.diffusion(model, x, model.predict(forward.noised(x, eps, t), t, condition), s, t)


def diffusion_rate(
    model: DiffusionModel, x: Tensor, eps: Tensor, t: Levels, dlogsnr_dt: Tensor, condition: Condition | None = None
) -> Tensor:
    """`terms.diffusion_rate` at z_t = α_t x + σ_t ε, (B,)."""
    return terms.diffusion_rate(x, model.predict(forward.noised(x, eps, t), t, condition), t, dlogsnr_dt)


def reconstruction(
    model: DiffusionModel, x: Tensor, target: Tensor, eps: Tensor, first: Levels, condition: Condition | None = None
) -> Tensor:
    """`terms.reconstruction` at z_1 = α_1 x + σ_1 ε, (B,)."""
    z = forward.noised(x, eps, first)
    prediction = model.predict(z, first, condition) if model.decoder.calls_network else None
    return terms.reconstruction(model, target, z, prediction, first)
