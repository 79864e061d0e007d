"""`sample` runs a sampler from noise to data, one batch after another; `encode` runs it from data to noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.adapters.load import Model, load
from nelbo.ambient import neutral
from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import NumericalError, ShapeError, UnknownNameError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process import every_grid as grids
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.sampling.ancestral import Ancestral
from nelbo.sampling.ddim import DDIM
from nelbo.sampling.dpm import DPMSolver2M, SDEDPMSolver2M
from nelbo.sampling.edm import Euler, Heun
from nelbo.sampling.flow import FlowEuler, FlowMidpoint
from nelbo.sampling.guidance import Guidance, make_guidance
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
    if sampler not in NAMED:
        raise UnknownNameError.of("sampler", sampler, NAMED)
    return NAMED[sampler]()


class Trajectory(NamedTuple):
    """Samples (n, *shape) and how they came about: z and x̂ at every level, (L, n, *shape), and their log-SNR (L,)."""

    samples: Tensor
    z: Tensor
    denoised: Tensor
    logsnr: Tensor


@numbers
@equation("reverse-joint")
def sample(
    model: DiffusionModel,
    n: int,
    run: Run | None = None,
    *,
    sampler: str | Sampler = "ancestral",
    steps: int | None = None,
    grid: str | Grid | None = None,
    codes: bool = True,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    start: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor | Trajectory:
    """n draws of p_θ(x), (n, *shape): integer codes where the domain has bins and `codes`, else real values, unclipped.

    The last step is the model's decoder: codes come from p(x | z_1), real values are E[x | z_1]. sampler: a name of
    `NAMED` or an instance, such as `DDIM(eta=0.5)`; "ancestral" draws from the model itself. Sample i depends on
    (seed, i) alone, whatever the batches and processes.

    steps: network evaluations of a pass with one evaluation a step (Heun and midpoint make two), spaced as `grid` says:
    "even", "quadratic", "karras", "logsnr", or a `Grid` in the place of both. None: the model's grid.
    condition: keywords of the network, one row a sample. guidance, null_condition: the scale w of classifier-free
    guidance, x̂ = x̂_null + w (x̂_condition − x̂_null), and the one row that the network takes for no condition.
    start: z_L (n, *shape) in the place of draws of the prior, as `encode` gives it.
    trajectory: return a `Trajectory` with every level. run: device, batch_size, seed, progress, and the workers that
    share the samples, each of which gets all of them; the precision is that of the network's parameters.
    Errors: UsageError, UnknownNameError, ShapeError, NumericalError. Source: Ho et al. 2020, algorithm 2.
    """
    run = run or Run()
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"{n!r} samples were asked for", "n is a whole number ≥ 1")
    if start is not None and tuple(start.shape) != (n, *model.domain.shape):
        raise ShapeError(
            f"a start of shape {tuple(start.shape)} for {n} samples of shape {model.domain.shape}",
            "give z_L, one row a sample",
        )
    workers = run.workers
    if trajectory and workers.size > 1:
        raise UsageError(f"a trajectory was asked of {workers.size} processes", "draw trajectories in one process")
    paths = _Paths.of(
        model, n, sampler, steps, grid, condition, make_guidance(guidance, null_condition, condition), run
    )
    paths.agree(n, start, codes)
    own = torch.arange(n).tensor_split(workers.size)[workers.rank]
    paths.planned = len(own) * paths.evaluations(paths.model.decoder.calls_network)
    with torch.no_grad(), paths.model.denoiser.inference():
        parts = [
            _down(paths, rows, None if start is None else start[rows], codes, trajectory)
            for rows in own.split(_batch_size(run.batch_size, n, model))
            if len(rows)
        ]
    if trajectory:
        samples, z, denoised, logsnr = zip(*parts, strict=True)
        return Trajectory(torch.cat(samples), torch.cat(z, 1), torch.cat(denoised, 1), logsnr[0])
    dtype = torch.int64 if codes and model.domain.discrete else torch.float64
    drawn = torch.cat([torch.empty(0, *model.domain.shape, dtype=dtype), *(p.samples for p in parts)])
    return drawn if workers.size == 1 else torch.cat([v.to(dtype) for v in workers.gather(drawn.double())])


@numbers
@neutral()
def encode(
    model: Model,
    data: Tensor,
    *,
    sampler: str | Sampler = "ddim",
    steps: int | None = None,
    grid: str | Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float | None = None,
    null_condition: Mapping[str, Tensor] | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    trust_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The noise z_L (n, *shape) from which a sampler makes `data`: the probability flow, run from z_1 = α_1 x upwards.

    `nelbo.sample(model, n, start=z, …)` with the same sampler, steps and grid returns to z_1, with an error of the
    sampler's order in the steps. data: codes or values, (n, *shape). model, condition, guidance, null_condition,
    batch_size, device, trust_code and progress are as of `nelbo.sample`.
    Errors: UsageError for a sampler that draws noise, DomainError, ShapeError, NumericalError.

    >>> import nelbo, torch
    >>> data = nelbo.exact.GaussianData([0.5, -1.0], [[0.6, 0.2], [0.2, 0.3]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(9.0, -9.0), nelbo.grids.even(100), exact_ends=False)
    >>> x = data.sample(4)
    >>> back = nelbo.sample(model, 4, sampler="heun", start=encode(model, x, sampler="heun"))
    >>> bool((back - x).abs().max() < 0.01)
    True
    """
    model = load(model, trust_code=trust_code)
    x = model.domain.values(model.domain.checked(data, "data to encode"))
    run = Run(device=device, batch_size=batch_size, progress=progress)
    guided = make_guidance(guidance, null_condition, condition)
    paths = _Paths.of(model, len(x), sampler, steps, grid, condition, guided, run)
    if paths.sampler.stochastic:
        raise UsageError(
            f"data were to be encoded by the sampler {paths.sampler.name!r}, which draws noise",
            "use one that draws none: ddim, heun, flow_midpoint, dpmpp_2m",
        )
    paths.planned = len(x) * paths.evaluations(False)
    batches = torch.arange(len(x)).split(_batch_size(batch_size, len(x), model))
    with torch.no_grad(), paths.model.denoiser.inference():
        return torch.cat([_up(paths, rows, x[rows]) for rows in batches])


