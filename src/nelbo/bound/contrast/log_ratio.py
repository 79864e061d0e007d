"""`log_ratio`: log p_model(x) − log p_reference(x) of every example, by the difference of their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.compare import same_chain
from nelbo.bound.contrast.alternatives import Models
from nelbo.bound.contrast.contrast import raced
from nelbo.bound.contrast.race import Goal
from nelbo.bound.planned import cost
from nelbo.bound.prepare import prepare
from nelbo.bound.trial import trial
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
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
    model: DiffusionModel,
    reference: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
) -> LogRatio:
    """See `nelbo.log_ratio`."""
    cost.check_budget(max_nfe, False)
    goal = Goal(None, tolerance=tolerance)
    if model.domain.to_config() != reference.domain.to_config():
        raise UsageError(
            f"the models score unlike data: {model.domain.to_config()} and {reference.domain.to_config()}",
            "give models of one data domain: same shape, bins and range",
        )
    a = prepare(model, data, run, condition=condition)
    b = prepare(reference, a.examples, run, condition=condition, runner=a.runner)
    if not same_chain(a.chain, b.chain):
        raise UsageError(
            "the models have chains of other levels, whose draws have nothing in common",
            "evaluate both on one grid: model.with_grid(nelbo.grids.even(100)), say; or compare them by nelbo.compare",
        )
    how = {"log_ratio_to": str(b.fingerprint), "goal": repr(goal), "max_nfe": repr(max_nfe)}
    a.agree("log_ratio", **how)
    a.open_state(**how)
    both, runner = (a, b), a.runner
    notes = [note for one in both for note in checks.overlap(one.model, one.examples)]
    try:
        with a.chain.model.denoiser.inference(), b.chain.model.denoiser.inference():
            notes += [note for one in both for note in trial(one.chain, runner)]
            races, evaluations = raced(Models((a.chain, b.chain)), runner, goal, torch.zeros(2).double(), max_nfe)
    finally:
        runner.close()
    checks.warn(list(dict.fromkeys(notes)))
    means = torch.cat([race.mean for race in races])
    priors = b.chain.priors() - a.chain.priors()
    errors = torch.cat([race.differences()[1] for race in races]).max(1).values
    return LogRatio(means[:, 1] - means[:, 0] + priors, errors, torch.cat(evaluations), runner.nfe)
