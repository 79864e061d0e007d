"""`sample` runs a sampler from noise to data over a batch after another; `encode` runs it from data to noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import NumericalError, ShapeError, UsageError
from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import grids
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.sampling.guidance import Guidance, checked
from nelbo.sampling.names import parse
from nelbo.sampling.sampler import Before, Sampler, Step, at_logsnr
from nelbo.workers import Workers

CONTINUOUS_STEPS = 250
"""Steps of a model whose grid is continuous, where none are asked for."""


class Trajectory(NamedTuple):
    """Samples (n, *shape) and what led to them: z and x̂ at every level, (L, n, *shape), and their log-SNR (L,)."""

    samples: Tensor
    z: Tensor
    denoised: Tensor
    logsnr: Tensor


@equation("reverse-joint")
def sample(
    model: DiffusionModel,
    n: int,
    *,
    sampler: str | Sampler = "ancestral",
    steps: int | None = None,
    grid: str | Grid | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    codes: bool = True,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    start: Tensor | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    trajectory: bool = False,
    workers: Workers | None = None,
) -> Tensor | Trajectory:
    """n draws of p_θ(x), (n, *shape): integer codes where the domain has bins and `codes`, else real values, unclipped.

    The last step is the model's decoder: codes come from p(x | z_1), real values are E[x | z_1]. sampler: a name of
    `nelbo.samplers.NAMED` or an instance, such as `nelbo.samplers.DDIM(eta=0.5)`; "ancestral" draws from the model
    itself. Sample i depends on (seed, i) alone, whatever the batches and processes.

    steps: network evaluations of a pass with one evaluation a step (Heun and midpoint make two), spaced as `grid` says:
    "even", "quadratic", "karras", "logsnr", or a `Grid` of its own. None: the model's grid.
    condition: keywords of the network, one row a sample. guidance, null_condition: the scale w of classifier-free
    guidance, x̂ = x̂_null + w (x̂_condition − x̂_null), and the one row that the network takes for no condition.
    start: z_L (n, *shape) in the place of draws of the prior, as `nelbo.samplers.encode` gives it.
    trajectory: return a `Trajectory` with every level. progress: called with (evaluations done, planned).
    workers: the processes that share the samples (see `nelbo.runtime`); every one gets all of them.
    Errors: UsageError, UnknownNameError, ShapeError, NumericalError. Source: Ho et al. 2020, algorithm 2.
    """
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"{n!r} samples were asked for", "n is a whole number ≥ 1")
    if start is not None and tuple(start.shape) != (n, *model.domain.shape):
        raise ShapeError(
            f"a start of shape {tuple(start.shape)} for {n} samples of shape {model.domain.shape}",
            "give z_L, one row a sample",
        )
    if trajectory and workers is not None and workers.size > 1:
        raise UsageError(f"a trajectory was asked of {workers.size} processes", "draw trajectories in one process")
    run = _Run.of(model, n, sampler, steps, grid, seed, condition, guidance, null_condition, device, progress)
    mine = torch.arange(n) if workers is None else torch.arange(n).tensor_split(workers.size)[workers.rank]
    run.planned = len(mine) * run.evaluations(run.model.decoder.calls_network)
    with torch.no_grad(), run.model.denoiser.inference():
        parts = [
            _chain(run, rows, None if start is None else start[rows], codes, trajectory)
            for rows in mine.split(_batch(batch_size, n, model))
            if len(rows)
        ]
    if trajectory:
        samples, z, denoised, logsnr = zip(*parts, strict=True)
        return Trajectory(torch.cat(samples), torch.cat(z, 1), torch.cat(denoised, 1), logsnr[0])
    kind = torch.int64 if codes and model.domain.discrete else torch.float64
    drawn = torch.cat([torch.empty(0, *model.domain.shape, dtype=kind), *(p.samples for p in parts)])
    return drawn if workers is None else torch.cat([v.to(kind) for v in workers.gather(drawn.double())])


def encode(
    model: DiffusionModel,
    data: Tensor,
    *,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    grid: str | Grid | None = None,
    batch_size: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The noise z_L (n, *shape) of which a sampler makes `data`: the probability flow, run from z_1 = α_1 x upwards.

    `nelbo.sample(model, n, start=z, …)` with the same sampler, steps and grid returns to z_1, with an error of the
    sampler's order in the steps. data: codes or values, (n, *shape). condition, guidance,
    null_condition, batch_size, device and progress are as of `sample`.
    Errors: UsageError for a sampler that draws noise, DomainError, ShapeError, NumericalError.

    >>> import nelbo, torch
    >>> data = nelbo.exact.GaussianData([0.5, -1.0], [[0.6, 0.2], [0.2, 0.3]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(9.0, -9.0), nelbo.grids.even(100), exact_ends=False)
    >>> x = data.sample(4)
    >>> back = nelbo.sample(model, 4, sampler="heun", start=encode(model, x, sampler="heun"))
    >>> bool((back - x).abs().max() < 0.01)
    True
    """
    values = model.domain.checked(data, "data to encode")
    x = model.domain.values(values)
    run = _Run.of(model, len(x), sampler, steps, grid, 0, condition, guidance, null_condition, device, progress)
    if run.sampler.stochastic:
        raise UsageError(
            f"data were to be encoded by the sampler {run.sampler.name!r}, which draws noise",
            "use one that draws none: ddim, heun, flow_midpoint, dpmpp_2m",
        )
    run.planned = len(x) * run.evaluations(False)
    with torch.no_grad(), run.model.denoiser.inference():
        return torch.cat([_up(run, rows, x[rows]) for rows in torch.arange(len(x)).split(_batch(batch_size, 0, model))])


