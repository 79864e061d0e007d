"""`ode_likelihood`, the probability-flow likelihood of examples, and its result, `OdeLikelihood`.

Three errors are kept apart: Monte Carlo noise (of starting points and probes) in the standard errors; discretisation,
estimated by step doubling for each example; and the sampling error of the examples. The result has schema nelbo.bound/1
with quantity "ode" and terms of its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.estimate import PerExample, Rows, TermEstimate
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import error_bars
from nelbo.bound.prepare import prepare
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.result import Bound
from nelbo.bound.trial import trial
from nelbo.bound.values import StandardError, Term
from nelbo.errors import UsageError
from nelbo.likelihood import dequantisation, ode
from nelbo.likelihood.dequantisation import Dequantisation
from nelbo.likelihood.scores import NAMES, TERMS, Scores, Settings, scored
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.schedule import Table
from nelbo.typing import Condition, Json
from nelbo.workers import Run


@dataclass(frozen=True)
class FlowTerms:
    """Terms of the ODE likelihood, which add up to it.

    prior: −log p(z_L), where the flow ends. flow: −∫ ∇·(dz/dλ) dλ, from the first level to the last. dequantisation:
    log q(z_1 | x), on average minus its entropy; −D log α_1 where nothing is drawn. reconstruction: −log p(x | z_1),
    0 where the bins decide. importance: what the importance-weighted bound over several z_1 takes off, ≤ 0; 0 for one.
    """

    prior: Term
    flow: Term
    dequantisation: Term
    reconstruction: Term
    importance: Term


@dataclass(frozen=True, eq=False)
class FlowPerExample(Rows):
    """Per-example values in nats, each (N,) float64: the sum, its Monte Carlo error (dequantisation and probes), its
    terms, and the estimated error of the solve by step doubling."""

    nats: Tensor
    standard_error: Tensor
    prior: Tensor
    flow: Tensor
    dequantisation: Tensor
    reconstruction: Tensor
    importance: Tensor
    solver_error: Tensor
    dimensions: Tensor | None = None
    """Of examples of different size the D of each."""


@dataclass(frozen=True, eq=False, repr=False)
class OdeLikelihood(Bound):
    """−log p of a data set by the probability-flow ODE: `quantity` is "ode", and `estimator["scores"]` says what of.

    "mass": a bound of −log P(codes); "density": a bound of a negative log density of real data; "noisy density": the
    density of the first level at x, which has its noise: no bound of the data's.
    """

    command: ClassVar[str] = "`nelbo ode --out`"
    terms: FlowTerms  # type: ignore[assignment]
    per_example: FlowPerExample | PerExample | None = None  # type: ignore[assignment]
    quantity: str = "ode"

    @property
    def total_name(self) -> str:
        return "ode" if self.estimator["scores"] == "noisy density" else "ode bound"


def ode_likelihood(
    model: DiffusionModel,
    examples: Examples,
    run: Run,
    how: Settings,
    *,
    condition: Condition | None = None,
    per_example: bool = False,
) -> OdeLikelihood:
    """−log p of `examples` by the model's probability-flow ODE; see `nelbo.ode_likelihood`.

    Interrupted, the result is that of the examples finished until then. Errors: ShapeError, DomainError, UsageError,
    NumericalError, Interrupted.
    """
    started = time.perf_counter()
    if run.precision == "bf16":
        raise UsageError("an ODE likelihood in bf16: derivatives have two digits there", "use float32 or float64")
    ode.span(model)
    prepared = prepare(model, examples, run, condition=condition)
    chain, runner = prepared.chain, prepared.runner
    prepared.agree("ode", ode=how.identity, per_example=repr(per_example))
    prepared.open_state(ode=how.identity)
    runner.plan(chain.examples * how.evaluations(model) // run.workers.size)
    try:
        with chain.model.denoiser.inference():
            tried = trial(chain, runner)
            scores = scored(chain, runner, how)
    finally:
        runner.close()
    D = chain.dimensions
    done = prepared.examples.first(len(scores))
    sizes = chain.sizes[: len(scores)] if isinstance(chain, RaggedChain) else None

    def estimated(name: str) -> TermEstimate:
        variances = scores.variances[name]
        estimate = TermEstimate.of(scores.values[name], variances)
        widened, _ = error_bars.of_squares(variances / len(scores) ** 2, how.freedom)
        estimate = replace(estimate, variance=widened)
        return estimate if sizes is None else estimate.over(sizes).scaled(D * len(sizes) / int(sizes.sum()))

    total = estimated("nats")
    representative = done.representative

    def term(name: str) -> Term:
        return Term.of(estimated(name), D, representative=representative)

    notes = checks.overlap(model, done) + tried + _notes(chain, runner.stopped, how, scores, total)
    checks.warn(notes)
    rows = FlowPerExample(
        **{name: scores.values[name] for name in NAMES},
        standard_error=scores.variances["nats"].sqrt(),
        solver_error=scores.errors,
        dimensions=sizes,
    )
    return OdeLikelihood(
        bits_per_dim=float(bits_per_dim(total.mean, D)),
        standard_error=StandardError.of(total.variance, total.data_variance, D, representative=representative),
        terms=FlowTerms(**{name: term(name) for name in TERMS}),
        levels=(),
        examples=len(done),
        dimensions=D,
        nfe_total=scores.evaluations,
        estimator=_description(model, how, scores, D),
        **prepared.claims(done),
        per_example=rows if per_example else None,
        warnings=tuple(notes),
        interrupted=runner.stopped,
        seconds=time.perf_counter() - started,
    )


def _notes(chain: GaussianChain, stopped: bool, how: Settings, scores: Scores, total: TermEstimate) -> list[str]:
    """What a reader of the result must know."""
    notes, D, n = [], chain.dimensions, len(scores)
    if isinstance(chain.model.schedule, Table):
        notes.append("between the levels of its table the network is given fractional positions, interpolated in λ")
    if stopped:
        notes.append(f"interrupted: the likelihood is that of the first {n} of {chain.examples} examples")
    if total.variance > 0 and (few := error_bars.of_few(n * how.freedom, False, "give more draws=, or probes=")):
        notes.append(few)
    if how.tolerance is not None:
        most = how.tolerance / chain.model.domain.dimensions
        sizes = chain.sizes[:n] if isinstance(chain, RaggedChain) else torch.full((n,), D)
        missed = int((scores.errors > most * sizes).sum())
        tolerance = f"{bits_per_dim(most, 1):.3g}"
        if missed:
            notes.append(f"{missed} of {n} examples miss the ODE tolerance {tolerance} with {how.max_steps} steps")
        return notes
    spread = math.sqrt(total.variance + (0.0 if math.isnan(total.data_variance) else total.data_variance))
    error = float(bits_per_dim(float(scores.errors.mean()), D))
    if error > max(1e-3, 0.5 * float(bits_per_dim(spread, D))):  # half of the error bar, or the third decimal
        notes.append(f"the ODE's discretisation error is about {error:.2g} bits/dim: take more steps")
    return notes


def _description(model: DiffusionModel, how: Settings, scores: Scores, D: int) -> Json:
    """What was computed, and what the number is of; errors in bits/dim."""
    kind, fit = how.dequantisation, dequantisation
    what = "mass" if model.domain.discrete else "density" if kind.random else "noisy density"
    about: Json = {"name": "probability_flow", "scores": what, "bound": kind.random}
    if kind is Dequantisation.FLOW:
        about["fit"] = {"examples": fit.EXAMPLES, "steps": fit.STEPS, "batch": fit.BATCH}
    if not kind.random:
        about["noise"] = math.exp(-0.5 * ode.span(model)[0])  # σ_1/α_1, in units of x
    errors = float(scores.errors.mean()), float(scores.errors.max())
    return about | {
        "dequantisation": kind.value,
        "draws": how.draws,
        "importance": how.importance,
        "trace": str(how.trace),
        "probes": how.trace.probes,
        "solver": how.solver.name,
        "steps": how.solver.steps,
        "most_steps": scores.most_steps,
        "tolerance": None if how.tolerance is None else float(bits_per_dim(how.tolerance, model.domain.dimensions)),
        "solver_error": {name: float(bits_per_dim(e, D)) for name, e in zip(("mean", "max"), errors, strict=True)},
        "law": ode.law(model.schedule).kind,
    }
