"""`tighten`: the same weights on fewer and better steps, from a better first level, with fitted reverse covariances.

    1. split        examples to fit to, and examples to certify on: never the same, never training data
    2. measure      x − x̂ at a few levels: the error curve, covariances of several families and what their steps cost
    3. decoders     several kinds, fitted at a few levels and scored on examples left out
    4. path         the cheapest chain of K evaluations from any first level to any last, by dynamic programming, under
                    every family; the cheapest of all is taken and its decoder fitted again at the level where it sits
    5. certificate  held-out bounds of the model before, on the way, and after

Nothing is trained, and every stage is a complete model whose bound is a bound.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound.adaptive import Adaptive
from nelbo.bound.evaluate import evaluate
from nelbo.bound.prepare import NelboWarning
from nelbo.bound.result import Bound
from nelbo.errors import Interrupted, UsageError
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.reverse import Clip, Reverse
from nelbo.process.grid import Even, Grid, Subset, Times
from nelbo.process.levels import Levels
from nelbo.process.schedule import Table
from nelbo.tightening import choose, covariance, ends
from nelbo.tightening.certificate import Certificate, Stage
from nelbo.tightening.choose import Sources
from nelbo.tightening.ends import DecoderKind
from nelbo.tightening.families import Family, Found
from nelbo.tightening.levels import candidates, measure, spread
from nelbo.tightening.path import Paths
from nelbo.tightening.split import Split, split
from nelbo.typing import Condition, Json

MOST_STEPS = 128
"""Steps that the curve of bound against steps goes to, where no more are asked for."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The chosen chain under one family: candidates, decoder kind, promised bounds of all lengths."""

    family: Family
    found: Found
    paths: Paths
    chain: list[int]
    decoder: DecoderKind

    def promised(self, dimensions: int, steps: int) -> float:
        """Bits/dim that the fit promises for a length."""
        return float(bits_per_dim(float(self.paths.cost[steps]), dimensions))


