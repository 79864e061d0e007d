"""`compare`: the difference of two models' bounds on the same examples, with common random numbers.

Both models are evaluated by the per-example design at the same positions of the chain and the same noise, wherever
their chains have the same levels. What the draws have in common cancels in the difference, and so does what examples
have in common: its standard errors are those of the paired differences, not of two numbers.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import designs, pilot
from nelbo.bound.designs import Density, Rows
from nelbo.bound.estimate import TermEstimate
from nelbo.bound.per_example import FALL, LARGEST, PerExample
from nelbo.bound.prepare import NelboWarning, overlap, prepare
from nelbo.bound.problem import Problem
from nelbo.bound.result import StandardError, without_nan
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.typing import Json
from nelbo.workers import Workers

SCHEMA = "nelbo.comparison/1"
STAGES = 12
"""Most stages; each is planned from the paired variance that the ones before have shown."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """difference = bound of A − bound of B in bits/dim (negative: A is better), with paired standard errors."""

    difference: float
    standard_error: StandardError
    a: float
    b: float
    per_example: Tensor
    examples: int
    dimensions: int
    nfe_total: int
    common_noise: bool
    tolerance: float
    seed: int
    precision: str
    data: Json
    models: tuple[Json, Json]
    version: str
    warnings: tuple[str, ...]
    seconds: float
    overrides: Json = field(default_factory=dict)
    """What the user chose in the place of both models' own."""

    def to_dict(self) -> Json:
        """JSON form, schema nelbo.comparison/1; numbers that do not exist are null."""
        return without_nan(
            {
                "schema": SCHEMA,
                "difference": self.difference,
                "standard_error": vars(self.standard_error),
                "bits_per_dim": {"a": self.a, "b": self.b},
                "nats_per_example": self.per_example.tolist(),
                "examples": self.examples,
                "dimensions": self.dimensions,
                "nfe_total": self.nfe_total,
                "nfe_per_example": self.nfe_total / self.examples,
                "common_noise": self.common_noise,
                "tolerance": self.tolerance,
                "seed": self.seed,
                "precision": self.precision,
                "data": self.data,
                "models": {"a": self.models[0], "b": self.models[1]},
                "overrides": self.overrides,
                "warnings": list(self.warnings),
                "seconds": self.seconds,
                "version": self.version,
            }
        )

    def __str__(self) -> str:
        e = self.standard_error
        noise = "common noise" if self.common_noise else "independent noise: the chains have other levels"
        z = abs(self.difference) / e.total if e.total > 0 else 0.0
        verdict = f"{'A' if self.difference < 0 else 'B'} is better by {z:.1f} standard errors"
        if self.difference == 0:
            verdict = "no difference"
        return "\n".join(
            [
                f"A − B   {self.difference:+.5f} bits/dim   ± {e.estimator:.5f} estimator   ± {e.data:.5f} data",
                f"A       {self.a:.5f}        B       {self.b:.5f}",
                f"{verdict} ({self.examples} examples, {noise}, {self.nfe_total} network evaluations)",
            ]
        )