@dataclasses.dataclass(eq=False)
class _Run:
    """One call: the model on its grid, and all that the batches share."""

    model: DiffusionModel
    sampler: Sampler
    levels: Levels
    seed: int
    condition: Mapping[str, Tensor] | None
    guidance: Guidance | None
    device: torch.device
    progress: Callable[[int, int], None] | None
    planned: int = 0
    done: int = 0

    @classmethod
    def of(cls, model, n, sampler, steps, grid, seed, condition, guidance, null, device, progress) -> _Run:
        chosen = parse(sampler)
        for name, rows in (condition or {}).items():
            if len(rows) != n:
                raise ShapeError(f"the condition {name!r} has {len(rows)} rows for {n} samples", "give one row each")
        reverse = dataclasses.replace(model.reverse, variance=chosen.variance or model.reverse.variance)
        model = dataclasses.replace(model, grid=_grid(model, steps, grid), reverse=reverse)
        model = model.in_precision(_dtype(model), device)
        place = torch.device(device or "cpu")
        levels = model.levels().to(device=place)
        return cls(model, chosen, levels, seed, condition, checked(guidance, null, condition), place, progress)

    def evaluations(self, decoder_calls_network: bool) -> int:
        """Network evaluations of one sample."""
        passes = (len(self.levels) - 1) * self.sampler.evaluations + int(decoder_calls_network)
        return passes * (1 if self.guidance is None else 2)

    def predictor(self, rows: Tensor) -> Callable[[Tensor, Levels], Prediction]:
        """The model's prediction for the samples `rows` at a state and one level."""
        condition = {k: torch.as_tensor(v)[rows].to(self.device) for k, v in (self.condition or {}).items()}

        def predict(z: Tensor, t: Levels) -> Prediction:
            t = t.expand(len(z))
            if self.guidance is None:
                found = self.model.predict(z, t, condition)
            else:
                found = self.guidance.predict(self.model, z, t, condition)
            self.done += len(z) * (1 if self.guidance is None else 2)
            if self.progress is not None:
                self.progress(self.done, self.planned)
            return found

        return predict

    def normal(self, rows: Tensor, level: int) -> Tensor:
        """The noise of the samples `rows` at a level, keyed by (seed, sample, level)."""
        shape = self.model.domain.shape
        return random.normal(self.seed, rows, level, 0, shape, stream=random.Stream.SAMPLE, device=self.device)

    def moved(self, z: Tensor, j: int, to: int, rows: Tensor, before: Before | None, predict) -> tuple[Tensor, Before]:
        """z after the step from level j to level `to`, and what the next step may remember. Errors: NumericalError."""
        t, s = self.levels[j : j + 1], self.levels[to : to + 1]
        step = Step(
            z=z,
            t=t,
            s=s,
            before=before,
            reverse=self.model.reverse,
            count=len(self.levels) - 1,
            predict=predict,
            normal=lambda: self.normal(rows, j),
            at=lambda logsnr: at_logsnr(self.model.schedule, logsnr),
        )
        z, x0 = self.sampler.step(step)
        if not math.isfinite(float(z.sum())):  # one pass; NaN and infinities stay in a sum
            raise NumericalError(f"level {j} of a sample is not finite", "check the network's weights and precision")
        return z, Before(t, x0)


