"""`tighten` of latent models: each part reaches what the closed form says, on images that nothing was fitted to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.model import folder
from tests.bound.latent import linear
from tests.model.latent import nets


def images(n: int) -> torch.Tensor:
    """Draws of the linear model itself."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64) * linear.PRIOR.sqrt()
    return z @ linear.W.T + linear.M + linear.SIGMA * torch.randn(n, 4, generator=generator, dtype=torch.float64)


@pytest.mark.slow
def test_scale_width_and_chain():
    """A scale and a τ that are far off come near the best ones of the closed form, and the certificate adds up."""
    encoder = nelbo.latent.DeterministicEncoder(linear.posterior_mean, tau=1.0)
    start = linear.model(encoder=encoder, over=linear.prior(nelbo.grids.even(64)))
    start = replace(start, likelihood=nelbo.latent.ScaledGaussian(1.5))
    x = images(240)
    with pytest.warns(UserWarning, match="does not say what it was trained on"):
        tight, certificate = nelbo.tighten(start, x, steps=12, progress=False)
    names = [stage.name for stage in certificate.stages]
    assert names[0] == "the model as it was" and [n[0] for n in names[1:]] == ["+"] * 3
    bits = [stage.bound.bits_per_dim for stage in certificate.stages]
    assert bits[1] < bits[0] - 0.3 and bits[2] < bits[1] - 0.1
    assert tight.steps == 12 and certificate.details["steps"] == 12
    # with Wᵀ W σ⁻² + Σ⁻¹ the curvature in τ, at the fitted σ
    sigma, tau = float(tight.likelihood.scale), tight.encoder.tau
    stiffness = float((linear.W.T @ linear.W).trace()) / sigma**2 + float((1 / linear.PRIOR).sum())
    assert tau == pytest.approx(math.sqrt(2 / stiffness), rel=0.25)
    residual = x - linear.M - linear.posterior_mean(x) @ linear.W.T
    spread = tau**2 * float((linear.W.T @ linear.W).trace()) / 4
    assert sigma == pytest.approx(math.sqrt(float(residual.square().mean()) + spread), rel=0.1)
    assert np.isfinite(certificate.gain[0]) and certificate.gain[0] > 4 * certificate.gain[1]
    with pytest.raises(UsageError, match="first_level='own' of a latent model"):
        nelbo.tighten(start, x, steps=4, first_level="own")


@pytest.mark.slow
def test_a_tightened_folder_is_one_of_a_latent_model(tmp_path):
    """Written with its certificate, and loaded as the same model."""
    model = replace(nets.model(), trained_on=None, prior=nets.prior())
    model = model.with_grid(nelbo.grids.even(24))
    x = torch.randint(0, 16, (60, *nets.SHAPE), generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning):
        tight, certificate = nelbo.tighten(model, x, steps=6, out=tmp_path / "tight", progress=False)
    loaded = nelbo.load(tmp_path / "tight")
    assert isinstance(loaded, nelbo.LatentModel) and loaded.fingerprint() == tight.fingerprint()
    # codes at random about a network of no use: their histogram, which is a part of this form, is what can be learned
    assert [stage.name for stage in certificate.stages][1] == "+ likelihood that reads the codes before it"
    assert loaded.likelihood.kind == "of_clipped" and tight.likelihood.inner.log_histogram.shape == (16,)
    assert certificate.details["bits_per_dim"]["after"] < certificate.details["bits_per_dim"]["before"]
    assert (tmp_path / "tight" / "certificate.json").exists() and folder.read_description(tmp_path / "tight")
