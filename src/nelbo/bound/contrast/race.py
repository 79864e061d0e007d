"""The race: which conditions may still be the best of each example, from the paired values of more and more draws.

A look adds S strata with a value each, of every condition that is left, at common noise, and draws of the first level's
term where that has one of its own. Values of neighbouring strata give the differences h_k = (v_2k − v_2k+1)/S, whose
squares add up to the variance of the look's mean (a little more, by how unlike two strata are), and whose products to
covariances. Looks are weighted by their strata, and each doubles the strata there are.

A condition is eliminated where its mean is above that of the best by more than t standard errors of the paired
difference. The level is shared out: 1 − confidence over the looks (less to later ones) and over the rivals that are
left (as Holm 1979), so that the probability that the best condition of an example is eliminated at any look is at most
1 − confidence. t is Student's, of a variance that is moderated: that of a difference with ν degrees of freedom is
averaged with what is expected of it, which counts as ν₀ = 6 degrees (Smyth 2004); ν = 3 (Σ h²)²/Σ h⁴ − 2 by the fourth
moments, at least 2. Expected is the mean of the example's other differences and, the more the fewer strata there are,
what a pilot found with as many strata, of ν_p degrees; t has no more degrees than ν_p and the example's own h_k
together. So a first look may be of one stratum, of which only the pilot tells the variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.contrast.looks import Looks
from nelbo.bound.contrast.spread import Spread
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.maths import student

LOOKS = 13
"""Most looks."""
_LATER = 0.7
"""The share of the level that a look has, of that of the look before it: most examples are decided at an early one."""
LAST_STRATA = 4096
"""Most strata."""
TOGETHER = 8
"""Strata of the first look where nothing is eliminated, and larger strata are better."""
ENOUGH = 16
"""Strata from which a standard error is taken at its word."""
_PRIOR_FREEDOM, _LEAST_FREEDOM = 6.0, 2.0


@dataclass(frozen=True)
class Goal:
    """When an example is finished: where no condition but one is left, or all that are left are better than the best by
    less than `indifference` nats, at `confidence`; where confidence is None nothing is eliminated. tolerance: the
    standard error of every difference to the best, in nats; of_posterior: that of every posterior probability."""

    confidence: float | None = 0.99
    indifference: float = 0.0
    tolerance: float | None = None
    of_posterior: float | None = None

    @property
    def decides(self) -> bool:
        """Whether nothing but a decision is asked for."""
        return self.confidence is not None and self.tolerance is None and self.of_posterior is None

    def __post_init__(self):
        for name, value in (("confidence", self.confidence), ("posterior_tolerance", self.of_posterior)):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{name}={value!r}", "give a probability between 0 and 1, such as 0.99")
        if not (self.indifference >= 0 and math.isfinite(self.indifference)):
            raise UsageError(f"indifference={self.indifference!r}", "give a number of nats, 0 or more")
        if self.tolerance is not None and not (self.tolerance > 0 and math.isfinite(self.tolerance)):
            raise UsageError(f"tolerance={self.tolerance!r}", "give a standard error in nats, above 0")
        if self.confidence is None and self.tolerance is None and self.of_posterior is None:
            raise UsageError("a contrast without confidence, tolerance and posterior_tolerance", "give one of them")


def threshold(goal: Goal, looks: int, rivals: Tensor, freedom: Tensor) -> Tensor:
    """How many standard errors are significant after so many looks before, with so many rivals left."""
    share = (1 - _LATER) * _LATER**looks / (1 - _LATER**LOOKS)
    return student.quantile((1 - (goal.confidence or 0.5)) * share / rivals.clamp_min(1), freedom)


class Race:
    """Of B examples and C conditions: means of the values (B, C), whose differences alone count, and who is left.

    left (B, C): conditions that are not eliminated. racing (B,): examples that are not finished. decided (B,): whether
    one condition is left, or all that are left are within the indifference of the best.
    """

    def __init__(self, log_prior: Tensor, examples: int, goal: Goal, spread: Spread):
        B, C = examples, len(log_prior)
        self.goal, self.log_prior, self._spread = goal, log_prior, spread
        self.left = torch.ones(B, C, dtype=torch.bool)
        self.racing = torch.full((B,), C > 1)
        self.decided = torch.full((B,), C == 1)
        self.looks = 0
        self._strata, self._firsts = Looks(B, C), Looks(B, C)
        self._eliminated = torch.full((B, C, 2), float("nan"), dtype=torch.float64)  # difference and error at that time
        self._by = torch.full((B, C), -1)

    @property
    def strata(self) -> int:
        """Strata of every condition that is left, of an example that is racing."""
        return self._strata.count

    @property
    def firsts(self) -> int:
        """Draws of the first level, likewise."""
        return self._firsts.count

    @property
    def mean(self) -> Tensor:
        """Means of the values, (B, C)."""
        return self._strata.mean + self._firsts.mean

    @property
    def next_strata(self) -> int:
        """Strata of the next look."""
        return self.strata or (TOGETHER if self.goal.confidence is None else self._spread.first_look)

    @property
    def next_firsts(self) -> int:
        """Draws of the first level in the next look, where that has a term of its own. A look that decides may have one
        alone, whose variance is the pilot's; the others are pairs."""
        if not self.strata:
            return 1 if self.goal.decides else 2
        wanted = round(self._spread.first_share * (self.strata + self.next_strata))
        return max(0, wanted - self.firsts) // 2 * 2

    @property
    def best(self) -> Tensor:
        """Of every example the condition of the least mean, less the logarithm of its prior, among those left; (B,)."""
        return (self.mean - self.log_prior).masked_fill(~self.left, float("inf")).argmin(1)

    def look(self, values: Tensor, firsts: Tensor | None = None) -> None:
        """Take in the values (A, S, C) of the A examples that are racing, in the order of the strata, and the terms
        `firsts` (A, R, C) of the first level; those of eliminated conditions are not read. Eliminates, and tells who is
        finished."""
        rows = self.racing.nonzero()[:, 0]
        gone = ~self.left[rows][:, None]
        self._strata.add(rows, values.masked_fill(gone, 0.0))
        if firsts is not None and firsts.shape[1]:
            self._firsts.add(rows, firsts.masked_fill(gone, 0.0))
        self.looks += 1
        self._judge(rows)

    def differences(self) -> tuple[Tensor, Tensor]:
        """Of every condition to the best one, and its moderated standard error, (B, C); 0 of the best one. Of an
        eliminated one as it was then, and since then of that which it was compared with."""
        values, errors, _ = self._tested(torch.arange(len(self.left)), self.best)
        for b, c in self._order().tolist():
            values[b, c], errors[b, c] = self._eliminated[b, c].tolist()
            by = int(self._by[b, c])
            values[b, c] += values[b, by]
        return values, errors

    def covariance(self) -> Tensor:
        """Of the means of the conditions that are left, (B, C, C); with any other, nan, and where no two draws tell
        it."""
        halves = self._halves
        found = torch.einsum("bkc,bkd->bcd", halves, halves)
        found += (self._unpaired / 2)[:, None, None] * torch.eye(found.shape[1], dtype=found.dtype)
        known = self.left & (self._own > 0)[:, None]
        return found.masked_fill(~(known[:, :, None] & known[:, None]), float("nan"))

    @equation("contrast-posterior")
    def posterior(self) -> tuple[Tensor, Tensor]:
        """exp(−mean) times the prior, normalised, and its standard error by the delta method, (B, C)."""
        values, errors = self.differences()
        p = (self.log_prior - values).softmax(1)
        # less those of the best, or what all have in common would count where a condition is eliminated
        halves = self._halves
        at = self.best[:, None, None].expand(-1, halves.shape[1], 1)
        halves = (halves - halves.gather(2, at)).masked_fill(~self.left[:, None], 0.0)
        around = p[:, None] * (halves - (halves * p[:, None]).sum(2, keepdim=True))
        variance = around.square().sum(1)
        eye = torch.eye(p.shape[1], dtype=p.dtype)
        slope = p[:, :, None] * (p[:, None] - eye)
        variance += (slope.square() * (self._unpaired / 2)[:, None, None]).sum(2)
        # and of each that is eliminated, or all where no two draws tell the errors: were it a standard error nearer
        alone = ~self.left | (self._own == 0)[:, None]
        nearer = (self.log_prior - values)[:, None] + eye * errors[:, None]
        variance += ((nearer.softmax(2) - p[:, None]).square() * alone[..., None]).sum(1)
        return p, variance.sqrt()

    def _judge(self, rows: Tensor) -> None:
        goal, left = self.goal, self.left[rows]
        best = self.best
        values, errors, bar = self._tested(rows, best[rows])
        own = torch.zeros_like(left).scatter(1, best[rows][:, None], True)
        if goal.confidence is not None:
            margin = 0.0 if goal.of_posterior is None else math.log(left.shape[1] / goal.of_posterior)
            score = values + self.log_prior[best[rows]][:, None] - self.log_prior
            gone = left & ~own & (score - margin > bar)
            b, c = gone.nonzero(as_tuple=True)
            self._eliminated[rows[b], c] = torch.stack([values[b, c], errors[b, c]], 1)
            self._by[rows[b], c] = best[rows[b]]
            self.left[rows] = left = left & ~gone
            alone = left.sum(1) == 1
            near = (~left | own | (score + goal.indifference > bar)).all(1) & (goal.indifference > 0)
            self.decided[rows] = alone | near
        finished = self._finished(rows, left, errors)
        self.racing[rows] = ~finished & (self.strata < LAST_STRATA)

    def _finished(self, rows: Tensor, left: Tensor, errors: Tensor) -> Tensor:
        """Whether the examples `rows` have what was asked for."""
        goal = self.goal
        if goal.tolerance is None and goal.of_posterior is None:
            return self.decided[rows]
        enough = torch.full((len(rows),), self.strata >= ENOUGH)
        if goal.tolerance is not None:
            enough &= (errors.masked_fill(~left, 0.0) <= goal.tolerance).all(1)
        if goal.of_posterior is not None:
            enough &= (self.posterior()[1][rows] <= goal.of_posterior).all(1)
        return enough | (left.sum(1) == 1)

    def _tested(self, rows: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the examples `rows` the differences to the conditions `best` (A,), their moderated standard errors, and
        what is significant, (A, C): so many standard errors of a difference that is near zero."""
        at, left = best[:, None], self.left[rows]
        halves = self._halves[rows]
        squares = (halves - halves.gather(2, at[:, None].expand(-1, halves.shape[1], -1))).square()
        variance, fourth = squares.sum(1), squares.square().sum(1)
        freedom = (3 * variance.square() / fourth.clamp_min(1e-300) - 2).clamp_min(_LEAST_FREEDOM)
        others = left.scatter(1, at, False)
        rivals = others.sum(1, keepdim=True).clamp_min(1)
        own, piloted = self._own[rows][:, None].double(), self._spread.freedom
        freedom = freedom.masked_fill(own == 0, 0.0)
        variance = variance + self._unpaired[rows][:, None]
        values = self.mean[rows] - self.mean[rows].gather(1, at)
        own_mean, expected = (variance * others).sum(1, keepdim=True) / rivals, self._expected[rows][:, None]
        total = (_PRIOR_FREEDOM + freedom).clamp_max(own + piloted)

        def moderated(growth: Tensor | float) -> Tensor:
            mean = (own * own_mean + piloted * expected * growth) / (own + piloted)
            found = (_PRIOR_FREEDOM * mean + freedom * variance) / (_PRIOR_FREEDOM + freedom)
            return found.scatter(1, at, 0.0).sqrt()

        bar = threshold(self.goal, self.looks - 1, rivals, total) * moderated(1.0)
        return values, moderated(self._spread.growth(values)), bar

    @property
    def _halves(self) -> Tensor:
        return torch.cat([self._strata.halves, self._firsts.halves], 1)

    @property
    def _own(self) -> Tensor:
        """Half differences of each example, (B,)."""
        return self._strata.seen // 2 + self._firsts.seen // 2

    @property
    def _unpaired(self) -> Tensor:
        """The variance of differences that no half differences tell but the pilot, (B,)."""
        return self._spread.first * self._firsts.unpaired

    @property
    def _expected(self) -> Tensor:
        """The variance of differences by the pilot, (B,)."""
        return self._spread.of(self._strata.seen.double()) + self._spread.first / self._firsts.seen.clamp_min(1)

    def _order(self) -> Tensor:
        """(example, condition) of those eliminated, such that each comes after that which it was compared with."""
        pairs = (self._by >= 0).nonzero()
        depth = torch.zeros(len(pairs), dtype=torch.int64)
        for i, (b, c) in enumerate(pairs.tolist()):
            while (c := int(self._by[b, c])) >= 0:
                depth[i] += 1
        return pairs[depth.argsort(stable=True)]
