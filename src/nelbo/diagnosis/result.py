"""`Diagnosis`: declarations ranked by the bound that each would have, and a verdict. JSON schema nelbo.diagnosis/1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import without_nan
from nelbo.documents.reading import filled
from nelbo.typing import Json

SCHEMA = "nelbo.diagnosis/1"


@dataclass(frozen=True)
class Row:
    """A declaration: its bound in bits/dim, and what that is more than of the declared one, each with its standard
    error; how often its draws cost less, in standard deviations of a fair coin; how many draws it took part in, and
    whether in all stages; the change to make, and what holds if it is right.

    kind: "declared", "declaration", "choice" (another model of the same network) or "control" (wrong on purpose).
    """

    name: str
    declaration: Json
    kind: str
    bits_per_dim: float
    standard_error: float
    difference: float
    difference_error: float
    wins: float
    draws: int
    complete: bool
    change: str | None = None
    claim: str | None = None

    @property
    def as_declared(self) -> bool:
        """Whether it is what was declared."""
        return self.kind == "declared"

    def to_dict(self) -> Json:
        """JSON form."""
        return {**vars(self), "as_declared": self.as_declared}


@dataclass(frozen=True)
class Check:
    """Something that was looked at by itself, and how it is."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True)
class Skipped:
    """A declaration that could not be tried, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """ok: whether the declaration stands. text: in words. change: the line of code to write, if there is one. alike:
    the declarations that cannot be told apart from the first row."""

    ok: bool
    text: str
    change: str | None = None
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Document):
    """Declarations ranked, best first. `print(diagnosis)` shows a table; `to_dict()` is JSON."""

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo diagnose --out`"
    rows: tuple[Row, ...]
    verdict: Verdict
    checks: tuple[Check, ...]
    skipped: tuple[Skipped, ...]
    unit: str
    nfe_total: int
    max_nfe: int
    examples: int
    dimensions: int
    seed: int
    precision: str
    data: Json
    model: Json
    version: str
    description: Json = field(default_factory=dict)
    overrides: Json = field(default_factory=dict)
    seconds: float = float("nan")

    @property
    def declared(self) -> Row:
        """The row of what was declared."""
        return next(row for row in self.rows if row.as_declared)

    @property
    def best(self) -> Row:
        """The first row."""
        return self.rows[0]

    def to_dict(self) -> Json:
        """The documented JSON form, schema nelbo.diagnosis/1."""
        return without_nan(
            {
                "schema": SCHEMA,
                "verdict": vars(self.verdict),
                "rows": [row.to_dict() for row in self.rows],
                "checks": [vars(check) for check in self.checks],
                "skipped": [vars(one) for one in self.skipped],
                "unit": self.unit,
                "nfe_total": self.nfe_total,
                "max_nfe": self.max_nfe,
                "examples": self.examples,
                "dimensions": self.dimensions,
                "seed": self.seed,
                "precision": self.precision,
                "data": self.data,
                "model": self.model,
                **self.description,
                "overrides": self.overrides,
                "seconds": self.seconds,
                "version": self.version,
            }
        )

    @classmethod
    def _read(cls, document: Json) -> Self:
        rest = {"schema", *cls.__dataclass_fields__}
        return filled(cls, document, description={k: v for k, v in document.items() if k not in rest})

    def _summary(self) -> str:
        return f"{self.verdict.text}; {self.examples} examples of {self.data['name']}, {self.nfe_total} evaluations"

    def _view(self) -> html.View:
        failed = tuple(check.text for check in self.checks if not check.ok)
        facts = {} if self.verdict.change is None else {"change": self.verdict.change}
        rows = tables.declarations(self.to_dict())
        return html.View(self._summary(), "declarations", (rows, self.unit), failed, facts)

    def plot(self, axes: Any = None) -> Any:
        """Draw the bound of every declaration with its standard error, the best on top, on matplotlib `axes`, new ones
        where None, and return them. Errors: UsageError without matplotlib."""
        axes = plots.new(axes)
        rows = [row for i, row in enumerate(self.rows) if i < SHOWN or row.as_declared]
        names = [f"{row.name} (declared)" if row.as_declared else row.name for row in rows]
        values, errors = [row.bits_per_dim for row in rows], [row.standard_error for row in rows]
        plots.rows(axes, names, values, errors, self.unit)
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each declaration. Errors: UsageError without pandas."""
        return frames.frame([row.to_dict() for row in self.rows], "name")

    def __str__(self) -> str:
        return table(self)


SHOWN = 16
"""Rows of the printed table, at least; that of what was declared is always among them."""


def table(diagnosis: Diagnosis) -> str:
    """The verdict, the rows, the checks and what was not tried, as plain text."""
    width = max(34, *(len(row.name) for row in diagnosis.rows[:SHOWN]))
    lines = [diagnosis.verdict.text]
    if diagnosis.verdict.change is not None:
        lines.append(f"change: {diagnosis.verdict.change}")
    lines += ["", f"{'declaration':<{width}}{diagnosis.unit:>12}{'±':>9}{'difference':>12}{'±':>9}"]
    lines.append("─" * (width + 42))
    for place, row in enumerate(diagnosis.rows):
        if place < SHOWN or row.as_declared:
            name = row.name if row.kind != "choice" else f"{row.name} *"
            end = "" if row.as_declared else f"{row.difference:>+12.4f}{row.difference_error:>9.4f}"
            numbers = f"{row.bits_per_dim:>12.4f}{row.standard_error:>9.4f}{end}".replace("-", "−")
            lines.append(f"{name:<{width}}{numbers}")
    more = len(diagnosis.rows) - SHOWN
    if more > 0:
        lines.append(f"… and {more} more, all in the JSON")
    if any(row.kind == "choice" for row in diagnosis.rows):
        lines.append("* another model of the same network, not another declaration of it")
    lines.append("")
    lines += [f"{'ok' if check.ok else 'NOT OK':<8}{check.name}: {check.text}" for check in diagnosis.checks]
    if diagnosis.skipped:
        lines.append(f"not tried: {', '.join(sorted(one.name for one in diagnosis.skipped))}")
    lines.append(
        f"{diagnosis.nfe_total} network evaluations of at most {diagnosis.max_nfe}, common noise, "
        f"{diagnosis.examples} examples of {diagnosis.data['name']}, {diagnosis.precision}, seed {diagnosis.seed}, "
        f"nelbo {diagnosis.version}"
    )
    return "\n".join(lines)