@dataclasses.dataclass(eq=False)
class _Paths:
    """The paths of one call: the model on the levels of the call, and what all its batches share."""

    model: DiffusionModel
    sampler: Sampler
    levels: Levels
    condition: Mapping[str, Tensor]
    guidance: Guidance | None
    run: Run
    device: torch.device
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
    ) -> _Paths:
        chosen, condition = parse(sampler), condition_rows(condition, n, "samples")
        variance = chosen.reverse_variance or model.reverse.variance
        reverse = dataclasses.replace(model.reverse, variance=variance)
        model = dataclasses.replace(model, grid=_grid(model, steps, grid), reverse=reverse)
        model = model.in_precision(_dtype(model), run.device)
        device = torch.device(run.device or "cpu")
        return cls(model, chosen, model.levels().to(device=device), condition, guidance, run, device)

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
        z, x0 = self.sampler.step(step)
        if not math.isfinite(float(z.sum())):  # NaN and infinities survive a sum
            raise NumericalError(f"level {j} of a sample is not finite", "check the network's weights and precision")
        return z, PreviousStep(t, x0)


def _fingerprint(rows: Tensor) -> str:
    return Examples(torch.as_tensor(rows)[None]).fingerprint


@equation("sampling-last-step")
def _down(paths: _Paths, rows: Tensor, start: Tensor | None, codes: bool, keep: bool) -> Trajectory:
    """From noise to data; z and x̂ of every level where `keep`."""
    model, levels = paths.model, paths.levels
    L = len(levels)
    predict = paths.predictor(rows)
    z = model.prior.draw(paths.normal(rows, L)) if start is None else start.to(paths.device, torch.float64)
    trail: list[tuple[Tensor, Tensor]] = []
    previous = None
    for j in range(L - 1, 0, -1):
        z_t = z
        z, previous = paths.step(z, j, j - 1, rows, previous, predict)
        if keep:
            trail.append((z_t.cpu(), previous.x0.cpu()))
    first = levels[:1].expand(len(rows))
    prediction = predict(z, levels[:1]) if model.decoder.calls_network else None
    mean = model.decoder.mean(z, first, prediction, model.domain)
    if keep:
        trail.append((z.cpu(), mean.cpu()))
    if not model.domain.discrete:
        mean = model.domain.original(mean)
    if codes and model.domain.discrete:
        u = Purpose.SAMPLE_CODE.uniform(paths.run.seed, rows, shape=model.domain.shape, device=paths.device)
        mean = model.decoder.draw(u, z, first, prediction, model.domain)
    zs, denoised = (torch.stack(v) for v in zip(*trail, strict=True)) if keep else (z, z)
    return Trajectory(mean.cpu(), zs, denoised, levels.logsnr.flip(0).cpu())


def _up(paths: _Paths, rows: Tensor, x: Tensor) -> Tensor:
    """From data to noise."""
    predict = paths.predictor(rows)
    z = column(paths.levels[:1].alpha, x) * x.to(paths.device)
    previous = None
    for j in range(len(paths.levels) - 1):
        z, previous = paths.step(z, j, j + 1, rows, previous, predict)
    return z.cpu()


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


def _batch_size(batch_size: int | None, n: int, model: DiffusionModel) -> int:
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples was asked for", "batch_size is a whole number ≥ 1")
    return batch_size or max(1, min(n, BATCH_ELEMENTS // model.domain.dimensions))


def _dtype(model: DiffusionModel) -> torch.dtype:
    for p in model.denoiser.parameters():
        return p.dtype
    return torch.float64
