"""The verbs of a parameter that many observations share: `likelihood_profile` and `score`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model
from nelbo.ambient import neutral
from nelbo.api.contrasts import check_keyword, conditions_of
from nelbo.api.inputs import Data, Device, Inputs, Progress
from nelbo.arguments import numbers
from nelbo.bound.contrast import profile as profiles
from nelbo.bound.contrast import score as scores
from nelbo.bound.contrast.profile import FEWEST
from nelbo.bound.contrast.profile_result import Profile
from nelbo.bound.contrast.score import Score
from nelbo.errors import UsageError
from nelbo.process.grid import Grid
from nelbo.progress import callback, shows_progress
from nelbo.typing import Condition
from nelbo.workers import Alone, Run, Workers


@shows_progress("profiling")
@numbers
@neutral()
def likelihood_profile(
    model: Model,
    data: Data,
    condition: str,
    values: Sequence[float] | Tensor,
    *,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    given: Condition | None = None,
    mask: Tensor | None = None,
    grid: Grid | None = None,
    limit: int | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Profile:
    """The likelihood of a parameter given many observations, by the bound: curve, maximum, information and intervals.

    A model of p(x | θ) bounds −log p(x | θ). For observations x_i that are independent given θ, and values θ_j,

        S(θ_j) = Σ_i bound(x_i | θ_j),        θ̂ = argmin S,        I = S″(θ̂),        Var θ̂ ≈ 1/I + Monte Carlo

    with the same places and noise for every θ_j, in pairs of ε and −ε, where the curve's differences vary. Strata of
    draws double until the Monte Carlo error of θ̂ is at most `tolerance` times its error by the data, 1/√I.

    condition: the keyword of the network, which takes one number an example. values: five values or more, rising; they
    should cover the minimum by a few standard errors, and be finer than one. tolerance: of the Monte Carlo error of θ̂,
    in units of its error by the data. max_nfe: at most so many evaluations, but
    for a pilot and a first look. given: further keywords, one row an observation.

    model, data, mask, grid, limit, overrides, trust_code, seed, batch_size, device, precision, progress, state and
    workers are as of `evaluate`. The bound may be looser for some θ than for others, and θ̂ moves with it.

    Errors: those of `evaluate`; UsageError for values that do not rise or are too few.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> schedule, law = nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.exact.GaussianData([0.0], [[0.1]])
    >>> centred = testing.as_network(testing.oracle(law), schedule, "x0", "logsnr")
    >>> def network(z, t, theta):  # of data θ + x
    ...     return centred(z - torch.sigmoid(t).sqrt()[:, None] * theta[:, None], t) + theta[:, None]
    >>> domain = nelbo.DataDomain((1,))
    >>> model = nelbo.from_callable(network, schedule=schedule, domain=domain, predicts="x0", time="logsnr")
    >>> profile = nelbo.likelihood_profile(model, 0.3 + law.sample(20), "theta", torch.linspace(-0.2, 0.8, 11))
    >>> abs(profile.maximum - 0.3) < 3 * profile.standard_error
    True
    """
    listed = _numbers(values, "values", "numbers that rise, such as torch.linspace(-1, 1, 21)").flatten().tolist()
    if len(listed) < FEWEST or any(b <= a for a, b in itertools.pairwise(listed)):
        raise UsageError(
            f"a profile over {len(listed)} values of {condition!r}",
            f"give {FEWEST} numbers or more, rising: torch.linspace(-1, 1, 21), say",
        )
    inputs = Inputs.of(
        model, data, limit=limit, condition=given, overrides=overrides, trust_code=trust_code, grid=grid, mask=mask
    )
    result = profiles.likelihood_profile(
        inputs.model,
        inputs.examples,
        conditions_of(inputs.model, condition, listed),
        Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress)),
        tolerance=tolerance,
        max_nfe=max_nfe,
        given=inputs.condition,
    )
    return dataclasses.replace(result, overrides=inputs.overrides.to_json())


@shows_progress("scoring")
@numbers
@neutral()
def score(
    model: Model,
    data: Data,
    condition: str,
    at: float | Sequence[float] | Tensor,
    *,
    step: float = 0.01,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    given: Condition | None = None,
    mask: Tensor | None = None,
    grid: Grid | None = None,
    limit: int | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Score:
    """The score of a parameter: the gradient of Σ_i log p(x_i | θ) at one θ, by the bound, with its error.

    condition: the keyword of the network. at: θ, one number an example, or P numbers that are one row an example. Of
    one number it is a central difference; of several the gradient through the network, which is counted as three
    evaluations. step: half the width of the difference. tolerance: draws are made as in `likelihood_profile`, until the
    Monte Carlo error of every component is at most so much of √Σ_i u_i², the spread of a score by the data. max_nfe: or
    with so many evaluations, but for a pilot and a first look.

    model, data, given, mask, grid, limit, overrides, trust_code, seed, batch_size, device, precision, progress, state
    and workers are as of `likelihood_profile`.

    Errors: those of `evaluate`; UsageError where the network's output cannot be differentiated in θ.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> schedule, law = nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.exact.GaussianData([0.0], [[0.1]])
    >>> centred = testing.as_network(testing.oracle(law), schedule, "x0", "logsnr")
    >>> def network(z, t, theta):  # of data θ + x
    ...     return centred(z - torch.sigmoid(t).sqrt()[:, None] * theta[:, None], t) + theta[:, None]
    >>> domain = nelbo.DataDomain((1,))
    >>> model = nelbo.from_callable(network, schedule=schedule, domain=domain, predicts="x0", time="logsnr")
    >>> score = nelbo.score(model, torch.tensor([[0.2], [0.5]]), "theta", 0.0)
    >>> bool((score.value - 0.7 / 0.1).abs() < 4 * score.standard_error + 0.1)     # (0.2 + 0.5)/0.1
    True
    """
    theta = _numbers(at, "at", "one number, or the numbers of one row")
    check_keyword(condition)
    inputs = Inputs.of(
        model, data, limit=limit, condition=given, overrides=overrides, trust_code=trust_code, grid=grid, mask=mask
    )
    return scores.score(
        inputs.model,
        inputs.examples,
        condition,
        theta,
        Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress)),
        step=step,
        tolerance=tolerance,
        max_nfe=max_nfe,
        given=inputs.condition,
    )


def _numbers(values: Any, name: str, wanted: str) -> Tensor:
    """Finite numbers as float64. Errors: UsageError."""
    try:
        numbers_of = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name}={values!r}", f"give {wanted}") from None
    if not bool(torch.isfinite(numbers_of).all()) or isinstance(values, bool):
        raise UsageError(f"{name}={values!r}", f"give {wanted}, finite")
    return numbers_of
