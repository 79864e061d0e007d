"""Small latent models of nelbo's own networks, with random weights."""

from __future__ import annotations

import torch

import nelbo
from nelbo.model import folder
from nelbo.nets.autoencoder import build_half
from nelbo.typing import Json

SHAPE = (1, 8, 8)
MLP = {"width": 8, "embedding": 4, "blocks": 1}
RECIPE: Json = {"name": "mlp", "settings": MLP, "logsnr_max": 5.0, "logsnr_min": -6.0}


def prior(shape: tuple[int, ...] = (2, 2, 2), continuous: bool = False) -> nelbo.DiffusionModel:
    domain = nelbo.DataDomain(shape)
    denoiser = folder.make_denoiser({"kind": "network", "output": "v", "time": "logsnr", "net": RECIPE}, domain)
    return nelbo.DiffusionModel(
        domain,
        nelbo.schedules.logsnr_linear(5.0, -6.0),
        nelbo.grids.continuous() if continuous else nelbo.grids.even(4),
        denoiser.eval(),
        nelbo.model.reverse.Reverse(nelbo.model.reverse.BetaTilde()),
        nelbo.decoders.ContinuousGaussian(),
        nelbo.model.prior.GaussianPrior(),
    )


def model(deterministic: bool = False, seed: int = 0) -> nelbo.LatentModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_half("conv_encoder", {"channels": 1, "latents": 2, "width": 8})
        decoder = build_half("conv_decoder", {"channels": 1, "latents": 4 if deterministic else 2, "width": 8})
        shape = (4, 2, 2) if deterministic else (2, 2, 2)
        if deterministic:
            made: nelbo.latent.Encoder = nelbo.latent.DeterministicEncoder(encoder, tau=0.25)
        else:
            made = nelbo.latent.GaussianEncoder(encoder, range=(-30.0, 20.0))
        return nelbo.LatentModel(
            made,
            nelbo.latent.ImageDecoder(decoder),
            prior(shape),
            nelbo.latent.ScaledLogistic(torch.tensor([0.2]).reshape(1, 1, 1)),
            nelbo.DataDomain(SHAPE, bins=16),
            nelbo.latent.LatentUnits(torch.tensor([0.5] * shape[0]).reshape(-1, 1, 1), 0.1),
            provenance={"seed": seed},
            trained_on=torch.arange(3),
        )
