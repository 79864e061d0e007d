"""`Bound`: a number with all that makes it a claim. Nats come in, bits/dim come out; JSON schema nelbo.bound/1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from nelbo.bound import units
from nelbo.bound.estimate import Estimate, PerExample
from nelbo.bound.values import LatentTerms, Level, StandardError, Term, Terms, error_in_words, terms_of
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import fixed, in_short, without_nan
from nelbo.documents.reading import filled
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.examples import described
from nelbo.model.reverse import Clipping
from nelbo.typing import Json

SCHEMA = "nelbo.bound/1"


@dataclass(frozen=True, eq=False, repr=False)
class Bound(Document):
    """The variational bound of a data set under a model. `print(bound)` shows a table; `to_dict()` is JSON.

    For discrete data bits/dim is a code length; for real data it is a negative log density in bits/dim and may be
    negative (`domain` says which).
    """

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo evaluate --out`"
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
        terms = {n: Term.of(e, dimensions, representative=representative) for n, e in estimate.parts.items()}
        return cls(
            bits_per_dim=bits(total.mean),
            standard_error=StandardError.of(
                total.variance, total.data_variance, dimensions, representative=representative
            ),
            terms=terms_of(terms),
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
            **(
                {}
                if (sizes := getattr(self.per_example, "dimensions", None)) is None
                else {"dimensions_per_example": sizes.tolist()}
            ),
            "examples": self.examples,
            "dimensions": self.dimensions,
            "nfe_total": self.nfe_total,
            "nfe_per_example": self.nfe_per_example,
            **self.description,
            **({} if self.units is None else {"units": self.units}),
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

    @property
    def unit(self) -> str:
        """The unit of the bound, which says whether it is a code length or a density."""
        if units.is_of_tokens(self.description):
            return f"bits/{units.symbol(self.data)}"
        return "bits/dim" if self.description["domain"]["bins"] else "bits/dim (density)"

    @property
    def units(self) -> Json | None:
        """Of sequences of symbols: bits_per_token, nats_per_token, perplexity and bits_per_byte (None where the bytes
        of the text are not known), each with its `value` and `standard_error`; else None."""
        if not units.is_of_tokens(self.description):
            return None
        return units.of_tokens(self.bits_per_dim, vars(self.standard_error), self.data)

    @classmethod
    def of_this_kind(cls, document: Any) -> bool:
        return super().of_this_kind(document) and document.get("quantity") == cls.quantity

    @classmethod
    def _read(cls, document: Json) -> Self:
        nats = document["nats_per_example"]
        rest = {"schema", "nfe_per_example", "nats_per_example", "units", *cls.__dataclass_fields__}
        kinds = {"terms": filled(LatentTerms, document["terms"])} if "pixels" in document["terms"] else {}
        return filled(
            cls,
            document,
            **kinds,
            description={name: value for name, value in document.items() if name not in rest},
            per_example=None if nats is None else PerExample.of_nats(nats),
        )

    def _summary(self) -> str:
        error = self.standard_error
        spread = error.estimator if math.isnan(error.total) else error.total
        value = in_short(self.bits_per_dim, spread, self.unit)
        return f"{value}, {self.examples} examples of {self.data['name']}, {self.nfe_total} evaluations"

    def _view(self) -> html.View:
        return html.View(
            self._summary(), "terms", (tables.terms(self.to_dict()), self.unit), self.warnings, facts(self)
        )

    def plot(self, axes: Any = None, of: str | None = None) -> Any:
        """Draw the bound on matplotlib `axes`, new ones where None, and return them.

        of: "levels", where along the chain the bits are, per unit of log-SNR (the default where there are any);
        "terms", with their error bars; "examples", the spread of the examples' bounds. Errors: UnknownNameError;
        UsageError without matplotlib, and for what the result does not have.
        """
        strata = plots.joined(self._values("levels"), plots.STRATA)
        of = of or ("levels" if len(strata) else "terms")
        values = self._values(of)
        if of == "levels" and not len(strata):
            raise UsageError("the result has no levels along a chain", 'give of="terms" or of="examples"')
        axes = plots.new(axes)
        if of == "examples":
            D = values.get("dimensions", self.dimensions)
            plots.histogram(axes, bits_per_dim(values["nats"] / D, 1).numpy(), f"{self.unit} of an example")
        elif of == "levels":
            plots.along_chain(axes, strata, "C0")
            axes.set_xlabel("log-SNR (noise on the left, data on the right)")
            axes.set_ylabel(f"{self.unit} per unit of log-SNR")
        else:
            plots.rows(axes, [v["term"] for v in values], *_columns(values), self.unit)
        return axes

    def to_frame(self, of: str = "terms") -> Any:
        """A pandas DataFrame: of="terms" (and their sum), "levels" along the chain, or "examples" (in nats).

        Errors: UnknownNameError; UsageError without pandas, and where the result has no values of single examples.
        """
        return frames.frame(self._values(of), {"terms": "term", "examples": None, "levels": None}[of])

    def rows(self) -> dict[str, Tensor]:
        """The columns of `per_example` by name, (N,) each. Errors: UsageError where examples have no values."""
        if self.per_example is None:
            raise UsageError("the result has no values of single examples", "evaluate with per_example=True")
        return self.per_example.columns()

    def _values(self, of: str) -> Any:
        if of == "examples":
            return self.rows()
        if of == "levels":
            return [vars(level) for level in self.levels]
        if of != "terms":
            raise UnknownNameError.of("part of a result", of, ["terms", "levels", "examples"])
        error = self.standard_error
        whole = {
            "bits_per_dim": self.bits_per_dim,
            "standard_error": error.estimator,
            "standard_error_data": error.data,
        }
        parts = [{"term": name, **vars(term)} for name, term in vars(self.terms).items()]
        return [*parts, {"term": self.total_name, **whole}]


def table(bound: Bound) -> str:
    """The bound as a plain-text table: the terms with both error bars, then what was scored and how."""
    rows = [(name, vars(term)) for name, term in vars(bound.terms).items()]
    e = bound.standard_error
    data = [error_in_words(v) for v in (*(t["standard_error_data"] for _, t in rows), e.data)]
    width = max(11, *(len(text) + 2 for text in data))
    rule = "─" * (50 + width)
    lines = [f"{'term':<16}{bound.unit:>20}{'± estimator':>14}{'± data':>{width}}", rule]
    lines += [
        f"{name:<16}{_value(t['bits_per_dim']):>20}{error_in_words(t['standard_error']):>14}{text:>{width}}"
        for (name, t), text in zip(rows, data, strict=False)
    ]
    whole = f"{bound.total_name:<16}{_value(bound.bits_per_dim):>20}{error_in_words(e.estimator):>14}"
    lines += [rule, f"{whole}{data[-1]:>{width}}", ""]
    lines += [f"{name:<13} {text}" for name, text in facts(bound).items()]
    lines += [f"warning: {w}" for w in bound.warnings]
    return "\n".join(lines)


def facts(bound: Bound) -> dict[str, str]:
    """What was scored and how, a line of text each."""
    shown = {
        **_scored(bound),
        "cost": f"{bound.nfe_total} network evaluations ({bound.nfe_per_example:.4g} an example), "
        f"estimator {bound.estimator['name']}, {bound.precision}, seed {bound.seed}",
        "fingerprints": f"data {bound.data['fingerprint'][:12]}, "
        f"model {(bound.model['fingerprint'] or 'unknown')[:12]}, nelbo {bound.version}",
    }
    shown |= described(bound.data)
    if bound.overrides:
        shown["chosen"] = ", ".join(f"{name} {value}" for name, value in bound.overrides.items())
    return shown


def _scored(bound: Bound) -> dict[str, str]:
    d = bound.description
    if units.is_of_tokens(d):
        assert bound.units is not None  # of symbols
        return units.facts(bound.units, bound.data, d, bound.examples)
    domain, grid = d["domain"], d["grid"]
    steps = "continuous" if grid["steps"] is None else f"{grid['steps']} steps"
    latent = d.get("latent")
    return {
        "data": f"{bound.data['name']}, {bound.examples} examples of shape {tuple(domain['shape'])}, "
        + (f"{domain['bins']} bins" if domain["bins"] else "real values"),
        "grid": f"{grid['kind']}, {steps}, log-SNR {grid['logsnr_first']:.4g} … {grid['logsnr_last']:.4g}",
        "model": f"decoder {d['decoder']['kind']}, variance {d['variance']['kind']}, "
        + ("x̂ not clipped" if d["clipping"] is None else str(Clipping.from_config(d["clipping"], {}))),
        **({} if latent is None else {"latents": f"{tuple(latent['shape'])} by {latent['encoder']['kind']}"}),
    }


def _columns(rows: list[Json]) -> tuple[list[float], list[float]]:
    """The values, and the estimator's error and that of the data together, as far as they are measurable."""
    errors = [
        math.hypot(*(v for v in (r["standard_error"], r["standard_error_data"]) if not math.isnan(v))) for r in rows
    ]
    return [row["bits_per_dim"] for row in rows], errors


def _value(value: float) -> str:
    return fixed(value, 5) if abs(value) < 1e9 else f"{value:.8g}"
