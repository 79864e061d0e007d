"""The terms of the unified chain's bound, each for a batch of examples at given noise, in nats an example.

    bound = −E log p(x | z_1)  +  Σ_{j=2..L} E KL(q(z_{j−1} | z_j, x) ‖ p_θ(z_{j−1} | z_j))  +  KL(q(z_L | x) ‖ p(z_L))
             reconstruction        diffusion, one a step                                        prior

and, where the grid is continuous, the sum becomes ∫ ½ (−dλ/dt) E‖ε − ε̂‖² dt (Kingma et al. 2021, eq. 17 and app. E).
DDPM and VDM are both this chain: they differ in which level is the first and whether the decoder calls the network.
Every function is deterministic in the noise ε that it is handed; estimators choose the noise.
"""

from __future__ import annotations

from torch import Tensor

from nelbo.equation import equation
from nelbo.maths import tiles
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition


@equation("loss-term-prior", "vdm-prior", "prior-term-constant")
def prior(model: DiffusionModel, x: Tensor, last: Levels) -> Tensor:
    """KL(q(z_L | x) ‖ p(z_L)), (B,); exact and free of network and noise. x (B, …) values, `last` (B,) or (1,)."""
    return model.prior.kl(x, last.expand(len(x)))


@equation("loss-term-denoise", "vdm-denoising-matching", "snr-discrete-loss")
def diffusion(
    model: DiffusionModel, x: Tensor, eps: Tensor, s: Levels, t: Levels, condition: Condition | None = None
) -> Tensor:
    """KL(q(z_s | z_t, x) ‖ p_θ(z_s | z_t)) at z_t = α_t x + σ_t ε, (B,); one network evaluation an example."""
    return diffusion_at(model, x, forward.noised(x, eps, t), s, t, condition)


def diffusion_at(
    model: DiffusionModel, x: Tensor, z: Tensor, s: Levels, t: Levels, condition: Condition | None = None
) -> Tensor:
    """`diffusion` at a z_t that is there already."""
    return diffusion_of(model, x, model.predict(z, t, condition), s, t)


def diffusion_of(model: DiffusionModel, x: Tensor, prediction: Prediction, s: Levels, t: Levels) -> Tensor:
    """`diffusion` of a prediction that is there already."""
    return model.reverse.kl_sum(x, prediction, s, t)


@equation("snr-continuous-limit", "time-derivative-kl")
def diffusion_rate(
    model: DiffusionModel, x: Tensor, eps: Tensor, t: Levels, dlogsnr_dt: Tensor, condition: Condition | None = None
) -> Tensor:
    """½ (−dλ/dt) ‖ε − ε̂‖² at z_t = α_t x + σ_t ε, (B,) nats per unit time; one network evaluation an example.

    The limit of `diffusion` on ever finer grids, for both β and β̃: ‖ε − ε̂‖² = SNR(t) ‖x − x̂‖².
    """
    return diffusion_rate_at(model, x, forward.noised(x, eps, t), t, dlogsnr_dt, condition)


def diffusion_rate_at(
    model: DiffusionModel, x: Tensor, z: Tensor, t: Levels, dlogsnr_dt: Tensor, condition: Condition | None = None
) -> Tensor:
    """`diffusion_rate` at a z_t that is there already."""
    return diffusion_rate_of(x, model.predict(z, t, condition), t, dlogsnr_dt)


def diffusion_rate_of(x: Tensor, prediction: Prediction, t: Levels, dlogsnr_dt: Tensor) -> Tensor:
    """`diffusion_rate` of a prediction that is there already."""
    distance = tiles.squared_norm(x, prediction.x0)
    return -0.5 * dlogsnr_dt * (t.alpha / t.sigma).square() * distance


@equation("loss-term-recon", "vdm-reconstruction")
def reconstruction(
    model: DiffusionModel, x: Tensor, target: Tensor, eps: Tensor, first: Levels, condition: Condition | None = None
) -> Tensor:
    """−log p(x | z_1) at z_1 = α_1 x + σ_1 ε, (B,). target: the codes of x where the domain has bins, else x itself."""
    return reconstruction_at(model, target, forward.noised(x, eps, first), first, condition)


def reconstruction_at(
    model: DiffusionModel, target: Tensor, z: Tensor, first: Levels, condition: Condition | None = None
) -> Tensor:
    """`reconstruction` at a z_1 that is there already."""
    prediction = model.predict(z, first, condition) if model.decoder.calls_network else None
    return reconstruction_of(model, target, z, prediction, first)


def reconstruction_of(
    model: DiffusionModel, target: Tensor, z: Tensor, prediction: Prediction | None, first: Levels
) -> Tensor:
    """`reconstruction` of a prediction that is there already (None where the decoder asks for none)."""
    nats = model.decoder.nll(target, z, first, prediction, model.domain)
    # the decoder's density is that of standardised data
    return nats if model.domain.scale is None else nats + model.domain.log_volume
