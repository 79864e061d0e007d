"""What a step of training minimises of a latent model: a draw of its bound, in bits/dim of the images.

    E_q(z|x)[−log p(x | z)] − H[q(z | x)] + E_q(z|x)[prior + diffusion(t)/p(t) + reconstruction of z]
    pixels                    encoder

The likelihood's term is taken at one draw of z; all others are averaged over q(z | x) in closed form given z_t, so that
encoder and chain share one time and one normal an element (`forward.noised_spread`). In the first of two stages the
chain is that of an ideal N(0, I), whose bound is E[−log N(z; 0, I)]; in the second encoder and decoder stay.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.equation import equation
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.latent.encoder import negative_entropy, normal_cross_entropy
from nelbo.process import forward
from nelbo.training.batches import Batch, BatchPart
from nelbo.training.latent.networks import LatentInTraining
from nelbo.training.objective import Losses
from nelbo.training.times import TimeSampler
from nelbo.typing import Condition


class NoisedLatents(NamedTuple):
    """A batch with its random numbers: x (b, *shape) in float32, the data that the likelihood scores, η and ε
    (b, *latent), unit times (b,) and their 1/p, all keyed by (seed, step, position)."""

    x: Tensor
    target: Tensor
    eta: Tensor
    eps: Tensor
    unit: Tensor
    weight: Tensor
    step: int
    part: BatchPart
    condition: Condition | None
    report: bool

    @classmethod
    def draw(cls, model: LatentInTraining, batch: Batch, times: TimeSampler | None = None) -> NoisedLatents:
        """`batch` at times drawn by `times`, of low discrepancy where that is None."""
        domain, device, seed, step = model.domain, batch.target.device, batch.seed, batch.step
        part = batch.part or BatchPart.whole(len(batch.target))
        eta, eps = (
            purpose.normal(seed, part.positions, step, shape=model.latent_shape, device=device).float()
            for purpose in (Purpose.FIRST_LEVEL_NOISE, Purpose.TRAINING_NOISE)
        )
        unit, weight = (times or TimeSampler()).draw(seed, step, part, device)
        return cls(
            domain.values(batch.target).float(),
            batch.target,
            eta,
            eps,
            unit,
            weight,
            step,
            part,
            batch.condition,
            batch.report,
        )

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of ℓ/p over the whole batch, of losses ℓ (b,)."""
        return self.part.share * (self.weight.to(losses) * losses).mean()


@dataclass(frozen=True)
class LatentBound:
    """The bound. first_steps: steps of the first of two stages, 0 of one."""

    first_steps: int = 0

    @equation("latent-bound")
    def losses(self, model: LatentInTraining, batch: NoisedLatents, law: object = None) -> Losses:
        """The losses of `batch`; `per_example` is the diffusion term, which alone has a time."""
        first = batch.step < self.first_steps
        fixed = bool(self.first_steps) and not first
        nats = {}
        with torch.no_grad() if fixed else contextlib.nullcontext():
            mean, std = model.encode(batch.x)
            if not fixed or batch.report:
                nats["pixels"] = model.pixels(batch.target, mean + std * batch.eta)
                nats["encoder"] = negative_entropy(std, model.latent_shape)
        if first:
            nats["prior"] = normal_cross_entropy(mean, std)
            diffusion = torch.zeros_like(nats["prior"])
        else:
            diffusion = self._diffusion(model, batch, mean, std)
            chain = model.prior
            levels = chain.levels()
            last, first_logsnr = levels[-1:].to(device=mean.device).expand(len(mean)), float(levels.logsnr[0])
            at_end = terms.prior(chain, mean.double(), last) + chain.prior.kl_of_spread(std.double().square(), last)
            nats["prior"] = at_end
            # of N(z_1/α, σ²/α²), the same for every z
            constant = 0.5 * math.prod(model.latent_shape) * (1 + math.log(2 * math.pi) - first_logsnr)
            nats["reconstruction"] = torch.full_like(at_end, constant)
        D, share = model.domain.dimensions, batch.part.share
        return Losses(
            "diffusion",
            bits_per_dim(diffusion, D),
            {name: share * bits_per_dim(value.mean(), D) for name, value in nats.items()},
        )

    def _diffusion(self, model: LatentInTraining, batch: NoisedLatents, mean: Tensor, std: Tensor) -> Tensor:
        schedule = model.prior.schedule
        t, slope = schedule.at(batch.unit).to(dtype=torch.float32), schedule.dlogsnr_dt(batch.unit).float()
        spread = forward.noised_spread(mean, std, batch.eps, t)
        prediction = model.prior.predict(spread.z, t, batch.condition)
        left = -0.5 * slope * (t.alpha / t.sigma).square() * spread.std.square().flatten(1).sum(1)
        return terms.diffusion_rate(spread.mean, prediction, t, slope) + left
