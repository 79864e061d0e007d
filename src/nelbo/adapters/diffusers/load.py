"""`from_diffusers`: a pipeline, a folder, a model of the hub or a pair (network, scheduler) as a `DiffusionModel`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from nelbo.adapters.callable import from_callable
from nelbo.adapters.diffusers import extras, folder, network, pipeline, symbols, whole
from nelbo.adapters.diffusers.scheduler import chain
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.decoder import ContinuousGaussian, Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.latent.model import LatentModel
from nelbo.model.reverse import Variance
from nelbo.model.tokens.model import TokenModel
from nelbo.nets.diffusers import library
from nelbo.typing import Json, Shape


@numbers
def from_diffusers(
    source: Any,
    *,
    variance: str | Variance | None = None,
    decoder: str | Decoder | None = None,
    bins: int | Literal["auto"] | None = "auto",
    range: tuple[float, float] | None = None,
    clip: bool | tuple[float, float] | None = None,
    shape: Shape | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> DiffusionModel | LatentModel | TokenModel:
    """The model p_θ that is defined by a network and a scheduler of diffusers, with the autoencoder of a latent one.

    source: a pipeline; a folder that `save_pretrained` wrote; a model of the hub (`org/name`, with `subfolder`,
    `revision`, `local_files_only` as of `from_pretrained`); or a pair (network, scheduler). A pipeline or pair of
    VQ-Diffusion is a model of its codes, a `TokenModel`.

    The chain is all T levels of the scheduler's own table, rebuilt in float64 from its configuration, with its
    prediction_type, variance_type and clipping (DDPM's clip_sample is on by default); flow matching and EDM are laws
    with the continuous bound. The other arguments add or replace what the configuration does not determine.
    variance, decoder: as in `from_callable`. bins: of the data (256; None, or a density as decoder, for real values
    such as latents). range: that of the data ([−1, 1]). clip: False uses x̂ as it is predicted. shape: (C, H, W), if
    the network has no sample_size. subfolder, revision, local_files_only: as of diffusers' `from_pretrained`.

    A pipeline with an AutoencoderKL is a `LatentModel`: bins, range and decoder are then those of the images, and the
    decoder is their likelihood, `nelbo.latent.ScaledGaussian(0.1)` until `nelbo.latent.fit_likelihood` has fitted its
    scale; shape is that of the latents. bins=None is the chain over scaled latents alone.

    Class labels and other conditions go to `nelbo.evaluate(…, condition={"class_labels": labels})`.
    Errors: UsageError with the reason for a model that has no likelihood here (a latent model of another autoencoder,
    a distilled one); ModelFolderError for an incomplete folder or a model that the hub does not provide;
    UnknownNameError.
    Source: Ho et al. 2020; Nichol & Dhariwal 2021; Karras et al. 2022; Lipman et al. 2023.

    >>> import nelbo
    >>> from diffusers import DDPMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, 1, 1, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
    ...                   up_block_types=("UpBlock2D",) * 2)
    >>> model = nelbo.from_diffusers((net, DDPMScheduler(100)), bins=17)
    >>> model.steps, model.reverse.clip.high
    (100, 1.0)
    """
    if (found := symbols.parts_of(source)) is not None:
        return symbols.token_model(*found)
    if bins == "auto" and (decoder == "continuous_gaussian" or isinstance(decoder, ContinuousGaussian)):
        bins = None
    if bins is not None:
        hub: Json = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only}
        vae = whole.found(source, **hub)
        if vae is not None:
            prior = from_diffusers(source, bins=None, variance=variance, clip=clip, shape=shape, **hub)
            assert isinstance(prior, DiffusionModel)
            return whole.latent_model(vae, prior, decoder, 256 if bins == "auto" else bins, range)
    inner, name, config, facts, written = _resolved(source, bins is None, subfolder, revision, local_files_only)
    trained = chain(name, config)
    shape = network.shape_of(inner, shape)
    network.check_times(inner, trained.schedule)
    if bins == "auto" and network.is_latent(inner) and written is None:
        raise UsageError(
            f"the network has {inner.config['in_channels']} channels, like the latents of an autoencoder: codes of "
            "pixels make no sense there",
            "give bins=None to evaluate real-valued latents as a density, or bins=256 if the data are codes after all",
        )
    policy, adaptation = network.variance_of(inner.config, trained, variance)
    low, high = trained.range if range is None else range
    domain = DataDomain(shape, 256 if bins == "auto" else bins, float(low), float(high))
    model = from_callable(
        network.wrapped(inner, adaptation),
        schedule=trained.schedule,
        domain=domain,
        predicts=trained.predicts,
        time=trained.time,
        variance=policy,
        decoder=decoder,
        prior=trained.prior,
        clip=clip or False,
        sigma_data=trained.sigma_data,
    )
    inner.eval()
    if clip is None:
        model = dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, clip=trained.clip))
    origin = {
        **facts,
        "library": f"diffusers {library('this model').__version__}",
        "network": type(inner).__name__,
        "scheduler": name,
        "adaptation": trained.adaptation.to_config(),
    }
    model = dataclasses.replace(model, provenance={"diffusers": origin})
    if written is None:
        return model
    return extras.with_extras(
        model, written, keep_bins=bins == "auto", keep_decoder=decoder is None and variance is None
    )


def _resolved(
    source: Any, latents: bool, subfolder: str | None, revision: str | None, local_files_only: bool
) -> tuple[Any, str, Json, Json, Path | None]:
    """(network, scheduler class, its configuration, facts for the provenance, folder of nelbo.json)."""
    if isinstance(source, (str, Path)):
        path, place = Path(source), {"folder": Path(source).resolve().name}
        hub = not path.is_dir() and folder.is_hub_id(str(source))
        options: Json = {"subfolder": subfolder, "revision": revision, "local_files_only": local_files_only}
        if hub:
            path = folder.fetched(str(source), folder.DESCRIPTION, **options)
            place = {"hub": str(source), "commit": path.parent.name if subfolder else path.name}
        elif subfolder:
            path = path / subfolder
        name, config, facts = folder.described(path, latents)
        if hub:
            chain(name, config)  # refused before anything large is fetched
            path = folder.fetched_weights(str(source), path, **options)
        written = path if (path / extras.EXTRAS).exists() else None
        return folder.network_of(path), name, config, {**place, **facts}, written
    if isinstance(source, (tuple, list)) and len(source) == 2:
        return *_pair(*source), {"pipeline": None}, None
    parts, cls = pipeline.held(source), type(source).__name__
    place = pipeline.network(parts, f"the {cls}")
    if place is None or "scheduler" not in parts:
        raise UsageError(
            f"from_diffusers was given a {cls}",
            "give a pipeline with a scheduler and a unet or transformer, a folder, org/name, or (network, scheduler)",
        )
    if not latents:
        pipeline.check_latent(cls, parts)
    return *_pair(getattr(source, place), getattr(source, "scheduler")), {"pipeline": cls}, None  # noqa: B009


def _pair(net: Any, scheduler: Any) -> tuple[Any, str, Json]:
    net = network.bare(net)
    for part, what in ((net, "network"), (scheduler, "scheduler")):
        if not hasattr(part, "config"):
            raise UsageError(
                f"from_diffusers was given a {type(part).__name__} as {what}, which has no config",
                "give diffusers' objects as (network, scheduler); any other network goes to nelbo.from_callable",
            )
    return net, type(scheduler).__name__, dict(scheduler.config)
