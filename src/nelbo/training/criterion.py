"""Criterion: an objective with its way of drawing times and, where the schedule is trained, that schedule.

All that a run must remember beside network, optimiser and step is its `state_dict`: the density that importance
sampling has learned, and the parameters of the schedule. A step is

    parts = criterion(model, target, seed, step, places)      # "loss" is what to call backward on
    parts["loss"].backward();  criterion.after_backward()     # once a micro-batch
    criterion.end_of_step(total)                              # once a step, before the optimiser moves
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.model.diffusion import DiffusionModel
from nelbo.training.batches import Places
from nelbo.training.learned_schedule import LearnedLaw
from nelbo.training.objective import Batch, Losses, Objective, averaged
from nelbo.training.times import Times
from nelbo.typing import Condition


class Criterion(nn.Module):
    """What a run minimises. `law` is None unless the schedule is trained; its parameters are `self.parameters()`."""

    def __init__(self, objective: Objective, times: Times, law: LearnedLaw | None = None):
        super().__init__()
        self.objective, self.times, self.law = objective, times, law
        self._last: tuple[Batch, Losses] | None = None

    def forward(
        self,
        model: DiffusionModel,
        target: Tensor,
        seed: int,
        step: int,
        places: Places | None = None,
        condition: Condition | None = None,
        report: bool = True,
    ) -> dict[str, Tensor]:
        """Scalars of the batch `target` (b, *shape) at `places` of step `step`: `loss`, and its parts by name
        where there are several.

        report: whether terms that nothing trained changes are wanted all the same; they are else 0.

        The losses of the parts of a batch add up to that of the whole. Noise is keyed by (seed, step, place). The
        network must be called without clipping x̂, which has no gradient outside: a clip of the model is left out here.
        """
        if model.reverse.clip is not None:
            model = dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, clip=None))
        batch = Batch.of(model, target, seed, step, places, condition, self.times, report)
        losses = self.objective.losses(model, batch, self.law)
        self._last = batch, losses
        parts = averaged(losses, batch)
        if len(parts) == 1:
            return {"loss": parts[losses.name]}
        return {"loss": torch.stack([p.double() for p in parts.values()]).sum(), **parts}

    def after_backward(self) -> None:
        """Learn from the losses of the last call; after the backward pass of its `loss`."""
        if self._last is None:
            return
        batch, losses = self._last
        self.times.observe(batch.unit, losses.each)
        if self.law is not None:
            self.law.backward(losses.each)
        self._last = None

    def end_of_step(self, total: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        """After all parts of a step. total: sums a tensor over processes."""
        self.times.learn(total)
        for p in self.parameters():
            if p.grad is not None:
                p.grad = total(p.grad)

    def frozen(self, model: DiffusionModel) -> DiffusionModel:
        """`model` with the schedule as it was learned."""
        return model if self.law is None else dataclasses.replace(model, schedule=self.law.frozen())
