"""What the draws of a difference A − B say of A and of B: of the mean (A + B)/2, which is known at every draw.

A design estimates the difference; with other terms at the same draws it estimates their mean, by fits of their own. A
is then the mean and half the difference, and B the mean less half of it, so that what is stated of the three agrees;
and their errors are those of these sums, draw by draw. The draws lie where the difference varies, a tenth of them where
the terms are large (`allocation.neyman`), so that no weight of a side grows without bound.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.bound.estimate import Sides
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.pilot import Pilot, fitted
from nelbo.bound.planned.pooled import PooledDesign
from nelbo.bound.planned.regression import TermFit
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Again

_HALVES = (0.5, -0.5)
"""Parts of the difference that A and B have over their mean."""


def of_design(problem: Problem, design: PooledDesign | PerExampleDesign) -> Sides | None:
    """Of the draws of a design; None of a problem that is no difference."""
    if problem.along is None:
        return None
    if isinstance(design, PooledDesign):
        return _of_pooled(problem, design)
    middle = _replayed(design, _pilot(problem, design.pilot, 0.0), _terms(problem, 0.0))
    sides = (_sum(middle, design, part, _pilot(problem, design.pilot, part)).summary() for part in _HALVES)
    return Sides(middle.summary().value, *(side.variance for side in sides))


def _of_pooled(problem: Problem, design: PooledDesign) -> Sides:
    of_difference = design.fits()
    middle = _redrawn(design, _pilot(problem, design.pilot, 0.0), _terms(problem, 0.0))
    value, of_middle = middle.summary().value, middle.fits()
    variances = []
    for part in _HALVES:
        fits = [
            [_plus(m, d, part) for m, d in zip(*both, strict=True)]
            for both in zip(of_middle, of_difference, strict=True)
        ]
        side = _redrawn(design, _pilot(problem, design.pilot, part), _terms(problem, part), fits)
        variances.append(side.summary().variance)
    return Sides(value, *variances)


def _redrawn(
    design: PooledDesign, pilot: Pilot, columns: Sequence[Tensor], fits: Sequence[list[TermFit]] | None = None
) -> PooledDesign:
    """The same draws of other terms: their `columns` in the order in which draws were made, and the pilot that fitted
    them; corrected anew, or by `fits` of both terms as they are."""
    other = PooledDesign(design.problem, design.runner, pilot, design.density, fits)
    other.folds, other.along, calls = design.folds, design.along, iter(columns)
    for stage in design.stages:
        first = replace(stage.reconstruction, columns=next(calls))
        other.stages.append(
            replace(stage, reconstruction=first, diffusion=replace(stage.diffusion, columns=next(calls)))
        )
    return other


def _replayed(design: PerExampleDesign, pilot: Pilot, columns: Sequence[Tensor]) -> PerExampleDesign:
    """As `_redrawn`, corrected anew."""
    again = Again(columns, design.runner.stopped)
    other = PerExampleDesign(design.problem, again, pilot, design.density)  # type: ignore[arg-type]
    for block in design.blocks:
        other.new(len(block.rows))
    for block, strata, reconstructions, offset in design.made:
        if again.left < (reconstructions > 0) + (strata > 0 and len(design.problem.cells) > 0):
            break  # interrupted in the middle
        other.offset = offset
        other.draw(other.blocks[block], strata, reconstructions)
    return other


def _sum(middle: PerExampleDesign, design: PerExampleDesign, part: float, pilot: Pilot) -> PerExampleDesign:
    """The terms of one and `part` of those of the other at the same draws, in which errors are linear."""
    other = copy.copy(middle)
    other.pilot = pilot
    for name in ("values", "r_values", "errors", "r_errors"):
        setattr(other, name, getattr(middle, name) + part * getattr(design, name))
    return other


def _calls(problem: Problem) -> int:
    """Calls of the runner by a pilot."""
    return 1 + (len(problem.cells) > 0)


def _terms(problem: Problem, part: float) -> Sequence[Tensor]:
    """Columns of all draws after the pilot's."""
    assert problem.along is not None
    return problem.along.terms(part, _calls(problem))


def _pilot(problem: Problem, pilot: Pilot, part: float) -> Pilot:
    """The pilot with fits of the mean and `part` of the difference."""
    assert problem.along is not None
    first, *rest = problem.along.terms(part)[: _calls(problem)]
    columns = rest[0] if rest else torch.zeros(0, first.shape[1], dtype=torch.float64)
    at = pilot.residuals.examples, pilot.residuals.nodes
    measures = [mean for *_, mean in problem.along.kept[: _calls(problem)]]
    of_cells = measures[1] if rest else None
    fits = fitted(problem, pilot.features, at, (first, columns), (measures[0], of_cells))
    return replace(pilot, reconstruction=fits[0], diffusion=fits[1], residuals=fits[2])


def _plus(fit: TermFit, other: TermFit, part: float) -> TermFit:
    """The fit that foretells what `fit` does and `part` of what `other` does; both have one size."""
    return replace(
        fit,
        mean=fit.mean + part * other.mean,
        weights=fit.weights + part * other.weights,
        controls=fit.controls + part * other.controls,
    )