@equation("sampling-last-step")
def _chain(run: _Run, rows: Tensor, start: Tensor | None, codes: bool, keep: bool) -> Trajectory:
    model, levels = run.model, run.levels
    L = len(levels)
    predict = run.predictor(rows)
    z = model.prior.draw(run.normal(rows, L)) if start is None else start.to(run.device, torch.float64)
    trail: list[tuple[Tensor, Tensor]] = []
    before = None
    for j in range(L - 1, 0, -1):
        from_ = z
        z, before = run.moved(z, j, j - 1, rows, before, predict)
        if keep:
            trail.append((from_.cpu(), before.x0.cpu()))
    first = levels[:1].expand(len(rows))
    prediction = predict(z, levels[:1]) if model.decoder.calls_network else None
    mean = model.decoder.mean(z, first, prediction, model.domain)
    if keep:
        trail.append((z.cpu(), mean.cpu()))
    if not model.domain.discrete:
        mean = model.domain.original(mean)
    if codes and model.domain.discrete:
        shape = model.domain.shape
        u = random.uniform(run.seed, rows, 0, 0, shape, stream=random.Stream.DECODE, device=run.device)
        mean = model.decoder.draw(u, z, first, prediction, model.domain)
    zs, denoised = (torch.stack(v) for v in zip(*trail, strict=True)) if keep else (z, z)
    return Trajectory(mean.cpu(), zs, denoised, levels.logsnr.flip(0).cpu())


def _up(run: _Run, rows: Tensor, x: Tensor) -> Tensor:
    predict = run.predictor(rows)
    z = column(run.levels[:1].alpha, x) * x.to(run.device)
    before = None
    for j in range(len(run.levels) - 1):
        z, before = run.moved(z, j, j + 1, rows, before, predict)
    return z.cpu()


def _grid(model: DiffusionModel, steps: int | None, grid: str | Grid | None) -> Grid:
    """The grid that steps and grid ask for. Errors: UsageError, UnknownNameError."""
    if isinstance(grid, Grid):
        if steps is not None or grid.continuous:
            raise UsageError(
                f"the grid {grid.kind!r}" + (f" and {steps} steps were both given" if steps else " has no steps"),
                "give steps and the name of a grid, or a Grid of finitely many steps alone",
            )
        return grid
    if grid is None and steps is None and not model.grid.continuous:
        return model.grid
    wanted = steps if steps is not None else model.steps or CONTINUOUS_STEPS
    return grids.named(grid or "even", wanted, getattr(model.grid, "first", 0))


def _batch(batch_size: int | None, n: int, model: DiffusionModel) -> int:
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples was asked for", "batch_size is a whole number ≥ 1")
    most = max(1, 262144 // model.domain.dimensions)
    return batch_size or (min(n, most) if n else most)


def _dtype(model: DiffusionModel) -> torch.dtype:
    for p in model.denoiser.parameters():
        return p.dtype
    return torch.float64
