"""Objectives: what a training step minimises, from one batch, per-example t always.

    Bound     w(λ)-weighted draw of the bound:   diffusion_i(t_i)/p(t_i) + reconstruction + prior    (bits/dim)
    Simple    mean of w(λ) (ε − ε̂)² over elements, at t uniform over the schedule                     (Ho et al. 2020)
    Hybrid    Simple + c · bound, whose gradient reaches only the network's own variance      (Nichol & Dhariwal 2021)

An objective says the loss of every example at its own time; how times are drawn, and the factor 1/p(t) that goes with
it, is the business of `times`. On a law the diffusion term is the continuous one, so the loss does not depend on the
grid of the saved model; on a table it is the sum of the table's own KLs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Output, Prediction, from_x0
from nelbo.process.schedule import Table
from nelbo.training.batches import Places
from nelbo.training.times import Times
from nelbo.training.weighting import FLAT, Weighting
from nelbo.typing import Condition


class Batch(NamedTuple):
    """What a step computes on: x and ε (b, *shape) in float32, the target codes or values, unit times (b,) in float64
    and their 1/p, all keyed by (seed, step, place in the batch)."""

    x: Tensor
    eps: Tensor
    target: Tensor
    unit: Tensor
    weight: Tensor
    seed: int
    step: int
    places: Places
    condition: Condition | None = None
    report: bool = True
    """Whether terms that nothing trained changes are wanted all the same."""

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        target: Tensor,
        seed: int,
        step: int,
        places: Places | None = None,
        condition: Condition | None = None,
        times: Times | None = None,
        report: bool = True,
    ) -> Batch:
        """The batch of `target` (b, *shape), at `places` of the whole one (None: it is the whole), low discrepancy
        unless `times` says otherwise."""
        domain, device = model.domain, target.device
        places = places or Places.all(len(target))
        x = domain.values(target).float()
        eps = random.normal(
            seed, places.slots, step, 0, domain.shape, stream=random.Stream.BATCH, device=device
        ).float()
        unit, weight = (times or Times()).draw(seed, step, places, device)
        codes = target.long() if domain.discrete else domain.values(target)
        return cls(x, eps, codes, unit, weight, seed, step, places, condition, report)


class Law(Protocol):
    """What a Bound asks of a schedule that is being trained: differentiable levels."""

    def at(self, t: Tensor) -> Levels: ...
    def dlogsnr_dt(self, t: Tensor) -> Tensor: ...
    def ends(self) -> Levels: ...


class Losses(NamedTuple):
    """each (b,): the loss of every example at its own time, before the weight 1/p; others: scalars already averaged
    over the whole batch, by name. Their sum is what is minimised."""

    name: str
    each: Tensor
    others: dict[str, Tensor]


class Objective(ABC):
    """Abstract: the losses of a batch."""

    trains_decoder: bool = False
    """Whether a decoder that is the network's own learns from it."""

    @abstractmethod
    def losses(self, model: DiffusionModel, batch: Batch, law: Law | None = None) -> Losses:
        """The losses of `batch`; `law` in the place of the model's schedule where that is being trained."""


@dataclass(frozen=True)
class Bound(Objective):
    """½ ∫ w(λ) E‖ε − ε̂‖² dλ + w(λ_max) reconstruction + w(λ_min) prior, in bits/dim; w = 1 is the bound.

    On a table the weight of a step's KL is that of the noisier of its levels. With a monotone w the sum is a mixture
    of bounds of x with noise added (`augmentation_level`), x itself among them with share w(λ_max)/w(λ_min).
    `reconstruction_share` of the batch also scores the first level.
    """

    weighting: Weighting = FLAT
    reconstruction_share: float = 0.125
    trains_decoder = True

    @equation("vdm-elbo", "sum-objective", "weighted-loss")
    def losses(self, model: DiffusionModel, batch: Batch, law: Law | None = None) -> Losses:
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
        wanted = max(1, math.ceil(self.reconstruction_share * batch.places.whole))
        some = batch.places.below(wanted)
        # a term that nothing trained changes costs a table of all codes: it is computed where somebody will look
        scored = some if batch.report or law is not None or model.decoder.calls_network else 0
        z_1 = self._first(model, batch, first, scored)
        prediction, of_first = _predicted(model, batch, forward.noised(x, eps, t), t, z_1, first)
        if of_table:
            diffusion = steps * terms.diffusion_of(model, x, prediction, s, t)
        else:
            diffusion = terms.diffusion_rate_of(x, prediction, t, slope)
        reconstruction = x.new_zeros(())
        if scored:
            of = first.expand(scored)
            reconstruction = terms.reconstruction_of(model, batch.target[:scored], z_1, of_first, of).mean()
        prior = terms.prior(model, x.double(), last)
        D = model.domain.dimensions
        return Losses(
            "diffusion",
            self.weighting(t.logsnr) * bits_per_dim(diffusion, D),
            {
                "reconstruction": some / wanted * self.weighting(first.logsnr)[0] * bits_per_dim(reconstruction, D),
                "prior": batch.places.share * self.weighting(last.logsnr)[0] * bits_per_dim(prior.mean(), D),
            },
        )

    def _first(self, model: DiffusionModel, batch: Batch, first: Levels, some: int) -> Tensor:
        """z_1 of the first `some` examples, (some, …) in float64, with noise of its own."""
        slots, stream = batch.places.slots[:some], random.Stream.BATCH
        eps = random.normal(batch.seed, slots, batch.step, 2, model.domain.shape, stream=stream, device=batch.x.device)
        return forward.noised(batch.x[:some].double(), eps, first.expand(some))


