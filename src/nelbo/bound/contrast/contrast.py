"""`contrast`: the same examples under different conditions of one model, by paired draws, until each is decided.

Noise and places do not know the condition, so that what the conditions have in common cancels in their differences: the
prior's term, the first level's where its decoder does not ask the network, and most of the noise of the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives
from nelbo.bound.contrast.asked import Asked
from nelbo.bound.contrast.pilot import Pilot, pilot
from nelbo.bound.contrast.race import LAST_STRATA, Goal, Race
from nelbo.bound.contrast.result import Contrast
from nelbo.bound.contrast.spread import Spread
from nelbo.bound.planned import cost
from nelbo.bound.prepare import Prepared
from nelbo.bound.runner import Runner
from nelbo.errors import DomainError, ShapeError, UsageError

_AT_ONCE = 1 << 20
"""Most evaluations that are planned at once, which are a few hundred bytes each in memory."""
COVARIANCES = 10_000_000
"""Most numbers of covariances that a result keeps."""
_IN_MEMORY = 1 << 22
"""Most values of draws of a block of examples that are in memory at once, should all of them take all looks."""


def contrast(
    asked: Asked,
    names: tuple[str, tuple[Any, ...]],
    *,
    goal: Goal,
    max_nfe: int | None = None,
    prior: Sequence[float] | Tensor | None = None,
    labels: Tensor | None = None,
    notes: Sequence[str] = (),
) -> Contrast:
    """Which of the alternatives explains each example best: see `nelbo.contrast`. names: of what differs, and of each
    alternative. labels: indices of the right ones, −1 for none of them. notes: warnings so far."""
    started = time.perf_counter()
    cost.check_budget(max_nfe, False)
    log_prior = _log_prior(prior, len(asked.alternatives))
    one, runner = asked.one, asked.one.runner
    how = {**asked.how, "goal": repr(goal), "max_nfe": repr(max_nfe), "prior": repr(log_prior.tolist())}
    one.agree("contrast", **how)
    one.open_state(**how)
    try:
        with asked.inference():
            notes = [*notes, *asked.overlap(), *asked.trial(runner)]
            races, evaluations = raced(asked.alternatives, runner, goal, log_prior, max_nfe)
    finally:
        runner.close()
    undecided = sum(int((~race.decided).sum()) for race in races)
    if goal.confidence is not None and undecided and goal.tolerance is None and goal.of_posterior is None:
        notes.append(f"{undecided} of {len(one.examples.data)} examples are not decided with {runner.nfe} evaluations")
    checks.warn(notes)
    return _result(one, names, races, evaluations, goal, log_prior, labels, notes, time.perf_counter() - started)


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
    N, C, each = alternatives.chain.examples, len(alternatives), 1 + int(alternatives.chain.signed)
    races, evaluations = [], []
    known = pilot(alternatives, runner, goal) if C > 1 else None
    spread = Spread.flat(0.0, 1.0) if known is None else known.spread
    rest = N
    for block in torch.arange(N).split(max(1, _IN_MEMORY // (C * LAST_STRATA))):
        race, spent = Race(log_prior, len(block), goal, spread), torch.zeros(len(block), dtype=torch.int64)
        most = math.inf if max_nfe is None else runner.nfe + (max_nfe - runner.nfe) * len(block) / rest
        rest -= len(block)
        while known is not None and bool(race.racing.any()):
            S, R = race.next_strata, 0 if known.first is None else race.next_firsts
            rows = race.racing.nonzero()[:, 0]
            price = each * (S + R) * (alternatives.prices(block[rows]) * race.left[rows]).sum(1)
            affordable = runner.nfe + price.cumsum(0) <= most
            race.racing[rows[~affordable]] = False
            rows, price = rows[affordable], price[affordable]
            if not len(rows):
                break
            looks = [
                _look(alternatives, runner, known, race, block, some)
                for some in rows.split(max(1, _AT_ONCE // (each * (S + R) * C)))
            ]
            values, firsts = (torch.cat(parts) for parts in zip(*looks, strict=True))
            spent[rows] += price
            race.look(values + alternatives.exact(block[rows])[:, None], firsts)
            runner.tell(f"{int(race.decided.sum()) + sum(int(r.decided.sum()) for r in races)} of {N} decided")
        races.append(race)
        evaluations.append(spent)
    return races, evaluations


def _look(
    alternatives: Alternatives, runner: Runner, known: Pilot, race: Race, block: Tensor, some: Tensor
) -> tuple[Tensor, Tensor]:
    """The draws of the next look of the examples block[some] (n,): along the chain (n, S, C), and of the first level
    (n, R, C)."""
    found = []
    for where, start, number in (
        (known.chain, race.strata, race.next_strata),
        (known.first, race.firsts, race.next_firsts),
    ):
        if where is None or not number:
            found.append(torch.zeros(len(some), 0, race.left.shape[1], dtype=torch.float64))
        else:
            found.append(places.draw(alternatives, runner, where, block[some], race.left[some], start, number).values)
    return found[0], found[1]


def _result(
    one: Prepared[Any, Any],
    names: tuple[str, tuple[Any, ...]],
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
    N, C = len(one.examples.data), len(log_prior)
    return Contrast(
        condition=names[0],
        values=names[1],
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
