"""The library's models that the checks run: short chains whose every expectation is one Gauss-Hermite sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.adapters.callable import from_callable
from nelbo.bound import terms
from nelbo.equations.oracles import nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.bumps import Bumps
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import MixtureData
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels
from nelbo.testing import at_noise


def affine(chain: AffineChain, variance: str = "beta", dimensions: int = 1) -> DiffusionModel:
    """The library's model of the reverse chain of `chain`: p(x | z_1) has variance β_1, the prior is N(0, I)."""
    scale, shift = (torch.tensor(v, dtype=torch.float64) for v in (chain.scale, chain.shift))

    def net(z: Tensor, i: Tensor) -> Tensor:
        return (scale[i][:, None] * z + shift[i][:, None]).to(z.dtype)

    return from_callable(
        net, schedule=schedules.from_betas(chain.table.betas), domain=DataDomain((dimensions,)), variance=variance
    )


def wavy(table: Ddpm, variance: str = "beta", amount: float = 0.15) -> DiffusionModel:
    """The optimal ε̂ for `Bumps` plus amount · sin(1.3 z + t) at step t: a network neither affine nor right."""
    schedule = schedules.from_betas(table.betas)
    data = Bumps().product()

    def net(z: Tensor, i: Tensor) -> Tensor:
        return wavy_eps(data, z.double(), schedule.at_index(i), amount).to(z.dtype)

    return from_callable(net, schedule=schedule, domain=DataDomain((1,)), variance=variance)


def wavy_eps(data: MixtureData, z: Tensor, t: Levels, amount: float = 0.15) -> Tensor:
    """ε̂ of `wavy` at z (B, 1): −σ ∇ log q(z) in closed form, plus the wave."""
    alpha, sigma = t.alpha[:, None, None], t.sigma[:, None, None]
    component = data.component_log_prob(z, alpha, sigma)
    variance = alpha[..., 0] ** 2 * data.covariances[:, 0, 0] + sigma[..., 0] ** 2
    score = (component.softmax(-1) * (alpha[..., 0] * data.means[:, 0] - z) / variance).sum(-1, keepdim=True)
    step = (t.index if t.index is not None else torch.zeros_like(t.t))[:, None] + 1.0
    return -sigma[..., 0] * score + amount * torch.sin(1.3 * z + step)


def level(model: DiffusionModel, j: int, n: int = 1) -> Levels:
    """Level z_j of the model's chain, j = 1 … L, for n examples."""
    return model.levels()[j - 1 : j].expand(n)


def diffusion(model: DiffusionModel, x: float, j: int, n: int = 60) -> float:
    """E KL(q(z_{j−1} | z_j, x) ‖ p_θ(z_{j−1} | z_j)) of one x in one dimension, by the library and n nodes."""
    return _mean(lambda v, e: at_noise.diffusion(model, v, e, level(model, j - 1, n), level(model, j, n)), x, n)


def reconstruction(model: DiffusionModel, x: float, n: int = 60) -> float:
    """E −log p(x | z_1) of one x, by the library and n nodes."""
    return _mean(lambda v, e: at_noise.reconstruction(model, v, v, e, level(model, 1, n)), x, n)


def prior(model: DiffusionModel, x: float) -> float:
    """KL(q(z_L | x) ‖ p(z_L)) of one x, by the library."""
    return float(terms.prior(model, torch.tensor([[x]], dtype=torch.float64), model.levels()[-1:]))


def bound(model: DiffusionModel, x: float, n: int = 60) -> float:
    """The whole bound of one x in nats: the library's three terms added."""
    chain = sum(diffusion(model, x, j, n) for j in range(2, len(model.levels()) + 1))
    return reconstruction(model, x, n) + chain + prior(model, x)


def _mean(term: Callable[[Tensor, Tensor], Tensor], x: float, n: int) -> float:
    eps, weights = nodes.normal(n)
    with torch.no_grad():
        return float(term(torch.full((n, 1), x, dtype=torch.float64), eps[:, None]) @ weights)
