"""From a model and data to a `Problem`: every check of the input, before the first evaluation is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.workers import Alone, Workers

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


class NelboWarning(UserWarning):
    """Something that does not stop an evaluation but changes what its number means."""


def prepare(
    model: DiffusionModel,
    examples: Examples,
    *,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    workers: Workers | None = None,
    resumable: bool = False,
) -> tuple[Problem, Examples]:
    """The problem of scoring `examples` under `model`, and the examples as they are scored.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError.
    """
    checked = model.domain.checked(examples.data, release=examples.release)
    if precision not in PRECISIONS:
        raise UnknownNameError.of("precision", precision, PRECISIONS)
    place = torch.device(device or "cpu")
    rows = {k: torch.as_tensor(v) for k, v in (condition or {}).items()}
    for name, values in rows.items():
        if len(values) != len(checked):
            raise ShapeError(
                f"the condition {name!r} has {len(values)} rows for {len(checked)} examples", "give one row an example"
            )
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"a batch of {batch_size} examples was asked for", "batch_size is a whole number ≥ 1")
    problem = Problem(
        model=model.in_precision(PRECISIONS[precision], place),
        data=checked,
        condition=rows,
        seed=seed,
        batch_size=batch_size or _default_batch(model.domain.dimensions),
        device=place,
        workers=workers or Alone(),
        resumable=resumable,
        dtype=torch.float64 if precision == "float64" else torch.float32,
        mapped=examples.mapped,
        release=examples.release,
    )
    return problem, dataclasses.replace(examples, data=checked)


def overlap(model: DiffusionModel, examples: Examples) -> list[str]:
    """A line for the reader where some examples are among those the model was trained on, else none."""
    if model.trained_on is None:
        return []
    seen = int(torch.isin(examples.hashes, model.trained_on).sum())
    if seen == 0:
        return []
    return [f"{seen} of {len(examples)} examples are among those the model was trained on; the bound flatters it"]


def _default_batch(dimensions: int) -> int:
    """Examples a batch: large for small inputs, so that the network and not its launch is what is paid for."""
    return max(16, min(1024, 65536 // dimensions * 4))
