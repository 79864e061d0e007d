"""The result of a contrast: which condition explains each example best, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.result import without_nan
from nelbo.typing import Json

SCHEMA = "nelbo.contrast/1"
_SHOWN = 10
"""Examples of the printed table."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Of N examples and C conditions, in nats and in the order of `values`:

    difference (N, C): the bound under a condition less that under the best one, ≥ 0; standard_error (N, C) of it;
    covariance (N, C, C) of the bounds but for what all conditions share. left (N, C): conditions that were not
    eliminated, the confidence set; of others the difference is that at their elimination, with the draws until then,
    and no covariance. posterior (N, C): prior · exp(−bound), normalised; posterior_error (N, C) its standard error by
    the delta method. best (N,): index of the condition of the highest posterior among those left. decided (N,): whether
    it is the only one left, or better than all that are left but for less than `indifference` nats, at `confidence`.
    evaluations (N,): network evaluations of every example; nfe_total counts pilot and trial as well.
    """

    condition: str
    values: tuple[Any, ...]
    difference: Tensor
    standard_error: Tensor
    covariance: Tensor
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

    def to_dict(self) -> Json:
        """JSON form, schema nelbo.contrast/1; numbers that do not exist are null."""
        gone = ~self.left
        return without_nan(
            {
                "schema": SCHEMA,
                "condition": self.condition,
                "values": list(self.values),
                "difference": self.difference.masked_fill(gone, float("nan")).tolist(),
                "standard_error": self.standard_error.masked_fill(gone, float("nan")).tolist(),
                "at_elimination": self.difference.masked_fill(self.left, float("nan")).tolist(),
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
                "accuracy": self.accuracy,
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

    def __str__(self) -> str:
        runner_up = self.difference.masked_fill(_one_hot(self.best, len(self.values)), float("inf"))
        lines = [f"{'example':>9}   {self.condition:<12} {'posterior':>9}   next best, nats above it"]
        for i in range(min(self.examples, _SHOWN)):
            b = int(self.best[i])
            line = f"{i:>9}   {self.values[b]!s:<12} {float(self.posterior[i, b]):>9.3f}   "
            if len(self.values) > 1:
                c = int(runner_up[i].argmin())
                gap, error = float(self.difference[i, c]), float(self.standard_error[i, c])
                line += f"{self.values[c]!s:<12} {gap:.2f} ± {error:.2f}"
            lines.append(line + ("" if self.decided[i] or self.confidence is None else "   undecided"))
        if self.examples > _SHOWN:
            lines.append(f"{'…':>9}   {self.examples - _SHOWN} more")
        sure = "" if self.confidence is None else f"{int(self.decided.sum())} decided at {self.confidence:g}, "
        of_labels = "" if self.accuracy is None else f"accuracy {self.accuracy:.3f}, "
        lines.append(
            f"{self.examples} examples, {len(self.values)} conditions: {sure}{of_labels}"
            f"{self.nfe_per_example:.0f} network evaluations an example"
        )
        return "\n".join(lines)


def _one_hot(best: Tensor, C: int) -> Tensor:
    return torch.nn.functional.one_hot(best, C).bool()
