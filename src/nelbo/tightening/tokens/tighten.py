"""`tighten` of a model of symbols: a calibration of its network, and the steps of a chain of few evaluations.

1. split        sequences to fit to, sequences that choose among parts, and sequences that certify: disjoint
2. answers      the network is asked once at draws of the first two, and n-grams are counted in other sequences
3. calibration  parts are fitted one after the other, and kept where the sequences that choose show a gain
4. steps        of K evaluations: even ones, and those that dynamic programming finds on a profile that only rises
5. certificate  bounds of the held-out sequences before, after every part that is kept, and after
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
from nelbo.bound import checks
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.tokens import evaluate as bounds
from nelbo.bound.tokens.chain import CORPUS, TokenChain
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.examples import Examples
from nelbo.model.tokens.calibration import Calibration, NGramTable
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Even, Subset
from nelbo.tightening.certificate import Certificate, Stage
from nelbo.tightening.held_out import bound_of, described, rows_of
from nelbo.tightening.split import FitSplit, split
from nelbo.tightening.tokens import steps as chains
from nelbo.tightening.tokens.answers import Answers, MaskedAnswers, ask
from nelbo.tightening.tokens.fit import calibrated
from nelbo.typing import Condition, Json
from nelbo.workers import Run

CHOOSING = 4
"""One of so many sequences that are not held out chooses; the others are fitted to."""
LOOK, EVERY = Stratified(8, 4), 8
"""How the bound of a held-out sequence is drawn; of a chain of up to EVERY steps, twice at every step."""
LARGEST_VOCABULARY = 1024
"""Up to which n-grams are tried: their law is computed for every symbol of it at every place."""
LEAST_COUNTED = 16
"""Sequences in which n-grams are counted, at least."""


def tighten(
    model: TokenModel,
    data: Examples | Tensor | Any,
    steps: int | None = None,
    *,
    corpus: Examples | Tensor | Any | None = None,
    held_out: Examples | Tensor | Any | None = None,
    condition: Condition | None = None,
    held_out_condition: Condition | None = None,
    run: Run | None = None,
    message: Callable[[str], None] | None = None,
) -> tuple[TokenModel, Certificate]:
    """The same network with a better bound, and its certificate, on sequences that nothing was fitted to.

    steps: evaluations of a pass of a masked chain; its own chain where None. corpus: sequences in which n-grams are
    counted, such as those that the network was trained on; those of `data` that are neither fitted to nor held out
    where None. All else is as of `tightening.tighten.tighten`.

    Errors: UsageError (too few sequences; steps of a chain that has times, or of sequences of unequal length), and
    those of `evaluate`.
    """
    started, say = time.perf_counter(), message or (lambda text: None)
    run = run or Run()
    examples, other = _examples(model, data), None if held_out is None else _examples(model, held_out)
    model = model.for_data(examples.data)
    parts = split(model, examples, other, run.seed)
    order = Purpose.CALIBRATION_SPLIT.permutation(run.seed, len(parts.fit))
    some = len(order) // CHOOSING
    choose, fit = (parts.fit[order[k]].sort().values for k in (slice(some), slice(some, None)))
    certify = parts.held_out_examples
    held_rows = rows_of(held_out_condition if other else condition, parts.held_out, len(other or examples))
    notes = [*parts.notes]
    whole = _chain(model, examples, condition, run)
    _check_steps(steps, model, whole)
    table = _counted(model, examples, parts, corpus, notes)
    say(f"asking the network about {len(fit)} sequences to fit to and {len(choose)} to choose by")
    with whole.model.denoiser.inference():
        answers = [
            ask(_chain(model, *_taken(examples, condition, r), run), run.batch_size, table) for r in (fit, choose)
        ]
    kept, trials = calibrated(model, answers[0], answers[1], table)
    models: list[tuple[str, TokenModel, float]] = [("the model as it was", model, math.nan)]
    models += [(f"+ {name}", after, math.nan) for name, after in kept]
    best, counts = models[-1][1], None
    if steps is not None:
        n = int(whole.number[0])
        g, other_g = (_profile(found, best, n) for found in answers)
        counts, even = chains.best_counts(g, steps)[0], best.with_grid(Even(steps))
        models.append((f"{steps} even steps", even, chains.cost_of(other_g, even.counts(n))))
        best = best.with_grid(Subset(tuple(count - 1 for count in counts)))
        models.append((f"{steps} chosen steps", best, chains.cost_of(other_g, counts)))  # by what did not choose them
    entry: Json = {"from": model.fingerprint(), "steps": steps, "fit": described(parts.fit_examples)}
    entry |= {"seed": run.seed, "version": __version__}
    tight = dataclasses.replace(best, provenance={**model.provenance, "tightened": entry})
    stages = []
    for k, (name, stage, nats) in enumerate(models):
        say(f"certifying: {name}")
        scored = tight if k == len(models) - 1 else stage
        bound = bound_of(bounds.evaluate, scored, certify, held_rows, run, _estimator(scored))
        stages.append(Stage(name, bound, float(bits_per_dim(nats, whole.dimensions))))
    if steps is None and stages[-1].bound.bits_per_dim > stages[0].bound.bits_per_dim:
        notes.append("the tightened bound is above that of the model as it was; give more sequences to fit to")
    if len(stages) == 1:
        notes.append("no part gains more than chance: the model stays as it was")
    checks.warn(notes)
    nfe = sum(a.nfe for a in answers)
    details: Json = {
        "version": __version__,
        "seed": run.seed,
        "seconds": time.perf_counter() - started,
        "steps": tight.steps,
        "unit": stages[-1].bound.unit,
        "data": {
            "fit": described(examples.take(fit, f"{examples.name} ({len(fit)} fit)")),
            "choice": described(examples.take(choose, f"{examples.name} ({len(choose)} to choose by)")),
            "held_out": described(certify),
        },
        "calibration": {"tried": [trial.to_dict() for trial in trials], **_described(tight.calibration)},
        "counts": counts,
        "nfe": {
            "fit": nfe,
            "fit_per_example": nfe / (len(fit) + len(choose)),
            "certificate": sum(stage.bound.nfe_total for stage in stages),
        },
    }
    return tight, Certificate.of(tuple(stages), details, tuple(notes))


def _examples(model: TokenModel, data: Any) -> Examples:
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    return dataclasses.replace(examples, data=model.for_data(examples.data).domain.checked(examples.data))


def _taken(examples: Examples, condition: Condition | None, rows: Tensor) -> tuple[Examples, Condition]:
    return examples.take(rows, examples.name), rows_of(condition, rows, len(examples))


def _chain(model: TokenModel, examples: Examples, condition: Condition | None, run: Run) -> TokenChain:
    quiet = Run(device=run.device, batch_size=run.batch_size, seed=run.seed)
    return bounds.prepare(model, examples, quiet, condition=condition).chain


def _check_steps(steps: int | None, model: TokenModel, chain: TokenChain) -> None:
    if steps is None:
        return
    if not model.counted or chain.ragged:
        why = "sequences with unequal numbers of scored places" if chain.ragged else "a chain that has times"
        raise UsageError(
            f"{steps} steps for {why}", "leave steps=None; nelbo.grids.even(K) is the chain of K even steps"
        )
    n = int(chain.number[0])
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= n:
        raise UsageError(f"{steps!r} steps for {n} places", f"give a whole number from 1 to {n}")


def _profile(found: Answers, model: TokenModel, n: int) -> np.ndarray:
    """The mean cost of a hidden place by their number, (n,), under the model's calibration."""
    assert isinstance(found, MaskedAnswers)  # of a chain over counts
    with torch.no_grad():
        costs = found.mean_costs(model.calibration)
    return chains.profile(found.counts.numpy(), costs.numpy(), n)


