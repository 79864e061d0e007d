"""One step z_t → z_s of a chain over symbols: q(z_s | z_t, x), what a model makes of it, and their divergence.

    q(y | z, x = k) = q(z | z_s = y) q(z_s = y | k) / q(z | k)
    mixture     p(y | z) = Σ_k p(k | z) q(y | z, k)
    plug-in     p(y | z) ∝ q(z | z_s = y) Σ_k x̂_k q(z_s = y | k)

p(k | z) is the posterior of a place's symbol given all of z, and x̂ any law over symbols in the place of one: where it
is the posterior given z *without* that place (leave-one-out), both steps are the same. Shapes as in `kernel.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nelbo.equation import equation
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.levels import TokenLevels


@equation("token-leave-one-out")
def posterior_from_leave_one_out(log_p: Tensor, z: Tensor, at: TokenLevels, kernel: Kernel) -> Tensor:
    """log p(k | z) from log p(k | z without the place): p_i(k | z) ∝ p_i^loo(k) q(z_i | k)."""
    return (log_p + kernel.likelihood(z, at, log_p.shape[-1]).log()).log_softmax(-1)


def leave_one_out_from_posterior(log_p: Tensor, z: Tensor, at: TokenLevels, kernel: Kernel) -> Tensor:
    """The inverse of `posterior_from_leave_one_out`, where every symbol may have become z."""
    return (log_p - kernel.likelihood(z, at, log_p.shape[-1]).log()).log_softmax(-1)


@equation("token-posterior")
def true_step(x: Tensor, z: Tensor, s: TokenLevels, t: TokenLevels, kernel: Kernel, V: int) -> Tensor:
    """q(z_s | z_t = z, x), (B, L, V)."""
    return plug_in(one_hot(x, V).double(), z, s, t, kernel)


@equation("token-plug-in-step")
def plug_in(guess: Tensor, z: Tensor, s: TokenLevels, t: TokenLevels, kernel: Kernel) -> Tensor:
    """The plug-in step of x̂ = guess (B, L, V), (B, L, V)."""
    joint = kernel.backward(z, s, t, guess.shape[-1]) * kernel.marginal(guess, s)
    return joint / joint.sum(-1, keepdim=True)


@equation("token-mixture-step")
def mixture(posterior: Tensor, z: Tensor, s: TokenLevels, t: TokenLevels, kernel: Kernel) -> Tensor:
    """The mixture step of p(k | z) = posterior (B, L, V), (B, L, V). A symbol that cannot have become z has no part."""
    V = posterior.shape[-1]
    weight = _over(posterior, kernel.likelihood(z, t, V))
    step = kernel.backward(z, s, t, V) * kernel.marginal(weight, s)
    return step / step.sum(-1, keepdim=True)


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """Σ_y q log(q/p) of every place, (B, L); infinite where p lacks what q has."""
    return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1)


@equation("token-rate")
def rate_divergence(
    x: Tensor, law: Tensor, z: Tensor, at: TokenLevels, kernel: Kernel, *, plugged: bool = False
) -> Tensor:
    """What a step of length dτ costs over dτ, τ = −log α, as it goes to 0; (B, L):

        Σ_{y≠z} R[y, z] (a log(a/b) − a + b),    a = q(y | x)/q(z | x),
        b = Σ_k p(k | z) q(y | k)/q(z | k) for a mixture,  Σ_k x̂_k q(y | k) / Σ_k x̂_k q(z | k) for a plug-in,

    the divergence of the reversed chain's rates from the model's (Campbell et al. 2022, "A continuous time framework
    for discrete denoising models", prop. 2). law (B, L, V): p(k | z), or x̂ where `plugged`.
    """
    V = law.shape[-1]
    of_z = kernel.likelihood(z, at, V)
    here = of_z.gather(-1, x[..., None])
    a = kernel.marginal(one_hot(x, V).double(), at) / here
    if plugged:
        b = kernel.marginal(law, at) / (law * of_z).sum(-1, keepdim=True)
    else:
        b = kernel.marginal(_over(law, of_z), at)
    cost = torch.special.xlogy(a, a) - torch.special.xlogy(a, b) - a + b  # 0 at y = z, where a = b = 1
    return (kernel.rates(z, V) * cost).sum(-1)


def prior_divergence(x: Tensor, at: TokenLevels, kernel: Kernel, prior: Tensor) -> Tensor:
    """KL(q(z_T | x) ‖ prior) of every place, (B, L), for the prior's law (V,) over symbols."""
    law = kernel.marginal(one_hot(x, len(prior)).double(), at)
    return divergence(law, prior.to(law.device))


def _over(law: Tensor, of_z: Tensor) -> Tensor:
    return torch.where(law > 0, law / of_z.clamp_min(torch.finfo(torch.float64).tiny), 0.0) * (of_z > 0)
