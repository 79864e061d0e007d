"""Draws of the pooled design that were made together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.planned.crossfit import Observations


@dataclass(frozen=True, eq=False)
class Stage:
    """Draws of both terms, those of the diffusion term in pairs, and the strata of every fold, each of one pair."""

    reconstruction: Observations
    diffusion: Observations
    strata: list[int]


def finished(stage: Stage, residual: Tensor, fold: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals and cells (h, 2) of the pairs of a fold, of which an interrupt left out neither draw; from the residual
    of every diffusion draw, and whether an example is of the fold, (N,)."""
    rows = fold[stage.diffusion.examples]
    both = residual[rows].reshape(-1, 2)
    made = torch.isfinite(both).all(1)
    return both[made], stage.diffusion.cells[rows].reshape(-1, 2)[made]
