"""`Certificate`: what tightening gained, on examples that nothing was fitted to. JSON schema nelbo.tightening/1.

schema, version, seed, seconds, steps, dimensions, warnings
model: {before, after}                       fingerprints
data: {fit, held_out}: each {name, examples, fingerprint}
bits_per_dim: {before, after}                held-out bounds of the model as it was and of the tightened one
gain: {bits_per_dim, standard_error: {estimator, data, total}}        before − after, paired
stages: [{name, steps, bits_per_dim, standard_error, fitted_bits_per_dim, part}]
beginning with the model as it was; fitted_bits_per_dim is the bound that the fit predicted (null: none);
part: {bits_per_dim, standard_error} gained over the stage before, paired (null for the first)
chain: {positions (of a table) or times, logsnr}
decoder: {kind, calls_network, tried: {kind: {logsnr, bits_per_dim}}}
covariance: {family, note, tried: {family: bits_per_dim}}    predicted bounds of the best chain under each family
curve: [{steps, bits_per_dim}]               predicted bounds of the best chain of every number of steps
error: [{logsnr, mean_square}]               E(x − x̂)² an element
nfe: {fit, fit_per_example, certificate}
Of a model of symbols there are, in the place of chain, decoder, covariance, curve and error:
unit                                         of bits_per_dim, such as bits/char
calibration: {tried: [{name, gain, standard_error, kept}], coefficients, bias (range) and weights (null: none),
ngrams: {sequences, bytes, offsets} or null, numbers}      gains in bits a token on the sequences that chose
counts                                       of hidden places that the chosen steps visit (null: the model's own chain)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from nelbo.bound.difference import compare_results
from nelbo.bound.result import Bound
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import fixed, in_short, without_nan
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.errors import DataError, UsageError
from nelbo.files import regular
from nelbo.typing import Json

SCHEMA = "nelbo.tightening/1"
FILE = "certificate.json"


@dataclass(frozen=True, eq=False)
class Stage:
    """A model, its held-out bound, and the bound that the fit predicted for it in bits/dim (nan: none)."""

    name: str
    bound: Bound
    predicted: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Document):
    """Held-out bounds of the stages, from the model as it was to the tightened one, and how it was fitted."""

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo tighten`"
    details: Json
    """All fields of the JSON form; see the head of this file."""
    stages: tuple[Stage, ...] = ()
    """The stages with their bounds; none where the certificate was read from a file."""

    @classmethod
    def of(cls, stages: tuple[Stage, ...], details: Json, warnings: tuple[str, ...]) -> Certificate:
        """From the stages, and the fields of the schema that do not follow from them."""
        before, after = stages[0].bound, stages[-1].bound
        whole = compare_results(before, after)
        document = {
            "schema": SCHEMA,
            **details,
            "dimensions": after.dimensions,
            "model": {"before": before.model["fingerprint"], "after": after.model["fingerprint"]},
            "bits_per_dim": {"before": before.bits_per_dim, "after": after.bits_per_dim},
            "gain": {"bits_per_dim": whole.difference, "standard_error": vars(whole.standard_error)},
            "stages": [_row(last, stage) for last, stage in zip((None, *stages), stages, strict=False)],
            "warnings": list(warnings),
        }
        return cls(without_nan(document), stages)

    @property
    def before(self) -> Bound:
        """The bound of the model as it was. Errors: UsageError where the certificate was read from a file."""
        return self._stage(0).bound

    @property
    def after(self) -> Bound:
        """The bound of the tightened model. Errors: UsageError where the certificate was read from a file."""
        return self._stage(-1).bound

    def _stage(self, place: int) -> Stage:
        if not self.stages:
            raise UsageError(
                "a certificate that was read from a file has the numbers of its bounds, and not the bounds",
                'take to_dict()["bits_per_dim"], or tighten the model again',
            )
        return self.stages[place]

    @property
    def gain(self) -> tuple[float, float]:
        """Before − after in bits/dim and its standard error, of the paired differences (nan: not measurable)."""
        gain = self.details["gain"]
        error = gain["standard_error"]["total"]
        return gain["bits_per_dim"], math.nan if error is None else error

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know."""
        return tuple(self.details["warnings"])

    def to_dict(self) -> Json:
        """JSON form; see the head of this file."""
        return self.details

    @classmethod
    def _read(cls, document: Json) -> Self:
        read = cls(document)
        if not (str(read) and read._view().arguments):  # which need every field that is shown
            raise ValueError("it has no stages")
        return read

    def _summary(self) -> str:
        bits, data = self.details["bits_per_dim"], self.details["data"]["held_out"]
        steps = self.details["steps"] or "∞"
        ends = f"{fixed(bits['before'], 3)} → {fixed(bits['after'], 3)} {self.unit} in {steps} steps"
        return f"{ends}, gain {in_short(*self.gain, self.unit)}, {data['examples']} held-out examples of {data['name']}"

    @property
    def unit(self) -> str:
        """Of the bounds."""
        return self.details.get("unit", "bits/dim")

    def _view(self) -> html.View:
        return html.View(self._summary(), "stages", (tables.stages(self.details), self.unit), self.warnings)

    def plot(self, axes: Any = None) -> Any:
        """Draw the held-out bound of every stage with its standard error, the model as it was on top, on matplotlib
        `axes`, new ones where None, and return them. Errors: UsageError without matplotlib."""
        axes = plots.new(axes)
        rows = self.details["stages"]
        errors = [math.nan if row["standard_error"] is None else row["standard_error"] for row in rows]
        names, values = [row["name"] for row in rows], [row["bits_per_dim"] for row in rows]
        plots.rows(axes, names, values, errors, f"held-out bound, {self.unit}")
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each stage. Errors: UsageError without pandas."""
        none = {"bits_per_dim": math.nan, "standard_error": math.nan}
        rows = [
            {k: v for k, v in row.items() if k != "part"}
            | {"gained": (part := row["part"] or none)["bits_per_dim"], "gained_standard_error": part["standard_error"]}
            for row in self.details["stages"]
        ]
        return frames.frame(rows, "name")

    def __str__(self) -> str:
        gain, error = self.gain
        spread = f"(± {NOT_MEASURABLE})" if math.isnan(error) else f"± {error:.4f}"
        lines = [
            f"{'held-out bound of':<34}{'steps':>7}{self.unit:>11}{'gained':>11}{'±':>9}{'predicted':>11}",
            "─" * 83,
        ]
        for stage in self.details["stages"]:
            part = stage["part"] or {"bits_per_dim": math.nan, "standard_error": math.nan}
            steps = "∞" if stage["steps"] is None else str(stage["steps"])
            lines.append(
                f"{stage['name']:<34}{steps:>7}{_cell(stage['bits_per_dim'], 11)}{_cell(part['bits_per_dim'], 11)}"
                f"{_cell(part['standard_error'], 9)}{_cell(stage['fitted_bits_per_dim'], 11)}"
            )
        d = self.details
        lines += [
            "─" * 83,
            f"gain          {fixed(gain, 4)} {spread} {self.unit}, "
            f"paired over {d['data']['held_out']['examples']} held-out examples",
            *(_of_symbols(d) if "calibration" in d else _of_images(d)),
            f"cost          {d['nfe']['fit']} evaluations to fit, {d['nfe']['fit_per_example']:.3g} an example; "
            f"{d['nfe']['certificate']} for the certificate",
        ]
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


def _of_images(d: Json) -> list[str]:
    return [
        f"chain         {_chain(d['chain']['logsnr'])}",
        f"decoder       {d['decoder']['kind']} at log-SNR {d['chain']['logsnr'][0]:.2f}",
        f"covariance    {d['covariance']['family']}",
    ]


def _of_symbols(d: Json) -> list[str]:
    lines = []
    for trial in d["calibration"]["tried"]:
        verdict = "kept" if trial["kept"] else "not kept: no more than chance"
        lines.append(f"tried         {trial['name']}: {trial['gain']:.4f} ± {trial['standard_error']:.4f}, {verdict}")
    table = d["calibration"]["ngrams"]
    if table is not None:
        lines.append(f"n-grams       of {table['sequences']} sequences, {table['bytes']:,} bytes of the model")
    return lines


def _row(last: Stage | None, stage: Stage) -> Json:
    part = None if last is None else compare_results(last.bound, stage.bound)
    return {
        "name": stage.name,
        "steps": stage.bound.description["grid"]["steps"],
        "bits_per_dim": stage.bound.bits_per_dim,
        "standard_error": stage.bound.standard_error.total,
        "fitted_bits_per_dim": stage.predicted,
        "part": part and {"bits_per_dim": part.difference, "standard_error": part.standard_error.total},
    }


def _cell(value: float | None, width: int) -> str:
    if value is None or math.isnan(value):
        return f"{'–':>{width}}"
    return f"{fixed(value, 4):>{width}}" if abs(value) < 1e3 else f"{value:>{width}.4g}"


WIDTH = 60
"""Characters of the line that shows where the levels are."""


def _chain(logsnr: list[float]) -> str:
    """The positions of the levels on one line, from little noise to much; a digit counts levels in one place."""
    first, last = logsnr[0], logsnr[-1]
    counts = [0] * WIDTH
    for v in logsnr:
        counts[round((first - v) / ((first - last) or 1) * (WIDTH - 1))] += 1
    line = "".join("·" if n == 0 else "|" if n == 1 else str(min(n, 9)) for n in counts)
    return f"λ {first:.2f} {line} {last:.2f}"


def read(path: Path) -> Json | None:
    """The certificate in a file, None where there is none. Errors: DataError where it is damaged."""
    import json

    try:
        document = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}", "tighten the model again, or move it away") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{path} is no certificate of {SCHEMA}", "tighten the model again, or move it away")
    return document
