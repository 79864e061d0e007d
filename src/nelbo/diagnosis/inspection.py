"""What a model and its data show without another declaration: repeatability, output, first level, bins, conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nelbo.bound import checks, contradictions, lattices, readings
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.runner import Runner
from nelbo.bound.trial import trial
from nelbo.diagnosis.halving import Candidate
from nelbo.diagnosis.result import Check
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.process import forward

LEVELS, EXAMPLES = 4, 4
UNTRAINED = 1.5
"""Error of x̂ at the first level over that of z/α, from which the network was not trained there."""
SENSITIVE = 1e-4
"""Relative change of a term by another condition from which a network reads it."""


def of_answers(chain: GaussianChain, runner: Runner) -> Check:
    """Whether a foreign network gives the same output twice, and for an example alone as in a batch: the trial that
    precedes every evaluation, of which a failure is a check that failed. The chain's network must not be cached."""
    try:
        notes = trial(chain, runner)
    except UsageError as error:
        return Check("repeatability", False, f"{error.message}; {error.hint}")
    alike = "the network answers alike when it is asked twice, and for an example alone as in a batch"
    return Check("repeatability", True, notes[0] if notes else alike)


def of_output(chain: GaussianChain) -> list[Check]:
    """Whether the network is better than none at the first level, and whether its output is cut off. Costs `LEVELS` ×
    `EXAMPLES` evaluations at levels evenly along the chain."""
    model = chain.model
    rows = torch.arange(LEVELS * EXAMPLES) % chain.examples
    ends = model.levels()
    if chain.cells.continuous:
        logsnr = ends.logsnr[0] + (ends.logsnr[-1] - ends.logsnr[0]) * torch.linspace(0, 1, LEVELS).double()
        levels = model.schedule.at(model.schedule.time_of(logsnr))
    else:
        levels = ends[torch.linspace(0, len(ends) - 1, LEVELS).round().long()]
    t = levels[torch.arange(LEVELS).repeat_interleave(EXAMPLES)].to(device=chain.device)
    x, numbers = chain.values(rows), torch.arange(len(rows))
    noise = Purpose.DIAGNOSIS_NOISE
    eps = noise.normal(chain.seed, rows, 0, numbers, model.domain.shape, device=chain.device)
    z = forward.noised(x, eps, t)
    with torch.no_grad():
        prediction = model.predict(z, t, chain.condition_of(rows))
    made = []
    if chain.first_cost:
        error = (x - prediction.x0)[:EXAMPLES].square().mean()
        ratio = float(error * t.logsnr[0].exp())
        text = f"there the error of x̂ is {ratio:.2g} of that of z/α, which is the prediction of no network"
        ok = ratio < UNTRAINED
        made.append(
            Check("first level", ok, text if ok else f"the network is worse than none at the first level: {text}")
        )
    denoiser = model.denoiser
    if isinstance(denoiser, NetworkDenoiser) and prediction.output is not None:
        kept = readings.observed(x, z, prediction.x0, prediction.output)
        notes = contradictions.cut_off(denoiser, {0: kept}, chain.dimensions)
        made.append(Check("output", not notes, notes[0] if notes else "not cut off at a largest or smallest value"))
    return made


def of_data(chain: GaussianChain) -> list[Check]:
    """Whether the data fill the lattice that is declared, and whether the chain ends at its prior."""
    domain = chain.model.domain
    notes = lattices.notes(domain, chain.data)
    fine = f"the codes may well be of {domain.bins} levels" if domain.discrete else "the values are no codes"
    bins = Check("bins", not notes, notes[0] if notes else fine)
    prior = float(bits_per_dim(float(chain.priors().mean()), chain.dimensions))
    text = f"the prior term is {prior:.4g} bits/dim"
    ended = prior <= checks.PRIOR
    return [bins, Check("terminal level", ended, text if ended else f"the chain does not end at its prior: {text}")]


def of_conditions(candidates: list[Candidate]) -> Iterator[Check]:
    """Whether the rows of a condition belong to their examples, from the declarations that give them to others.

    With Δ the change of x̂ and w the weight of a term, other rows cost m = w‖Δ‖² on average if the network's prediction
    is a posterior mean given the right ones, and the square of a paired difference is on average m² + 4 m c with c the
    term over D. So much is expected of rows that belong, and 0 of rows in any other order.
    """
    declared = candidates[0]
    for candidate in candidates[1:]:
        if candidate.sibling is None or not candidate.sibling.control or not candidate.values:
            continue
        keyword = next(iter(candidate.sibling.declaration["condition"]))
        common = sorted(candidate.values.keys() & declared.values.keys())
        pairs = [(candidate.values[count], declared.values[count]) for count in common]
        if not pairs:
            continue
        change = torch.cat([(mine.along - theirs.along).flatten() for mine, theirs in pairs])
        term = torch.cat([theirs.along.flatten() for _, theirs in pairs])
        size = float(change.square().mean().sqrt() / term.square().mean().sqrt().clamp_min(1e-300))
        if size < SENSITIVE:
            yield Check(f"condition {keyword}", True, "the network does not read it")
            continue
        mean, error = float(change.mean()), float(change.std()) / math.sqrt(len(change))
        D = declared.chain.dimensions
        c = term / D
        expected = float(((4 * c.square() + change.square()).sqrt() - 2 * c).mean())
        cost, se, due = (float(bits_per_dim(v, D)) for v in (mean, error, expected))
        if mean > 0.25 * expected or mean > 3 * error or expected < 4 * error:
            few = "" if mean > 2 * error else ", from which nothing follows"
            text = f"rows of other examples cost {cost:+.3f} ± {se:.3f} bits/dim{few}"
            yield Check(f"condition {keyword}", True, text)
        else:
            yield Check(
                f"condition {keyword}",
                False,
                f"rows of {keyword} that belong to other examples cost {cost:+.3f} ± {se:.3f} bits/dim, where about "
                f"{due:.2f} is expected of a network that reads them: the rows are in another order than the examples, "
                "or count from another number",
            )
