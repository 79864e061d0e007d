"""`compare`: the difference of two models' bounds on the same examples, with common random numbers.

Where the chains of both have the same levels, the difference of their terms at the same example, level and noise is
itself a draw of what is asked (`paired_chain.py`), and is estimated as every bound is: from a pilot, at random examples
where the tolerance is coarse and at every example where it is fine. What the draws have in common cancels, and so does
what examples have in common. The bounds of both follow from the same draws, with errors of their own.

The draws are where the difference varies, and noise has no opposite: a contrast of two models (`nelbo.contrast`,
`nelbo.log_ratio`) takes fewer evaluations for the differences of single examples, but its draws say next to nothing of
either bound.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks, unpaired
from nelbo.bound.contrast.asked import same_chain
from nelbo.bound.contrast.race import Goal
from nelbo.bound.difference import Comparison
from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.evaluate import choose
from nelbo.bound.paired_chain import PairedChain
from nelbo.bound.planned import cost
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.passes import Passes
from nelbo.bound.prepare import prepare
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.tolerance import Relative, Tolerance, parse
from nelbo.bound.trial import trial
from nelbo.bound.values import StandardError
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.progress import with_error
from nelbo.workers import Run


def compare(
    model_a: DiffusionModel,
    model_b: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    tolerance: float | str | Relative = 0.01,
    max_nfe: int | None = None,
    any_cost: bool = False,
    per_example: bool = False,
    condition: Mapping[str, Tensor] | None = None,
    confidence: float | None = None,
) -> Comparison:
    """The difference of the bounds of `data` under two models, A − B, to a paired standard error of `tolerance`.

    Options as of `evaluate`; max_nfe is for both models together, and a relative tolerance is relative to the
    difference. per_example: draw every example, so that each has a difference. confidence: end as soon as the sign of
    the difference is known at this level, see `planned.sign`. Models whose chains have unlike levels have no noise in
    common, and are drawn at every example (`unpaired.py`). Errors: those of `evaluate`, and UsageError where the models
    have other data domains, since their bits/dim are then of unlike quantities.
    """
    started, tolerance = time.perf_counter(), parse(tolerance)
    cost.check_budget(max_nfe, any_cost)
    if confidence is not None:
        Goal(confidence)
    domains = model_a.domain, model_b.domain
    if domains[0].to_config() != domains[1].to_config():
        raise UsageError(
            f"the models score unlike data: {domains[0].to_config()} and {domains[1].to_config()}",
            "compare models of one data domain: same shape, bins and range",
        )

    def tell(value: float, error: float) -> None:
        a.runner.tell(f"difference {with_error(value, error)}")

    a = prepare(model_a, data, run, condition=condition, watch=tell)
    b = prepare(model_b, a.examples, run, condition=condition, runner=a.runner)
    both, runner, D = (a, b), a.runner, a.chain.dimensions
    notes = [note for one in both for note in checks.overlap(one.model, one.examples)]
    common = same_chain(a.chain, b.chain)
    how = {"compared_with": str(b.fingerprint), "tolerance": repr(tolerance), "max_nfe": repr(max_nfe)}
    how |= {} if confidence is None else {"confidence": repr(confidence)}
    how |= {"per_example": "True"} if per_example else {}
    a.agree("compare", **how)
    claims = [one.claims() for one in both]
    a.open_state(**how)
    try:
        with a.chain.model.denoiser.inference(), b.chain.model.denoiser.inference():
            notes += [note for one in both for note in trial(one.chain, runner)]
            if common:
                problem = PairedChain(a.chain, b.chain)
                chosen = _chosen(problem, tolerance, max_nfe, any_cost, per_example, confidence)
                runner.plan(runner.nfe + chosen.cost(problem))
                whole = chosen.estimate(problem, runner)
            else:
                budget = unpaired.Budget(tolerance, max_nfe, any_cost, confidence)
                whole = unpaired.difference(a.chain, b.chain, runner, budget)
    finally:
        runner.close()
    if whole.note is not None:
        notes.append(whole.note)
    estimate, share = whole, 1.0
    if isinstance(a.chain, RaggedChain):
        estimate = whole.a_number(D, a.chain.sizes)
        share = D * a.chain.examples / int(a.chain.sizes.sum())
    sides = _sides(estimate, whole, float(sum(one.chain.priors() for one in both).mean()) / 2, share)  # type: ignore[union-attr]
    checks.warn(notes)
    total = estimate.total
    return Comparison(
        difference=float(bits_per_dim(total.mean, D)),
        standard_error=StandardError.of(
            total.variance, total.data_variance, D, representative=a.examples.representative
        ),
        a=float(bits_per_dim(sides[0], D)),
        b=float(bits_per_dim(sides[1], D)),
        standard_error_a=float(bits_per_dim(sides[2], D)),
        standard_error_b=float(bits_per_dim(sides[3], D)),
        per_example=None if estimate.per_example is None else estimate.per_example.nats,
        sizes=a.examples.sizes if a.examples.mask is not None else None,
        examples=a.chain.examples,
        dimensions=D,
        nfe_total=runner.nfe,
        common_noise=common,
        confidence=confidence,
        decided=whole.estimator.get("decided"),
        tolerance=tolerance,
        seed=a.run.seed,
        precision=a.run.precision,
        data=claims[0]["data"],
        models=({**claims[0]["model"], **claims[0]["description"]}, {**claims[1]["model"], **claims[1]["description"]}),
        version=__version__,
        warnings=tuple(notes),
        interrupted=runner.stopped,
        seconds=time.perf_counter() - started,
    )


def _chosen(
    problem: PairedChain,
    tolerance: Tolerance,
    max_nfe: int | None,
    any_cost: bool,
    per_example: bool,
    confidence: float | None,
) -> Estimator:
    """The estimator that `evaluate` would choose for such a problem, which ends when the sign is known."""
    chosen = choose(problem, "auto", tolerance, max_nfe, per_example, any_cost)
    adaptive = chosen.adaptive if isinstance(chosen, Passes) else chosen
    assert isinstance(adaptive, Adaptive)
    adaptive = replace(adaptive, confidence=confidence)
    return Passes(adaptive) if isinstance(chosen, Passes) else adaptive


def _sides(estimate: Estimate, whole: Estimate, prior: float, share: float) -> tuple[float, float, float, float]:
    """The bounds of A and B and their standard errors in nats, from the mean of both, with its exact terms `prior`, and
    the difference."""
    assert whole.sides is not None
    middle, half = share * (prior + whole.sides.mean), estimate.total.mean / 2
    errors = (share * variance**0.5 for variance in (whole.sides.a, whole.sides.b))
    return (middle + half, middle - half, *errors)  # type: ignore[return-value]
