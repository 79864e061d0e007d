"""A linear latent model, x = W z + m + σ ε with z ~ N(0, Σ), and its exact bound by dense matrices.

The exact encoder has a covariance without correlations, for Wᵀ W and Σ are diagonal. The prior's chain is finite, has
the exact denoiser and common ends, so that all terms are quadratic in the noise, and the cubature points ±√n e_k in the
place of normals average them to rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import nelbo
from nelbo.bound.estimators import Exhaustive
from nelbo.bound.latent import evaluate as latent
from nelbo.maths import random
from nelbo.model.latent.model import LatentModel
from nelbo.workers import Run

W = torch.tensor([[1.0, 0.4], [-0.5, 0.8], [0.2, 0.0], [0.0, 0.25]], dtype=torch.float64)
M = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
SIGMA = 0.35
PRIOR = torch.tensor([1.5, 0.4], dtype=torch.float64)
LAW = nelbo.schedules.logsnr_linear(7.0, -6.0)
DATA = nelbo.exact.GaussianData(torch.zeros(2), torch.diag(PRIOR))
X = torch.tensor([[0.5, 0.1, 0.0, 0.9], [-1.0, 0.3, -0.2, 0.4], [2.0, -1.5, 0.3, 0.2]], dtype=torch.float64)
assert abs(float((W.T @ W)[0, 1])) < 1e-12
POSTERIOR = 1 / (1 / PRIOR + (W.T @ W).diagonal() / SIGMA**2)
"""Variances of z given x; they are the same for all x."""
WRONG = torch.tensor([0.7, 1.6], dtype=torch.float64) * POSTERIOR


def prior(grid: nelbo.process.grid.Grid | None = None, network: float | None = None) -> nelbo.DiffusionModel:
    """The chain over z with common ends; network: the variance of a decoder that asks the network."""
    model = DATA.model(LAW, grid or nelbo.grids.even(5), exact_ends=False)
    return replace(model, decoder=nelbo.decoders.ContinuousGaussian(network))


def posterior_mean(x: Tensor) -> Tensor:
    return (x - M) @ W / SIGMA**2 * POSTERIOR


def model(
    variances: Tensor = POSTERIOR,
    shift: float = 0.0,
    over: nelbo.DiffusionModel | None = None,
    encoder: nelbo.latent.Encoder | None = None,
) -> LatentModel:
    """q(z | x) = N(posterior mean + shift, diag variances)."""

    def moments(x: Tensor) -> Tensor:
        mean = posterior_mean(x) + shift
        return torch.cat([mean, variances.log().expand_as(mean)], 1)

    return LatentModel(
        encoder or nelbo.latent.GaussianEncoder(moments),
        lambda z: z.double() @ W.T + M,
        prior() if over is None else over,
        nelbo.latent.ScaledGaussian(SIGMA),
        nelbo.DataDomain((4,)),
    )


def divergence(variances: Tensor, shift: float = 0.0) -> float:
    """KL(q(z | x) ‖ p(z | x)) in nats, the same for all x."""
    r = variances / POSTERIOR
    return float(0.5 * (r - 1 - r.log() + shift**2 / POSTERIOR).sum())


def chain(over: nelbo.DiffusionModel) -> tuple[np.ndarray, np.ndarray, float]:
    """(Q, l, c) of the bound zᵀ Q z + l·z + c of a fixed z under the prior's chain, averaged over its noise; plain
    loops over levels, KLs of Gaussians with the variance β̃."""
    logsnr = over.levels().logsnr.numpy()
    S, n = np.diag(PRIOR.numpy()), 2
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    Q, c = np.zeros((n, n)), 0.0

    def error(j: int) -> tuple[np.ndarray, float]:
        """‖z − ẑ(z_j)‖² = zᵀ A z + b on average."""
        B = alpha[j] * S @ np.linalg.inv(alpha[j] ** 2 * S + sigma[j] ** 2 * np.eye(n))
        K = np.eye(n) - alpha[j] * B
        return K.T @ K, sigma[j] ** 2 * float(np.trace(B.T @ B))

    for j in range(1, len(logsnr)):
        A, b = error(j)
        weight = 0.5 * (np.exp(logsnr[j - 1]) - np.exp(logsnr[j]))
        Q, c = Q + weight * A, c + weight * b
    v = over.decoder.variance
    if v is None:
        c += 0.5 * n * (1 + math.log(2 * math.pi) - logsnr[0])
    else:
        A, b = error(0)
        Q, c = Q + A / (2 * v), c + b / (2 * v) + 0.5 * n * math.log(2 * math.pi * v)
    a2, s2 = alpha[-1] ** 2, sigma[-1] ** 2
    Q, c = Q + 0.5 * a2 * np.eye(n), c + 0.5 * n * (s2 - 1 - math.log(s2))
    return Q, np.zeros(n), c


def gap(over: nelbo.DiffusionModel, x: Tensor, variances: Tensor, shift: float = 0.0) -> np.ndarray:
    """E_q[bound of z + log p(z)], (N,): what the chain over z loses."""
    Q, _, c = chain(over)
    G = Q - 0.5 * np.diag(1 / PRIOR.numpy())
    mean, v = (posterior_mean(x) + shift).numpy(), variances.numpy()
    log_z = 0.5 * float((2 * math.pi * PRIOR).log().sum())
    return np.einsum("ni,ij,nj->n", mean, G, mean) + float(np.diag(G) @ v) + c - log_z


def nll(x: Tensor) -> np.ndarray:
    """−log p(x), (N,)."""
    covariance = W @ torch.diag(PRIOR) @ W.T + SIGMA**2 * torch.eye(4, dtype=torch.float64)
    return -nelbo.exact.GaussianData(M, covariance).log_prob(x).numpy()


def cubature(seed, example, level, draw, shape, *, stream=random.Stream.FORWARD, dtype=torch.float64, device=None):
    """In the place of normals: draw k of 2n is ±√n e_{k mod n}."""
    n = math.prod(shape)
    draw = torch.as_tensor(draw).reshape(-1)
    points = torch.zeros(len(draw), n, dtype=dtype)
    points[torch.arange(len(draw)), draw % n] = math.sqrt(n) * (1 - 2 * ((draw // n) % 2)).to(dtype)
    return points.reshape(-1, *shape)


def exactly(monkeypatch, of: LatentModel, x: Tensor = X, **options):
    """The bound whose normals are cubature points."""
    monkeypatch.setattr(random, "normal", cubature)
    run = Run(precision="float64")
    return latent.evaluate(of, x, run, estimator=Exhaustive(4), per_example=True, **options)
