"""Draws of a latent model: z of its prior's chain, and then x of its likelihood."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from nelbo.maths.keys import Purpose
from nelbo.model.latent.model import LatentModel, clean
from nelbo.process.prediction import Prediction
from nelbo.sampling import draw
from nelbo.workers import Run

_AT_ONCE = 16
"""Images decoded at once where no batch size is given."""


def sample(model: LatentModel, n: int, run: Run, *, codes: bool = True, **how: Any) -> Tensor:
    """n draws (n, *shape): codes of p(x | z) where the domain has bins and `codes`, else the decoder's x̂. how: of the
    chain over z, as of `draw.sample`. Sample i depends on (seed, i) alone. Errors: those of `draw.sample`."""
    z = draw.sample(model.prior, n, run, **how)
    assert isinstance(z, Tensor)
    device = torch.device(run.device or "cpu")
    dtype = next((p.dtype for p in model.decoder.parameters()), torch.float64)
    moved = dataclasses.replace(model, decoder=model.decoder.in_precision(dtype, device))
    parts = []
    with torch.no_grad(), moved.decoder.inference():
        for rows in torch.arange(n).split(run.batch_size or _AT_ONCE):
            x0 = moved.decode(z[rows].to(device, torch.float64)).cpu()
            if codes and model.domain.discrete:
                u = Purpose.SAMPLE_CODE.uniform(run.seed, rows, shape=model.domain.shape)
                x0 = model.likelihood.draw(u, x0, clean(x0), Prediction(x0), model.domain)
            parts.append(x0 if model.domain.discrete else model.domain.original(x0))
    return torch.cat(parts)
