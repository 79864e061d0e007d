"""Values in bits/dim with their standard errors: the whole, its terms, and levels along the chain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.bound.estimate import TermEstimate
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.maths.units import bits_per_dim


def measurable(data_variance: float, variance: float, representative: bool) -> float:
    """The variance of the data, or nan where it cannot be measured: of examples that are too few or all equal, and
    where their spread is no larger than the estimator's noise, so that nothing is left of it."""
    hidden = data_variance == 0 and variance > 0
    return data_variance if representative and not hidden else math.nan


@dataclass(frozen=True)
class StandardError:
    """Standard errors in bits/dim: of the estimator about the exact bound of these examples; of the examples as a
    sample of their population; and of both together. The last two are nan where they are not measurable."""

    estimator: float
    data: float
    total: float

    @classmethod
    def of(
        cls, variance: float, data_variance: float, dimensions: int, *, representative: bool, total: float | None = None
    ) -> StandardError:
        """From variances in nats² of the estimator, of the data and of both (their sum). representative: whether the
        examples' spread says something of their population (`Examples.representative`)."""
        data = measurable(data_variance, variance, representative)
        both = (variance + data_variance if total is None else total) if representative else math.nan
        return cls(*(float(bits_per_dim(math.sqrt(v), dimensions)) for v in (variance, data, both)))


@dataclass(frozen=True)
class Term:
    """A term of the bound in bits/dim, with the estimator's standard error and that of the sampling of examples."""

    bits_per_dim: float
    standard_error: float
    standard_error_data: float

    @classmethod
    def of(cls, estimate: TermEstimate, dimensions: int, *, representative: bool) -> Term:
        """From an estimate in nats; representative: as of `StandardError.of`."""
        data = measurable(estimate.data_variance, estimate.variance, representative)
        nats = estimate.mean, math.sqrt(estimate.variance), math.sqrt(data)
        return cls(*(float(bits_per_dim(v, dimensions)) for v in nats))


@dataclass(frozen=True)
class Terms:
    """The three terms; they add up to the bound."""

    prior: Term
    diffusion: Term
    reconstruction: Term


@dataclass(frozen=True)
class LatentTerms(Terms):
    """The five terms of a latent model: pixels −log p(x | z), encoder −H[q(z | x)], and the three of z; z in the
    prior's units."""

    pixels: Term
    encoder: Term


def terms_of(parts: dict[str, Term]) -> Terms:
    """The terms by their names."""
    return (LatentTerms if "pixels" in parts else Terms)(**parts)


@dataclass(frozen=True)
class Level:
    """A stratum of the chain: levels t → s and their log-SNRs, its part of the diffusion term in bits/dim."""

    t: float
    s: float
    logsnr_t: float
    logsnr_s: float
    bits_per_dim: float
    standard_error: float
    evaluations: int


def error_in_words(value: float) -> str:
    """A standard error to five decimals while they fit into their column; in words where there is no such number."""
    if math.isnan(value):
        return NOT_MEASURABLE
    return f"{value:.5f}" if value < 1e3 else f"{value:.4g}"
