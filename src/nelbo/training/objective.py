"""The training loss: an unbiased, low-variance draw of the bound itself, from one batch.

    loss = mean_i [ diffusion_i(t_i) ] + mean over a share of the batch [ reconstruction ] + prior      (bits/dim)

with t by low discrepancy: t_i = (u + i)/B mod 1 for one uniform u a batch, so that every batch sweeps the whole chain
(Kingma et al. 2021, app. I.1). On a law the diffusion term is the continuous one, so the loss does not depend on the
grid of the saved model; on a table it is the sum of the table's own KLs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.equation import equation
from nelbo.maths import random
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.prediction import Output, from_x0
from nelbo.process.schedule import Table


class Loss(NamedTuple):
    """The three terms of a batch in bits/dim; their sum is what is minimised."""

    diffusion: Tensor
    reconstruction: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """diffusion + reconstruction + prior."""
        return self.diffusion + self.reconstruction + self.prior


@equation("loss-simple", "loss-simple-reparam", "weighted-loss", "implied-weight-cosine")
def simple_loss(model: DiffusionModel, target: Tensor, seed: int, step: int) -> Tensor:
    """L_simple: mean over the batch and its elements of (ε − ε̂)² at uniform t (low discrepancy); no bound.

    Source: Ho et al. 2020, eq. 14. The decoder is not trained, so the network must not be its own decoder.
    """
    x, eps, unit = _batch(model, target, seed, step)
    schedule = model.schedule
    if isinstance(schedule, Table):
        levels = model.levels().to(device=target.device)
        t = levels[(unit * len(levels)).floor().long().clamp(max=len(levels) - 1)].to(dtype=torch.float32)
    else:
        t = schedule.at(unit).to(dtype=torch.float32)
    z = forward.noised(x, eps, t)
    prediction = model.predict(z, t)
    return (eps - from_x0(Output.EPS, prediction.x0, z, t)).square().mean()


@equation("vdm-elbo", "sum-objective")
def bound_loss(model: DiffusionModel, target: Tensor, seed: int, step: int, reconstruction_share: float) -> Loss:
    """A draw of the bound from the batch `target` (B, *shape); noise is keyed by (seed, step, place in the batch).

    The network runs once on B + ⌈share · B⌉ inputs in its own precision. Scalars, differentiable.
    """
    domain, schedule = model.domain, model.schedule
    device = target.device
    x, eps, unit = _batch(model, target, seed, step)
    target = target.long() if domain.discrete else target
    B = len(x)
    if isinstance(schedule, Table):
        levels = model.levels().to(device=device)
        count = len(levels) - 1
        j = (unit * count).floor().long().clamp(max=count - 1) + 1
        s, t = (levels[k].to(dtype=torch.float32) for k in (j - 1, j))
        diffusion = count * terms.diffusion(model, x, eps, s, t)
    else:
        t = schedule.at(unit).to(dtype=torch.float32)
        diffusion = terms.diffusion_rate(model, x, eps, t, schedule.dlogsnr_dt(unit).float())
    some = max(1, math.ceil(reconstruction_share * B))
    first, last = model.levels()[:1].to(device=device), model.levels()[-1:].to(device=device)
    eps = random.normal(seed, torch.arange(some), step, 2, domain.shape, stream=random.Stream.BATCH, device=device)
    reconstruction = terms.reconstruction(model, x[:some].double(), target[:some], eps, first.expand(some))
    prior = terms.prior(model, x.double(), last)
    return Loss(*(bits_per_dim(part.mean(), domain.dimensions) for part in (diffusion, reconstruction, prior)))


def _batch(model: DiffusionModel, target: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and ε (B, *shape) in float32 and low-discrepancy unit times (B,) in float64, keyed by (seed, step)."""
    domain, device, B = model.domain, target.device, len(target)
    x = (domain.values(target) if domain.discrete else target).float()
    slots = torch.arange(B)
    eps = random.normal(seed, slots, step, 0, domain.shape, stream=random.Stream.BATCH, device=device).float()
    u = random.uniform(seed, 0, step, 1, stream=random.Stream.BATCH, device=device)
    return x, eps, (u + slots.to(device) / B) % 1
