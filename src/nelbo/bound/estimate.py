"""What an estimator returns: the terms in nats an example, with two variances each that are never mixed.

`variance` is Monte Carlo noise about the exact bound of *these* examples; `data_variance` is that of the mean over
examples about the mean of the population they were drawn from: (observed variance between examples − the mean Monte
Carlo variance of one example)/N, at least 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.typing import Json


@dataclass(frozen=True, eq=False)
class Spread:
    """What is known of single examples: `values` (N,) nats, and the variance that the exact ones have besides these:
    negative where the values are noisy, positive where they are fitted."""

    values: Tensor
    besides: float

    @property
    def variance(self) -> float:
        """The sampling variance of their mean: that between the exact values, at least 0, over N; nan where N = 1."""
        n = len(self.values)
        return max(0.0, float(self.values.var()) + self.besides) / n if n > 1 else float("nan")

    @equation("token-ratio-error")
    def of_ratio(self, mean: float, sizes: Tensor) -> float:
        """The sampling variance of a mean over N examples of which only its ratio to the mean of their `sizes` (N,) is
        asked: that of y_i − R s_i with R = Σ y/Σ s, over N (Cochran 1977, "Sampling techniques", ch. 6); nats²."""
        return Spread(self.values - mean / float(sizes.double().mean()) * sizes, self.besides).variance


@dataclass(frozen=True)
class TermEstimate:
    """A mean over examples in nats, its Monte Carlo variance, and its sampling variance (nan where N = 1)."""

    mean: float
    variance: float
    data_variance: float
    spread: Spread | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, values: Tensor, variances: Tensor) -> TermEstimate:
        """From unbiased values (N,) and unbiased Monte Carlo variances (N,) of one example each."""
        share = float(variances.mean())
        spread = Spread(values, -share)
        return cls(float(values.mean()), share / len(values), spread.variance, spread)

    def over(self, sizes: Tensor) -> TermEstimate:
        """The same mean, with the sampling variance of its ratio to that of `sizes` (N,); nan where it is unknown."""
        spread = float("nan") if self.spread is None else self.spread.of_ratio(self.mean, sizes)
        return replace(self, data_variance=spread)

    def scaled(self, factor: float) -> TermEstimate:
        """The mean times a factor, the variances times its square."""
        return TermEstimate(self.mean * factor, self.variance * factor**2, self.data_variance * factor**2)


@dataclass(frozen=True)
class Sides:
    """Of a difference A − B in nats: `mean` of (A + B)/2 without the exact terms, and Monte Carlo variances of A, which
    is the mean and half the difference, and of B."""

    mean: float
    a: float
    b: float


@dataclass(frozen=True)
class Stratum:
    """A stretch of the chain from level t down to level s, its share of the diffusion term in nats an example."""

    t: float
    s: float
    logsnr_t: float
    logsnr_s: float
    mean: float
    variance: float
    evaluations: int

    @classmethod
    def between(
        cls, near: tuple[float, float], far: tuple[float, float], values: Tensor, variances: Tensor, evaluations: int
    ) -> Stratum:
        """From (t, log-SNR) of the end near the data and of the other, and every example's share (N,) and variance."""
        mean, variance = float(values.mean()), float(variances.mean()) / len(variances)
        return cls(far[0], near[0], far[1], near[1], mean, variance, evaluations)


class Rows:
    """Tensors (N,), a row an example, as the fields of a dataclass."""

    def columns(self) -> dict[str, Tensor]:
        """The tensors that there are, by name."""
        return {name: rows for name, rows in vars(self).items() if rows is not None}


@dataclass(frozen=True, eq=False)
class PerExample(Rows):
    """Per-example bounds and terms in nats, each (N,) float64; standard_error is Monte Carlo noise alone.

    Squared standard errors are right on average over the examples. That of one example comes from the few pairs of
    draws that it has, as little as three, and is not widened for that, as the standard error of the mean is.
    """

    nats: Tensor
    standard_error: Tensor
    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    def with_sizes(self, sizes: Tensor) -> SizedPerExample:
        """With the D of every example, (N,)."""
        return SizedPerExample(**vars(self), dimensions=sizes)

    @classmethod
    def of_nats(cls, nats: Sequence[float | None]) -> PerExample:
        """From the bounds alone, as JSON keeps them (null: nan); the errors and terms are nan."""
        values = torch.tensor([math.nan if v is None else v for v in nats], dtype=torch.float64)
        return cls(values, *[torch.full_like(values, math.nan)] * 4)


