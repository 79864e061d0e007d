"""Chains of a model's own levels: the same weights with another grid, variance policy and decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.reverse import Clip, Reverse, Variance
from nelbo.process.grid import Even, Grid, Subset, Times
from nelbo.process.levels import Levels
from nelbo.process.schedule import Table
from nelbo.tightening.levels import candidates


@dataclass(frozen=True, eq=False)
class Chains:
    """The model with x̂ in the range of its codes, and the levels that chains of it are made of."""

    model: DiffusionModel
    levels: Levels
    positions: Tensor

    @classmethod
    def of(cls, model: DiffusionModel) -> Chains:
        """Of a model as it is. Codes lie in their range, so that x̂ clipped to it is never farther from them; a
        clipping of the model's own stays."""
        if model.domain.discrete and model.reverse.clip is None:
            clip = Clip(model.domain.low, model.domain.high)
            model = dataclasses.replace(model, reverse=Reverse(model.reverse.variance, clip))
        return cls(model, *candidates(model))

    @property
    def table(self) -> bool:
        """Whether positions are of a table, and not unit times."""
        return isinstance(self.model.schedule, Table)

    @property
    def most(self) -> int:
        """Steps of the longest chain with the model's own decoder."""
        return len(self.levels) - 1 + int(self.model.decoder.calls_network)

    def on(self, grid: Grid, policy: Variance, decoder: Decoder | None = None) -> DiffusionModel:
        """The model with these parts; its own decoder where none is given."""
        reverse = Reverse(policy, self.model.reverse.clip)
        return dataclasses.replace(self.model, grid=grid, reverse=reverse, decoder=decoder or self.model.decoder)

    def grid(self, chain: list[int]) -> Grid:
        """The grid of rising candidates."""
        at = self.positions[torch.tensor(chain)].tolist()
        return Subset(tuple(at)) if self.table else Times(tuple(at))

    def even(self, steps: int) -> Grid:
        """`steps` evaluations with the model's own decoder, evenly between its own ends."""
        first, last = (v.item() for v in self.positions[[0, -1]])
        count = steps + 1 - int(self.model.decoder.calls_network)
        if not self.table:
            times = torch.linspace(first, last, count, dtype=torch.float64) if count > 1 else torch.tensor([last])
            return Times(tuple(times.tolist()))
        if int(last) == len(self.model.schedule.table) - 1:  # type: ignore[attr-defined]
            return Even(steps, int(first))
        return Subset(tuple(torch.linspace(first, last, count).round().long().tolist()))
