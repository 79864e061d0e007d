"""Successive halving of declarations: all on a few draws, the better ones on more, until the budget is spent.

Noise is common, so that totals of one stage differ by what the declarations differ by. A declaration that a later one
follows from, such as the schedule whose times suit the network, brings that one along before the last stage.
Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.runner import Runner
from nelbo.diagnosis import draws
from nelbo.diagnosis.draws import Stage, Values
from nelbo.diagnosis.subject import Sibling
from nelbo.errors import NelboError, NumericalError, UsageError

SHARES = (0.45, 0.75, 1.0)
"""Of the budget, after each stage."""
KEPT = ((10, 5, 4), (4, 2, 2))
"""Declarations of the lowest bounds, others that most often cost less than what was declared, and choices that go on
after the first and the second stage, besides the declared one and controls."""
FOLLOWED = 2
"""Declarations that bring another one along."""
MOST_STRATA = (8, 24, 400)
"""Strata of a stage, at most: more of the first two would only leave less for the last."""
FAILURES = (NelboError, RuntimeError, IndexError, TypeError, ValueError, AssertionError, AttributeError)
"""What networks raise at inputs that they were not made for."""


@dataclass(eq=False)
class Candidate:
    """One declaration. sibling: None for what was declared. values: by stage. failure: why it went no
    further."""

    sibling: Sibling | None
    chain: GaussianChain
    nats: float
    p: Tensor
    values: dict[int, Values] = field(default_factory=dict)
    failure: str | None = None
    followed: Candidate | None = None
    """The one that brought it along."""

    @cached_property
    def trained(self) -> tuple[float, float] | None:
        """Log-SNRs of which the network was trained, as of a sibling."""
        model = self.chain.model
        return None if self.sibling is None else self.sibling.trained(model.schedule)

    @property
    def kind(self) -> str:
        """As of a row of the result."""
        if self.sibling is None:
            return "declared"
        if self.followed is not None:
            return "choice"
        return "control" if self.sibling.control else "choice" if self.sibling.choice else "declaration"

    @property
    def name(self) -> str:
        """As of a row of the result."""
        return "as declared" if self.sibling is None else self.sibling.name

    def cost(self, along: int, first: int) -> int:
        """Evaluations of so many draws along the chain and at the first level, at most."""
        if self.sibling is not None and not self.sibling.evaluates:
            return 0
        return along * self.chain.cell_cost + first * self.chain.first_cost

    def evaluate(self, count: int, stage: Stage, runner: Runner) -> None:
        """The values of stage number `count`; a failure ends its part.

        Errors: those of the declared network but NaN.
        """
        try:
            values = draws.evaluated(self.chain, runner, stage, self.p)
        except NumericalError:
            self.failure = "its terms are not finite"
        except FAILURES as error:
            if self.sibling is None:
                raise
            self.failure = first_sentence(error)
        else:
            exact = float(self.chain.priors().mean()) + self.nats
            self.values[count] = dataclasses.replace(values, exact=exact)
            if not math.isfinite(self.values[count].total):
                del self.values[count]
                self.failure = "its terms are not finite"

    def wins(self, other: Candidate) -> float:
        """How much more often its draws cost less than those of `other` than the reverse, in standard deviations of a
        fair coin; draws that cost the same count for neither."""
        common = self.values.keys() & other.values.keys()
        change = [(self.values[k].along - other.values[k].along).flatten() for k in common]
        signs = torch.cat(change).sign() if change else torch.zeros(0)
        return -float(signs.sum()) / max(1.0, float(signs.abs().sum())) ** 0.5

    def pooled(self) -> tuple[float, float]:
        """Value and variance of its bound over its stages, in nats."""
        return draws.pooled(list(self.values.values()))

    def difference(self, other: Candidate, inside: tuple[float, float] | None = None) -> tuple[float, float]:
        """Value and variance of this one's bound minus the other's over the stages of both, in nats; nan where they
        have none in common. inside: the part of draws along the chain of log-SNR between these."""
        common = sorted(self.values.keys() & other.values.keys())
        if not common:
            return math.nan, math.nan
        changes = [self.values[count] - other.values[count] for count in common]
        return draws.pooled(changes if inside is None else [change.inside(*inside) for change in changes])


def first_sentence(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    line = text.strip().splitlines()[0]
    return line if isinstance(error, NelboError) else f"{type(error).__name__}: {line[:160]}"


def run(
    candidates: list[Candidate],
    runner: Runner,
    spent: Callable[[], int],
    max_nfe: int,
    seed: int,
    done: Callable[[], None],
    following: Callable[[Candidate], Candidate | None],
) -> list[Candidate]:
    """Evaluate `candidates`, the declared one first, in stages that cost max_nfe evaluations at most; all of them,
    with those that were brought along.

    spent: evaluations so far. done: called after each part. following: the declaration that one brings along, if any.
    """
    declared, active, start = candidates[0], candidates[1:], 0
    followers: list[Candidate] = []
    N = declared.chain.examples
    for count, share in enumerate(SHARES):
        part = [declared, *active, *followers]
        stage = _stage(part, seed, count, start, int(share * max_nfe) - spent(), N)
        if stage is None and not count:  # the least that there can be, where the budget allows no more
            stage = Stage.of(seed, 0, 0, 1, _first(declared, 1), N)
            least = spent() + sum(c.cost(len(stage.u), len(stage.first_numbers)) for c in part)
            if least > max_nfe:
                raise UsageError(
                    f"max_nfe={max_nfe} is less than one look at {len(candidates)} declarations",
                    f"allow at least {least} evaluations",
                )
        if stage is None:
            break
        start += len(stage.u) + len(stage.first_numbers)
        for candidate in part:
            if candidate.failure is None:
                candidate.evaluate(count, stage, runner)
            done()
        active = _distinct([declared, *(c for c in active if c.failure is None)])[1:]
        if count < len(KEPT):
            active = _kept(active, declared, KEPT[count])
        if count == len(KEPT) - 1:
            better = [c for c in active if c.difference(declared)[0] < 0]
            followers = [f for f in map(following, better) if f is not None][:FOLLOWED]
    return [*candidates, *(c for c in followers if c.values)]


def _kept(active: list[Candidate], declared: Candidate, numbers: tuple[int, int, int]) -> list[Candidate]:
    """The best declarations, those that most often cost less, the best choices and all controls.

    A few draws whose terms explode decide on the mean; that a declaration costs less at most levels is seen all the
    same.
    """
    active = sorted(active, key=lambda candidate: candidate.pooled()[0])
    of = {kind: [c for c in active if c.kind == kind] for kind in ("declaration", "choice", "control")}
    lowest, rest = of["declaration"][: numbers[0]], of["declaration"][numbers[0] :]
    often = sorted(rest, key=lambda candidate: -candidate.wins(declared))[: numbers[1]]
    return [*lowest, *often, *of["choice"][: numbers[2]], *of["control"]]


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Without those that are another way to say an earlier one, whose values are the same."""
    kept: list[Candidate] = candidates[:1]
    for candidate in candidates[1:]:
        same = next((other for other in kept if candidate.kind != "control" and _same(candidate, other)), None)
        if same is None:
            kept.append(candidate)
        else:
            candidate.failure, candidate.values = f"the same as {same.name}", {}
    return kept


def _same(one: Candidate, other: Candidate) -> bool:
    common = one.values.keys() & other.values.keys()
    if not common or one.nats != other.nats:
        return False
    a, b = one.values[max(common)], other.values[max(common)]
    return all(torch.allclose(p, q, rtol=1e-5, atol=1e-9) for p, q in ((a.along, b.along), (a.first, b.first)))


def _first(declared: Candidate, strata: int) -> int:
    return max(2, strata) if declared.chain.first_cost else draws.FREE_DRAWS


def _stage(candidates: list[Candidate], seed: int, count: int, start: int, budget: int, N: int) -> Stage | None:
    """The stage of the most strata that the budget allows; None where it allows none."""
    for strata in range(MOST_STRATA[count], 0, -1):
        first = _first(candidates[0], strata)
        if sum(candidate.cost(2 * strata, first) for candidate in candidates) <= budget:
            return Stage.of(seed, count, start, strata, first, N)
    return None
