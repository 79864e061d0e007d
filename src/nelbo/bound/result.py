"""`Bound`: a number with all that makes it a claim. Nats come in, bits/dim come out; JSON schema nelbo.bound/1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nelbo.bound.estimate import Estimate, PerExample, TermEstimate
from nelbo.maths.units import bits_per_dim
from nelbo.model.examples import described
from nelbo.model.reverse import Clipping
from nelbo.typing import Json

SCHEMA = "nelbo.bound/1"


NOT_MEASURABLE = "not measurable"


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
class Level:
    """A stratum of the chain: levels t → s and their log-SNRs, its part of the diffusion term in bits/dim."""

    t: float
    s: float
    logsnr_t: float
    logsnr_s: float
    bits_per_dim: float
    standard_error: float
    evaluations: int


@dataclass(frozen=True, eq=False)
class Bound:
    """The variational bound of a data set under a model. `print(bound)` shows a table; `to_dict()` is JSON.

    For discrete data bits/dim is a code length; for real data it is a negative log density in bits/dim and may be
    negative (`domain` says which).
    """

    bits_per_dim: float
    standard_error: StandardError
    terms: Terms
    levels: tuple[Level, ...]
    examples: int
    dimensions: int
    nfe_total: int
    estimator: Json
    precision: str
    seed: int
    data: Json
    model: Json
    description: Json
    version: str
    per_example: PerExample | None = None
    warnings: tuple[str, ...] = ()
    quantity: str = "vlb"
    overrides: Json = field(default_factory=dict)
    """What the user chose in the place of the model's own, where it was somebody else's: variance, decoder, ..."""
    interrupted: bool = False
    """Whether the user stopped it before it was done; the numbers are of the draws made until then."""
    seconds: float = field(default=math.nan)

    @classmethod
    def of(cls, estimate: Estimate, dimensions: int, rest: Json, *, representative: bool) -> Bound:
        """From an estimate in nats; `rest` holds the fields that say what was scored and how; representative: as of
        `StandardError.of`."""

        def bits(nats: float) -> float:
            return float(bits_per_dim(nats, dimensions))

        total = estimate.total
        three = estimate.prior, estimate.diffusion, estimate.reconstruction
        terms = (Term.of(e, dimensions, representative=representative) for e in three)
        return cls(
            bits_per_dim=bits(total.mean),
            standard_error=StandardError.of(
                total.variance, total.data_variance, dimensions, representative=representative
            ),
            terms=Terms(*terms),
            levels=tuple(
                Level(p.t, p.s, p.logsnr_t, p.logsnr_s, bits(p.mean), bits(math.sqrt(p.variance)), p.evaluations)
                for p in estimate.strata
            ),
            dimensions=dimensions,
            estimator=estimate.estimator,
            **rest,
        )

    @property
    def total_name(self) -> str:
        """What the sum of the terms is called in the table."""
        return "bound"

    @property
    def nfe_per_example(self) -> float:
        """Network evaluations an example."""
        return self.nfe_total / self.examples

    def to_dict(self) -> Json:
        """The documented JSON form; numbers that do not exist (a data error that is not measurable) are null."""
        terms = {name: vars(term) for name, term in vars(self.terms).items()}
        result = {
            "schema": SCHEMA,
            "quantity": self.quantity,
            "bits_per_dim": self.bits_per_dim,
            "standard_error": vars(self.standard_error),
            "terms": terms,
            "levels": [vars(level) for level in self.levels],
            "nats_per_example": None if self.per_example is None else self.per_example.nats.tolist(),
            "examples": self.examples,
            "dimensions": self.dimensions,
            "nfe_total": self.nfe_total,
            "nfe_per_example": self.nfe_per_example,
            **self.description,
            "overrides": self.overrides,
            "estimator": self.estimator,
            "precision": self.precision,
            "seed": self.seed,
            "data": self.data,
            "model": self.model,
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "version": self.version,
        }
        return without_nan(result)

    def __str__(self) -> str:
        return table(self)


def table(bound: Bound) -> str:
    """The bound as a plain-text table: the terms with both error bars, then what was scored and how."""
    unit = "bits/dim" if bound.description["domain"]["bins"] else "bits/dim (density)"
    rows = [(name, vars(term)) for name, term in vars(bound.terms).items()]
    e = bound.standard_error
    data = [error_in_words(v) for v in (*(t["standard_error_data"] for _, t in rows), e.data)]
    width = max(11, *(len(text) + 2 for text in data))
    rule = "─" * (50 + width)
    lines = [f"{'term':<16}{unit:>20}{'± estimator':>14}{'± data':>{width}}", rule]
    lines += [
        f"{name:<16}{_value(t['bits_per_dim']):>20}{error_in_words(t['standard_error']):>14}{text:>{width}}"
        for (name, t), text in zip(rows, data, strict=False)
    ]
    whole = f"{bound.total_name:<16}{_value(bound.bits_per_dim):>20}{error_in_words(e.estimator):>14}"
    lines += [rule, f"{whole}{data[-1]:>{width}}", ""]
    d = bound.description
    domain = d["domain"]
    grid = d["grid"]
    steps = "continuous" if grid["steps"] is None else f"{grid['steps']} steps"
    facts = {
        "data": f"{bound.data['name']}, {bound.examples} examples of shape {tuple(domain['shape'])}, "
        + (f"{domain['bins']} bins" if domain["bins"] else "real values"),
        "grid": f"{grid['kind']}, {steps}, log-SNR {grid['logsnr_first']:.4g} … {grid['logsnr_last']:.4g}",
        "model": f"decoder {d['decoder']['kind']}, variance {d['variance']['kind']}, "
        + ("x̂ not clipped" if d["clipping"] is None else str(Clipping.from_config(d["clipping"], {}))),
        "cost": f"{bound.nfe_total} network evaluations ({bound.nfe_per_example:.4g} an example), "
        f"estimator {bound.estimator['name']}, {bound.precision}, seed {bound.seed}",
        "fingerprints": f"data {bound.data['fingerprint'][:12]}, "
        f"model {(bound.model['fingerprint'] or 'unknown')[:12]}, nelbo {bound.version}",
    }
    facts |= described(bound.data)
    if bound.overrides:
        facts["chosen"] = ", ".join(f"{name} {value}" for name, value in bound.overrides.items())
    lines += [f"{name:<13} {text}" for name, text in facts.items()]
    lines += [f"warning: {w}" for w in bound.warnings]
    return "\n".join(lines)


def _value(value: float) -> str:
    return f"{value:.5f}" if abs(value) < 1e9 else f"{value:.8g}"


def error_in_words(value: float) -> str:
    """A standard error to five decimals while they fit into their column; in words where there is no such number."""
    if math.isnan(value):
        return NOT_MEASURABLE
    return f"{value:.5f}" if value < 1e3 else f"{value:.4g}"


def without_nan(value: Any) -> Any:
    """`value` with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
