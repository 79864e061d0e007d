"""Weightings by hand, in their papers' letters, and read as noise added to the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nelbo.errors import UsageError
from nelbo.training.weighting import PEAK, EDMMonotone, Flat, MinSNR, Sigmoid, Weighting, augmentation_level

LAMBDA = torch.linspace(-9, 11, 201, dtype=torch.float64)
MONOTONE = [Flat(), Sigmoid(-1.0), Sigmoid(2.0), EDMMonotone()]


def edm(logsnr: np.ndarray) -> np.ndarray:
    """EDM's weight of ‖D − x‖² times the density of its noise levels times dσ/dλ and σ² (‖D − x‖² = σ²‖ε − ε̂‖²), by
    its own letters: σ = e^(−λ/2), ln σ ~ N(−1.2, 1.2²), weight (σ² + σ_d²)/(σ σ_d)²."""
    sigma, data = np.exp(-logsnr / 2), 0.5
    density = np.exp(-0.5 * ((np.log(sigma) + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    return density * 0.5 * (sigma**2 + data**2) / (sigma * data) ** 2 * sigma**2


def test_by_hand() -> None:
    lam = LAMBDA.numpy()
    np.testing.assert_allclose(Sigmoid(1.5)(LAMBDA), 1 / (1 + np.exp(lam - 1.5)), rtol=1e-13)
    snr = np.exp(lam)
    np.testing.assert_allclose(MinSNR(5.0)(LAMBDA), np.minimum(snr, 5) / snr, rtol=1e-13)
    raw = edm(lam)
    top = edm(np.linspace(-8, 8, 400_001)).max()
    held = np.maximum.accumulate(raw[::-1])[::-1]  # the largest at λ or above
    held[lam < PEAK] = top
    np.testing.assert_allclose(EDMMonotone()(LAMBDA), held / top, rtol=1e-9)


def test_monotone() -> None:
    """w falls, and is between 0 and 1."""
    for w in MONOTONE:
        value = w(LAMBDA)
        assert w.monotone and bool((value.diff() <= 1e-15).all())
        assert float(value.max()) <= 1 and float(value.min()) >= 0


def test_read_as_noise_added_to_the_data() -> None:
    """L_w + w(λ_min) L(1) = w(λ_min) E L(t_u), for a rate r(λ) with a known integral: u on a fine even grid."""
    high, low, last = 6.0, -5.0, 0.3

    def remaining(logsnr: torch.Tensor) -> torch.Tensor:
        """L at a level: ∫ of the rate r = 1/cosh² from λ_min to λ, and the prior term."""
        return logsnr.tanh() - math.tanh(low) + last

    lam = torch.linspace(low, high, 200_001, dtype=torch.float64)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for w in MONOTONE:
        weighted = torch.trapezoid(w(lam) / lam.cosh().square(), lam)
        bottom = w(torch.tensor([low], dtype=torch.float64))
        mixture = bottom * remaining(augmentation_level(w, u, high, low)).mean()
        assert abs(float(weighted + bottom * last - mixture)) < 2e-4, w
    clean = augmentation_level(Flat(), torch.rand(50), high, low)
    assert bool((clean == high).all())  # the bound itself: nothing is added


def test_only_monotone_weightings_are_mixtures():
    with pytest.raises(UsageError, match="falls in log-SNR"):
        augmentation_level(MinSNR(), torch.rand(3), 6.0, -5.0)


@pytest.mark.parametrize("make", [lambda: Sigmoid(math.nan), lambda: MinSNR(0.0), lambda: MinSNR(math.inf)])
def test_refusals(make):
    with pytest.raises(UsageError):
        make()


def test_every_weighting_is_here():
    assert {type(w) for w in MONOTONE} | {MinSNR} == set(Weighting.__subclasses__())
