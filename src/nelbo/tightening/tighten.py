"""`tighten`: the same weights on fewer and better steps, from a better first level, with fitted reverse covariances.

    1. split        examples to fit to, and examples to certify on: never the same, never training data
    2. measure      x − x̂ at a few levels: covariances of several families, and what their steps cost
    3. decoders     several kinds, fitted at a few levels and scored on examples left out
    4. path         the cheapest chain of K evaluations from any first level to any last, by dynamic programming, under
                    every family; the cheapest of all is taken and its decoder fitted again at the level where it sits
    5. certificate  held-out bounds of the model before, on the way, and after

Nothing is trained, and every stage is a complete model whose bound is a bound.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound.adaptive import Adaptive
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.evaluate import evaluate
from nelbo.bound.prepare import NelboWarning
from nelbo.bound.result import Bound
from nelbo.errors import Interrupted, UnknownNameError, UsageError
from nelbo.maths.units import nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.tightening import choose, ends
from nelbo.tightening.certificate import Certificate, Stage
from nelbo.tightening.chains import Chains
from nelbo.tightening.ends import DecoderKind
from nelbo.tightening.families import Family
from nelbo.tightening.fitting import Fitting, bits, plans, rows_of, tried_decoders
from nelbo.tightening.path import Paths, only
from nelbo.tightening.split import split
from nelbo.typing import Json

MOST_STEPS = 128
"""Steps that the curve of bound against steps goes to, where no more are asked for."""
STEPS = 25
EVERY = 25
"""Steps of a chain that is evaluated at every one of them, twice for every held-out example."""


def tighten(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    steps: int | None = None,
    *,
    target: float | None = None,
    held_out: Examples | Tensor | Any | None = None,
    first_level: str | DecoderKind = "auto",
    condition: Mapping[str, Tensor] | None = None,
    held_out_condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[DiffusionModel, Certificate]:
    """A model with the same weights and a lower bound in `steps` evaluations (25), and the certificate of it.

    data: examples that the model was not trained on. Half fit and half certify; all fit where held_out is given.
    target: in place of steps, a bound in bits/dim: as few steps are taken as the fit promises it for. first_level:
    "auto" chooses it with the decoder that costs least there; a `DecoderKind` ("gaussian", "histogram", "pixel",
    "context") chooses it for that kind; "own" keeps the model's own.
    condition, held_out_condition: keywords of the network, a row an example. progress: called with evaluations done and
    planned (0: not known); message: with a line at every stage.

    Errors: UsageError (too few examples, too many steps, a target that cannot be met), and those of `evaluate`.
    Source: Watson et al. 2021 (grids); Bao et al. 2022 (variances).
    """
    started = time.perf_counter()
    say, show = message or (lambda text: None), progress or (lambda done, planned: None)
    examples = _examples(model, data)
    other = None if held_out is None else _examples(model, held_out)
    chains = Chains.of(model)
    base, levels = chains.model, chains.levels
    kinds = _kinds(first_level, base)
    kept = kinds == [DecoderKind.OWN]
    wanted = _wanted(steps, target, chains.most)
    parts = split(model, examples, other, seed)
    fit_examples, certify = parts.fit_examples, parts.held_out_examples
    say(f"fitting to {len(fit_examples)} examples, certifying on {len(certify)}")
    fitting = Fitting(
        base,
        fit_examples,
        levels,
        rows_of(condition, parts.fit),
        seed=seed,
        batch_size=batch_size,
        device=device,
        progress=show,
    )
    seen, priced = fitting.covariances()
    cheapest = min(priced.values(), key=lambda one: np.diagonal(one.edges, 1).sum())
    rough = np.zeros(len(levels))
    sources, measured = fitting.sources(choose.tail(cheapest.edges, rough), kinds)
    prior = choose.prior_costs(measured, levels)
    if kept:
        sources = sources.fixed(DecoderKind.OWN)
    length = _length(wanted, target, base)
    most = max(wanted or 0, MOST_STEPS)
    found = plans(seen, priced, sources, prior, levels, fitting, most, length)
    if not found:
        raise UsageError(f"a bound of {target} bits/dim", _nearest(priced, sources, prior, most, base))
    plan = min(found.values(), key=lambda p: (p.steps, p.nats))
    K, decoder = plan.steps, fitting.decoder(plan.decoder, plan.chain[0])
    say(f"{K} steps, decoder {plan.decoder.value}, covariance {plan.family.value}")

    one = priced[Family.SCALAR]
    ways = [("the model as it was", model, math.nan)]
    own = choose.paths(one.edges, _own(sources, measured, levels), only(len(levels), len(levels) - 1, prior[-1]), K)
    if len(own.cost) > K and np.isfinite(own.cost[K]):
        chain, _ = own.chain(K)
        ways.append(("even steps, one variance a level", chains.on(chains.even(K), one.found.policy), math.nan))
        ways.append(("best steps between its ends", chains.on(chains.grid(chain), one.found.policy), own.cost[K]))
    scalar = found.get(Family.SCALAR)
    if plan.family is not Family.SCALAR and scalar is not None and scalar.steps == K:
        its = fitting.decoder(scalar.decoder, scalar.chain[0])
        ways.append((_ends(kept), chains.on(chains.grid(scalar.chain), scalar.found.policy, its), scalar.nats))
    name = _ends(kept) if plan.family is Family.SCALAR else f"+ covariance {plan.family.value}"
    tight = chains.on(chains.grid(plan.chain), plan.found.policy, decoder)
    provenance = {**model.provenance, "tightened": _tightened(model, K, fit_examples, seed)}
    ways.append((name, dataclasses.replace(tight, provenance=provenance), plan.nats))

    stages: list[Stage] = []
    rows = rows_of(held_out_condition if other is not None else condition, parts.held_out)
    for name, way, promised in ways:
        say(f"certifying: {name}")
        bound = _certified(way, certify, rows, seed, batch_size, device, show)
        stages.append(Stage(name, bound, bits(base, promised)))
    notes = [*parts.notes, *seen.notes]
    if stages[-1].bound.bits_per_dim > stages[0].bound.bits_per_dim:
        notes.append("the tightened bound is above that of the model as it was; take more steps")
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=2)
    at = torch.tensor(plan.chain)
    details: Json = {
        "version": __version__,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "steps": K,
        "data": {"fit": _said(fit_examples), "held_out": _said(certify)},
        "chain": {
            "positions" if chains.table else "times": chains.positions[at].tolist(),
            "logsnr": levels.logsnr[at].tolist(),
        },
        "decoder": {
            "kind": plan.decoder.value,
            "calls_network": sources.calls[plan.decoder],
            "tried": tried_decoders(measured, sources),
        },
        "covariance": {
            "family": plan.family.value,
            "note": plan.found.note,
            "tried": {family.value: bits(base, p.nats) for family, p in found.items()},
        },
        "curve": _curve(plan.paths, base),
        "error": [
            {"logsnr": a, "mean_square": b}
            for a, b in zip(seen.logsnr.tolist(), (seen.error.mean(1) / base.domain.dimensions).tolist(), strict=True)
        ],
        "nfe": {
            "fit": fitting.nfe,
            "fit_per_example": fitting.nfe / len(fit_examples),
            "certificate": sum(stage.bound.nfe_total for stage in stages),
        },
    }
    return ways[-1][1], Certificate(tuple(stages), details, tuple(notes))


def _examples(model: DiffusionModel, data: Any) -> Examples:
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    return dataclasses.replace(examples, data=model.domain.checked(examples.data, release=examples.release))


def _kinds(first_level: str | DecoderKind, model: DiffusionModel) -> list[DecoderKind]:
    """The kinds of decoder to choose from. Errors: UnknownNameError; UsageError for one that the domain has not."""
    possible = ends.kinds(model.domain)
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


def _wanted(steps: int | None, target: float | None, most: int) -> int | None:
    """The number of steps asked for; None where a target says it. Errors: UsageError."""
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


def _length(wanted: int | None, target: float | None, model: DiffusionModel) -> Callable[[Paths], int | None]:
    """How many steps a chain has: those wanted, or the fewest that reach the target."""
    if target is not None:
        goal = float(nats(target, model.domain.dimensions))
        return lambda paths: paths.fewest(goal)
    return lambda paths: wanted if wanted < len(paths.cost) and np.isfinite(paths.cost[wanted]) else None  # type: ignore


def _nearest(priced, sources, prior, most: int, model: DiffusionModel) -> str:
    best = min(float(choose.paths(one.edges, sources, prior, most).cost[1:].min()) for one in priced.values())
    return f"the fit promises {bits(model, best):.4f} bits/dim at best, with up to {most} steps; give a higher target"


def _own(sources, measured, levels):
    """The model's own decoder at its own first level."""
    if DecoderKind.OWN in sources.nats:
        return sources.fixed(DecoderKind.OWN)
    return choose.source_costs(measured, levels, [DecoderKind.OWN], np.zeros(len(levels))).fixed(DecoderKind.OWN)


