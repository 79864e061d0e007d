"""The terms of the unified chain's bound, each for a batch of examples and predictions, in nats an example.

    bound = −E log p(x | z_1)  +  Σ_{j=2..L} E KL(q(z_{j−1} | z_j, x) ‖ p_θ(z_{j−1} | z_j))  +  KL(q(z_L | x) ‖ p(z_L))
             reconstruction        diffusion, one a step                                        prior

and, where the grid is continuous, the sum becomes ∫ ½ (−dλ/dt) E‖ε − ε̂‖² dt (Kingma et al. 2021, eq. 17 and app. E).
DDPM and VDM are both this chain: they differ in which level is the first and whether the decoder calls the network.
The caller draws z_t = α_t x + σ_t ε (`forward.noised`) and asks the network (`model.predict`); estimators choose ε.
"""

from __future__ import annotations

from torch import Tensor

from nelbo.equation import equation
from nelbo.maths import tiles
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction


@equation("loss-term-prior", "vdm-prior", "prior-term-constant")
def prior(model: DiffusionModel, x: Tensor, last: Levels) -> Tensor:
    """KL(q(z_L | x) ‖ p(z_L)), (B,); exact and free of network and noise. x (B, …) values, `last` (B,) or (1,)."""
    return model.prior.kl(x, last.expand(len(x)))


@equation("loss-term-denoise", "vdm-denoising-matching", "snr-discrete-loss")
def diffusion(model: DiffusionModel, x: Tensor, prediction: Prediction, s: Levels, t: Levels) -> Tensor:
    """KL(q(z_s | z_t, x) ‖ p_θ(z_s | z_t)) for the prediction at z_t, (B,)."""
    return model.reverse.kl_sum(x, prediction, s, t)


@equation("snr-continuous-limit", "time-derivative-kl")
def diffusion_rate(x: Tensor, prediction: Prediction, t: Levels, dlogsnr_dt: Tensor) -> Tensor:
    """½ (−dλ/dt) ‖ε − ε̂‖² for the prediction at z_t, (B,) nats per unit time.

    The limit of `diffusion` on ever finer grids, for both β and β̃: ‖ε − ε̂‖² = SNR(t) ‖x − x̂‖².
    """
    distance = tiles.squared_norm(x, prediction.x0)
    return -0.5 * dlogsnr_dt * (t.alpha / t.sigma).square() * distance


@equation("loss-term-recon", "vdm-reconstruction")
def reconstruction(
    model: DiffusionModel, target: Tensor, z: Tensor, prediction: Prediction | None, first: Levels
) -> Tensor:
    """−log p(x | z_1), (B,). target: the codes of x where the domain has bins, else x itself; prediction: that at z_1,
    None where the decoder does not call the network."""
    nats = model.decoder.nll(target, z, first, prediction, model.domain)
    # the decoder's density is that of standardised data
    return nats if model.domain.scale is None else nats + model.domain.log_volume
