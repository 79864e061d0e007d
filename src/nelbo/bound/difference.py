"""`Comparison`: the difference of two bounds, A − B, with paired standard errors; of two results, or of two models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound.planned import error_bars
from nelbo.bound.result import Bound
from nelbo.bound.tolerance import Relative, Tolerance, parse
from nelbo.bound.units import is_of_tokens, unit
from nelbo.bound.values import StandardError, error_in_words
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import fixed, in_short, without_nan
from nelbo.documents.reading import filled
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.examples import REPRESENTATIVE
from nelbo.typing import Json

SCHEMA = "nelbo.comparison/1"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Document):
    """difference = bound of A − bound of B in bits/dim (negative: A is better), with paired standard errors."""

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo compare --json`"
    difference: float
    standard_error: StandardError
    a: float
    b: float
    per_example: Tensor | None
    """The difference of every example in nats, (N,); None where random ones were drawn, which is cheaper."""
    examples: int
    dimensions: int
    nfe_total: int
    common_noise: bool
    tolerance: Tolerance
    seed: int
    precision: str
    data: Json
    models: tuple[Json, Json]
    version: str
    warnings: tuple[str, ...]
    seconds: float
    sizes: Tensor | None = None
    """Of examples of different size the D of each, (N,)."""
    confidence: float | None = None
    """The level at which the sign was to be known, None where a standard error alone was asked for."""
    decided: bool | None = None
    """Whether the sign is known at that level."""
    overrides: Json = field(default_factory=dict)
    """What the user chose in the place of both models' own."""
    standard_error_a: float = math.nan
    """Of the estimator, of the bound of A itself."""
    standard_error_b: float = math.nan
    interrupted: bool = False
    """Whether the user stopped it before it was done; the numbers are of the draws made until then."""

    def to_dict(self) -> Json:
        """JSON form, schema nelbo.comparison/1; numbers that do not exist are null."""
        return without_nan(
            {
                "schema": SCHEMA,
                "difference": self.difference,
                "standard_error": vars(self.standard_error),
                "bits_per_dim": {"a": self.a, "b": self.b},
                "standard_errors": {"a": self.standard_error_a, "b": self.standard_error_b},
                "nats_per_example": None if self.per_example is None else self.per_example.tolist(),
                **({} if self.sizes is None else {"dimensions_per_example": self.sizes.tolist()}),
                "examples": self.examples,
                "dimensions": self.dimensions,
                "nfe_total": self.nfe_total,
                "nfe_per_example": self.nfe_total / self.examples,
                "common_noise": self.common_noise,
                **({} if self.confidence is None else {"confidence": self.confidence, "decided": self.decided}),
                "tolerance": str(self.tolerance) if isinstance(self.tolerance, Relative) else self.tolerance,
                "seed": self.seed,
                "precision": self.precision,
                "data": self.data,
                "models": {"a": self.models[0], "b": self.models[1]},
                "overrides": self.overrides,
                "warnings": list(self.warnings),
                "interrupted": self.interrupted,
                "seconds": self.seconds,
                "version": self.version,
            }
        )

    @classmethod
    def _read(cls, document: Json) -> Self:
        nats, errors = document["nats_per_example"], document.get("standard_errors") or {}
        if nats is not None:
            nats = torch.tensor([math.nan if v is None else v for v in nats], dtype=torch.float64)
        tolerance, models = document["tolerance"], document["models"]
        return filled(
            cls,
            document,
            a=float(document["bits_per_dim"]["a"]),
            b=float(document["bits_per_dim"]["b"]),
            standard_error_a=_number(errors.get("a")),
            standard_error_b=_number(errors.get("b")),
            per_example=nats,
            sizes=None if (sizes := document.get("dimensions_per_example")) is None else torch.tensor(sizes),
            tolerance=math.nan if tolerance is None else parse(tolerance),
            models=(models["a"], models["b"]),
        )

    @property
    def unit(self) -> str:
        """Of the difference."""
        return unit(self.models[0], self.data)

    def _summary(self) -> str:
        e = self.standard_error
        value = in_short(self.difference, e.estimator if math.isnan(e.total) else e.total, self.unit)
        return f"A − B = {value}, {self.examples} examples of {self.data['name']}, {self.nfe_total} evaluations"

    def _view(self) -> html.View:
        return html.View(self._summary(), "difference", (tables.difference(self.to_dict()),), self.warnings)

    def plot(self, axes: Any = None) -> Any:
        """Draw how the examples' differences A − B in bits/dim are spread, on matplotlib `axes`, new ones where None,
        and return them; those left of 0 are better under A. Errors: UsageError without matplotlib, and where examples
        have no values."""
        values = self._values()
        axes = plots.new(axes)
        axes.axvline(0.0, color="0.5", linewidth=0.8)
        D = self.dimensions if self.sizes is None else self.sizes
        plots.histogram(axes, bits_per_dim(values / D, 1).numpy(), f"A − B, {self.unit} of an example")
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame of the examples' differences A − B in nats. Errors: UsageError without pandas, and where
        examples have no values."""
        return frames.frame(self.rows())

    def rows(self) -> dict[str, Tensor]:
        """difference_nats (N,) and, of examples of different size, dimensions (N,). Errors: UsageError where examples
        have no values."""
        return {"difference_nats": self._values(), **({} if self.sizes is None else {"dimensions": self.sizes})}

    def _values(self) -> Tensor:
        if self.per_example is None:
            raise UsageError("the comparison has no values of single examples", "compare with per_example=True")
        return self.per_example

    def __str__(self) -> str:
        e = self.standard_error
        noise = "common noise" if self.common_noise else "independent noise: the chains have other levels"
        error, of = (e.estimator, " of the estimator") if math.isnan(e.total) else (e.total, "")
        z = abs(self.difference) / error if error > 0 else 0.0
        verdict = f"{'A' if self.difference < 0 else 'B'} is better by {z:.1f} standard errors{of}"
        if self.difference == 0:
            verdict = "no difference"
        if self.confidence is not None:
            verdict += f", a sign that is {'' if self.decided else 'not '}known at {self.confidence:g}"
        of_data = f"± data {NOT_MEASURABLE}" if math.isnan(e.data) else f"± {e.data:.5f} data"
        noise_error = error_in_words(e.estimator)
        return "\n".join(
            [
                f"A − B   {fixed(self.difference, 5, '+')} {self.unit}   ± {noise_error} estimator   {of_data}",
                f"A       {_with_error(self.a, self.standard_error_a)}        "
                f"B       {_with_error(self.b, self.standard_error_b)}",
                f"{verdict} ({self.examples} examples, {noise}, {self.nfe_total} network evaluations)",
            ]
        )


def compare_results(a: Bound | Any, b: Bound | Any) -> Comparison:
    """A − B of two results with per-example values, with the standard error of the paired differences.

    `estimator` takes the two estimates as independent; `total` is the spread of the differences over √N, widened where
    few or skewed ones tell it (`planned/error_bars.py`), and nan where they are too few to show it.

    Errors: UsageError for a result and something else, for a variational bound and an ODE likelihood, for a mass and a
    density, for other examples or another domain, and where a result has no per-example values.
    """
    if not (isinstance(a, Bound) and isinstance(b, Bound)):
        raise UsageError(
            f"a {type(a).__name__} was compared with a {type(b).__name__}",
            "give two models and data, or two results of the same kind",
        )
    unlike = {
        "quantity": (a.quantity, b.quantity),
        "what is scored": (_scores(a), _scores(b)),
        "data domain": (a.description["domain"], b.description["domain"]),
        "examples": (a.data["fingerprint"][:12], b.data["fingerprint"][:12]),
    }
    for what, (of_a, of_b) in unlike.items():
        if of_a != of_b:
            raise UsageError(
                f"the results are of unlike {what}: {of_a} and {of_b}",
                "a variational bound, an ODE likelihood and a density are different numbers even of one model: "
                "evaluate both models in the same way, on the same examples",
            )
    if a.per_example is None or b.per_example is None:
        raise UsageError(
            "a result without per-example values cannot be compared", "evaluate both models with per_example=True"
        )
    difference = a.per_example.nats - b.per_example.nats
    n, D, sizes = len(difference), a.dimensions, getattr(a.per_example, "dimensions", None)
    noise = (a.per_example.standard_error.square() + b.per_example.standard_error.square()).mean() / n
    mean, around = difference.mean(), difference
    if sizes is not None:  # a ratio, Σ nats/Σ D, and its sampling error
        share = D / sizes.double().mean()
        around, noise = share * (difference - mean / sizes.double().mean() * sizes), share**2 * noise
        mean = share * mean
    total = around.var() / n if n > 1 else torch.tensor(math.nan)
    data = (total - noise).clamp(min=0)
    if n > 1:
        total = total.new_tensor(error_bars.of_draws([around], [1.0]).variance)
    return Comparison(
        difference=float(bits_per_dim(float(mean), D)),
        standard_error=StandardError.of(
            float(noise), float(data), D, representative=n >= REPRESENTATIVE, total=float(total)
        ),
        a=a.bits_per_dim,
        b=b.bits_per_dim,
        standard_error_a=a.standard_error.estimator,
        standard_error_b=b.standard_error.estimator,
        per_example=difference,
        sizes=sizes,
        examples=n,
        dimensions=D,
        nfe_total=a.nfe_total + b.nfe_total,
        common_noise=a.seed == b.seed,
        tolerance=math.nan,
        seed=a.seed,
        precision=a.precision,
        data=a.data,
        models=({**a.model, **a.description}, {**b.model, **b.description}),
        version=__version__,
        warnings=(*a.warnings, *b.warnings),
        seconds=a.seconds + b.seconds,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _with_error(value: float, error: float) -> str:
    return fixed(value, 5) + ("" if math.isnan(error) else f" ± {error_in_words(error)}")


def _scores(result: Bound) -> str:
    mass = is_of_tokens(result.description) or result.description["domain"]["bins"]
    return result.estimator.get("scores") or ("mass" if mass else "density")
