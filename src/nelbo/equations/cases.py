"""Tractable cases that checks share: a short chain in the library's own letters, and the data it starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nelbo.equations.oracles.noisy_mixture import NoisyMixture
from nelbo.model.exact.mixture import MixtureData
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path

BETAS = (0.1, 0.2, 0.3, 0.35)
"""Four steps, large enough that every misprint shows."""

WEIGHTS, MEANS, VARIANCES = (0.55, 0.45), (-1.1, 1.0), (0.15, 0.25)


def chain(betas: Sequence[float] = BETAS) -> Levels:
    """Levels 0 … T of a table of betas as the library makes it, (T + 1,): level 0 is the data, λ = ∞."""
    schedule = schedules.from_betas(betas)
    noisy = schedule.at_index(torch.arange(len(betas)))
    return Levels(
        torch.cat([torch.zeros(1, dtype=torch.float64), noisy.t]),
        torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), noisy.logsnr]),
        noisy.path,
    )


def level(logsnr: float | np.ndarray, path: Path = Path.VP, n: int = 1) -> Levels:
    """One level of a path at a log-SNR, repeated for n examples; its time has no meaning."""
    return Levels(torch.full((n,), 0.5, dtype=torch.float64), tensor(logsnr).expand(n), path)


def alpha_bars(betas: Sequence[float] = BETAS) -> np.ndarray:
    """ᾱ_0 = 1, ᾱ_1, …, ᾱ_T by the plain product, (T + 1,)."""
    return np.concatenate([[1.0], np.cumprod(1 - np.asarray(betas))])


def mixture() -> tuple[NoisyMixture, MixtureData]:
    """Two well-separated components in one dimension: the oracle's, and the library's."""
    oracle = NoisyMixture.of(WEIGHTS, MEANS, VARIANCES)
    return oracle, MixtureData(tensor(WEIGHTS), tensor(MEANS)[:, None], tensor(VARIANCES)[:, None, None])


def tensor(values) -> Tensor:
    """Float64."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def generator(seed: int) -> np.random.Generator:
    """The generator of a check that samples; seeds are fixed, so that a check always sees the same noise."""
    return np.random.default_rng(20_240 + seed)
