"""What a latent model makes of images: x̂ at a draw of z, to which a likelihood is fitted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from nelbo.maths.keys import Purpose
from nelbo.model.decoder import Decoder
from nelbo.model.examples import Examples
from nelbo.model.latent.model import UNFITTED, LatentModel

_AT_ONCE = 64
"""Images encoded and decoded at once."""


def reconstructions(model: LatentModel, data: Examples, seed: int) -> tuple[Tensor, Tensor]:
    """Codes or values (N, *shape) and x̂ in float64, each at one draw of z. Errors: those of a domain's data."""
    checked, domain = model.domain.checked(data.data, release=data.release), model.domain
    targets, middles = [], []
    with torch.no_grad(), model.denoiser.inference():
        for rows in torch.arange(len(checked)).split(_AT_ONCE):
            some = checked[rows]
            data.release()
            mean, std = model.encode(domain.values(some))
            eta = Purpose.LATENT_FIT.normal(seed, rows, shape=model.latent_shape)
            middles.append(model.decode(mean.double() + std.double() * eta))
            targets.append(some.long() if domain.discrete else domain.values(some))
    return torch.cat(targets), torch.cat(middles)


def with_fitted(model: LatentModel, likelihood: Decoder) -> LatentModel:
    """The model with a likelihood that was fitted."""
    provenance = {name: entry for name, entry in model.provenance.items() if name != UNFITTED}
    return dataclasses.replace(model, likelihood=likelihood, provenance=provenance)
