"""Data whose denoiser, errors and entropy are known: Gaussian vectors, and images that are not white."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

import nelbo
from nelbo.maths import random
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import GaussianData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse, Variance
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

LAW = schedules.logsnr_linear(6.0, -8.0)
PLANE = GaussianData([0.5, -1.0, 0.2], [[2.0, 1.1, 0.1], [1.1, 0.7, -0.1], [0.1, -0.1, 0.3]])
SIDE = 8


@functools.cache
def texture() -> GaussianData:
    """Images (1, 8, 8) with correlations that fall with the distance, 0.85 between neighbours."""
    at = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1).reshape(-1, 2).double()
    return GaussianData(torch.zeros(SIDE**2), 0.25 * 0.85 ** torch.cdist(at, at) + 1e-3 * torch.eye(SIDE**2))


class AsImages(Denoiser):
    """A denoiser of vectors (D,), shown images."""

    def __init__(self, inner: Denoiser):
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor, t: Levels, condition=None) -> Prediction:
        return Prediction(self.inner(z.flatten(1), t).x0.reshape(z.shape))

    def describe(self):
        return {"images of": self.inner.describe()}


class Patches(Denoiser):
    """The exact denoiser of images whose four quarters are textures of their own contrast, 0.2 or 1.2, at random: the
    errors of a quarter depend on what the quarter looks like. Images (1, 16, 16)."""

    CONTRASTS = (0.2, 1.2)

    def __init__(self):
        super().__init__()
        self.laws = [GaussianData(texture().mean, c**2 * texture().covariance) for c in self.CONTRASTS]

    def forward(self, z: Tensor, t: Levels, condition=None) -> Prediction:
        B = len(z)
        q = quarters(z)  # (B, 4, 64)
        flat, each = q.reshape(4 * B, -1), t[torch.arange(B).repeat_interleave(4)]
        alpha, sigma = each.alpha[:, None], each.sigma[:, None]
        log_p, x0 = [], []
        for law in self.laws:
            y = (flat - alpha * law.mean) @ law._U
            v = alpha.square() * law._c + sigma.square()
            log_p.append(-0.5 * (y.square() / v + v.log()).sum(1))
            x0.append(law.denoiser()(flat, each).x0)
        weight = torch.stack(log_p).softmax(0)
        mean = sum(w[:, None] * x for w, x in zip(weight, x0, strict=True))
        return Prediction(whole(torch.as_tensor(mean).reshape(B, 4, -1)))


def quarters(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, SIDE, 2, SIDE).permute(0, 1, 3, 2, 4).reshape(len(x), 4, SIDE**2)


def whole(q: Tensor) -> Tensor:
    return q.reshape(-1, 2, 2, SIDE, SIDE).permute(0, 1, 3, 2, 4).reshape(-1, 1, 2 * SIDE, 2 * SIDE)


def patches(n: int, seed: int = 0) -> Tensor:
    """n images of `Patches`."""
    x = texture().sample(4 * n, seed)
    contrast = torch.tensor(Patches.CONTRASTS).double()
    which = (random.uniform(seed, torch.arange(4 * n), 9, 9, (1,), stream=random.Stream.SELECT) > 0.5).long()[:, 0]
    return whole((contrast[which][:, None] * x).reshape(n, 4, -1))


def image_model(denoiser: Denoiser, shape: tuple[int, ...], steps: int, variance: Variance | None = None):
    """An image model with N(0, I) at its end and N(z/α, σ²/α²) for a decoder."""
    return DiffusionModel(
        DataDomain(shape),
        LAW,
        grids.even(steps),
        denoiser,
        Reverse(variance or BetaTilde()),
        ContinuousGaussian(),
        GaussianPrior(),
    )


def texture_model(steps: int) -> DiffusionModel:
    return image_model(AsImages(texture().denoiser()), (1, SIDE, SIDE), steps)


def patch_model(steps: int) -> DiffusionModel:
    return image_model(Patches(), (1, 2 * SIDE, 2 * SIDE), steps)


def errors_of(data: GaussianData, at: Levels) -> Tensor:
    """Cov[x | z] at levels (N,) in the data's own directions, (N, D): c σ²/(α² c + σ²)."""
    alpha, sigma = at.alpha[:, None], at.sigma[:, None]
    return data._c * sigma.square() / (alpha.square() * data._c + sigma.square())


def diffusion_nats(model: DiffusionModel, x: Tensor, variance: Variance | None = None) -> Tensor:
    """The diffusion term of every example in nats, every step at its two keyed noises."""
    if variance is not None:
        model = dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, variance=variance))
    bound = nelbo.evaluate(model, x, estimator="exhaustive", per_example=True, seed=5)
    assert bound.per_example is not None
    return bound.per_example.diffusion