def compare(
    model_a: DiffusionModel,
    model_b: DiffusionModel,
    data: Examples | Tensor | Any,
    *,
    tolerance: float = 0.01,
    max_nfe: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
) -> Comparison:
    """The difference of the bounds of `data` under two models, A − B, to a paired standard error of `tolerance`.

    Options as of `evaluate`; max_nfe is for both models together. Errors: those of `evaluate`, and UsageError where
    the models have other data domains, since their bits/dim are then of unlike quantities.
    """
    started = time.perf_counter()
    domains = model_a.domain, model_b.domain
    if domains[0].to_config() != domains[1].to_config():
        raise UsageError(
            f"the models score unlike data: {domains[0].to_config()} and {domains[1].to_config()}",
            "compare models of one data domain: same shape, bins and range",
        )
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    problems: list[Problem] = []
    notes: list[str] = []
    for model in (model_a, model_b):
        problem, scored = prepare(
            model,
            examples,
            condition=condition,
            seed=seed,
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
        )
        problems.append(problem)
        notes += overlap(model, scored)
    if progress is not None:
        for problem in problems:
            problem.advance = lambda _: progress(sum(p.nfe for p in problems), 0)
    D = domains[0].dimensions
    target = float(nats(tolerance, D))
    with problems[0].model.denoiser.inference(), problems[1].model.denoiser.inference():
        rows, reached, common = _differences(problems, target, max_nfe)
    if not reached:
        notes.append(f"the tolerance {tolerance} was not reached with {sum(p.nfe for p in problems)} evaluations")
    values = [p.prior() + r.diffusion + r.reconstruction for p, r in zip(problems, rows, strict=True)]
    difference = TermEstimate.of(values[0] - values[1], _paired(*rows))
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=2)

    def bits(value: float) -> float:
        return float(bits_per_dim(value, D))

    return Comparison(
        difference=bits(difference.mean),
        standard_error=StandardError(
            bits(math.sqrt(difference.variance)),
            bits(math.sqrt(difference.data_variance)),
            bits(math.sqrt(difference.variance + difference.data_variance)),
        ),
        a=bits(float(values[0].mean())),
        b=bits(float(values[1].mean())),
        per_example=values[0] - values[1],
        examples=len(values[0]),
        dimensions=D,
        nfe_total=sum(p.nfe for p in problems),
        common_noise=common,
        tolerance=tolerance,
        seed=seed,
        precision=precision,
        data={"name": examples.name, "fingerprint": scored.fingerprint},
        models=(_said(model_a), _said(model_b)),
        version=__version__,
        warnings=tuple(notes),
        seconds=time.perf_counter() - started,
    )


def _differences(problems: list[Problem], target: float, max_nfe: int | None) -> tuple[list[Rows], bool, bool]:
    """Rows of both models from as many stages as the paired standard error asks for; whether it was reached; whether
    the models share their noise."""
    pilots = [pilot.run(p, pilot.EXAMPLES) for p in problems]
    densities = [designs.neyman(q.diffusion, q.diffusion.residual) for q in pilots if len(q.diffusion.mean)]
    common = _same_chain(problems)
    if common and densities:
        densities = [Density.of(densities[0].p + densities[1].p)] * 2
    if not densities:
        densities = [Density(torch.zeros(0).double(), torch.zeros(1).double())] * 2
    both = [PerExample(*parts) for parts in zip(problems, pilots, densities, strict=True)]
    for drawn in both:
        for rows in torch.arange(drawn.problem.examples).split(LARGEST):
            drawn.new(len(rows))
    strata, drew = 2, False
    for _ in range(STAGES):
        pairs = max(1, strata // 2)
        cost = sum(drawn.cost(drawn.problem.examples, strata, pairs) for drawn in both)
        if drew and max_nfe is not None and sum(p.nfe for p in problems) + cost > max_nfe:
            return _rows(both), False, common
        for drawn in both:
            for block in drawn.blocks:
                drawn.draw(block, strata, pairs)
                if drawn.problem.stopped:
                    raise KeyboardInterrupt
        drew = True
        rows = _rows(both)
        variance = float(_paired(*rows).mean()) / problems[0].examples
        if variance <= target**2:
            return rows, True, common
        had = both[0].blocks[0].weight ** (1 / FALL)
        strata = min(256, max(1, math.ceil(had * (variance / target**2 - 1) ** (1 / FALL))))
    return _rows(both), False, common


def _rows(both: list[PerExample]) -> list[Rows]:
    found = [drawn.said().examples for drawn in both]
    return [rows for rows in found if rows is not None]


def _paired(a: Rows, b: Rows) -> Tensor:
    """Monte Carlo variance of every example's difference, (N,)."""
    diffusion = a.diffusion_errors - b.diffusion_errors
    reconstruction = a.reconstruction_errors - b.reconstruction_errors
    return diffusion.square().sum(1) + reconstruction.square().sum(1)


def _same_chain(problems: list[Problem]) -> bool:
    a, b = (p.cells for p in problems)
    return (
        a.continuous == b.continuous
        and len(a) == len(b)
        and torch.allclose(a.logsnr, b.logsnr, rtol=0, atol=1e-9)
        and problems[0].model.schedule.path is problems[1].model.schedule.path
    )


def _said(model: DiffusionModel) -> Json:
    return {"fingerprint": model.fingerprint(), "parameters": model.parameters, **model.describe()}
