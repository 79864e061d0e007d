"""Whole latent pipelines: the AutoencoderKL beside a chain over its latents, as a `LatentModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nelbo.adapters.diffusers import autoencoder, folder, pipeline, weights
from nelbo.adapters.diffusers.autoencoder import KL, Autoencoder
from nelbo.errors import UsageError
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.latent.likelihood import ScaledGaussian
from nelbo.model.latent.model import UNFITTED, LatentModel

SCALE = 0.1
"""The likelihood's scale on [−1, 1] until it is fitted: 12.75 of 255 grey levels, about what photographs leave."""


def found(
    source: Any, *, subfolder: str | None = None, revision: str | None = None, local_files_only: bool = False
) -> Autoencoder | None:
    """The AutoencoderKL of a pipeline, a folder or a model of the hub; None where there is none.

    Errors: ModelFolderError naming the file that is missing or wrong; those of `folder.fetched`.
    """
    if isinstance(source, (tuple, list)):
        return None
    if not isinstance(source, (str, Path)):
        place = pipeline.autoencoder(pipeline.held(source))
        vae = None if place is None or place[1] != KL else getattr(source, place[0])
        return None if vae is None or place is None else Autoencoder.of(vae, place[0])
    path, options = Path(source), {"revision": revision, "local_files_only": local_files_only}
    hub = not path.is_dir() and folder.is_hub_id(str(source))
    if hub:
        path = folder.fetched(str(source), ("model_index.json",), subfolder=subfolder, **options)
    elif subfolder:
        path = path / subfolder
    place = pipeline.autoencoder(pipeline.listed(folder.optional(path / "model_index.json")))
    if place is None or place[1] != KL:
        return None
    if hub:
        patterns = (f"{place[0]}/config.json", f"{place[0]}/{weights.STEM}*.safetensors*")
        path = folder.fetched(str(source), patterns, subfolder=subfolder, **options)
    return Autoencoder.of(autoencoder.loaded(path / place[0]), place[0])


def latent_model(
    vae: Autoencoder,
    prior: DiffusionModel,
    likelihood: str | Decoder | None,
    bins: int,
    range: tuple[float, float] | None,
) -> LatentModel:
    """The model of images. Errors: UsageError for a likelihood that is a name."""
    if isinstance(likelihood, str):
        raise UsageError(
            f"decoder={likelihood!r} of a latent pipeline, whose images need a likelihood with a scale",
            "give the object: decoder=nelbo.latent.ScaledGaussian(scale) or ScaledLogistic(scale), or fit its scale "
            "with nelbo.latent.fit_likelihood",
        )
    low, high = (-1.0, 1.0) if range is None else range
    return LatentModel(
        encoder=vae.encoder,
        decoder=vae.decoder,
        prior=prior,
        likelihood=ScaledGaussian(SCALE) if likelihood is None else likelihood,
        domain=DataDomain(vae.image_shape(prior.domain.shape), bins, float(low), float(high)),
        units=vae.units,
        provenance={**prior.provenance, "autoencoder": vae.name, **({UNFITTED: True} if likelihood is None else {})},
    )