def tighten(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    steps: int | None = None,
    *,
    target: float | None = None,
    held_out: Examples | Tensor | Any | None = None,
    keep_decoder: bool = False,
    condition: Mapping[str, Tensor] | None = None,
    held_out_condition: Mapping[str, Tensor] | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[DiffusionModel, Certificate]:
    """A model with the same weights and a lower bound in `steps` evaluations (25), and the certificate of it.

    data: examples that the model was not trained on. Half fit and half certify; all fit where held_out is given. target:
    in place of steps, a bound in bits/dim: as few steps are taken as the fit promises it for. keep_decoder: the first
    level and its decoder stay the model's own. tolerance: standard error of the held-out bounds, in bits/dim.
    condition, held_out_condition: keywords of the network, a row an example. progress: called with evaluations done and
    planned (0: not known); message: with a line at every stage.

    Errors: UsageError (too few examples, too many steps, a target that cannot be met), and those of `evaluate`.
    Source: Watson et al. 2021 (grids); Bao et al. 2022 (variances).
    """
    started = time.perf_counter()
    if steps is not None and target is not None:
        raise UsageError(f"{steps} steps and a target of {target} bits/dim", "give one of them")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise UsageError(f"{steps!r} steps", "steps is a whole number ≥ 1")
    steps = 25 if steps is None and target is None else steps
    say = message or (lambda text: None)
    examples = _examples(model, data)
    other = None if held_out is None else _examples(model, held_out)
    parts = split(model, examples, other, seed)
    base = _clipped(model)
    levels, positions = candidates(base)
    calls = base.decoder.calls_network
    if steps is not None and not 1 <= steps <= len(levels) - 1 + int(calls):
        raise UsageError(
            f"{steps} steps of a model with {len(levels)} levels",
            f"ask for 1 to {len(levels) - 1 + int(calls)} steps",
        )
    fitting = _Fitting(base, parts, condition, seed, batch_size, device, progress, say)
    seen = fitting.covariances()
    sources, prior = fitting.sources(levels, seen, keep_decoder)
    plans = _plans(seen, levels, sources, prior, steps, target, base)
    plan = min(plans.values(), key=lambda p: p.paths.cost[len(p.chain) - 1 + int(sources.calls[p.decoder])])
    K = len(plan.chain) - 1 + int(sources.calls[plan.decoder])
    scalar = plans[Family.SCALAR]
    decoder = fitting.decoder(plan, levels)
    say(f"{K} steps, decoder {plan.decoder.value}, covariance {plan.family.value}")

    on = _Builder(base, levels, positions)
    ways: list[tuple[str, DiffusionModel, float]] = [("the model as it was", model, float("nan"))]
    D = base.domain.dimensions
    one = seen[Family.SCALAR]
    if len(levels) >= 2 and K >= 1 + int(calls):
        ways.append(("even steps, one variance a level", on.even(K, one), float("nan")))
        own = choose.paths(one.edges, sources.fixed(DecoderKind.OWN), _only_last(prior), K)
        if np.isfinite(own.cost[K]):
            ways.append(
                ("best steps between the same ends", on.chain(own.chain(K)[0], one), float(bits_per_dim(own.cost[K], D)))
            )
    if not keep_decoder:
        chosen = scalar if plan.family is not Family.SCALAR else plan
        its = decoder if chosen is plan else fitting.decoder(scalar, levels)
        ways.append(("… best ends and decoder", on.chain(chosen.chain, one, its), chosen.promised(D, K)))
    if plan.family is not Family.SCALAR or keep_decoder:
        ways.append(("… covariance", on.chain(plan.chain, plan.found, decoder), plan.promised(D, K)))
    tight = dataclasses.replace(ways[-1][1], provenance=_provenance(model, parts, K, seed))
    ways[-1] = (ways[-1][0], tight, ways[-1][2])
    stages, spent = [], 0
    for name, way, promised in ways:
        say(f"certifying: {name}")
        bound = _certified(way, parts, held_out_condition if other is not None else condition, tolerance, fitting)
        stages.append(Stage(name, bound, promised))
        spent += bound.nfe_total
    notes = [*parts.notes, *fitting.notes]
    if stages[-1].bound.bits_per_dim > stages[0].bound.bits_per_dim:
        notes.append("the tightened bound is above that of the model as it was: take more steps")
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=2)
    index = [int(i) for i in plan.chain]
    table = isinstance(base.schedule, Table)
    details: Json = {
        "version": __version__,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "steps": K,
        "data": {"fit": _said(parts.fit_examples), "held_out": _said(parts.held_out_examples)},
        "chain": {
            "positions" if table else "times": [v.item() for v in positions[index]],
            "logsnr": levels.logsnr[index].tolist(),
        },
        "decoder": {
            "kind": plan.decoder.value,
            "calls_network": sources.calls[plan.decoder],
            "tried": fitting.tried,
        },
        "covariance": {
            "family": plan.family.value,
            "note": plan.found.note,
            "tried": {family.value: p.promised(D, len(p.chain) - 1 + int(sources.calls[p.decoder])) for family, p in plans.items()},
        },
        "curve": [
            {"steps": k, "bits_per_dim": plan.promised(D, k)}
            for k in range(1, len(plan.paths.cost))
            if np.isfinite(plan.paths.cost[k])
        ],
        "error": fitting.error,
        "nfe": {
            "fit": fitting.nfe,
            "fit_per_example": fitting.nfe / len(parts.fit),
            "certificate": spent,
        },
    }
    return tight, Certificate(tuple(stages), details, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Edges:
    """A family's policy, what it costs between all candidates, and a note."""

    policy: Any
    edges: np.ndarray
    note: str


class _Fitting:
    """What is fitted to the fit split, and what it took."""

    def __init__(self, model, parts: Split, condition, seed, batch_size, device, progress, say):
        self.model: DiffusionModel = model
        self.examples = parts.fit_examples
        self.condition: Condition = {k: v[parts.fit] for k, v in (condition or {}).items()}
        self.seed, self.device, self.say = seed, device, say
        self.batch_size = batch_size
        self.progress = progress or (lambda done, planned: None)
        self.notes: list[str] = []
        self.error: list[Json] = []
        self.tried: Json = {}
        self.nfe = 0
