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
from nelbo.training.batches import Places
from nelbo.typing import Condition


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
def simple_loss(
    model: DiffusionModel,
    target: Tensor,
    seed: int,
    step: int,
    places: Places | None = None,
    condition: Condition | None = None,
) -> Tensor:
    """L_simple: mean over the batch and its elements of (ε − ε̂)² at uniform t (low discrepancy); no bound.

    Source: Ho et al. 2020, eq. 14. The decoder is not trained, so the network must not be its own decoder. `places`:
    as of `bound_loss`.
    """
    places = places or Places.all(len(target))
    x, eps, unit = _batch(model, target, seed, step, places)
    schedule = model.schedule
    if isinstance(schedule, Table):
        levels = model.levels().to(device=target.device)
        t = levels[(unit * len(levels)).floor().long().clamp(max=len(levels) - 1)].to(dtype=torch.float32)
    else:
        t = schedule.at(unit).to(dtype=torch.float32)
    z = forward.noised(x, eps, t)
    prediction = model.predict(z, t, condition)
    return places.share * (eps - from_x0(Output.EPS, prediction.x0, z, t)).square().mean()


@equation("vdm-elbo", "sum-objective")
def bound_loss(
    model: DiffusionModel,
    target: Tensor,
    seed: int,
    step: int,
    reconstruction_share: float,
    places: Places | None = None,
    condition: Condition | None = None,
    report: bool = True,
) -> Loss:
    """A draw of the bound from the batch `target` (B, *shape); noise is keyed by (seed, step, place in the batch).

    places: which places of a larger batch `target` has; the losses of its parts then add up to that of the whole.
    condition: keywords of the network, a row an example. report: whether a reconstruction term that no weight of the
    network changes is wanted all the same; it costs a table of all codes, and is else left out (0).
    The network runs once on B + ⌈share · B⌉ inputs in its own precision. Scalars, differentiable.
    """
    domain, schedule = model.domain, model.schedule
    device = target.device
    places = places or Places.all(len(target))
    x, eps, unit = _batch(model, target, seed, step, places)
    target = target.long() if domain.discrete else target
    if isinstance(schedule, Table):
        levels = model.levels().to(device=device)
        count = len(levels) - 1
        j = (unit * count).floor().long().clamp(max=count - 1) + 1
        s, t = (levels[k].to(dtype=torch.float32) for k in (j - 1, j))
        diffusion = count * terms.diffusion(model, x, eps, s, t, condition)
    else:
        t = schedule.at(unit).to(dtype=torch.float32)
        diffusion = terms.diffusion_rate(model, x, eps, t, schedule.dlogsnr_dt(unit).float(), condition)
    first, last = model.levels()[:1].to(device=device), model.levels()[-1:].to(device=device)
    wanted = max(1, math.ceil(reconstruction_share * places.whole))
    some = places.below(wanted)
    reconstruction = x.new_zeros(1, dtype=torch.float64)
    if some and (report or model.decoder.calls_network):
        eps = random.normal(seed, places.slots[:some], step, 2, domain.shape, stream=random.Stream.BATCH, device=device)
        rows = None if condition is None else {k: v[:some] for k, v in condition.items()}
        reconstruction = terms.reconstruction(model, x[:some].double(), target[:some], eps, first.expand(some), rows)
    prior = terms.prior(model, x.double(), last)
    parts = ((diffusion, places.share), (reconstruction, some / wanted), (prior, places.share))
    return Loss(*(share * bits_per_dim(part.mean(), domain.dimensions) for part, share in parts))


def _batch(
    model: DiffusionModel, target: Tensor, seed: int, step: int, places: Places
) -> tuple[Tensor, Tensor, Tensor]:
    """x and ε (B, *shape) in float32 and low-discrepancy unit times (B,) in float64, keyed by (seed, step)."""
    domain, device, slots = model.domain, target.device, places.slots
    x = (domain.values(target) if domain.discrete else target).float()
    eps = random.normal(seed, slots, step, 0, domain.shape, stream=random.Stream.BATCH, device=device).float()
    u = random.uniform(seed, 0, step, 1, stream=random.Stream.BATCH, device=device)
    return x, eps, (u + slots.to(device) / places.whole) % 1
