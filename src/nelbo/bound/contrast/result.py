"""The result of a contrast: which condition explains each example best, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo.bound.planned import error_bars
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import without_nan
from nelbo.documents.reading import filled
from nelbo.errors import UsageError
from nelbo.typing import Json

SCHEMA = "nelbo.contrast/1"


@dataclass(frozen=True, eq=False, repr=False)
class Contrast(Document):
    """Of N examples and C conditions, in nats and in the order of `values`:

    difference (N, C): the bound under a condition less that under the best one, ≥ 0; standard_error (N, C) of it;
    covariance (N, C, C) of the bounds but for what all conditions share, None where it were more than ten million
    numbers, and of a result that was read. left (N, C): conditions that were not
    eliminated, the confidence set; of others the difference is that at their elimination, with the draws until then,
    and no covariance. posterior (N, C): prior · exp(−bound), normalised; posterior_error (N, C) its standard error by
    the delta method. best (N,): index of the condition of the highest posterior among those left. decided (N,): whether
    it is the only one left, or better than all that are left but for less than `indifference` nats, at `confidence`.
    evaluations (N,): network evaluations of every example; nfe_total counts pilot and trial as well.
    """

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo contrast --json`"
    condition: str
    values: tuple[Any, ...]
    difference: Tensor
    standard_error: Tensor
    covariance: Tensor | None
    left: Tensor
    posterior: Tensor
    posterior_error: Tensor
    best: Tensor
    decided: Tensor
    evaluations: Tensor
    nfe_total: int
    confidence: float | None
    indifference: float
    prior: Tensor
    labels: Tensor | None
    precision: str
    seed: int
    data: Json
    model: Json
    description: Json
    version: str
    warnings: tuple[str, ...]
    seconds: float
    overrides: Json = field(default_factory=dict)
    """What the user chose in the place of the model's own."""
    lengths: Tensor | None = None
    """Of answers to prompts, the symbols that are scored, (N, C): bounds are sums over them."""

    @property
    def examples(self) -> int:
        """N."""
        return len(self.best)

    @property
    def nfe_per_example(self) -> float:
        """Network evaluations an example, all conditions counted, and pilot and trial."""
        return self.nfe_total / self.examples

    @property
    def accuracy(self) -> float | None:
        """Share of the examples whose label is the best condition, of those whose label is one; None where none is."""
        if self.labels is None or not bool((known := self.labels >= 0).any()):
            return None
        return float((self.best == self.labels)[known].double().mean())

    @property
    def accuracy_error(self) -> Json | None:
        """Standard errors of the accuracy: `data`, binomial, of so many examples; `estimator`, by the draws, which
        might have gone otherwise: p (1 − p) of an example whose decision is wrong with probability p, by its
        differences and their errors; and `total`, the root of the sum of their squares. None without an accuracy."""
        accuracy = self.accuracy
        if accuracy is None or self.labels is None:
            return None
        known = (self.labels >= 0).nonzero()[:, 0]
        right, best = self.labels[known], self.best[known]
        excess = self.difference[known].nan_to_num(torch.inf) + (self.prior[best][:, None] / self.prior).log()
        turned = torch.special.ndtr(-excess / self.standard_error[known].clamp_min(1e-300))
        others = turned.scatter(1, best[:, None], 0.0).sum(1).clamp_max(0.5)
        p = torch.where(right == best, others, turned.gather(1, right[:, None])[:, 0])
        n = len(known)
        errors = {"estimator": float((p * (1 - p)).sum()) / n**2, "data": accuracy * (1 - accuracy) / n}
        errors["total"] = sum(errors.values())
        return {name: value**0.5 for name, value in errors.items()}

    def mean_difference(self, one: Any, other: Any) -> tuple[float, float, float]:
        """The mean over examples of the bound under `one` less that under `other`, two of `values`, in nats, with its
        standard errors by the draws and by the data (nan of one example; widened as those of few draws are).

        Errors: UsageError where these are no values, or one of them was eliminated (confidence=None eliminates none).
        """
        unknown = [value for value in (one, other) if value not in self.values]
        if unknown:
            raise UsageError(f"the condition {unknown[0]!r} of a contrast of {self.values}", "give two of these")
        a, b = (self.values.index(value) for value in (one, other))
        if self.covariance is None or not bool(self.left[:, [a, b]].all()):
            raise UsageError("a mean of differences that are not known for all", "give confidence=None, tolerance=0.1")
        difference, C = self.difference[:, a] - self.difference[:, b], self.covariance
        by_draws = float((C[:, a, a] + C[:, b, b] - 2 * C[:, a, b]).clamp_min(0).sum().sqrt()) / self.examples
        by_data = error_bars.of_draws([difference], [1.0]).variance ** 0.5 if self.examples > 1 else float("nan")
        return float(difference.mean()), by_draws, by_data

    def to_dict(self) -> Json:
        """JSON form, schema nelbo.contrast/1; numbers that do not exist are null."""
        gone, nan = ~self.left, float("nan")
        return without_nan(
            {
                "schema": SCHEMA,
                "condition": self.condition,
                "values": list(self.values),
                "difference": self.difference.masked_fill(gone, nan).tolist(),
                "at_elimination": self.difference.masked_fill(self.left, nan).tolist(),
                "standard_error": self.standard_error.tolist(),
                "posterior": self.posterior.tolist(),
                "posterior_error": self.posterior_error.tolist(),
                "prior": self.prior.tolist(),
                "best": [self.values[b] for b in self.best.tolist()],
                "decided": self.decided.tolist(),
                "confidence": self.confidence,
                "indifference": self.indifference,
                "evaluations": self.evaluations.tolist(),
                "examples": self.examples,
                "nfe_total": self.nfe_total,
                "nfe_per_example": self.nfe_per_example,
                "labels": None if self.labels is None else self.labels.tolist(),
                "accuracy": self.accuracy,
                "accuracy_error": self.accuracy_error,
                "lengths": None if self.lengths is None else self.lengths.tolist(),
                "precision": self.precision,
                "seed": self.seed,
                "data": self.data,
                "model": self.model,
                "description": self.description,
                "overrides": self.overrides,
                "warnings": list(self.warnings),
                "seconds": self.seconds,
                "version": self.version,
            }
        )

    @classmethod
    def _read(cls, document: Json) -> Self:
        left = torch.tensor([[v is not None for v in row] for row in document["difference"]])
        difference = torch.where(left, _table(document["difference"]), _table(document["at_elimination"]))
        tables_of = ("standard_error", "posterior", "posterior_error")
        return filled(
            cls,
            document,
            values=tuple(document["values"]),
            difference=difference,
            left=left,
            covariance=None,
            best=torch.tensor([document["values"].index(v) for v in document["best"]]),
            decided=torch.tensor(document["decided"]),
            evaluations=torch.tensor(document["evaluations"]),
            prior=torch.tensor(document["prior"], dtype=torch.float64),
            labels=None if document["labels"] is None else torch.tensor(document["labels"]),
            lengths=None if document.get("lengths") is None else torch.tensor(document["lengths"]),
            **{name: _table(document[name]) for name in tables_of},
        )

    def _summary(self) -> str:
        sure = "" if self.confidence is None else f", {int(self.decided.sum())} decided at {self.confidence:g}"
        error = self.accuracy_error
        right = "" if error is None else f", accuracy {self.accuracy:.3f} ± {error['total']:.3f}"
        return (
            f"{self.examples} examples of {self.data['name']}, {len(self.values)} conditions{sure}{right}, "
            f"{self.nfe_per_example:.0f} network evaluations an example"
        )

    def _view(self) -> html.View:
        rows = tables.decisions(self.to_dict())
        return html.View(self._summary(), "decisions", (rows, self.condition), self.warnings)

    def plot(self, axes: Any = None) -> Any:
        """Draw the posterior of every example with bars of one standard error on matplotlib `axes`, new ones where
        None, and return them; one colour a condition. Errors: UsageError without matplotlib."""
        axes = plots.new(axes)
        places = range(self.examples)
        for c, value in enumerate(self.values):
            p, error = self.posterior[:, c].numpy(), self.posterior_error[:, c].numpy()
            axes.errorbar(places, p, yerr=error, fmt="o", markersize=3, label=f"{self.condition} = {value}")
        axes.set_xlabel("example")
        axes.set_ylabel("posterior")
        axes.set_ylim(-0.03, 1.03)
        axes.legend(frameon=False)
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for every example and condition. Errors: UsageError without pandas."""
        N, C = self.difference.shape
        columns = ("difference", "standard_error", "posterior", "posterior_error", "left")
        return frames.frame(
            {
                "example": torch.arange(N).repeat_interleave(C).numpy(),
                self.condition: list(self.values) * N,
                **{name: getattr(self, name).flatten().numpy() for name in columns},
            }
        )

    def __str__(self) -> str:
        rows = tables.decisions(self.to_dict())
        lines = [f"{'example':>9}   {self.condition:<12} {'posterior':>9}   next best, nats above it"]
        for row in rows:
            rival = f"{row['next']:<12} {row['difference']} ± {row['error']}" if row["next"] else ""
            line = f"{row['name']:>9}   {row['best']:<12} {row['posterior']:>9}   {rival}   {row['undecided']}"
            lines.append(line.rstrip())
        if self.examples > len(rows):
            lines.append(f"{'…':>9}   {self.examples - len(rows)} more")
        return "\n".join([*lines, self._summary()])


def _table(rows: list[list[float | None]]) -> Tensor:
    """Numbers of a table, nan for what is null."""
    return torch.tensor([[float("nan") if v is None else v for v in row] for row in rows], dtype=torch.float64)
