"""`log_ratio`: log p_model(x) − log p_reference(x) of every example, by the difference of their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.contrast.asked import Places, Scored, models_of
from nelbo.bound.contrast.contrast import raced
from nelbo.bound.contrast.race import Goal
from nelbo.bound.planned import cost
from nelbo.model.examples import Examples
from nelbo.typing import Json
from nelbo.workers import Run


@dataclass(frozen=True, eq=False)
class LogRatio:
    """value (N,): the bound of −log p under the reference less that under the model, in nats; standard_error (N,) of it
    by the draws; evaluations (N,) of both networks; nfe_total counts pilot and trials as well."""

    value: Tensor
    standard_error: Tensor
    evaluations: Tensor
    nfe_total: int

    def to_dict(self) -> Json:
        """Numbers as JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("value", "standard_error", "evaluations")}
        return {**arrays, "nfe_total": self.nfe_total}

    def __repr__(self) -> str:
        mean, error = float(self.value.mean()), float(self.standard_error.square().sum().sqrt()) / len(self.value)
        return (
            f"<LogRatio: {len(self.value)} examples, mean {mean:.4g} ± {error:.2g} nats, {self.nfe_total} evaluations>"
        )


def log_ratio(
    model: Scored,
    reference: Scored,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    places: Places | None = None,
) -> LogRatio:
    """See `nelbo.log_ratio`. places: of sequences of symbols."""
    cost.check_budget(max_nfe, False)
    goal = Goal(None, tolerance=tolerance)
    asked = models_of(model, reference, data, run, condition, places)
    one, runner = asked.one, asked.one.runner
    how = {**asked.how, "log_ratio": repr(goal), "max_nfe": repr(max_nfe)}
    one.agree("log_ratio", **how)
    one.open_state(**how)
    try:
        with asked.inference():
            notes = [*asked.overlap(), *asked.trial(runner)]
            races, evaluations = raced(asked.alternatives, runner, goal, torch.zeros(2).double(), max_nfe)
    finally:
        runner.close()
    checks.warn(notes)
    means = torch.cat([race.mean for race in races])
    errors = torch.cat([race.differences()[1] for race in races]).max(1).values
    return LogRatio(means[:, 1] - means[:, 0], errors, torch.cat(evaluations), runner.nfe)
