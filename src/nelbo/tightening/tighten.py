"""`tighten`: the same weights on fewer and better steps, from a better first level, with fitted reverse covariances.

    1. split        examples to fit to and examples to certify on: disjoint, and no training data
    2. covariances  x − x̂ at a few levels: covariances of several families, and what their steps cost
    3. decoders     several kinds, fitted at a few levels and scored on examples left out
    4. plan         the cheapest chain of K evaluations from any first level to any last, by dynamic programming, under
                    every family; the cheapest of all is taken and its decoder fitted again at the level where it sits
    5. certificate  held-out bounds of the model before, of intermediate models, and after

Nothing is trained, and every stage is a complete model whose bound is a bound.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.arguments import check_function
from nelbo.bound import checks
from nelbo.bound.estimators import Estimator, Exhaustive
from nelbo.bound.evaluate import evaluate
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import examples_of
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths.units import nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.tightening.candidates import Candidates, NodePredictions
from nelbo.tightening.certificate import Certificate, Stage
from nelbo.tightening.decoders import DecoderKind, suitable_kinds
from nelbo.tightening.families import Family
from nelbo.tightening.held_out import bound_of, described, rows_of
from nelbo.tightening.plan import DecoderCosts, Fitting, bits, decoder_costs, prior_costs
from nelbo.tightening.shortest_path import Paths, fixed_end
from nelbo.tightening.split import split
from nelbo.typing import Condition, Json
from nelbo.workers import Run

MOST_STEPS = 128
"""Steps up to which the curve of the bound against steps is drawn, where no more are asked for."""
STEPS = 25
EVERY = 25
"""Most steps of a chain whose every step is evaluated, twice for each held-out example: chains that share levels then
share their noise, and their difference is sharp."""
BUDGET = 54
"""Most evaluations of a held-out example of a longer chain: a bad model needs more for its tolerance than it is worth
here, where the differences between examples are most of the error."""


def tighten(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    steps: int | None = None,
    *,
    target: float | None = None,
    held_out: Examples | Tensor | Any | None = None,
    first_level: str | DecoderKind = "auto",
    condition: Condition | None = None,
    held_out_condition: Condition | None = None,
    run: Run | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[DiffusionModel, Certificate]:
    """A model with the same weights and a lower bound in `steps` evaluations (25), and its certificate.

    data: examples that the model was not trained on. Half fit and half certify; all fit where held_out is given.
    target: in place of steps, a bound in bits/dim; the chain gets the fewest steps that the fit predicts to reach it.
    first_level: "auto" chooses the first level together with the decoder that costs least there; a `DecoderKind`
    ("gaussian", "histogram", "pixel", "context") chooses it for that kind; "own" keeps the model's own.
    condition, held_out_condition: keywords of the network, a row an example. run: its device, batch_size, seed and
    progress, which is called with evaluations done and planned (0: not known). message: called with a line at every
    stage.

    Errors: UsageError (too few examples, too many steps, a target that cannot be met), and those of `evaluate`.
    Source: Watson et al. 2021 (grids); Bao et al. 2022 (variances).
    """
    started = time.perf_counter()
    check_function("message", message, "line")
    run, say = run or Run(), message or (lambda text: None)
    examples = _examples(model, data)
    other = None if held_out is None else _examples(model, held_out)
    candidates = Candidates.of(model)
    base, levels = candidates.model, candidates.levels
    kinds = _kinds(first_level, base)
    own_end = kinds == [DecoderKind.OWN]
    steps = _checked_steps(steps, target, candidates.max_steps)
    parts = split(model, examples, other, run.seed)
    fit_examples, certify = parts.fit_examples, parts.held_out_examples
    say(f"fitting to {len(fit_examples)} examples, certifying on {len(certify)}")

    fitting = Fitting(candidates, fit_examples, rows_of(condition, parts.fit, len(examples)), run)
    measured, families = fitting.covariances()
    cheapest = min(families.values(), key=lambda costs: np.diagonal(costs.edges, 1).sum())
    decoders, predictions = fitting.decoder_costs(cheapest.remaining(), kinds)
    prior = prior_costs(predictions, levels)
    if own_end:
        decoders = decoders.at_first(DecoderKind.OWN)
    most = max(steps or 0, MOST_STEPS)
    plans = fitting.plans(measured, families, decoders, prior, most, _length(steps, target, base))
    if not plans:
        best = min(float(decoders.paths(c.edges, prior, most).cost[1:].min()) for c in families.values())
        raise UsageError(
            f"a bound of {target} bits/dim",
            f"the fit predicts {bits(base, best):.4f} bits/dim at best, with up to {most} steps; give a higher target",
        )
    plan = min(plans.values(), key=lambda p: (p.steps, p.nats))
    K, decoder = plan.steps, fitting.decoder(plan.decoder, plan.chain[0])
    say(f"{K} steps, decoder {plan.decoder.value}, covariance {plan.family.value}")

    scalar = families[Family.SCALAR]
    models = [("the model as it was", model, math.nan)]
    last = fixed_end(len(levels), len(levels) - 1, prior[-1])
    between_ends = _own_decoder(decoders, predictions, levels).paths(scalar.edges, last, K)
    if between_ends.has(K):
        chain, _ = between_ends.chain(K)
        even, best = candidates.even(K), candidates.grid(chain)
        models.append(("even steps, one variance a level", candidates.with_parts(even, scalar.fit.policy), math.nan))
        predicted = between_ends.cost[K]
        models.append(("best steps between its ends", candidates.with_parts(best, scalar.fit.policy), predicted))
    ends = "best steps and last level" if own_end else "best ends and decoder"
    simple = plans.get(Family.SCALAR)
    if plan.family is not Family.SCALAR and simple is not None and simple.steps == K:
        its_decoder = fitting.decoder(simple.decoder, simple.chain[0])
        grid = candidates.grid(simple.chain)
        models.append((ends, candidates.with_parts(grid, simple.fit.policy, its_decoder), simple.nats))
    tight = candidates.with_parts(candidates.grid(plan.chain), plan.fit.policy, decoder)
    provenance = {
        "from": model.fingerprint(),
        "steps": K,
        "fit": described(fit_examples),
        "seed": run.seed,
        "version": __version__,
    }
    tight = dataclasses.replace(tight, provenance={**model.provenance, "tightened": provenance})
    name = ends if plan.family is Family.SCALAR else f"+ covariance {plan.family.value}"
    models.append((name, tight, plan.nats))

    stages: list[Stage] = []
    rows = rows_of(held_out_condition if other else condition, parts.held_out, len(other or examples))
    for name, stage, predicted in models:
        say(f"certifying: {name}")
        bound = bound_of(evaluate, stage, certify, rows, run, estimator_of(stage, len(certify)))
        stages.append(Stage(name, bound, bits(base, predicted)))
    notes = [*parts.notes, *measured.notes]
    if stages[-1].bound.bits_per_dim > stages[0].bound.bits_per_dim:
        notes.append("the tightened bound is above that of the model as it was; take more steps")
    checks.warn(notes)
    chain = torch.tensor(plan.chain)
    mean_square = (measured.error.mean(1) / base.domain.dimensions).tolist()
    details: Json = {
        "version": __version__,
        "seed": run.seed,
        "seconds": time.perf_counter() - started,
        "steps": K,
        "data": {"fit": described(fit_examples), "held_out": described(certify)},
        "chain": {
            "positions" if candidates.on_table else "times": candidates.positions[chain].tolist(),
            "logsnr": levels.logsnr[chain].tolist(),
        },
        "decoder": {
            "kind": plan.decoder.value,
            "calls_network": decoders.calls[plan.decoder],
            "tried": _decoder_curves(predictions, decoders),
        },
        "covariance": {
            "family": plan.family.value,
            "note": plan.fit.note,
            "tried": {family.value: bits(base, p.nats) for family, p in plans.items()},
        },
        "curve": [
            {"steps": k, "bits_per_dim": bits(base, float(cost))}
            for k, cost in enumerate(plan.paths.cost)
            if k and np.isfinite(cost)
        ],
        "error": [{"logsnr": a, "mean_square": b} for a, b in zip(measured.logsnr.tolist(), mean_square, strict=True)],
        "nfe": {
            "fit": fitting.nfe,
            "fit_per_example": fitting.nfe / len(fit_examples),
            "certificate": sum(stage.bound.nfe_total for stage in stages),
        },
    }
    return tight, Certificate.of(tuple(stages), details, tuple(notes))


def _examples(model: DiffusionModel, data: Any) -> Examples:
    examples = examples_of(data)
    examples.check_whole("tightening", "its levels and variances are fitted to the errors of whole examples")
    return dataclasses.replace(examples, data=model.domain.checked(examples.data, release=examples.release))


def _kinds(first_level: str | DecoderKind, model: DiffusionModel) -> list[DecoderKind]:
    """The kinds of decoder to choose from. Errors: UnknownNameError; UsageError for one that the domain has not."""
    possible = suitable_kinds(model.domain)
    if first_level == "auto":
        return possible
    values = {kind.value: kind for kind in DecoderKind}
    if not isinstance(first_level, DecoderKind) and first_level not in values:
        raise UnknownNameError.of("first level", first_level, ["auto", *values])
    kind = DecoderKind.parse(first_level)
    if kind not in possible:
        raise UsageError(
            f"the first level {kind.value!r} for data that are real numbers",
            f"choose one of: auto, {', '.join(k.value for k in possible)}",
        )
    return [kind]


def _checked_steps(steps: int | None, target: float | None, most: int) -> int | None:
    """The number of steps asked for; None where a target decides it. Errors: UsageError."""
    if steps is not None and target is not None:
        raise UsageError(f"{steps} steps and a target of {target} bits/dim", "give one of them")
    if target is not None:
        if not math.isfinite(target):
            raise UsageError(f"a target of {target} bits/dim", "give a finite number")
        return None
    steps = STEPS if steps is None else steps
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= most:
        raise UsageError(f"{steps!r} steps of a model that has {most}", f"give a whole number from 1 to {most}")
    return steps


def _length(steps: int | None, target: float | None, model: DiffusionModel) -> Callable[[Paths], int | None]:
    """The number of steps of a chain: as asked for, or the fewest that reach the target; None where there is none."""

    def length(paths: Paths) -> int | None:
        if steps is None:
            assert target is not None
            return paths.fewest(float(nats(target, model.domain.dimensions)))
        return steps if paths.has(steps) else None

    return length


def _own_decoder(decoders: DecoderCosts, predictions: NodePredictions, levels) -> DecoderCosts:
    """The model's own decoder at its own first level."""
    if DecoderKind.OWN not in decoders.nats:
        decoders = decoder_costs(predictions, levels, [DecoderKind.OWN], np.zeros(len(levels)))
    return decoders.at_first(DecoderKind.OWN)


def _decoder_curves(predictions: NodePredictions, decoders: DecoderCosts) -> Json:
    """What each kind of decoder cost at the levels where it was fitted, in bits/dim."""
    curves: Json = {}
    for kind, nats_at in decoders.nats.items():
        fitted = [float(nats_at[i]) for i in predictions.indices.tolist() if np.isfinite(nats_at[i])]
        logsnr = predictions.levels.logsnr[: len(fitted)].tolist()
        curves[kind.value] = {"logsnr": logsnr, "bits_per_dim": [bits(predictions.model, v) for v in fitted]}
    return curves


def estimator_of(model: DiffusionModel, examples: int) -> Estimator:
    """The estimator of the bound of so many held-out examples, each by itself: every step twice where the steps are
    few, else as `evaluate` does it, within a budget."""
    if not model.grid.continuous and len(model.levels()) - 1 <= EVERY:
        return Exhaustive(2)
    return Adaptive(max_nfe=BUDGET * examples, design="per_example")
