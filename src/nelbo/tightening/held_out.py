"""What every kind of model is tightened with: rows of a condition, what a certificate states of data, and the bound of
the held-out examples, one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Estimator
from nelbo.bound.result import Bound
from nelbo.errors import Interrupted
from nelbo.model.calling import condition_rows
from nelbo.model.examples import Examples
from nelbo.typing import Condition, Json
from nelbo.workers import Run


def rows_of(condition: Condition | None, rows: Tensor, n: int) -> dict[str, Tensor]:
    """The condition of the examples `rows` among n."""
    return {name: values[rows] for name, values in condition_rows(condition, n).items()}


def described(examples: Examples) -> Json:
    """Name, number, fingerprint and facts."""
    return {
        "name": examples.name,
        "examples": len(examples),
        "fingerprint": examples.fingerprint,
        **examples.facts,
    }


def bound_of(
    evaluate: Callable[..., Bound],
    model: Any,
    examples: Examples,
    condition: Condition,
    run: Run,
    estimator: Estimator,
) -> Bound:
    """The bound of every example by `evaluate`. Errors: Interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)  # about the model as it was, and not about this certificate
        bound = evaluate(
            model,
            examples,
            Run(device=run.device, batch_size=run.batch_size, seed=run.seed, progress=run.progress),
            estimator=estimator,
            per_example=True,
            condition=condition,
        )
    if bound.interrupted:
        raise Interrupted("interrupted while certifying; nothing was written", "run the same command again")
    return bound
