"""The paths of one call from noise to data or back: the model on the levels of the call, and what batches share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nelbo.bound.ragged import chain as ragged
from nelbo.bound.ragged.network import mask_rows
from nelbo.bound.ragged.padding import of_samples
from nelbo.errors import NumericalError, UnknownNameError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process import every_grid as grids
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.sampling.ancestral import Ancestral
from nelbo.sampling.ddim import DDIM
from nelbo.sampling.dpm import DPMSolver2M, SDEDPMSolver2M
from nelbo.sampling.edm import Euler, Heun
from nelbo.sampling.flow import FlowEuler, FlowMidpoint
from nelbo.sampling.guidance import Guidance
from nelbo.sampling.sampler import PreviousStep, Sampler, SamplerStep, at_logsnr
from nelbo.workers import Run, agree

CONTINUOUS_STEPS = 250
"""Steps in continuous time where neither the call nor the model sets them: the error of a step is of order 1/steps."""
BATCH_ELEMENTS = 1 << 18
"""Numbers in a batch whose size is not set: 2 MiB of float64."""
NAMED: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Ancestral, DDIM, Euler, Heun, DPMSolver2M, SDEDPMSolver2M, FlowEuler, FlowMidpoint)
}
"""Samplers by the names of `nelbo.sample(…, sampler=name)` and `nelbo sample --sampler NAME`."""


def parse(sampler: str | Sampler) -> Sampler:
    """The sampler itself, or the one called `sampler` in its default settings. Errors: UnknownNameError.

    >>> parse("ddim").describe()
    {'name': 'ddim', 'eta': 0.0}
    """
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in [*NAMED]:
        raise UnknownNameError.of("sampler", sampler, NAMED)
    return NAMED[sampler]()


@dataclasses.dataclass(eq=False)
class Paths:
    """The paths of one call: the model on the levels of the call, and what all its batches share."""

    model: DiffusionModel
    sampler: Sampler
    levels: Levels
    condition: Mapping[str, Tensor]
    guidance: Guidance | None
    run: Run
    device: torch.device
    there: Tensor | None = None
    """What is there of the samples (n, *shape); states are zero elsewhere."""
    planned: int = 0
    done: int = 0

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        n: int,
        sampler: str | Sampler,
        steps: int | None,
        grid: str | Grid | None,
        condition: Mapping[str, Tensor] | None,
        guidance: Guidance | None,
        run: Run,
        mask: Tensor | None = None,
    ) -> Paths:
        chosen, condition = parse(sampler), condition_rows(condition, n, "samples")
        there = None
        if mask is not None:
            ragged.check(model)
            there, shown = of_samples(mask, n, model.domain)
            condition = {**condition, **mask_rows(model.denoiser, shown, condition)}
        variance = chosen.reverse_variance or model.reverse.variance
        reverse = dataclasses.replace(model.reverse, variance=variance)
        model = dataclasses.replace(model, grid=_grid(model, steps, grid), reverse=reverse)
        model = model.in_precision(_dtype(model), run.device)
        device = torch.device(run.device or "cpu")
        return cls(model, chosen, model.levels().to(device=device), condition, guidance, run, device, there)

    def agree(self, n: int, start: Tensor | None, codes: bool) -> None:
        """Check that all processes draw the same samples in the same way. Errors: UsageError."""
        if self.run.workers.size == 1:
            return
        null = {} if self.guidance is None else self.guidance.null
        identity = {
            "model": self.model.fingerprint(),
            "condition": {name: _fingerprint(rows) for name, rows in self.condition.items()},
            "null_condition": {name: _fingerprint(rows) for name, rows in null.items()},
            "start": None if start is None else _fingerprint(start),
            **({} if self.there is None else {"mask": _fingerprint(self.there.long())}),
            "guidance": None if self.guidance is None else self.guidance.scale,
            "sampler": self.sampler.describe(),
        }
        agree(self.run.workers, {**identity, "n": n, "codes": codes, "seed": self.run.seed}, "sample")

    @property
    def calls(self) -> int:
        """Network evaluations of one prediction."""
        return 1 if self.guidance is None else 2

    def evaluations(self, decoder_calls_network: bool) -> int:
        """Network evaluations of one sample."""
        return ((len(self.levels) - 1) * self.sampler.evaluations + int(decoder_calls_network)) * self.calls

    def predictor(self, rows: Tensor) -> Callable[[Tensor, Levels], Prediction]:
        """The model's prediction for the samples `rows` at a state and one level."""
        condition = {k: v[rows].to(self.device) for k, v in self.condition.items()}

        def predict(z: Tensor, t: Levels) -> Prediction:
            t = t.expand(len(z))
            if self.guidance is None:
                prediction = self.model.predict(z, t, condition)
            else:
                prediction = self.guidance.predict(self.model, z, t, condition)
            self.done += len(z) * self.calls
            if self.run.progress is not None:
                self.run.progress(self.done, self.planned)
            return prediction

        return predict

    def only_there(self, values: Tensor, rows: Tensor) -> Tensor:
        """Values of the samples `rows` (b, *shape), zero where nothing is."""
        if self.there is None:
            return values
        return values.where(self.there[rows].to(values.device), torch.zeros_like(values))

    def normal(self, rows: Tensor, level: int) -> Tensor:
        """The noise of the samples `rows` at level 1, 2, …, keyed by (seed, sample, level)."""
        shape = self.model.domain.shape
        return Purpose.SAMPLE_NOISE.normal(self.run.seed, rows, level - 1, shape=shape, device=self.device)

    def step(
        self, z: Tensor, j: int, to: int, rows: Tensor, previous: PreviousStep | None, predict
    ) -> tuple[Tensor, PreviousStep]:
        """z after the step from level j to level `to`, and the step for the next one's use. Errors: NumericalError."""
        t, s = self.levels[j : j + 1], self.levels[to : to + 1]
        step = SamplerStep(
            z=z,
            t=t,
            s=s,
            previous=previous,
            reverse=self.model.reverse,
            steps=len(self.levels) - 1,
            predict=predict,
            normal=lambda: self.normal(rows, j),
            at=lambda logsnr: at_logsnr(self.model.schedule, logsnr),
        )
        z, x0 = (self.only_there(values, rows) for values in self.sampler.step(step))
        if not math.isfinite(float(z.sum())):  # NaN and infinities survive a sum
            raise NumericalError(f"level {j} of a sample is not finite", "check the network's weights and precision")
        return z, PreviousStep(t, x0)


def _fingerprint(rows: Tensor) -> str:
    return Examples(torch.as_tensor(rows)[None]).fingerprint


def _grid(model: DiffusionModel, steps: int | None, grid: str | Grid | None) -> Grid:
    """The grid of these options. Errors: UsageError, UnknownNameError."""
    if isinstance(grid, Grid):
        if steps is not None or grid.continuous:
            raise UsageError(
                f"the grid {grid.kind!r}" + (f" and {steps} steps were both given" if steps else " has no steps"),
                "give steps and the name of a grid, or a Grid of finitely many steps alone",
            )
        return grid
    if grid is None and steps is None and not model.grid.continuous:
        return model.grid
    steps = steps if steps is not None else model.steps or CONTINUOUS_STEPS
    return grids.named(grid or "even", steps, getattr(model.grid, "first", 0))


def batch_size_of(batch_size: int | None, n: int, model: DiffusionModel) -> int:
    """Samples of a batch. Errors: UsageError."""
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples was asked for", "batch_size is a whole number ≥ 1")
    return batch_size or max(1, min(n, BATCH_ELEMENTS // model.domain.dimensions))


def _dtype(model: DiffusionModel) -> torch.dtype:
    for p in model.denoiser.parameters():
        return p.dtype
    return torch.float64
