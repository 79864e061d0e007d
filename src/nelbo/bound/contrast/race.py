"""The race: which conditions may still be the best of each example, from the paired values of more and more draws.

A look adds S strata with a value each, of every condition that is left, at common noise. Values of neighbouring strata
give the differences h_k = (v_2k − v_2k+1)/S, whose squares add up to the variance of the look's mean (a little more,
by how unlike two strata are), and whose products to covariances. Looks are weighted by their strata, and each doubles
the strata there are.

A condition is eliminated where its mean is above that of the best by more than t standard errors of the paired
difference. The level is shared out: 1 − confidence over the C − 1 others and the looks (less to later ones), so that
the probability that the best condition of an example is eliminated at any look is at most 1 − confidence. t is
Student's, of a variance that is moderated: that of a difference with ν degrees of freedom is averaged with what is
expected of it, which counts as ν₀ = 6 degrees (Smyth 2004); ν = 3 (Σ h²)²/Σ h⁴ − 2 by the fourth moments, at least 2.
Expected is the mean of the example's other differences and, the more the fewer strata there are, the variance that a
pilot found, of ν_p degrees; t has no more degrees than ν_p and the example's own pairs of strata together. So a first
look may be of two pairs of draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.contrast.places import Spread
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.maths import student

FIRST_STRATA = 2
"""Strata of the first look of a race in which conditions are eliminated."""
LOOKS = 12
"""Most looks."""
_LATER = 0.8
"""The share of the level that a look has, of that of the look before it: most examples are decided at an early one."""
LAST_STRATA = FIRST_STRATA << (LOOKS - 1)
"""Strata after the last look: 4096."""
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


class Race:
    """Of B examples and C conditions: means of the values (B, C), whose differences alone count, and who is left.

    left (B, C): conditions that are not eliminated. racing (B,): examples that are not finished. decided (B,): whether
    one condition is left, or all that are left are within the indifference of the best. strata: of each that is left.
    """

    def __init__(self, log_prior: Tensor, examples: int, goal: Goal, spread: Spread):
        B, C = examples, len(log_prior)
        self.goal, self.log_prior, self._spread = goal, log_prior, spread
        self.left = torch.ones(B, C, dtype=torch.bool)
        self.racing = torch.full((B,), C > 1)
        self.decided = torch.full((B,), C == 1)
        self.strata = 0
        self.looks = 0
        self._seen = torch.zeros(B, dtype=torch.float64)  # strata of each example
        self.mean = torch.zeros(B, C, dtype=torch.float64)
        self._halves = torch.zeros(B, 0, C, dtype=torch.float64)
        self._eliminated = torch.full((B, C, 2), float("nan"), dtype=torch.float64)  # difference and error at that time
        self._by = torch.full((B, C), -1)

    @property
    def next_strata(self) -> int:
        """Strata of the next look."""
        return self.strata or (TOGETHER if self.goal.confidence is None else FIRST_STRATA)

    @property
    def best(self) -> Tensor:
        """Of every example the condition of the least mean, less the logarithm of its prior, among those left; (B,)."""
        return (self.mean - self.log_prior).masked_fill(~self.left, float("inf")).argmin(1)

    def look(self, values: Tensor) -> None:
        """Take in the values (A, S, C) of the A examples that are racing, in the order of the strata; those of
        eliminated conditions are not read. Eliminates, and tells who is finished."""
        rows = self.racing.nonzero()[:, 0]
        S = values.shape[1]
        values = values.masked_fill(~self.left[rows][:, None], 0.0)
        share = S / (self.strata + S)
        self.mean[rows] = (1 - share) * self.mean[rows] + share * values.mean(1)
        halves = torch.zeros(len(self.left), S // 2, values.shape[2], dtype=torch.float64)
        halves[rows] = (values[:, 0::2] - values[:, 1::2]) * (share / S)
        kept = torch.ones(len(self.left), dtype=torch.float64)
        kept[rows] = 1 - share
        self._halves = torch.cat([self._halves * kept[:, None, None], halves], 1)
        self.strata += S
        self.looks += 1
        self._seen[rows] = self.strata
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
        """Of the means of the conditions that are left, (B, C, C); with any other, nan."""
        return self._products().masked_fill(~(self.left[:, :, None] & self.left[:, None]), float("nan"))

    @equation("contrast-posterior")
    def posterior(self) -> tuple[Tensor, Tensor]:
        """exp(−mean) times the prior, normalised, and its standard error by the delta method, (B, C)."""
        values, _ = self.differences()
        p = (self.log_prior - values).softmax(1)
        # less those of the best, or what all have in common would count where a condition is eliminated
        at = self.best[:, None, None].expand(-1, self._halves.shape[1], 1)
        halves = (self._halves - self._halves.gather(2, at)).masked_fill(~self.left[:, None], 0.0)
        around = p[:, None] * (halves - (halves * p[:, None]).sum(2, keepdim=True))
        # and of each that is eliminated that of its difference then
        gone = self._eliminated[..., 1].nan_to_num(0.0)
        slope = p[:, :, None] * (p[:, None] - torch.eye(p.shape[1], dtype=p.dtype))
        return p, (around.square().sum(1) + (slope * gone[:, None]).square().sum(2)).sqrt()

    def _judge(self, rows: Tensor) -> None:
        goal, left = self.goal, self.left[rows]
        best = self.best
        values, errors, t = self._tested(rows, best[rows])
        own = torch.zeros_like(left).scatter(1, best[rows][:, None], True)
        if goal.confidence is not None:
            margin = 0.0 if goal.of_posterior is None else math.log(left.shape[1] / goal.of_posterior)
            score = values + self.log_prior[best[rows]][:, None] - self.log_prior
            gone = left & ~own & (score - margin > t * errors)
            b, c = gone.nonzero(as_tuple=True)
            self._eliminated[rows[b], c] = torch.stack([values[b, c], errors[b, c]], 1)
            self._by[rows[b], c] = best[rows[b]]
            self.left[rows] = left = left & ~gone
            alone = left.sum(1) == 1
            near = (~left | own | (score + goal.indifference > t * errors)).all(1) & (goal.indifference > 0)
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
        how many of these are significant, (A, C)."""
        at, left = best[:, None], self.left[rows]
        C = left.shape[1]
        halves = self._halves[rows]
        squares = (halves - halves.gather(2, at[:, None].expand(-1, halves.shape[1], 1))).square()
        variance, fourth = squares.sum(1), squares.square().sum(1)
        freedom = (3 * variance.square() / fourth.clamp_min(1e-300) - 2).clamp_min(_LEAST_FREEDOM)
        others = left.scatter(1, at, False)
        own, piloted = self._seen[rows][:, None] / 2, self._spread.freedom
        mean = (variance * others).sum(1, keepdim=True) / others.sum(1, keepdim=True).clamp_min(1)
        mean = (own * mean + piloted * self._spread.variance / (2 * own).clamp_min(1)) / (own + piloted)
        moderated = (_PRIOR_FREEDOM * mean + freedom * variance) / (_PRIOR_FREEDOM + freedom)
        total = (_PRIOR_FREEDOM + freedom).clamp_max(own + piloted)
        share = (1 - _LATER) * _LATER ** (self.looks - 1) / (1 - _LATER**LOOKS)
        level = (1 - (self.goal.confidence or 0.5)) / max(1, C - 1) * share
        values = self.mean[rows] - self.mean[rows].gather(1, at)
        moderated = moderated.scatter(1, at, 0.0)
        return values, moderated.sqrt(), student.quantile(level, total)

    def _products(self) -> Tensor:
        return torch.einsum("bkc,bkd->bcd", self._halves, self._halves)

    def _order(self) -> Tensor:
        """(example, condition) of those eliminated, such that each comes after that which it was compared with."""
        pairs = (self._by >= 0).nonzero()
        depth = torch.zeros(len(pairs), dtype=torch.int64)
        for i, (b, c) in enumerate(pairs.tolist()):
            while (c := int(self._by[b, c])) >= 0:
                depth[i] += 1
        return pairs[depth.argsort(stable=True)]
