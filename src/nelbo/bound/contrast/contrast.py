"""`contrast`: the same examples under different conditions of one model, by paired draws, until each is decided.

Noise and places do not know the condition, so that what the conditions have in common cancels in their differences: the
prior's term, the first level's where its decoder does not ask the network, and most of the noise of the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives, Conditions, UnderConditions
from nelbo.bound.contrast.places import Places
from nelbo.bound.contrast.race import LAST_STRATA, Goal, Race
from nelbo.bound.contrast.result import Contrast
from nelbo.bound.planned import cost
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.runner import Runner
from nelbo.bound.trial import trial
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.workers import Run

_AT_ONCE = 1 << 20
"""Most evaluations that are planned at once, which are a few hundred bytes each in memory."""
COVARIANCES = 10_000_000
"""Most numbers of covariances that a result keeps."""
_IN_MEMORY = 1 << 22
"""Most values of draws of a block of examples that are in memory at once, should all of them take all looks."""


def contrast(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    conditions: Conditions,
    run: Run | None = None,
    *,
    goal: Goal,
    max_nfe: int | None = None,
    prior: Sequence[float] | Tensor | None = None,
    labels: Tensor | None = None,
    given: Mapping[str, Tensor] | None = None,
    notes: Sequence[str] = (),
) -> Contrast:
    """Which of the conditions explains each example best: see `nelbo.contrast`. labels: indices of right conditions, −1
    for none of them. notes: warnings so far."""
    started = time.perf_counter()
    cost.check_budget(max_nfe, False)
    C = len(conditions)
    log_prior = _log_prior(prior, C)
    one = prepare(model, data, run, condition=given)
    chain = replace(one.chain, condition={**one.chain.condition, **conditions.first(one.chain.examples)})
    alternatives = UnderConditions(one.chain, conditions.rows, conditions.absent)
    how = {
        "contrast": repr((conditions.name, conditions.shown)), "goal": repr(goal), "max_nfe": repr(max_nfe),
        "prior": repr(log_prior.tolist()),
        "rows": repr({name: Examples(rows).fingerprint for name, rows in conditions.rows.items()}),
    }  # fmt: skip
    one.agree("contrast", **how)
    one.open_state(**how)
    runner = one.runner
    try:
        with one.chain.model.denoiser.inference():
            notes = [*notes, *checks.overlap(one.model, one.examples), *trial(chain, runner)]
            races, evaluations = raced(alternatives, runner, goal, log_prior, max_nfe)
    finally:
        runner.close()
    undecided = sum(int((~race.decided).sum()) for race in races)
    if goal.confidence is not None and undecided and goal.tolerance is None and goal.of_posterior is None:
        notes.append(f"{undecided} of {len(one.examples.data)} examples are not decided with {runner.nfe} evaluations")
    checks.warn(notes)
    return _result(one, conditions, races, evaluations, goal, log_prior, labels, notes, time.perf_counter() - started)


def _log_prior(prior: Sequence[float] | Tensor | None, C: int) -> Tensor:
    """Logarithms of the prior probabilities, (C,) float64. Errors: DomainError, ShapeError."""
    if prior is None:
        return torch.full((C,), -math.log(C), dtype=torch.float64)
    try:
        values = torch.as_tensor(prior, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"prior={prior!r}", "give one probability for each condition") from None
    if values.shape != (C,):
        raise ShapeError(f"a prior of shape {tuple(values.shape)} for {C} conditions", "give one probability each")
    if not bool((values > 0).all()) or not math.isfinite(float(values.sum())):
        raise DomainError(
            f"a prior with probabilities from {float(values.min()):g} to {float(values.max()):g}",
            "give positive numbers; leave conditions out that are impossible",
        )
    return (values / values.sum()).log()


def raced(
    alternatives: Alternatives, runner: Runner, goal: Goal, log_prior: Tensor, max_nfe: int | None
) -> tuple[list[Race], list[Tensor]]:
    """The races of all examples, block by block, and what each example took. Of a budget every block has its share of
    what is left; an example whose next look would exceed that stays as it is."""
    N, C = alternatives.chain.examples, len(alternatives)
    races, evaluations = [], []
    along: Places | None = places.piloted(alternatives, runner) if C > 1 else None
    rest = N
    for block in torch.arange(N).split(max(1, _IN_MEMORY // (C * LAST_STRATA))):
        race, spent = Race(log_prior, len(block), goal), torch.zeros(len(block), dtype=torch.int64)
        most = math.inf if max_nfe is None else runner.nfe + (max_nfe - runner.nfe) * len(block) / rest
        rest -= len(block)
        while along is not None and bool(race.racing.any()):
            rows, S = race.racing.nonzero()[:, 0], race.next_strata
            price = 2 * S * race.left[rows].sum(1)
            affordable = runner.nfe + price.cumsum(0) <= most
            race.racing[rows[~affordable]] = False
            rows, price = rows[affordable], price[affordable]
            if not len(rows):
                break
            values = [
                places.draw(alternatives, runner, along, block[some], race.left[some], race.strata, S).values
                for some in rows.split(max(1, _AT_ONCE // (2 * S * C)))
            ]
            spent[rows] += price
            race.look(torch.cat(values))
            runner.tell(f"{int(race.decided.sum()) + sum(int(r.decided.sum()) for r in races)} of {N} decided")
        races.append(race)
        evaluations.append(spent)
    return races, evaluations


def _result(
    one: Prepared,
    conditions: Conditions,
    races: list[Race],
    evaluations: list[Tensor],
    goal: Goal,
    log_prior: Tensor,
    labels: Tensor | None,
    notes: list[str],
    seconds: float,
) -> Contrast:
    differences = [race.differences() for race in races]
    posteriors = [race.posterior() for race in races]
    claims = one.claims()
    N, C = len(one.examples.data), len(conditions)
    return Contrast(
        condition=conditions.name,
        values=conditions.shown,
        difference=torch.cat([values for values, _ in differences]),
        standard_error=torch.cat([errors for _, errors in differences]),
        covariance=torch.cat([race.covariance() for race in races]) if N * C**2 <= COVARIANCES else None,
        left=torch.cat([race.left for race in races]),
        posterior=torch.cat([p for p, _ in posteriors]),
        posterior_error=torch.cat([errors for _, errors in posteriors]),
        best=torch.cat([race.best for race in races]),
        decided=torch.cat([race.decided for race in races]),
        evaluations=torch.cat(evaluations),
        nfe_total=one.runner.nfe,
        confidence=goal.confidence,
        indifference=goal.indifference,
        prior=log_prior.exp(),
        labels=labels,
        precision=claims["precision"],
        seed=claims["seed"],
        data=claims["data"],
        model=claims["model"],
        description=claims["description"],
        version=__version__,
        warnings=tuple(notes),
        seconds=seconds,
    )
