"""The verbs that set side by side: models, `compare` and `log_ratio`, and declarations of a network, `diagnose`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model, load_images
from nelbo.ambient import neutral
from nelbo.api.contrasts import read
from nelbo.api.inputs import Data, Device, Inputs, Progress, TokenInputs, opened
from nelbo.arguments import numbers
from nelbo.bound import compare as comparisons
from nelbo.bound.contrast import log_ratio as ratios
from nelbo.bound.contrast.log_ratio import LogRatio
from nelbo.bound.difference import Comparison, compare_results
from nelbo.bound.result import Bound
from nelbo.bound.tolerance import Relative
from nelbo.data import classes
from nelbo.diagnosis import Diagnosis
from nelbo.diagnosis import diagnose as diagnoses
from nelbo.diagnosis.tokens.diagnose import diagnose as diagnoses_of_tokens
from nelbo.errors import UsageError
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Grid
from nelbo.progress import callback, shows_progress
from nelbo.typing import Condition
from nelbo.workers import Alone, Run, Workers


@shows_progress("comparing")
@numbers
@neutral()
def compare(
    model_a: Model | Bound,
    model_b: Model | Bound,
    data: Data | None = None,
    *,
    tolerance: float | str | Relative = 0.01,
    confidence: float | None = None,
    max_nfe: int | None = None,
    any_cost: bool = False,
    per_example: bool = False,
    limit: int | None = None,
    condition: Condition | str | None = None,
    mask: Tensor | None = None,
    missing: str | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    message: Callable[[str], None] | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Comparison:
    """The difference of the bounds of model_a and model_b on the same examples, A − B in bits/dim, with paired errors.

    Common random numbers: the same positions and noise for both models.

    model_a, model_b: as of `evaluate`, or two of its results. tolerance: the paired standard error to reach, in
    bits/dim, or relative to the difference ("5%"); confidence: end earlier, as soon as the sign of the difference is
    known at this level: the probability that the worse model is ever called the better one for these examples is at
    most 1 − confidence. max_nfe: at most so many evaluations of both together. any_cost: as of `evaluate`. per_example:
    draw every example and keep the differences in `Comparison.per_example`; where the tolerance is coarse, random
    examples are cheaper, and it is None. Of models whose chains have other levels, every example is drawn. data, limit,
    condition, mask, missing, overrides and trust_code (of both models), seed, batch_size, device, precision, progress,
    message, state and workers are as of `evaluate`.

    Two results in the place of models, of `evaluate` or of `ode_likelihood` with per_example=True, are compared as they
    are, without data, and only with results of the same kind.

    Errors: those of `evaluate`; UsageError where the models or results are of unlike quantities.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> fine, coarse = (data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(K)) for K in (64, 8))
    >>> nelbo.compare(fine, coarse, data.sample(64), tolerance=0.05).difference < 0
    True
    """
    if isinstance(model_a, Bound) or isinstance(model_b, Bound):
        return compare_results(model_a, model_b)
    if data is None:
        raise UsageError("two models are to be compared on no data", "give data, such as 'digits:test' or an array")
    given = Inputs.of(
        model_a,
        data,
        limit=limit,
        condition=condition,
        overrides=overrides,
        trust_code=trust_code,
        mask=mask,
        missing=missing,
    )
    other = load_images(model_b, overrides=overrides, trust_code=trust_code)
    if isinstance(condition, str):
        classes.check_same(given.model, other, condition)
    difference = comparisons.compare(
        given.model,
        other,
        given.examples,
        Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress), message),
        tolerance=tolerance,
        max_nfe=max_nfe,
        any_cost=any_cost,
        per_example=per_example,
        confidence=confidence,
        condition=given.condition,
    )
    return dataclasses.replace(difference, overrides=given.overrides.to_json())


@shows_progress("diagnosing")
@numbers
@neutral()
def diagnose(
    model: Model,
    data: Data,
    *,
    max_nfe: int | None = None,
    limit: int | None = None,
    condition: Condition | str | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Diagnosis:
    """Which declaration of `model` suits its network best: as it is, or with one thing declared otherwise.

    Each sibling of the declaration changes one thing: what the network predicts and its sign; the time it is told; the
    schedule; range, bins and layout of the data; the condition; evaluation or training mode; the variance of the steps,
    clipping and the first level, which are choices of a model. All are bounded at common noise on a few draws, the
    better ones on more. Rows are ranked by bits/dim of the same data; where real data lie on a lattice, densities are
    multiplied by its step, so that they compare with codes.

    The verdict is that another declaration is right if its bound is lower by more than 0.02 bits/dim and by more than
    3.5 standard errors of the paired difference, or 2 where nearly all of its draws cost less. What is nearer than that
    cannot be told apart, and is named.

    Of symbols: the shift by one place, the mask's number, what the network is told, its schedule, whether its output is
    logits, probabilities or log-ratios, and the law that it gives; looked at by themselves are rounded logits, the
    mask's own probability, and special symbols and padding that are scored or attended.

    max_nfe: at most so many network evaluations, 2000 where None. model, data, limit, condition, overrides,
    trust_code, seed, batch_size, device, precision and progress are as of `evaluate`; at most 512 examples are looked
    at.

    Errors: those of `evaluate`; UsageError where max_nfe is too small to look at every sibling once.

    >>> import nelbo
    >>> from nelbo import testing
    >>> data, table = nelbo.exact.GaussianData([0.3, -0.2], [[0.3, 0.1], [0.1, 0.2]]), nelbo.schedules.linear(T=200)
    >>> network = testing.as_network(testing.oracle(data), table, "v", "index")
    >>> model = nelbo.from_callable(network, schedule=table, domain=nelbo.DataDomain((2,)), predicts="eps")
    >>> nelbo.diagnose(model, data.sample(64)).verdict.change
    'predicts="v"'
    """
    run = Run(device, precision, batch_size, seed, None, Alone(), callback(progress))
    loaded = opened(model, overrides, trust_code)
    if isinstance(loaded, TokenModel):
        tokens = TokenInputs.of(data, limit=limit, condition=condition)
        return diagnoses_of_tokens(loaded, tokens.examples, run, max_nfe=max_nfe, condition=tokens.condition)
    given = Inputs.of(loaded, data, limit=limit, condition=condition, overrides=overrides, trust_code=trust_code)
    diagnosis = diagnoses(given.model, given.examples, run, max_nfe=max_nfe, condition=given.condition)
    return dataclasses.replace(diagnosis, overrides=given.overrides.to_json())


@shows_progress("comparing")
@numbers
@neutral()
def log_ratio(
    model: Model,
    reference: Model,
    data: Data,
    *,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    grid: Grid | None = None,
    limit: int | None = None,
    condition: Condition | str | None = None,
    mask: Tensor | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> LogRatio:
    """log p(x) under `model` less that under `reference`, for every example in nats, by the difference of their bounds.

    For preference optimisation, membership tests and the like. Both models are asked at the same places and noise, in
    pairs of ε and −ε, where their differences vary: what they have in common cancels. Strata of draws double until the
    standard error of every example is small enough.

    tolerance: that standard error, in nats. max_nfe: at most so many evaluations.
    model, reference: two models of one data domain on the same levels; grid: another grid for both. data, limit,
    condition, mask, overrides and trust_code (of both), seed, batch_size, device, precision, progress, state and
    workers are as of `evaluate`. Two bounds may be loose by different amounts, which the ratio inherits.

    Errors: those of `evaluate`; UsageError where domains or levels differ.

    >>> import nelbo
    >>> laws = [nelbo.exact.GaussianData([m], [[0.2]]) for m in (0.0, 0.3)]
    >>> schedule, grid = nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous()
    >>> model, reference = (law.model(schedule, grid) for law in laws)
    >>> x = laws[0].sample(5)
    >>> exact = laws[0].log_prob(x) - laws[1].log_prob(x)
    >>> ratio = nelbo.log_ratio(model, reference, x, tolerance=0.05)
    >>> bool(((ratio.value - exact).abs() < 4 * ratio.standard_error + 0.01).all())
    True
    """
    loaded, other = (opened(one, overrides, trust_code) for one in (model, reference))
    examples, rows, places = read(loaded, data, limit, condition, grid, None, mask)
    if isinstance(condition, str):
        classes.check_same(loaded, other, condition)
    return ratios.log_ratio(
        loaded if grid is None else loaded.with_grid(grid),
        other if grid is None else other.with_grid(grid),
        examples,
        Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress)),
        tolerance=tolerance,
        max_nfe=max_nfe,
        condition=rows,
        places=places,
    )