def _counted(
    model: TokenModel, examples: Examples, parts: FitSplit, corpus: Any | None, notes: list[str]
) -> NGramTable | None:
    """n-grams of sequences that are neither fitted to nor held out; None where there are none, with a note."""
    if not model.kernel.absorbing or model.reverse.block is not None:
        return None
    if model.domain.vocabulary > LARGEST_VOCABULARY:
        notes.append(f"n-grams are not tried: of a vocabulary of more than {LARGEST_VOCABULARY} they take too long")
        return None
    source = (
        examples if corpus is None else corpus if isinstance(corpus, Examples) else Examples(torch.as_tensor(corpus))
    )
    x = model.domain.symbols(source.data)
    used = torch.cat([examples.hashes[parts.fit], parts.held_out_data.hashes[parts.held_out]])
    x = x[~torch.isin(source.hashes, used)][:CORPUS]
    if len(x) < LEAST_COUNTED:
        notes.append(
            f"n-grams are not tried: {len(x)} sequences are left to count them in; give corpus=, such as the sequences "
            "that the network was trained on"
        )
        return None
    return NGramTable.of(x, model.domain.vocabulary)


def _described(calibration: Calibration | None) -> Json:
    if calibration is None:
        return {"coefficients": None, "bias": None, "weights": None, "ngrams": None, "numbers": 0}
    table, bias = calibration.ngrams, calibration.bias
    return {
        "coefficients": calibration.coefficients.tolist(),
        "bias": None if bias is None else [float(bias.min()), float(bias.max())],
        "weights": None if calibration.weights is None else calibration.weights.tolist(),
        "ngrams": table and {"sequences": table.sequences, "bytes": table.bytes, "offsets": list(table.offsets)},
        "numbers": calibration.numbers,
    }


def _estimator(model: TokenModel) -> Estimator:
    return Exhaustive(2) if model.steps is not None and model.steps <= EVERY else LOOK