@dataclass(frozen=True, eq=False)
class PerSequence(PerExample):
    """Of sequences of symbols also how many places are scored, (N,), and of how many UTF-8 bytes of text, if known."""

    tokens: Tensor | None = None
    bytes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SizedPerExample(PerExample):
    """Of examples of different size also their D, (N,)."""

    dimensions: Tensor


@dataclass(frozen=True, eq=False)
class LatentPerExample(PerExample):
    """Of a latent model, with −log p(x | z) and −H[q(z | x)]."""

    pixels: Tensor
    encoder: Tensor


@dataclass(frozen=True, eq=False)
class Estimate:
    """The three terms, their sum, where along the chain the bound sits, and how it was estimated."""

    prior: TermEstimate
    diffusion: TermEstimate
    reconstruction: TermEstimate
    total: TermEstimate
    strata: tuple[Stratum, ...]
    per_example: PerExample | None
    """None where the estimator did not look at every example."""
    estimator: Json
    note: str | None = None
    """What a reader must know: a tolerance that was not reached, an interrupt."""
    sides: Sides | None = None
    """Of a difference, what its draws say of both numbers."""

    @property
    def parts(self) -> dict[str, TermEstimate]:
        """The terms by name, which add up to the total."""
        return {"prior": self.prior, "diffusion": self.diffusion, "reconstruction": self.reconstruction}

    def each(self, change: Callable[[TermEstimate], TermEstimate]) -> Self:
        """With the three terms and their sum changed."""
        names = ("prior", "diffusion", "reconstruction", "total")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def over(self, sizes: Tensor) -> Self:
        """With the sampling errors of ratios to the mean of `sizes` (N,), where these differ."""
        return self.each(lambda term: term.over(sizes)) if bool((sizes != sizes[0]).any()) else self

    def scaled(self, factor: float) -> Self:
        """All means times a factor, all variances times its square; the rows of single examples stay in nats."""
        if factor == 1:
            return self
        strata = (replace(s, mean=s.mean * factor, variance=s.variance * factor**2) for s in self.strata)
        return replace(self.each(lambda term: term.scaled(factor)), strata=tuple(strata))

    def widened(self, diffusion: float, reconstruction: float) -> Self:
        """With other variances of the means of the two random terms, whose noises are independent; the strata get the
        diffusion term's in proportion."""
        grown = diffusion / self.diffusion.variance if self.diffusion.variance > 0 else 1.0
        return replace(
            self,
            strata=tuple(replace(s, variance=s.variance * grown) for s in self.strata),
            diffusion=replace(self.diffusion, variance=diffusion),
            reconstruction=replace(self.reconstruction, variance=reconstruction),
            total=replace(self.total, variance=diffusion + reconstruction),
        )

    def a_number(self, dimensions: int, sizes: Tensor) -> Self:
        """For examples of `sizes` (N,) numbers: such that division by `dimensions` gives Σ nats/Σ sizes."""
        return self.over(sizes).scaled(dimensions * len(sizes) / int(sizes.sum()))

    @classmethod
    @equation("vlb-three-terms")
    def of(
        cls,
        prior: Tensor,
        diffusion: tuple[Tensor, Tensor],
        reconstruction: tuple[Tensor, Tensor],
        strata: list[Stratum],
        estimator: Json,
    ) -> Estimate:
        """From the prior (N,), and (values, variances) an example of the other two terms (independent noises)."""
        nats = prior + diffusion[0] + reconstruction[0]
        variances = diffusion[1] + reconstruction[1]
        return cls(
            prior=TermEstimate.of(prior, torch.zeros_like(prior)),
            diffusion=TermEstimate.of(*diffusion),
            reconstruction=TermEstimate.of(*reconstruction),
            total=TermEstimate.of(nats, variances),
            strata=tuple(strata),
            per_example=PerExample(nats, variances.sqrt(), prior, diffusion[0], reconstruction[0]),
            estimator=estimator,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentEstimate(Estimate):
    """Of a latent model: prior, diffusion and reconstruction are those of z."""

    pixels: TermEstimate
    encoder: TermEstimate

    @property
    def parts(self) -> dict[str, TermEstimate]:
        """The five terms by name."""
        return {"pixels": self.pixels, "encoder": self.encoder, **super().parts}
