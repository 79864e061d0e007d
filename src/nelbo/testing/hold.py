"""How a law is held: an AssertionError that says which one broke and by how much."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.estimate import PerExample
from nelbo.bound.estimators import Estimator
from nelbo.bound.evaluate import evaluate
from nelbo.bound.prepare import NelboWarning
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels


def some_levels(model: DiffusionModel, count: int = 7) -> Levels:
    """Up to `count` levels of the model's chain, both ends among them."""
    if model.grid.continuous:
        logsnr = model.levels().logsnr
        ends = model.schedule.time_of(logsnr)
        return model.schedule.at(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64))
    levels = model.levels()
    return levels[torch.linspace(0, len(levels) - 1, min(count, len(levels))).round().long()]


def per_example(model: DiffusionModel, x: Any, estimator: Estimator, **options: Any) -> PerExample:
    """The bound of every example, without the remarks that a reader of the number would want."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        bound = evaluate(model, x, estimator=estimator, per_example=True, **{"precision": "float64", **options})
    assert bound.per_example is not None
    return bound.per_example


def close(a: Tensor, b: Tensor, relative: float, law: str) -> None:
    """AssertionError with the law, and by how much it broke, where a and b differ by more than `relative`."""
    error = float((a - b).abs().max() / (1 + b.abs().max()))
    hold(error <= relative, f"{law}: off by {error:.3g}, relative")


def hold(true: bool, law: str) -> None:
    """AssertionError with the law unless `true`."""
    if not true:
        raise AssertionError(law)
