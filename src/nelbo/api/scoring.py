"""The verbs that score data under a model: by its bound, `evaluate`, and by its ODE, `ode_likelihood`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model
from nelbo.ambient import neutral
from nelbo.api.inputs import Data, Device, Inputs, LatentInputs, Progress, TokenInputs, opened
from nelbo.arguments import numbers
from nelbo.bound import evaluate as bounds
from nelbo.bound.estimators import Estimator
from nelbo.bound.latent import evaluate as latent_bounds
from nelbo.bound.result import Bound
from nelbo.bound.tokens import evaluate as token_bounds
from nelbo.bound.tokens.chain import CORPUS
from nelbo.bound.tolerance import Relative
from nelbo.bound.units import unit
from nelbo.data import readers
from nelbo.errors import UsageError
from nelbo.likelihood import Dequantisation, OdeLikelihood, Solver, Trace
from nelbo.likelihood import likelihood as odes
from nelbo.likelihood.scores import Settings
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Grid
from nelbo.progress import callback, in_unit, shows_progress
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run, Workers


@shows_progress("evaluating")
@numbers
def evaluate(
    model: Model,
    data: Data,
    *,
    tolerance: float | str | Relative = 0.01,
    max_nfe: int | None = None,
    any_cost: bool = False,
    grid: Grid | None = None,
    estimator: str | Estimator = "auto",
    per_example: bool = False,
    limit: int | None = None,
    condition: Condition | str | None = None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
    missing: str | None = None,
    corpus: Data | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    watch: Callable[[float, float], None] | None = None,
    message: Callable[[str], None] | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Bound:
    """The variational bound −log p_θ(x) ≤ prior + diffusion + reconstruction of `data` under `model`, with error bars.

    model: a DiffusionModel, a LatentModel, a TokenModel or a MODEL string. data: an array or tensor (N, *shape) of
    integer codes (of real values where the domain has no bins), of symbols (N, L) for a TokenModel, a torch Dataset,
    `Examples` or a DATA string. The bound of a LatentModel has two terms more, pixels and encoder.

    What is computed:
        tolerance: the standard error of the estimator to reach, in bits/dim, or relative to the value: "5%", which is
        `nelbo.Relative(0.05)`. max_nfe: at most so many evaluations. Without it, an evaluation that a pilot of a few
        hundred evaluations expects to take more than 100 an example (and 20,000 in all, and 20,000,000/D) stops there
        with a `CostError`, which says what it would cost and what is known of the bound; any_cost: go on all the same.
        grid: another grid than the model's own (the network, decoder and prior stay).
        estimator: "auto" (plans its draws from a pilot), another name of `nelbo.bound.evaluate.ESTIMATORS`, or an
        `Estimator`. per_example: keep every example's bound with its standard error in `Bound.per_example`.
        limit: only the first so many examples. condition: keywords of the network with one row an example, or the name
        of the keyword that takes the labels of the data. overrides: choices that replace the model's own.
        trust_code: as of `nelbo.load`. prompt, mask: of sequences of symbols, (N, L) bools: the places that are given
        and never scored (a number: so many at the beginning), and those that are scored (all where None), besides those
        of the `Examples`. A network that sees what is not scored gives the bound of p(x | given places), or of
        p(x | length); the result says which. Of other models `mask` says what is there of examples of different size,
        (N, positions) or of the shape of the data; a list of arrays (n_i, …) is padded and has its own. The first axis
        of the domain is the most positions, terms and D are of what is there, and the network gets the mask under the
        name that it has for it. missing: "marginal" takes NaN as what was not observed, of tables: the bound of the
        rest, for a network that is told what is there or looks at every number by itself; any other is refused, since a
        chain whose network sees all columns gives no marginal of some. corpus: other sequences of symbols (M, L'), such
        as those that the network was trained on, in which neighbours are counted instead of in the data: of natural
        text it saves a quarter of the evaluations, and the bound stays the same.

    How it is run:
        seed: of all noise. batch_size: examples of one network call, chosen by their size where None. device: where the
        network computes, the CPU where None. precision: of the network, "float32", "float64" or "bf16"; all else is
        float64. progress: None shows a bar with the estimate so far in terminals and notebooks; False shows none; True
        shows plain lines elsewhere too; a function is called with (evaluations done, planned; 0 where not known).
        watch: called with (bits/dim, standard error) as they become known; message: called with a line that says what
        the evaluation will cost, where that is more than some seconds, and printed beside a bar where None. state: a
        file from which an interrupted evaluation goes on to the same number.
        workers: the processes that share the work (`nelbo.runtime.workers()`).

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, CostError.
    Source: Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11-17.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    >>> bound = nelbo.evaluate(model, data.sample(16), estimator="stratified", seed=0)
    >>> abs(bound.bits_per_dim - 4.087) < 4 * bound.standard_error.total        # log2(17), the entropy
    True
    """
    with neutral():
        how: Json = {
            "tolerance": tolerance,
            "max_nfe": max_nfe,
            "any_cost": any_cost,
            "estimator": estimator,
            "per_example": per_example,
            "watch": watch,
        }
        run = Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress), message)
        loaded = opened(model, overrides, trust_code)
        if isinstance(loaded, TokenModel):
            _check_numbers(missing, "symbols")
            tokens = TokenInputs.of(data, limit=limit, condition=condition, grid=grid, prompt=prompt, mask=mask)
            in_unit(progress, unit(loaded.describe(), tokens.examples.facts))
            places = {"condition": tokens.condition, "prompt": tokens.prompt, "mask": tokens.mask}
            counted = None if corpus is None else readers.resolve(corpus, limit=CORPUS)
            return token_bounds.evaluate(loaded, tokens.examples, run, grid=grid, corpus=counted, **places, **how)
        if prompt is not None or corpus is not None:
            raise UsageError("prompt or corpus with a model of images", "they are of sequences of symbols")
        if isinstance(loaded, LatentModel):
            _check_numbers(missing, "latents")
            if mask is not None:
                raise UsageError("a mask with a latent model", "its encoder is one of whole images")
            latent = LatentInputs.of(loaded, data, limit=limit, condition=condition, grid=grid)
            return latent_bounds.evaluate(loaded, latent.examples, run, grid=grid, condition=latent.condition, **how)
        rest: Json = {"condition": condition, "trust_code": trust_code, "mask": mask, "missing": missing}
        given = Inputs.of(loaded, data, limit=limit, grid=grid, **rest)
        bound = bounds.evaluate(given.model, given.examples, run, condition=given.condition, **how)
    return dataclasses.replace(bound, overrides=(overrides or Overrides()).to_json())


def _check_numbers(missing: str | None, what: str) -> None:
    """Errors: UsageError for missing values with a model of symbols or latents."""
    if missing is not None:
        raise UsageError(
            f"missing={missing!r} with a model of {what}",
            "leave it out: it is of real numbers, where NaN is what was not observed",
        )


@shows_progress("solving")
@numbers
@neutral()
def ode_likelihood(
    model: Model,
    data: Data,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    tolerance: float | None = None,
    max_steps: int = 1024,
    trace: Trace | None = None,
    exact_trace: bool | None = None,
    probes: int | None = None,
    dequantisation: str | Dequantisation = "variational",
    draws: int | None = None,
    importance: int = 1,
    grid: Grid | None = None,
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
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> OdeLikelihood:
    """−log p of `data` by the probability-flow ODE of `model`, in the form of a bound whose `quantity` is "ode".

    With s = d log σ/dλ in the clock log-SNR λ, from the first level λ_1 to the last λ_L,

        dz/dλ = s z + ½ α x̂(z, λ),        log p(z_1) = log p(z_L) + ∫_{λ_1}^{λ_L} ∇·(dz/dλ) dλ

    Solver:
        solver: "rk4" (order 4) or "heun" (order 2), or an object such as `nelbo.likelihood.RK4(64)`. steps: of even
        size in λ (64). Half the steps are solved too, and the difference estimates the error of every example.
        tolerance: double the steps of each example until its own error is at most so many bits/dim. max_steps: up to
        so many.
    Divergence:
        trace: `nelbo.likelihood.ExactTrace()`, by D backward passes an evaluation (the default up to 16 dimensions), or
        `nelbo.likelihood.Hutchinson(probes)`, by so many random signs an example, fixed along a solve and unbiased.
        exact_trace: True is short for the first. probes: a number N is short for the second.
    Starting points:
        dequantisation: "variational", "uniform", "truncated_normal", "flow" (fitted to the model on the first examples,
        in some thousand evaluations) or, for real data, "none"; see `nelbo.likelihood.dequantisation`. draws:
        independent starting points an example, whose spread gives its standard error (2). importance: K points under
        one logarithm, −log (1/K) Σ_k p(x | z_k) p(z_k)/q(z_k | x): still a bound, biased upwards by about
        Var(weight)/2K; needs the exact trace.

    model, data, grid, per_example, limit, condition, mask, missing, overrides, trust_code, seed, batch_size, device,
    precision (no bf16), progress, state and workers are as of `evaluate`. After an interrupt the result is that of the
    examples finished.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, Interrupted.
    Source: Song et al. 2021, eq. 39; Burda et al. 2016, eq. 8.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -8.0), nelbo.grids.continuous())
    >>> codes, solver = data.sample(8), nelbo.likelihood.RK4(64)
    >>> ode = nelbo.ode_likelihood(model, codes, solver=solver, precision="float64", per_example=True)
    >>> bool((ode.per_example.nats + data.log_prob(codes)).abs().max() < 0.01)   # the exact model's −log P
    True
    """
    given = Inputs.of(
        model,
        data,
        limit=limit,
        condition=condition,
        overrides=overrides,
        trust_code=trust_code,
        grid=grid,
        mask=mask,
        missing=missing,
    )
    how = Settings.parse(
        given.model,
        solver=solver,
        steps=steps,
        tolerance=tolerance,
        max_steps=max_steps,
        trace=trace,
        probes=probes,
        exact_trace=exact_trace,
        dequantisation=dequantisation,
        draws=draws,
        importance=importance,
    )
    ode = odes.ode_likelihood(
        given.model,
        given.examples,
        Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress)),
        how,
        condition=given.condition,
        per_example=per_example,
    )
    return dataclasses.replace(ode, overrides=given.overrides.to_json())