def _ends(kept: bool) -> str:
    return "best steps and last level" if kept else "best ends and decoder"


def _curve(paths: Paths, model: DiffusionModel) -> list[Json]:
    return [
        {"steps": k, "bits_per_dim": bits(model, float(cost))}
        for k, cost in enumerate(paths.cost)
        if k and np.isfinite(cost)
    ]


def _said(examples: Examples) -> Json:
    return {"name": examples.name, "examples": len(examples), "fingerprint": examples.fingerprint}


def _tightened(model: DiffusionModel, steps: int, fit: Examples, seed: int) -> Json:
    return {"from": model.fingerprint(), "steps": steps, "fit": _said(fit), "seed": seed, "version": __version__}


def estimator_of(model: DiffusionModel) -> Estimator:
    """How a held-out bound is estimated, every example by itself: each step twice where they are few, else strata.

    The steps of a chosen chain cost about the same each, so that even strata of them are near the best there are.
    """
    cells = len(model.levels()) - 1
    if not model.grid.continuous and cells <= EVERY:
        return Exhaustive(2)
    if not model.grid.continuous and cells <= 4 * EVERY:
        return Stratified(EVERY, 4)
    return Adaptive(design="per_example", strata=6)


def _certified(model, examples, condition, seed, batch_size, device, show) -> Bound:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)  # of the model as it was, and not of this certificate
        bound = evaluate(
            model,
            examples,
            estimator=estimator_of(model),
            per_example=True,
            condition=condition,
            seed=seed,
            batch_size=batch_size,
            device=device,
            progress=show,
        )
    if bound.interrupted:
        raise Interrupted("interrupted while certifying; nothing was written", "run the same command again")
    return bound
