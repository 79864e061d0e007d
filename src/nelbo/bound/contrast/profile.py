"""`likelihood_profile`: the summed bound of many observations over a grid of one parameter, at common noise.

    S(θ) = Σ_i bound(x_i | θ) − what does not depend on θ,        exp(−S) a lower bound of the likelihood's shape

All values of the grid share places and noise, so that the curve is as smooth as the network and its shape is known far
better than its height. Draws are added to all observations, strata doubling, until the Monte Carlo error of the
minimum is a small share of the error that the data leave.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives, Conditions, UnderConditions
from nelbo.bound.contrast.curve import Curve
from nelbo.bound.contrast.profile_result import Profile
from nelbo.bound.contrast.race import ENOUGH, LAST_STRATA, TOGETHER
from nelbo.bound.planned import cost
from nelbo.bound.prepare import prepare
from nelbo.bound.runner import Runner
from nelbo.bound.trial import trial
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.workers import Run

FEWEST = 5
"""Fewest values of a grid: a curvature and how it changes."""
_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Sums:
    """After so many strata an observation: curves (N, J) of the observations in nats, and the Monte Carlo covariance of
    their sum (J, J)."""

    strata: int
    curves: Tensor
    covariance: Tensor

    def with_look(self, values: Tensor) -> Sums:
        """With the values (N, S, J) of further strata; looks weigh by their strata, and neighbouring strata give the
        covariance."""
        S = values.shape[1]
        share = S / (self.strata + S)
        halves = ((values[:, 0::2] - values[:, 1::2]) / S).flatten(0, 1)
        return Sums(
            self.strata + S,
            (1 - share) * self.curves + share * values.mean(1),
            (1 - share) ** 2 * self.covariance + share**2 * halves.mT @ halves,
        )


def likelihood_profile(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    conditions: Conditions,
    run: Run | None = None,
    *,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> Profile:
    """See `nelbo.likelihood_profile`. conditions: of one keyword, its values rising."""
    started = time.perf_counter()
    cost.check_budget(max_nfe, False)
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise UsageError(f"tolerance={tolerance!r}", "give a share of the data's standard error, such as 0.1")
    grid = np.array(conditions.shown, dtype=np.float64)
    one = prepare(model, data, run, condition=given)
    alternatives = UnderConditions(one.chain, conditions.rows, conditions.absent)
    how = {"profile": repr((conditions.name, conditions.shown)), "tolerance": repr(tolerance), "nfe": repr(max_nfe)}
    one.agree("likelihood_profile", **how)
    one.open_state(**how)
    runner = one.runner
    tried = replace(one.chain, condition={**one.chain.condition, **conditions.first(one.chain.examples)})
    try:
        with one.chain.model.denoiser.inference():
            notes = [*checks.overlap(one.model, one.examples), *trial(tried, runner)]
            sums, reached = _summed(alternatives, runner, grid, tolerance, max_nfe)
    finally:
        runner.close()
    curve = Curve(grid, sums.curves.sum(0).numpy())
    least = curve.minimum()
    if not least.inside:
        notes.append(f"the least bound is at the edge of the grid, {conditions.name} = {least.place:g}: widen the grid")
    elif least.information**-0.5 < float(np.diff(grid).min()) / 2:
        notes.append(f"the grid is coarse: the error of the data is {least.information**-0.5:.2g}: make it finer")
    if not reached and least.inside:
        notes.append(f"the tolerance {tolerance} was not reached with {runner.nfe} evaluations")
    checks.warn(notes)
    claims = one.claims()
    values = torch.from_numpy(curve.values - curve.values.min())
    return Profile(
        parameter=conditions.name,
        grid=torch.from_numpy(grid),
        values=values,
        covariance=sums.covariance,
        curves=sums.curves - sums.curves[:, [int(curve.values.argmin())]],
        examples=len(sums.curves),
        nfe_total=runner.nfe,
        tolerance=tolerance,
        precision=claims["precision"],
        seed=claims["seed"],
        data=claims["data"],
        model=claims["model"],
        description=claims["description"],
        version=__version__,
        warnings=tuple(notes),
        seconds=time.perf_counter() - started,
    )


def _summed(
    alternatives: Alternatives, runner: Runner, grid: np.ndarray, tolerance: float, max_nfe: int | None
) -> tuple[Sums, bool]:
    """Sums after as many looks as it takes, and whether the tolerance was reached."""
    N, J = alternatives.chain.examples, len(alternatives)
    along = places.piloted(alternatives, runner, together=True)
    examples, left = torch.arange(N), torch.ones(N, J, dtype=torch.bool)
    nothing = torch.zeros(J, J, dtype=torch.float64)
    sums, S = Sums(0, torch.zeros(N, J, dtype=torch.float64), nothing), TOGETHER
    while sums.strata < LAST_STRATA:
        if max_nfe is not None and sums.strata and runner.nfe + 2 * S * N * J > max_nfe:
            return sums, False
        parts = examples.split(max(1, _AT_ONCE // (2 * S * J)))
        values = [places.draw(alternatives, runner, along, p, left[p], sums.strata, S).values for p in parts]
        sums = sums.with_look(torch.cat(values))
        S = sums.strata
        least = Curve(grid, sums.curves.sum(0).numpy()).minimum()
        error = float(least.weights @ sums.covariance.numpy() @ least.weights) ** 0.5
        if least.inside:
            runner.tell(f"maximum {least.place:.4g} ± {error / least.information:.2g}")
        # error/I ≤ tolerance/√I; at the edge there is no minimum to be known better
        if sums.strata >= ENOUGH and (not least.inside or error <= tolerance * least.information**0.5):
            return sums, least.inside
    return sums, False
