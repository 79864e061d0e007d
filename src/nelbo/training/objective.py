"""Objectives: what a training step minimises, from one batch in which every example has its own time t.

    BoundObjective     w(λ)-weighted draw of the bound:   diffusion_i(t_i)/p(t_i) + reconstruction + prior    (bits/dim)
    SimpleObjective    mean of w(λ) (ε − ε̂)² over elements, at t uniform over the schedule          (Ho et al. 2020)
    HybridObjective    L_simple + c · bound, whose gradient reaches only the network's variance (Nichol & Dhariwal 2021)

An objective gives the loss of every example at its own time; how times are drawn, and the factor 1/p(t) that goes with
it, is a matter of `times`. On a schedule in continuous time the diffusion term is the continuous one, so the loss does
not depend on the grid of the saved model; on a table it is the sum of the table's own KLs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.ragged.chain import first_level
from nelbo.bound.ragged.elements import over
from nelbo.bound.ragged.network import mask_rows
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Output, Prediction, from_x0
from nelbo.process.schedule import Table
from nelbo.training.batches import Batch, BatchPart
from nelbo.training.learned_schedule import TrainableSchedule
from nelbo.training.times import TimeSampler
from nelbo.training.weighting import FLAT, Weighting
from nelbo.typing import Condition


class NoisedBatch(NamedTuple):
    """A batch with its noise and times: x and ε (b, *shape) in float32, the codes or values that the decoder scores,
    unit times (b,) in float64 and their 1/p, all keyed by (seed, step, position in the batch)."""

    x: Tensor
    eps: Tensor
    target: Tensor
    unit: Tensor
    weight: Tensor
    seed: int
    step: int
    part: BatchPart
    condition: Condition | None
    report: bool
    there: Tensor | None = None
    """(b, *shape), of examples of different size what is there; x and ε are zero elsewhere."""
    numbers: float | None = None
    """Their mean D in the run, by which nats are divided."""

    @classmethod
    def draw(cls, model: DiffusionModel, batch: Batch, times: TimeSampler | None = None) -> NoisedBatch:
        """`batch` at times drawn by `times`, of low discrepancy where that is None."""
        domain, device, seed, step = model.domain, batch.target.device, batch.seed, batch.step
        part = batch.part or BatchPart.whole(len(batch.target))
        x = domain.values(batch.target).float()
        eps = Purpose.TRAINING_NOISE.normal(seed, part.positions, step, shape=domain.shape, device=device).float()
        unit, weight = (times or TimeSampler()).draw(seed, step, part, device)
        target = batch.target.long() if domain.discrete else domain.values(batch.target)
        whole = cls(x, eps, target, unit, weight, seed, step, part, batch.condition, batch.report)
        if batch.mask is None:
            return whole
        told = batch.condition or {}
        mask = batch.mask.reshape(*batch.mask.shape, *[1] * (x.ndim - batch.mask.ndim)).expand_as(x)
        numbers = batch.numbers or float(mask.flatten(1).sum(1).double().mean())
        return whole._replace(
            x=x * mask,
            eps=eps * mask,
            condition={**told, **mask_rows(model.denoiser, batch.mask, told)},
            there=mask,
            numbers=numbers,
        )

    def in_bits(self, nats: Tensor, model: DiffusionModel) -> Tensor:
        """Nats an example as bits/dim: of examples of different size by their mean D, so that a mean over them is that
        of all nats over all numbers."""
        D = model.domain.dimensions
        return bits_per_dim(nats, D) if self.numbers is None else bits_per_dim(nats / self.numbers, 1)

    def mean_of_elements(self, values: Tensor) -> Tensor:
        """Means (b,) of values (b, *shape) of elements; of examples of different size sums of what is there over the
        mean D."""
        if self.there is None or self.numbers is None:
            return values.flatten(1).mean(1)
        return values.where(self.there, torch.zeros_like(values)).flatten(1).sum(1) / self.numbers

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of ℓ/p over the whole batch, of losses ℓ (b,); the means of the parts of a batch add up to it."""
        return self.part.share * (self.weight.to(losses) * losses).mean()


class Losses(NamedTuple):
    """per_example (b,): the loss of every example at its own time, before the weight 1/p, called `name`; terms: scalars
    by name, already averaged over the whole batch. The sum of all is minimised."""

    name: str
    per_example: Tensor
    terms: dict[str, Tensor]


