"""The autoencoder of a latent pipeline: AutoencoderKL as an encoder, a decoder and the units of its latents.

    z′ = scaling_factor (z − shift_factor),      with statistics z′ = scaling_factor (z − latents_mean)/latents_std

as the pipelines of diffusers themselves scale them; the log variance is cut to [−30, 20] as its class does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from nelbo.adapters.diffusers import weights
from nelbo.adapters.diffusers.config import check_keys, defaults, typed
from nelbo.adapters.diffusers.folder import read
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model.latent.encoder import GaussianEncoder, ImageDecoder
from nelbo.model.latent.units import LatentUnits
from nelbo.nets.autoencoder import KLDecoder, KLEncoder
from nelbo.nets.diffusers import library
from nelbo.typing import Json, Shape

KL = "AutoencoderKL"
CUT = (-30.0, 20.0)


class Autoencoder(NamedTuple):
    """The two halves, the units that the chain over z is in, and the channels and size of images by those of z."""

    encoder: GaussianEncoder
    decoder: ImageDecoder
    units: LatentUnits
    channels: int
    factor: int
    name: str

    @classmethod
    def of(cls, vae: Any, name: str) -> Autoencoder:
        """From an AutoencoderKL; name: of the part in its pipeline. Errors: UsageError where images of other channels
        leave it than entered."""
        config = vae.config
        if config["in_channels"] != config["out_channels"]:
            raise UsageError(
                f"{name!r} takes images of {config['in_channels']} channels and returns {config['out_channels']}",
                "an autoencoder of a p(x) returns what it takes: wrap its halves for nelbo.LatentModel",
            )
        vae.eval()
        return cls(
            GaussianEncoder(KLEncoder(vae), range=CUT),
            ImageDecoder(KLDecoder(vae)),
            units_of(dict(config)),
            int(config["in_channels"]),
            2 ** (len(config["block_out_channels"]) - 1),
            name,
        )

    def image_shape(self, latent: Shape) -> Shape:
        """The shape of the images whose latents are of shape (C, h, w)."""
        return (self.channels, *(self.factor * side for side in latent[1:]))


def units_of(config: Json) -> LatentUnits:
    """The units of the latents by the configuration of the autoencoder."""
    scale, mean, std = (config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std"))
    factor = 1.0 if scale is None else float(scale)
    if mean is not None and std is not None:
        b, s = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (mean, std))
        return LatentUnits(factor / s, b)
    shift = config.get("shift_factor")
    return LatentUnits(factor, 0.0 if shift is None else float(shift))


def loaded(folder: Path) -> Any:
    """The AutoencoderKL of a folder with its weights, which are exactly those that its configuration asks for.

    Errors: ModelFolderError naming the file that is missing or wrong; UsageError for another class.
    """
    config = read(folder / "config.json")
    if config.get("_class_name") != KL:
        raise ModelFolderError(f"{folder / 'config.json'} is of a {config.get('_class_name')}", f"it must be {KL}")
    known = defaults(KL)
    check_keys(config, known, f"{folder / 'config.json'}")
    settings = typed({k: v for k, v in config.items() if k in known}, known, f"the autoencoder in {folder}")
    with torch.device("meta"):  # without memory, until it has the size of its weights
        expected = _made(settings, folder).state_dict()
    _, tensors = weights.fitting(expected, folder)
    vae = _made(settings, folder)
    vae.load_state_dict(tensors)
    return vae.eval()


def _made(settings: Json, folder: Path) -> Any:
    try:
        return library(f"the folder {folder}").AutoencoderKL.from_config(settings)
    except Exception as error:  # whatever the class raises
        raise ModelFolderError(
            f"{folder / 'config.json'} makes no {KL}: {str(error).strip()[:250]}",
            "it is incomplete or altered; copy the whole folder again",
        ) from None