def _predicted(
    model: DiffusionModel, batch: Batch, z: Tensor, t: Levels, z_1: Tensor, first: Levels
) -> tuple[Prediction, Prediction | None]:
    """The predictions at z and at z_1, of one call of the network: two would cost a third more than their rows."""
    if not len(z_1) or not model.decoder.calls_network:
        return model.predict(z, t, batch.condition), None
    b, some = len(z), len(z_1)
    rows = batch.condition and {k: torch.cat([v, v[:some]]) for k, v in batch.condition.items()}
    both = model.predict(torch.cat([z, z_1.to(z)]), t.joined(first.expand(some)), rows)
    return both.rows(slice(b)), both.rows(slice(b, None)).to(torch.float64)


@dataclass(frozen=True)
class Simple(Objective):
    """Mean over elements of w(λ_t) (ε − ε̂)² at t uniform over the schedule: L_simple where w = 1; no bound.

    Source: Ho et al. 2020, eq. 14; Hang et al. 2023 with w = MinSNR. The decoder is not trained, so the network must
    not be its own decoder.
    """

    weighting: Weighting = FLAT

    @equation("loss-simple", "loss-simple-reparam", "weighted-loss", "implied-weight-cosine")
    def losses(self, model: DiffusionModel, batch: Batch, law: Law | None = None) -> Losses:
        schedule, unit = model.schedule, batch.unit
        if law is not None:
            raise UsageError(
                "a learned schedule with an objective that is no bound: its shape would change what is minimised",
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
        return Losses("simple", self.weighting(t.logsnr) * error.square().flatten(1).mean(1), {})


@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple + c · L_vlb of one evaluation, L_vlb in bits/dim with the mean of p_θ held fixed in its gradient.

        L_vlb = T · KL(q(z_{i−1} | z_i, x) ‖ p_θ(z_{i−1} | z_i)),   i uniform in 1..T; for i = 1  −T log p(x | z_1)

    so that the bound teaches the network's variance and L_simple its mean. Source: Nichol & Dhariwal 2021, §3.1, eq. 16
    (c = 0.001). Errors: UsageError for a schedule without a table, or a variance that the network does not say.
    """

    vlb_weight: float = 0.001

    @equation("loss-hybrid")
    def losses(self, model: DiffusionModel, batch: Batch, law: Law | None = None) -> Losses:
        if law is not None or not isinstance(model.schedule, Table) or not model.reverse.variance.learned:
            raise UsageError(
                "the hybrid objective wants DDPM's chain and a variance that the network says",
                "use --set schedule=cosine (or linear) and --set variance=learned_range, or objective=bound",
            )
        levels = model.levels().to(device=batch.x.device)
        T = len(levels)
        i = (batch.unit * T).floor().long().clamp(max=T - 1)
        t = levels[i].to(dtype=torch.float32)
        z = forward.noised(batch.x, batch.eps, t)
        prediction = model.predict(z, t, batch.condition)
        simple = (batch.eps - from_x0(Output.EPS, prediction.x0, z, t)).square().flatten(1).mean(1)
        held = replace(prediction, x0=prediction.x0.detach())
        s = levels[(i - 1).clamp(min=0)].to(dtype=torch.float32)
        below = levels[torch.where(i > 0, i, 1)].to(dtype=torch.float32)  # at the first level any step that exists
        vlb = model.reverse.kl_sum(batch.x, held, s, below)
        first = (i == 0).nonzero()[:, 0]
        if len(first):  # of those alone: far down the chain a mass of x given x̂ and its gradient overflow
            nll = model.decoder.nll(batch.target[first], z[first], t[first], held.rows(first), model.domain)
            vlb = vlb.index_put((first,), nll.to(vlb))
        vlb = T * bits_per_dim(vlb, model.domain.dimensions)
        return Losses("hybrid", simple + self.vlb_weight * vlb, {})


class Loss(NamedTuple):
    """The three terms of a batch in bits/dim; their sum is what is minimised."""

    diffusion: Tensor
    reconstruction: Tensor
    prior: Tensor

    @property
    def total(self) -> Tensor:
        """diffusion + reconstruction + prior."""
        return self.diffusion + self.reconstruction + self.prior


def averaged(losses: Losses, batch: Batch) -> dict[str, Tensor]:
    """The parts of the loss by name, scalars: `each` weighed by 1/p and averaged over the whole batch, and `others`.

    Parts of one batch add up to it: what a part gives is its share of the mean.
    """
    mean = batch.places.share * (batch.weight.to(losses.each) * losses.each).mean()
    return {losses.name: mean, **losses.others}


def simple_loss(
    model: DiffusionModel,
    target: Tensor,
    seed: int,
    step: int,
    places: Places | None = None,
    condition: Condition | None = None,
) -> Tensor:
    """L_simple of a batch (B, *shape) at low-discrepancy times, a scalar; see `Simple`."""
    batch = Batch.of(model, target, seed, step, places, condition)
    return averaged(Simple().losses(model, batch), batch)["simple"]


def bound_loss(
    model: DiffusionModel,
    target: Tensor,
    seed: int,
    step: int,
    reconstruction_share: float,
    places: Places | None = None,
    condition: Condition | None = None,
) -> Loss:
    """A draw of the bound from a batch (B, *shape) at low-discrepancy times, scalars; see `Bound`."""
    batch = Batch.of(model, target, seed, step, places, condition)
    return Loss(**averaged(Bound(reconstruction_share=reconstruction_share).losses(model, batch), batch))
