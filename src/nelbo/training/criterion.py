"""Criterion: an objective with its sampling of times and, where the schedule is trained, that schedule.

Its `state_dict` is what a run must keep beside network, optimiser and step: the density of importance sampling, and the
parameters of the schedule. A step is

    losses = criterion(model, batch)                              # "loss" is minimised
    losses["loss"].backward();  criterion.after_backward()        # once a micro-batch
    criterion.end_of_step(total)                                  # once a step, before the optimiser's step
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.nets.build import TOKEN_NETS
from nelbo.training.batches import Batch
from nelbo.training.config import ObjectiveConfig, TrainConfig
from nelbo.training.data import AnyModel
from nelbo.training.latent.objective import LatentBound, NoisedLatents
from nelbo.training.learned_schedule import TrainableSchedule
from nelbo.training.objective import (
    BoundObjective,
    HybridObjective,
    Losses,
    NoisedBatch,
    Objective,
    SimpleObjective,
)
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.tokens.objective import NoisedTokens, TokenBound
from nelbo.training.weighting import EDMMonotone, Flat, MinSNR, Sigmoid


class Criterion(nn.Module):
    """What a run minimises. law: the schedule, where it is trained. `self.parameters()` are those of the schedule."""

    def __init__(
        self,
        objective: Objective | TokenBound | LatentBound,
        times: TimeSampler | None = None,
        law: TrainableSchedule | None = None,
    ):
        super().__init__()
        self.objective, self.times, self.law = objective, times or TimeSampler(), law
        self._last: tuple[NoisedBatch | NoisedTokens | NoisedLatents, Losses] | None = None

    def forward(self, model: AnyModel, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss`, and its terms by name where there are several.

        The losses of the parts of a batch add up to that of the whole. A clip of x̂ has no gradient outside its range,
        so the model is used without it.
        """
        if isinstance(model, TokenModel):
            noised = NoisedTokens.draw(model, batch, self.times)
        elif isinstance(model, LatentModel):
            noised = NoisedLatents.draw(model, batch, self.times)  # type: ignore[arg-type]  # a run's is in training
        else:
            if model.reverse.clip is not None:
                model = dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, clip=None))
            noised = NoisedBatch.draw(model, batch, self.times)
        losses = self.objective.losses(model, noised, self.law)  # type: ignore[arg-type]  # an objective of such models
        self._last = noised, losses
        mean = noised.mean(losses.per_example)
        if not losses.terms:
            return {"loss": mean}
        terms = {losses.name: mean, **losses.terms}
        return {"loss": torch.stack([term.double() for term in terms.values()]).sum(), **terms}

    def after_backward(self) -> None:
        """Learn from the losses of the last call; after the backward pass of its `loss`."""
        if self._last is None:
            return
        noised, losses = self._last
        self.times.observe(noised.unit, losses.per_example)
        if self.law is not None:
            self.law.backward(losses.per_example)
        self._last = None

    def end_of_step(self, total: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        """After all parts of a step. total: sums a tensor over processes."""
        self.times.update(total)
        for p in self.parameters():
            if p.grad is not None:
                p.grad = total(p.grad)

    def frozen(self, model: AnyModel) -> AnyModel:
        """`model` with the schedule as it is now."""
        if self.law is None or not isinstance(model, DiffusionModel):
            return model
        return dataclasses.replace(model, schedule=self.law.frozen())


def make_criterion(settings: TrainConfig) -> Criterion:
    """The criterion of a run. Errors: UsageError where objective and schedule do not fit."""
    law = None
    o, s = settings.objective, settings.schedule
    if s.name == "learned":
        if o.name != "bound" or o.t == "importance":
            raise UsageError(
                f"a learned schedule with objective.name = {o.name!r} and objective.t = {o.t!r}",
                "its shape reduces the variance of the bound in the way in which importance sampling of t does: use "
                "objective=bound and objective.t=low_discrepancy, or another schedule",
            )
        law = TrainableSchedule(s.logsnr_max, s.logsnr_min, s.segments, s.fixed_ends)
    if settings.latent is not None:
        return Criterion(LatentBound(settings.latent.first_steps(settings.steps)), TimeSampler(TimeSampling(o.t)))
    if settings.net.name in TOKEN_NETS:
        weight = o.ce_weight if o.name == "hybrid" else 0.0
        return Criterion(TokenBound(weight, settings.reconstruction_share), TimeSampler(TimeSampling(o.t)), law)
    objective = make_objective(o, settings.reconstruction_share)
    return Criterion(objective, TimeSampler(TimeSampling(o.t)), law)


def make_objective(settings: ObjectiveConfig, reconstruction_share: float) -> Objective:
    """The objective that the settings name."""
    return {
        "bound": BoundObjective(Flat(), reconstruction_share),
        "sigmoid": BoundObjective(Sigmoid(settings.bias), reconstruction_share),
        "edm_monotone": BoundObjective(EDMMonotone(), reconstruction_share),
        "simple": SimpleObjective(),
        "min_snr": SimpleObjective(MinSNR(settings.gamma)),
        "hybrid": HybridObjective(settings.vlb_weight),
    }[settings.name]
