"""The scale of a latent model's likelihood, fitted to images."""

from __future__ import annotations

import dataclasses

import torch

from nelbo.errors import UnknownNameError
from nelbo.maths.keys import Purpose
from nelbo.model.examples import Examples
from nelbo.model.latent.likelihood import LIKELIHOODS, best_scale
from nelbo.model.latent.model import UNFITTED, LatentModel

_AT_ONCE = 64
"""Images encoded and decoded at once."""


def with_likelihood(model: LatentModel, data: Examples, kind: str, per_channel: bool, seed: int) -> LatentModel:
    """See `nelbo.latent.fit_likelihood`. Errors: UnknownNameError; those of a domain's data."""
    if kind not in [*LIKELIHOODS]:
        raise UnknownNameError.of("likelihood", kind, LIKELIHOODS)
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
    likelihood = best_scale(LIKELIHOODS[kind], torch.cat(targets), torch.cat(middles), domain, per_channel)
    provenance = {name: entry for name, entry in model.provenance.items() if name != UNFITTED}
    return dataclasses.replace(model, likelihood=likelihood, provenance=provenance)
