"""From images and settings to an untrained latent model."""

from __future__ import annotations

import torch

from nelbo.errors import UsageError
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.folder import make_denoiser
from nelbo.model.latent.encoder import GaussianEncoder, ImageDecoder
from nelbo.model.latent.likelihood import LIKELIHOODS
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Reverse, parse_variance
from nelbo.nets.autoencoder import build_half
from nelbo.nets.build import TOKEN_NETS, time_input
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Table
from nelbo.training.config import LatentConfig, TrainConfig
from nelbo.training.domain import classes_of
from nelbo.training.latent.networks import LatentInTraining
from nelbo.typing import Json, Shape

RANGE = (-20.0, 10.0)
"""Of the encoder's log variance; a standard deviation of 5e-5 is below the noise of every first level."""
START = 0.1
"""The scale of the likelihood before the first step, in halves of the range of codes or in standard deviations."""


def build_latent_model(examples: Examples, settings: TrainConfig, domain: DataDomain) -> LatentInTraining:
    """The latent model that `settings` describe for images of `domain`, with fresh weights keyed by the seed.

    Latents are in the prior's units from the start: the chain's prior N(0, I) keeps them there. Errors: UsageError
    where settings and data do not fit.
    """
    chosen = settings.latent
    assert chosen is not None
    shape = latent_shape(domain, chosen)
    schedule = schedules.named(settings.schedule.name, settings.schedule.model_dump())
    _check(settings, isinstance(schedule, Table))
    latents = DataDomain(shape)
    recipe: Json = {
        "name": settings.net.name,
        "settings": {**settings.net.settings, **classes_of(examples, settings)},
        "logsnr_max": settings.schedule.logsnr_max,
        "logsnr_min": settings.schedule.logsnr_min,
    }
    config: Json = {
        "kind": "network",
        "time": time_input(settings.net.name),
        "net": recipe,
        "output": settings.net.predicts,
    }
    half: Json = {
        "channels": None if len(domain.shape) == 2 else domain.shape[0],
        "latents": chosen.channels,
        "width": chosen.width,
        "blocks": chosen.blocks,
        "patch": chosen.patch,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = build_half("conv_encoder", {**half, "halvings": chosen.halvings})
        decoder = build_half("conv_decoder", {**half, "doublings": chosen.halvings})
        denoiser = make_denoiser(config, latents)
    prior = DiffusionModel(
        domain=latents,
        schedule=schedule,
        grid=grids.Continuous() if settings.levels is None else grids.Even(settings.levels),
        denoiser=denoiser,
        reverse=Reverse(parse_variance(settings.variance)),
        decoder=ContinuousGaussian(),
        prior=GaussianPrior(),
    )
    start = torch.full(
        (domain.shape[0], *(1,) * (len(domain.shape) - 1)) if chosen.per_channel else (),
        START * (0.5 * (domain.high - domain.low) if domain.discrete else 1.0),
        dtype=torch.float64,
    )
    return LatentInTraining(
        encoder=GaussianEncoder(encoder, range=RANGE),
        decoder=ImageDecoder(decoder),
        prior=prior,
        likelihood=LIKELIHOODS[chosen.likelihood](start),
        domain=domain,
    )


def latent_shape(domain: DataDomain, chosen: LatentConfig) -> Shape:
    """The shape of a latent of images of `domain`. Errors: UsageError for what is no image of fitting sides."""
    side = chosen.patch * 2**chosen.halvings
    if len(domain.shape) not in (2, 3) or any(n % side for n in domain.shape[-2:]):
        raise UsageError(
            f"latents with latent.patch = {chosen.patch} and latent.halvings = {chosen.halvings} of examples of shape "
            f"{domain.shape}",
            f"give images (H, W) or (C, H, W) whose sides are multiples of {side}, or set latent.patch and "
            "latent.halvings",
        )
    if chosen.per_channel and len(domain.shape) == 2:
        raise UsageError("latent.per_channel for images without channels", "leave it out, or give (C, H, W)")
    return (chosen.channels, *(n // side for n in domain.shape[-2:]))


def _check(settings: TrainConfig, table: bool) -> None:
    """Errors: UsageError where network, objective or schedule are not those of a latent model."""
    if settings.net.name in TOKEN_NETS or settings.net.head != "plain":
        raise UsageError(
            f"net.name = {settings.net.name!r} with a {settings.net.head} head over the latents of images",
            "latents are real numbers: use net=mlp or net=unet, and net.head=plain",
        )
    if settings.objective.name != "bound":
        raise UsageError(
            f"the objective {settings.objective.name!r} of a latent model, whose parts are trained for one bound",
            "use objective=bound",
        )
    if table or settings.schedule.name == "learned" or settings.variance.startswith("learned"):
        raise UsageError(
            f"the schedule {settings.schedule.name!r} and the variance {settings.variance!r} of a chain over latents",
            "it is trained in continuous time: use schedule=logsnr_linear and variance=beta_tilde",
        )
    if settings.decoder != "plain" or settings.clip:
        raise UsageError(
            f"decoder = {settings.decoder!r} and clip = {settings.clip} of a latent model",
            "these are of chains over codes: leave them out; latent.likelihood is that of the images",
        )
    if settings.compile:
        raise UsageError("compile = true of a latent model, which is three networks", "leave compile out")
    if settings.latent is not None and settings.latent.stages == 2 and settings.steps < 2:
        raise UsageError("latent.stages = 2 in one step", "give steps=2 or more")