class Objective(ABC):
    """Abstract: the losses of a batch."""

    trains_decoder: bool = False
    """Whether it trains a decoder that is a part of the network."""

    @abstractmethod
    def losses(self, model: DiffusionModel, batch: NoisedBatch, law: TrainableSchedule | None = None) -> Losses:
        """The losses of `batch`; law: the schedule in the place of the model's where it is being trained."""


@dataclass(frozen=True)
class BoundObjective(Objective):
    """½ ∫ w(λ) E‖ε − ε̂‖² dλ + w(λ_max) reconstruction + w(λ_min) prior, in bits/dim; w = 1 is the bound.

    On a table the weight of a step's KL is that of the noisier of its levels. With a monotone w the sum is a mixture
    of bounds of x with noise added (`augmentation_level`), x itself among them with share w(λ_max)/w(λ_min).
    `reconstruction_share` of the batch also scores the first level.
    """

    weighting: Weighting = FLAT
    reconstruction_share: float = 0.125
    trains_decoder = True

    @equation("vdm-elbo", "sum-objective", "weighted-loss")
    def losses(self, model: DiffusionModel, batch: NoisedBatch, law: TrainableSchedule | None = None) -> Losses:
        schedule, device = model.schedule, batch.x.device
        x, eps, unit = batch.x, batch.eps, batch.unit
        levels = model.levels().to(device=device)
        first, last, steps = levels[:1], levels[-1:], len(levels) - 1
        of_table = law is None and isinstance(schedule, Table)
        if law is not None:
            t, slope, ends = law.at(unit).to(dtype=torch.float32), law.dlogsnr_dt(unit).float(), law.ends()
            first, last = ends[:1], ends[1:]
        elif of_table:
            j = (unit * steps).floor().long().clamp(max=steps - 1) + 1
            s, t = (levels[k].to(dtype=torch.float32) for k in (j - 1, j))
        else:
            t, slope = schedule.at(unit).to(dtype=torch.float32), schedule.dlogsnr_dt(unit).float()
        count = max(1, math.ceil(self.reconstruction_share * batch.part.batch_size))
        own = batch.part.below(count)
        # a term without a gradient costs a table of all codes: it is computed only where it is reported
        scored = own if batch.report or law is not None or model.decoder.calls_network else 0
        z_1 = _first_latent(model, batch, first, scored)
        prediction, prediction_1 = _predictions(model, batch, forward.noised(x, eps, t), t, z_1, first)
        if of_table:
            diffusion = steps * over(batch.there, partial(terms.diffusion, model), x, prediction, s, t)
        else:
            diffusion = over(batch.there, terms.diffusion_rate, x, prediction, t, slope)
        reconstruction = x.new_zeros(())
        if scored:
            t_1 = first.expand(scored)
            reconstruction = _reconstruction(model, batch, scored, z_1, prediction_1, t_1).mean()
        prior = over(batch.there, lambda x: terms.prior(model, x, last), x.double())
        return Losses(
            "diffusion",
            self.weighting(t.logsnr) * batch.in_bits(diffusion, model),
            {
                "reconstruction": own / count * self.weighting(first.logsnr)[0] * batch.in_bits(reconstruction, model),
                "prior": batch.part.share * self.weighting(last.logsnr)[0] * batch.in_bits(prior.mean(), model),
            },
        )


def _reconstruction(
    model: DiffusionModel, batch: NoisedBatch, count: int, z: Tensor, prediction: Prediction | None, first: Levels
) -> Tensor:
    """−log p(x | z_1) of the first `count` examples, (count,) nats."""
    if batch.there is None:
        return terms.reconstruction(model, batch.target[:count], z, prediction, first)
    return first_level(model, batch.target[:count], z, first, prediction, batch.there[:count])


def _first_latent(model: DiffusionModel, batch: NoisedBatch, first: Levels, count: int) -> Tensor:
    """z_1 of the first `count` examples, (count, …) in float64, with noise of its own."""
    positions, shape, device = batch.part.positions[:count], model.domain.shape, batch.x.device
    eps = Purpose.FIRST_LEVEL_NOISE.normal(batch.seed, positions, batch.step, shape=shape, device=device)
    if batch.there is not None:
        eps = eps * batch.there[:count]
    return forward.noised(batch.x[:count].double(), eps, first.expand(count))


