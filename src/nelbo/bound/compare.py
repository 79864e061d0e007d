"""`compare`: the difference of two models' bounds on the same examples, with common random numbers.

Both models are evaluated by the per-example design at the same positions of the chain and the same noise, wherever
their chains have the same levels. What the draws have in common cancels in the difference, and so does what examples
have in common: its standard errors are those of the paired differences, not of two numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.estimate import TermEstimate
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import allocation, cost, pilot
from nelbo.bound.planned.allocation import FALL, LARGEST, CellDensity
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.summary import ExampleValues
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.result import Bound
from nelbo.bound.runner import Runner
from nelbo.bound.tolerance import Relative, Tolerance, in_nats, in_words, parse
from nelbo.bound.trial import trial
from nelbo.bound.values import StandardError, error_in_words
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import fixed, in_short, without_nan
from nelbo.documents.reading import filled
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.errors import CostError, UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import REPRESENTATIVE, Examples
from nelbo.typing import Json
from nelbo.workers import Run

SCHEMA = "nelbo.comparison/1"
STAGES = 12
"""Most stages; each is planned from the paired variance that the ones before have shown, so that few are needed."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Document):
    """difference = bound of A − bound of B in bits/dim (negative: A is better), with paired standard errors."""

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo compare --json`"
    difference: float
    standard_error: StandardError
    a: float
    b: float
    per_example: Tensor
    examples: int
    dimensions: int
    nfe_total: int
    common_noise: bool
    tolerance: Tolerance
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
                "tolerance": str(self.tolerance) if isinstance(self.tolerance, Relative) else self.tolerance,
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

    @classmethod
    def _read(cls, document: Json) -> Self:
        nats = [math.nan if v is None else v for v in document["nats_per_example"]]
        tolerance, models = document["tolerance"], document["models"]
        return filled(
            cls,
            document,
            a=float(document["bits_per_dim"]["a"]),
            b=float(document["bits_per_dim"]["b"]),
            per_example=torch.tensor(nats, dtype=torch.float64),
            tolerance=math.nan if tolerance is None else parse(tolerance),
            models=(models["a"], models["b"]),
        )

    def _summary(self) -> str:
        e = self.standard_error
        value = in_short(self.difference, e.estimator if math.isnan(e.total) else e.total, "bits/dim")
        return f"A − B = {value}, {self.examples} examples of {self.data['name']}, {self.nfe_total} evaluations"

    def _view(self) -> html.View:
        return html.View(self._summary(), "difference", (tables.difference(self.to_dict()),), self.warnings)

    def plot(self, axes: Any = None) -> Any:
        """Draw how the examples' differences A − B in bits/dim are spread, on matplotlib `axes`, new ones where None,
        and return them; those left of 0 are better under A. Errors: UsageError without matplotlib."""
        axes = plots.new(axes)
        axes.axvline(0.0, color="0.5", linewidth=0.8)
        plots.histogram(axes, bits_per_dim(self.per_example, self.dimensions).numpy(), "A − B, bits/dim of an example")
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame of the examples' differences A − B in nats. Errors: UsageError without pandas."""
        return frames.frame({"difference_nats": self.per_example})

    def __str__(self) -> str:
        e = self.standard_error
        noise = "common noise" if self.common_noise else "independent noise: the chains have other levels"
        error, of = (e.estimator, " of the estimator") if math.isnan(e.total) else (e.total, "")
        z = abs(self.difference) / error if error > 0 else 0.0
        verdict = f"{'A' if self.difference < 0 else 'B'} is better by {z:.1f} standard errors{of}"
        if self.difference == 0:
            verdict = "no difference"
        of_data = f"± data {NOT_MEASURABLE}" if math.isnan(e.data) else f"± {e.data:.5f} data"
        noise_error = error_in_words(e.estimator)
        return "\n".join(
            [
                f"A − B   {fixed(self.difference, 5, '+')} bits/dim   ± {noise_error} estimator   {of_data}",
                f"A       {fixed(self.a, 5)}        B       {fixed(self.b, 5)}",
                f"{verdict} ({self.examples} examples, {noise}, {self.nfe_total} network evaluations)",
            ]
        )


def compare(
    model_a: DiffusionModel,
    model_b: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    tolerance: float | str | Relative = 0.01,
    max_nfe: int | None = None,
    any_cost: bool = False,
    condition: Mapping[str, Tensor] | None = None,
) -> Comparison:
    """The difference of the bounds of `data` under two models, A − B, to a paired standard error of `tolerance`.

    Options as of `evaluate`; max_nfe is for both models together, a relative tolerance is relative to the difference,
    and what the tolerance will cost is known after the first stage, of two strata an example. Errors: those of
    `evaluate`, and UsageError where the models have other data domains, since their bits/dim are then of unlike
    quantities.
    """
    started, tolerance = time.perf_counter(), parse(tolerance)
    budget = Budget(tolerance, max_nfe, any_cost)
    domains = model_a.domain, model_b.domain
    if domains[0].to_config() != domains[1].to_config():
        raise UsageError(
            f"the models score unlike data: {domains[0].to_config()} and {domains[1].to_config()}",
            "compare models of one data domain: same shape, bins and range",
        )
    a = prepare(model_a, data, run, condition=condition)
    b = prepare(model_b, a.examples, run, condition=condition, runner=a.runner)
    both, runner = (a, b), a.runner
    notes = [note for one in both for note in checks.overlap(one.model, one.examples)]
    D = domains[0].dimensions
    how = {"compared_with": str(b.fingerprint), "tolerance": repr(tolerance), "max_nfe": repr(max_nfe)}
    a.agree("compare", **how)
    claims = [one.claims() for one in both]
    a.open_state(**how)
    try:
        with a.chain.model.denoiser.inference(), b.chain.model.denoiser.inference():
            notes += [note for one in both for note in trial(one.chain, runner)]
            rows, reached, common = _differences(both, budget)
    finally:
        runner.close()
    if not reached:
        notes.append(f"the tolerance {tolerance} was not reached with {runner.nfe} evaluations")
    values = [p.chain.priors() + r.diffusion + r.reconstruction for p, r in zip(both, rows, strict=True)]
    difference = TermEstimate.of(values[0] - values[1], _paired(*rows))
    checks.warn(notes)
    return Comparison(
        difference=float(bits_per_dim(difference.mean, D)),
        standard_error=StandardError.of(
            difference.variance, difference.data_variance, D, representative=a.examples.representative
        ),
        a=float(bits_per_dim(float(values[0].mean()), D)),
        b=float(bits_per_dim(float(values[1].mean()), D)),
        per_example=values[0] - values[1],
        examples=len(values[0]),
        dimensions=D,
        nfe_total=runner.nfe,
        common_noise=common,
        tolerance=tolerance,
        seed=a.run.seed,
        precision=a.run.precision,
        data=claims[0]["data"],
        models=({**claims[0]["model"], **claims[0]["description"]}, {**claims[1]["model"], **claims[1]["description"]}),
        version=__version__,
        warnings=tuple(notes),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class Budget:
    """How far to go: a tolerance of the difference, and evaluations, see `evaluate`."""

    tolerance: Tolerance
    max_nfe: int | None
    any_cost: bool

    def __post_init__(self):
        cost.check_budget(self.max_nfe, self.any_cost)

    def check(self, chain: GaussianChain, runner: Runner, planned: float, difference: float, error: float) -> None:
        """Say what a comparison will cost. Errors: CostError where that is more than is spent without a consent; the
        difference and its standard error, in nats, are what is known of it."""
        N, D, most = chain.examples, chain.dimensions, 2 * cost.unasked(chain)
        words = cost.in_numbers(planned, N, runner.seconds_for(planned))
        if self.max_nfe is not None or self.any_cost or runner.nfe + planned <= most:
            runner.announce(round(min(runner.nfe + planned, self.max_nfe or math.inf)), words)
            return
        known, spread = (float(bits_per_dim(v, D)) for v in (difference, error))
        refused = CostError(
            f"a standard error of {in_words(self.tolerance)} takes {words}, and no more than {most:,} are spent "
            f"unasked; the first {runner.nfe:,} say that the difference is about {known:.3g} ± {spread:.2g} bits/dim",
            f"give a larger tolerance=…, a budget of evaluations such as max_nfe={most}, or "
            "any_cost=True to spend them all",
        )
        refused.evaluations = planned
        raise refused


def _differences(both: tuple[Prepared, Prepared], budget: Budget) -> tuple[list[ExampleValues], bool, bool]:
    """Per-example values of both models from as many stages as the paired standard error asks for; whether it was
    reached; whether the models share their noise."""
    a, b = (one.chain for one in both)
    runner, N = both[0].runner, a.examples
    pilots = [pilot.run(chain, runner, pilot.EXAMPLES) for chain in (a, b)]
    densities = [allocation.density(p.diffusion) for p in pilots]
    common = _same_chain(a, b)
    if common and len(a.cells):
        densities = [CellDensity.of(densities[0].p + densities[1].p)] * 2
    designs = [PerExampleDesign(*parts) for parts in zip((a, b), (runner, runner), pilots, densities, strict=True)]
    for design in designs:
        for rows in torch.arange(N).split(LARGEST):
            design.new(len(rows))
    prior = float((a.priors() - b.priors()).mean())

    def price(strata: float) -> float:
        return sum(allocation.per_example_cost(chain, N, strata, max(1, strata // 2)) for chain in (a, b))

    strata, values = 2, []
    for stage in range(STAGES):
        pairs = max(1, strata // 2)
        if stage and budget.max_nfe is not None and runner.nfe + price(strata) > budget.max_nfe:
            return values, False, common
        for design in designs:
            for block in design.blocks:
                design.draw(block, strata, pairs)
                if runner.stopped:
                    raise KeyboardInterrupt
        values = [examples for design in designs if (examples := design.summary().examples) is not None]
        variance = float(_paired(*values).mean()) / N
        means = [float((v.diffusion + v.reconstruction).mean()) for v in values]
        difference = prior + means[0] - means[1]
        target = in_nats(budget.tolerance, difference, a.dimensions)
        if variance <= target**2:
            return values, True, common
        weight = designs[0].blocks[0].weight ** (1 / FALL)
        wanted = weight * (variance / target**2 - 1) ** (1 / FALL)
        if not stage:
            budget.check(a, runner, price(wanted), difference, math.sqrt(variance))
        strata = min(allocation.MOST, max(1, math.ceil(wanted)))
    return values, False, common


def _paired(a: ExampleValues, b: ExampleValues) -> Tensor:
    """Monte Carlo variance of every example's difference, (N,)."""
    diffusion = a.diffusion_errors - b.diffusion_errors
    reconstruction = a.reconstruction_errors - b.reconstruction_errors
    return diffusion.square().sum(1) + reconstruction.square().sum(1)


def _same_chain(a: GaussianChain, b: GaussianChain) -> bool:
    return (
        a.cells.continuous == b.cells.continuous
        and len(a.cells) == len(b.cells)
        and torch.allclose(a.cells.place, b.cells.place, rtol=0, atol=1e-9)
        and a.model.schedule.path is b.model.schedule.path
    )


def compare_results(a: Bound | Any, b: Bound | Any) -> Comparison:
    """A − B of two results with per-example values, with the standard error of the paired differences.

    `estimator` takes the two estimates as independent; `total` is the spread of the differences over √N, and nan
    where the examples are too few to show it.

    Errors: UsageError for a result and something else, for a variational bound and an ODE likelihood, for a mass and a
    density, for other examples or another domain, and where a result has no per-example values.
    """
    if not (isinstance(a, Bound) and isinstance(b, Bound)):
        raise UsageError(
            f"a {type(a).__name__} was compared with a {type(b).__name__}",
            "give two models and data, or two results of the same kind",
        )
    unlike = {
        "quantity": (a.quantity, b.quantity),
        "what is scored": (_scores(a), _scores(b)),
        "data domain": (a.description["domain"], b.description["domain"]),
        "examples": (a.data["fingerprint"][:12], b.data["fingerprint"][:12]),
    }
    for what, (of_a, of_b) in unlike.items():
        if of_a != of_b:
            raise UsageError(
                f"the results are of unlike {what}: {of_a} and {of_b}",
                "a variational bound, an ODE likelihood and a density are different numbers even of one model: "
                "evaluate both models in the same way, on the same examples",
            )
    if a.per_example is None or b.per_example is None:
        raise UsageError(
            "a result without per-example values cannot be compared", "evaluate both models with per_example=True"
        )
    difference = a.per_example.nats - b.per_example.nats
    n, D = len(difference), a.dimensions
    noise = (a.per_example.standard_error.square() + b.per_example.standard_error.square()).mean() / n
    total = difference.var() / n if n > 1 else torch.tensor(math.nan)
    data = (total - noise).clamp(min=0)
    return Comparison(
        difference=float(bits_per_dim(float(difference.mean()), D)),
        standard_error=StandardError.of(
            float(noise), float(data), D, representative=n >= REPRESENTATIVE, total=float(total)
        ),
        a=a.bits_per_dim,
        b=b.bits_per_dim,
        per_example=difference,
        examples=n,
        dimensions=D,
        nfe_total=a.nfe_total + b.nfe_total,
        common_noise=a.seed == b.seed,
        tolerance=math.nan,
        seed=a.seed,
        precision=a.precision,
        data=a.data,
        models=({**a.model, **a.description}, {**b.model, **b.description}),
        version=__version__,
        warnings=(*a.warnings, *b.warnings),
        seconds=a.seconds + b.seconds,
    )


def _scores(result: Bound) -> str:
    return result.estimator.get("scores") or ("mass" if result.description["domain"]["bins"] else "density")
