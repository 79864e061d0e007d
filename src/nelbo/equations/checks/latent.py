"""Group L: the bound of a latent model, its units and the width of an encoder. Oracle: a linear Gaussian model."""

from __future__ import annotations

import math

import numpy as np
import torch

from nelbo.equations.check import Checks, check
from nelbo.model.domain import DataDomain
from nelbo.model.exact import GaussianData
from nelbo.model.latent.encoder import DeterministicEncoder, GaussianEncoder, ImageDecoder, negative_entropy
from nelbo.model.latent.likelihood import ScaledGaussian
from nelbo.model.latent.model import LatentModel
from nelbo.model.latent.units import LatentUnits
from nelbo.process import every_grid, schedule

W, V, SIGMA = 0.8, 1.5, 0.4
"""x = W z + σ ε, z ~ N(0, V), one number each."""
PRECISION = 1 / V + W**2 / SIGMA**2
WRONG = 2.0
"""Of the encoder's variance, times that of the posterior."""


@check("latent-bound")
def _(c: Checks) -> None:
    data = GaussianData(torch.zeros(1), torch.full((1, 1), V))
    variance = WRONG / PRECISION
    model = LatentModel(
        GaussianEncoder(lambda x: torch.cat([W / SIGMA**2 / PRECISION * x, torch.full_like(x, math.log(variance))], 1)),
        ImageDecoder(lambda z: W * z),
        data.model(schedule.logsnr_linear(8.0, -8.0), every_grid.continuous()),
        ScaledGaussian(SIGMA),
        DataDomain((1,)),
    )
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    mean, std = model.encode(x)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)  # exact for what is quadratic in z
    pixels, latents = torch.zeros(len(x)).double(), torch.zeros(len(x)).double()
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        z = mean + std * node
        pixels += weight * model.pixels(x, z)
        latents -= weight * data.log_prob(z)  # the bound of z, the exact prior's chain losing nothing
    total = W**2 * V + SIGMA**2
    nll = (0.5 * (x.square() / total + math.log(2 * math.pi * total)))[:, 0]
    divergence = 0.5 * (WRONG - 1 - math.log(WRONG))
    encoder = negative_entropy(std, (1,))
    excess = pixels + encoder + latents - nll
    c.holds("nelbo's terms exceed −log p(x) by KL(q ‖ posterior)", excess - divergence, 1e-12)
    c.true("and are above it", bool((excess > 0).all()))
    c.must_fail("without the entropy of the encoder", excess - encoder - divergence, 0.3)
    c.must_fail("the prior at the encoder's mean alone", excess - latents - data.log_prob(mean) - divergence, 0.05)
    c.must_fail("the entropy with the other sign", excess - 2 * encoder - divergence, 0.3)


@check("latent-rescaling")
def _(c: Checks) -> None:
    s, b, D = 0.18215, 0.6, 12
    units = LatentUnits(s, b)
    z = torch.linspace(-4, 4, D, dtype=torch.float64).reshape(1, 3, 2, 2)
    std = torch.linspace(0.1, 2.0, D, dtype=torch.float64).reshape(1, 3, 2, 2)
    moved = float(negative_entropy(std, (3, 2, 2)) - negative_entropy(units.spread(std), (3, 2, 2)))
    c.holds("nelbo's entropy moves by D_z log s", moved - D * math.log(s), 1e-12)
    law = torch.distributions.Normal(torch.tensor(b).double(), 1 / s)
    standard = torch.distributions.Normal(0.0, 1.0)
    back = float(-law.log_prob(z).sum() + standard.log_prob(units.to_prior(z)).sum())
    c.holds("nelbo's z′ has a density that moves by −D_z log s", back + D * math.log(s), 1e-6)
    c.holds("nelbo's way back is the inverse", units.from_prior(units.to_prior(z)) - z, 1e-12)
    c.must_fail("the factor once for an image, not for every number", moved - math.log(s), 1.0)
    c.must_fail("the factor squared", moved - 2 * D * math.log(s), 1.0)
    c.must_fail("a shift that is scaled: s z − b", units.to_prior(z) - (s * z - b), 0.1)


@check("latent-width")
def _(c: Checks) -> None:
    D, a = 6, 40.0

    def cost(tau: float) -> float:
        encoder = DeterministicEncoder(torch.nn.Identity(), tau=tau)
        std = encoder(torch.zeros(1, D, dtype=torch.float64)).std
        return float(negative_entropy(std, (D,))) + 0.5 * a * tau**2

    best, step = math.sqrt(D / a), 1e-4
    slope = (cost(best + step) - cost(best - step)) / (2 * step)
    c.holds("the slope of nelbo's entropy and ½ a τ² is 0 at τ² = D_z/a", slope, 1e-4)
    c.true("wider and narrower cost more", cost(0.8 * best) > cost(best) < cost(1.25 * best))
    wrong = math.sqrt(1 / a)
    at_wrong = (cost(wrong + step) - cost(wrong - step)) / (2 * step)
    c.must_fail("τ² = 1/a", at_wrong, 1.0)