def _predictions(
    model: DiffusionModel, batch: NoisedBatch, z: Tensor, t: Levels, z_1: Tensor, first: Levels
) -> tuple[Prediction, Prediction | None]:
    """The predictions at z and, where the decoder needs one, at z_1, in one call of the network: faster than two."""
    if not len(z_1) or not model.decoder.calls_network:
        return model.predict(z, t, batch.condition), None
    b, count = len(z), len(z_1)
    condition = batch.condition and {k: torch.cat([v, v[:count]]) for k, v in batch.condition.items()}
    both = model.predict(torch.cat([z, z_1.to(z)]), t.joined(first.expand(count)), condition)
    return both.rows(slice(b)), both.rows(slice(b, None)).to(torch.float64)


@dataclass(frozen=True)
class SimpleObjective(Objective):
    """Mean over elements of w(λ_t) (ε − ε̂)² at t uniform over the schedule: L_simple where w = 1, which is no bound.

    Source: Ho et al. 2020, eq. 14; Hang et al. 2023 with w = MinSNR. The decoder is not trained, so the network must
    not be its own decoder.
    """

    weighting: Weighting = FLAT

    @equation("loss-simple", "loss-simple-reparam", "weighted-loss", "implied-weight-cosine")
    def losses(self, model: DiffusionModel, batch: NoisedBatch, law: TrainableSchedule | None = None) -> Losses:
        schedule, unit = model.schedule, batch.unit
        if law is not None:
            raise UsageError(
                "a learned schedule with an objective that is not the bound: its shape would change what is minimised",
                "use objective=bound, or another schedule",
            )
        if isinstance(schedule, Table):
            levels = model.levels().to(device=unit.device)
            t = levels[(unit * len(levels)).floor().long().clamp(max=len(levels) - 1)].to(dtype=torch.float32)
        else:
            t = schedule.at(unit).to(dtype=torch.float32)
        z = forward.noised(batch.x, batch.eps, t)
        prediction = model.predict(z, t, batch.condition)
        error = batch.eps - from_x0(Output.EPS, prediction.x0, z, t)
        return Losses("simple", self.weighting(t.logsnr) * batch.mean_of_elements(error.square()), {})


@dataclass(frozen=True)
class HybridObjective(Objective):
    """L_simple + c · L_vlb of one evaluation, L_vlb in bits/dim with the mean of p_θ held fixed in its gradient.

        L_vlb = T · KL(q(z_{i−1} | z_i, x) ‖ p_θ(z_{i−1} | z_i)),   i uniform in 1..T; for i = 1  −T log p(x | z_1)

    so that the bound teaches the network's variance and L_simple its mean. Source: Nichol & Dhariwal 2021, §3.1, eq. 16
    (c = 0.001). Errors: UsageError for a schedule without a table, or a variance that the network does not predict.
    """

    vlb_weight: float = 0.001

    @equation("loss-hybrid")
    def losses(self, model: DiffusionModel, batch: NoisedBatch, law: TrainableSchedule | None = None) -> Losses:
        if law is not None or not isinstance(model.schedule, Table) or not model.reverse.variance.learned:
            raise UsageError(
                "the hybrid objective needs DDPM's chain and a variance that the network predicts",
                "use schedule=cosine (or linear) and variance=learned_range, or objective=bound",
            )
        levels = model.levels().to(device=batch.x.device)
        T = len(levels)
        i = (batch.unit * T).floor().long().clamp(max=T - 1)
        t = levels[i].to(dtype=torch.float32)
        z = forward.noised(batch.x, batch.eps, t)
        prediction = model.predict(z, t, batch.condition)
        simple = batch.mean_of_elements((batch.eps - from_x0(Output.EPS, prediction.x0, z, t)).square())
        fixed_mean = replace(prediction, x0=prediction.x0.detach())
        s = levels[(i - 1).clamp(min=0)].to(dtype=torch.float32)
        below = levels[torch.where(i > 0, i, 1)].to(dtype=torch.float32)  # at level 1 any other: replaced below
        vlb = over(batch.there, model.reverse.kl_sum, batch.x, fixed_mean, s, below)
        first = (i == 0).nonzero()[:, 0]
        if len(first):  # of those alone: near the end of the chain the decoder's mass at x̂ and its gradient overflow
            of_first = batch.target[first], z[first], t[first], fixed_mean.rows(first)
            if batch.there is None:
                nll = model.decoder.nll(*of_first, model.domain)
            else:
                nll = first_level(model, *of_first, batch.there[first])
            vlb = vlb.index_put((first,), nll.to(vlb))
        vlb = T * batch.in_bits(vlb, model)
        return Losses("hybrid", simple + self.vlb_weight * vlb, {})
