"""Ancestral sampling: z_L ~ p(z_L), then z_{j−1} ~ p_θ(z_{j−1} | z_j) down to z_1, then x ~ p(x | z_1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import NumericalError, ShapeError, UnknownNameError, UsageError
from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.grid import Even

SAMPLERS = ("ancestral",)
CONTINUOUS_STEPS = 250
"""Steps of a model whose grid is continuous, where none are asked for."""


class Trajectory(NamedTuple):
    """Samples (n, *shape) and what led to them: z and x̂ at every level, (L, n, *shape), and their log-SNR (L,)."""

    samples: Tensor
    z: Tensor
    denoised: Tensor
    logsnr: Tensor


@equation("sampling-step", "sampling-last-step", "reverse-joint")
def sample(
    model: DiffusionModel,
    n: int,
    *,
    sampler: str = "ancestral",
    steps: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    codes: bool = True,
    condition: Mapping[str, Tensor] | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    trajectory: bool = False,
) -> Tensor | Trajectory:
    """n draws of p_θ(x), (n, *shape): integer codes where the domain has bins and `codes`, else real values, unclipped.

    The draw is of the model itself, decoder included: codes come from p(x | z_1), real values are E[x | z_1].
    steps: network evaluations, evenly spaced (the model's own grid where None). Sample i depends on (seed, i) alone.
    trajectory: return a `Trajectory` with every level. progress: called with (evaluations done, planned).
    Errors: UsageError, UnknownNameError, ShapeError, NumericalError. Source: Ho et al. 2020, algorithm 2.
    """
    if sampler not in SAMPLERS:
        raise UnknownNameError.of("sampler", sampler, SAMPLERS)
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"{n!r} samples were asked for", "n is a whole number ≥ 1")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} samples was asked for", "batch_size is a whole number ≥ 1")
    for name, rows in (condition or {}).items():
        if len(rows) != n:
            raise ShapeError(f"the condition {name!r} has {len(rows)} rows for {n} samples", "give one row a sample")
    if steps is not None or model.grid.continuous:
        model = model.with_grid(Even(CONTINUOUS_STEPS if steps is None else steps, getattr(model.grid, "first", 0)))
    model = model.in_precision(_dtype(model), device)
    place = torch.device(device or "cpu")
    size = batch_size or max(1, min(n, 262144 // model.domain.dimensions))
    planned = n * (model.steps or 0)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, planned)

    with torch.no_grad(), model.denoiser.inference():
        parts = [
            _chain(model, rows, seed, codes, _rows(condition, rows, place), place, advance, trajectory)
            for rows in torch.arange(n).split(size)
        ]
    if trajectory:
        samples, z, denoised, logsnr = zip(*parts, strict=True)
        return Trajectory(torch.cat(samples), torch.cat(z, 1), torch.cat(denoised, 1), logsnr[0])
    return torch.cat([p.samples for p in parts])


def _chain(model, rows, seed, codes, condition, device, advance, keep) -> Trajectory:
    levels = model.levels().to(device=device)
    shape = model.domain.shape
    L = len(levels)

    def normal(level: int) -> Tensor:
        return random.normal(seed, rows, level, 0, shape, stream=random.Stream.SAMPLE, device=device)

    z = model.prior.draw(normal(L))
    trail: list[tuple[Tensor, Tensor]] = []
    for j in range(L - 1, 0, -1):
        t = levels[j : j + 1].expand(len(rows))
        s = levels[j - 1 : j].expand(len(rows))
        prediction = model.predict(z, t, condition)
        advance(len(rows))
        if keep:
            trail.append((z.cpu(), prediction.x0.cpu()))
        mean, variance = model.reverse.step(z, prediction, s, t)
        z = mean + variance.sqrt() * normal(j)
        if not bool(torch.isfinite(z).all()):
            raise NumericalError(f"level {j} of a sample is not finite", "check the network's weights and precision")
    first = levels[:1].expand(len(rows))
    prediction = None
    if model.decoder.calls_network:
        prediction = model.predict(z, first, condition)
        advance(len(rows))
    mean = model.decoder.mean(z, first, prediction, model.domain)
    if keep:
        trail.append((z.cpu(), mean.cpu()))
    if codes and model.domain.discrete:
        u = random.uniform(seed, rows, 0, 0, shape, stream=random.Stream.DECODE, device=device)
        mean = model.decoder.draw(u, z, first, prediction, model.domain)
    zs, denoised = (torch.stack(v) for v in zip(*trail, strict=True)) if keep else (z, z)
    return Trajectory(mean.cpu(), zs, denoised, levels.logsnr.flip(0).cpu())


def _dtype(model: DiffusionModel) -> torch.dtype:
    for p in model.denoiser.parameters():
        return p.dtype
    return torch.float64


def _rows(condition: Mapping[str, Tensor] | None, rows: Tensor, device: torch.device) -> dict[str, Tensor]:
    return {k: torch.as_tensor(v)[rows].to(device) for k, v in (condition or {}).items()}
