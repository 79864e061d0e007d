"""`sample` runs a sampler from noise to data, one batch after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.grid import Grid
from nelbo.sampling.guidance import make_guidance
from nelbo.sampling.paths import Paths, batch_size_of
from nelbo.sampling.sampler import Sampler
from nelbo.workers import Run


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
    mask: Tensor | None = None,
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
    mask: what is there of the samples, (n, positions) or (n, *shape); they are zero elsewhere.
    trajectory: return a `Trajectory` with every level. run: device, batch_size, seed, progress, and the workers that
    share the samples, each of which gets all of them; the precision is that of the network's parameters.
    Errors: UsageError, UnknownNameError, ShapeError, NumericalError. Source: Ho et al. 2020, algorithm 2.
    """
    run = run or Run()
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"{n!r} samples were asked for", "n is a whole number ≥ 1")
    start = None if start is None else _started(start, (n, *model.domain.shape))
    workers = run.workers
    if trajectory and workers.size > 1:
        raise UsageError(f"a trajectory was asked of {workers.size} processes", "draw trajectories in one process")
    paths = Paths.of(
        model, n, sampler, steps, grid, condition, make_guidance(guidance, null_condition, condition), run, mask
    )
    paths.agree(n, start, codes)
    own = torch.arange(n).tensor_split(workers.size)[workers.rank]
    paths.planned = len(own) * paths.evaluations(paths.model.decoder.calls_network)
    with torch.no_grad(), paths.model.denoiser.inference():
        parts = [
            _down(paths, rows, None if start is None else start[rows], codes, trajectory)
            for rows in own.split(batch_size_of(run.batch_size, n, model))
            if len(rows)
        ]
    if trajectory:
        samples, z, denoised, logsnr = zip(*parts, strict=True)
        return Trajectory(torch.cat(samples), torch.cat(z, 1), torch.cat(denoised, 1), logsnr[0])
    dtype = torch.int64 if codes and model.domain.discrete else torch.float64
    drawn = torch.cat([torch.empty(0, *model.domain.shape, dtype=dtype), *(p.samples for p in parts)])
    return drawn if workers.size == 1 else torch.cat([v.to(dtype) for v in workers.gather(drawn.double())])


@equation("sampling-last-step")
def _down(paths: Paths, rows: Tensor, start: Tensor | None, codes: bool, keep: bool) -> Trajectory:
    """From noise to data; z and x̂ of every level where `keep`."""
    model, levels = paths.model, paths.levels
    L = len(levels)
    predict = paths.predictor(rows)
    z = model.prior.draw(paths.normal(rows, L)) if start is None else start.to(paths.device, torch.float64)
    z = paths.only_there(z, rows)
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
    mean = paths.only_there(mean, rows)
    zs, denoised = (torch.stack(v) for v in zip(*trail, strict=True)) if keep else (z, z)
    return Trajectory(mean.cpu(), zs, denoised, levels.logsnr.flip(0).cpu())


def _started(start: Any, shape: tuple[int, ...]) -> Tensor:
    """z_L as it is given. Errors: UsageError, ShapeError, DomainError."""
    remedy = "give z_L, one row a sample: what nelbo.samplers.encode returns, or a tensor of real numbers"
    try:
        z = torch.as_tensor(start)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"a start of type {type(start).__name__}", remedy) from None
    if tuple(z.shape) != shape:
        raise ShapeError(f"a start of shape {tuple(z.shape)} for {shape[0]} samples of shape {shape[1:]}", remedy)
    if z.is_complex() or z.is_meta:
        raise UsageError(f"a start of {z.dtype} on {z.device}", remedy)
    if not bool(torch.isfinite(z).all()):
        raise DomainError("a start with values that are nan or infinite", remedy)
    return z
