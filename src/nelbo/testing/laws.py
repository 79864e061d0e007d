"""`check_model`, `check_adapter`: the laws of models and of adapters.

Of a model: a prediction depends on its own example, level and condition, and on nothing else. Of an adapter: a network
of known data, wrapped, is the exact model of those data.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nelbo import data as readers
from nelbo.adapters.load import Model, load_images
from nelbo.ambient import neutral
from nelbo.arguments import numbers
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimate import PerExample
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.evaluate import evaluate
from nelbo.bound.prepare import prepare
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.denoiser import TimeInput
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.model.examples import Examples
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Output, Prediction
from nelbo.process.schedule import Schedule
from nelbo.testing.networks import Denoise, Network, as_network, oracle
from nelbo.workers import Run

GAUSSIAN = GaussianData(
    torch.tensor([0.3, -0.5, 0.1]).double(),
    torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]]).double(),
)
"""The data that adapters are tested on by default."""


@numbers
@neutral()
def check_model(
    model: Model,
    data: Examples | Tensor | Any,
    condition: Mapping[str, Tensor] | None = None,
    *,
    precision: str = "float32",
    relative: float = 1e-4,
    honours_condition: bool = True,
    trust_code: bool = False,
) -> None:
    """A model obeys the laws that every bound assumes; at least 3 examples, of which the first 8 are used.

    finite          predictions have the shape of z and are finite at every level tested
    deterministic   equal calls give equal predictions, also after other calls (no dropout, no hidden state)
    alone           the prediction of an example does not depend on its batch or its place there, to `relative`
    own time        in a batch of different levels, every example is at its own level
    own condition   every example has its own row of the condition; other rows give another prediction
    untouched       the network does not write into its input
    bound           finite, and equal for batches of one and of many

    precision, relative: of the network, and how much its rounding may differ with the size of a batch.
    honours_condition: False if another condition may give the same prediction. trust_code: as of `nelbo.load`.
    AssertionError names the law that is broken; other errors are those of `nelbo.evaluate`.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> model = nelbo.from_callable(lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.linear(T=10),
    ...                             domain=nelbo.DataDomain((1, 8, 8), bins=17))
    >>> testing.check_model(model, torch.randint(17, (4, 1, 8, 8)))
    """
    model = load_images(model, trust_code=trust_code)
    if relative < 0:
        raise UsageError(f"relative={relative}", "give a number ≥ 0, such as 1e-4")
    examples = readers.resolve(data, limit=8)
    examples.check_whole("a check of a model", "it is of whole examples")
    rows = {k: v[:8] if v.dim() else v for k, v in condition_rows(condition).items()}
    chain = prepare(model, examples, Run(precision=precision), condition=rows).chain
    n = chain.examples
    if n < 3:
        raise UsageError(f"{n} examples to test the laws on", "give at least 3, different from each other")
    network = chain.model
    every = torch.arange(n)
    x = chain.values(every)
    eps = Purpose.CHECK_NOISE.normal(0, every, shape=model.domain.shape)
    levels = some_levels(network)

    def predicted(indices: Tensor, t: Levels, rows: Mapping[str, Tensor] = rows) -> Tensor:
        """x̂, variance and log masses of some examples at levels t (n,), as one array (n, ·)."""
        z = column(t.alpha, x) * x[indices] + column(t.sigma, x) * eps[indices]
        before = z.clone()
        with torch.no_grad(), network.denoiser.inference():
            prediction: Prediction = network.predict(z, t, {k: v[indices] for k, v in rows.items()})
        hold(torch.equal(z, before), "untouched: the network wrote into its input")
        x0 = prediction.x0
        hold(x0.shape == z.shape, f"finite: x̂ has shape {tuple(x0.shape)} for z of {tuple(z.shape)}")
        parts = [p.flatten(1).double() for p in (x0, prediction.variance, prediction.log_probs) if p is not None]
        return torch.cat(parts, 1)

    for k in range(len(levels)):
        t = levels[k : k + 1]
        where = f"at log-SNR {float(t.logsnr):.4g}"
        together = predicted(every, t.expand(n))
        hold(bool(torch.isfinite(together).all()), f"finite: a prediction is NaN or infinite {where}")
        hold(
            torch.equal(together, predicted(every, t.expand(n))),
            f"deterministic: the same call gives another prediction {where} (dropout left on, or a hidden state)",
        )
        alone = torch.cat([predicted(every[i : i + 1], t) for i in range(n)])
        close(
            together,
            alone,
            relative,
            f"alone: the prediction of an example is another one alone than in a batch {where}",
        )
        turned = predicted(every.roll(1), t.expand(n)).roll(-1, 0)
        close(
            turned, together, relative, f"alone: the prediction of an example depends on its place in the batch {where}"
        )
    mixed = levels[torch.arange(n) % len(levels)]
    alone = torch.cat([predicted(every[i : i + 1], mixed[i : i + 1]) for i in range(n)])
    close(
        predicted(every, mixed),
        alone,
        relative,
        "own time: in a batch of different levels an example is not at its own",
    )
    if rows and honours_condition:
        others = {k: v.roll(1, 0) for k, v in rows.items()}
        changed = any(not torch.equal(rows[k], others[k]) for k in rows)
        same = torch.equal(predicted(every, mixed), predicted(every, mixed, others))
        hold(not (changed and same), "own condition: the conditions of other examples give the same predictions")
    some = Exhaustive(1) if chain.steps is not None and chain.steps <= 32 else Stratified(2, 2)
    few, many = (
        per_example(model, examples, some, Run(precision=precision, batch_size=b), condition=rows).nats for b in (1, n)
    )
    hold(bool(torch.isfinite(many).all()), "bound: it is NaN or infinite")
    close(few, many, 10 * relative, "bound: it depends on the size of the batch")


@numbers
@neutral()
def check_adapter(
    make: Callable[[Network], DiffusionModel],
    *,
    schedule: Schedule,
    predicts: str | Output = "eps",
    time: str | TimeInput = "index",
    sigma_data: float | None = None,
    raw_variance: Denoise | None = None,
    data: GaussianData | MixtureData = GAUSSIAN,
    relative: float = 1e-7,
) -> None:
    """An adapter keeps its convention: the exact network of known data, wrapped by `make`, is the exact model.

    make: your adapter, from a network fn(z, t) to a model of real data of any shape with D elements (D = 3 for the
    default data). schedule, predicts, time: the convention of the network, as in `nelbo.from_callable`; the schedule is
    the one that the network was trained on.

    The laws: x̂ is the exact posterior mean at every level, and the bound is that of the exact model at the same noise,
    both to `relative`. If the schedule is a law and examples are vectors, the continuous bound with exact ends is
    −log p(x) within 4.5 standard errors. AssertionError names the law that is broken.

    >>> import nelbo
    >>> from nelbo import testing
    >>> schedule = nelbo.schedules.edm()
    >>> def adapter(net):
    ...     return nelbo.from_callable(net, schedule=schedule, predicts="edm_F", time="c_noise", sigma_data=0.5,
    ...                                domain=nelbo.DataDomain((3,)))
    >>> testing.check_adapter(adapter, schedule=schedule, predicts="edm_F", time="c_noise", sigma_data=0.5)
    """
    denoise = oracle(data)
    network = as_network(denoise, schedule, predicts, time, sigma_data=sigma_data, raw_variance=raw_variance)
    model = make(network)
    D = data.dimensions
    if model.domain.dimensions != D or model.domain.discrete:
        raise UsageError(
            f"the adapter made a model of {model.domain.to_config()} from a network of {D} real numbers",
            f"declare DataDomain(shape) with {D} elements and no bins in this test",
        )
    levels = some_levels(model)
    x = data.sample(len(levels), seed=1).reshape(-1, *model.domain.shape)
    eps = Purpose.CHECK_NOISE.normal(2, torch.arange(len(levels)), shape=model.domain.shape)
    z = column(levels.alpha, x) * x + column(levels.sigma, x) * eps
    exact = denoise(z / column(levels.alpha, x), levels.logsnr)
    with torch.no_grad():
        x0 = model.denoiser(z, levels).x0
    for k in range(len(levels)):
        scale = 1 + float(exact[k].abs().max()) + float((levels.sigma / levels.alpha)[k]) * 1e-3
        error = float((x0[k] - exact[k]).abs().max()) / scale
        hold(
            error <= relative,
            f"x̂ is not the exact posterior mean at log-SNR {float(levels.logsnr[k]):.4g} (t = {float(levels.t[k]):.4g})"
            f": the error is {error:.3g} of its size; check the output and the time that the adapter declares",
        )
    if len(model.domain.shape) > 1:
        return
    exact_model = data.model(model.schedule, model.grid)
    ours = dataclasses.replace(
        model, reverse=Reverse(BetaTilde()), decoder=exact_model.decoder, prior=exact_model.prior
    )
    theirs = dataclasses.replace(ours, denoiser=data.denoiser())
    points = data.sample(12, seed=3)
    estimator = Stratified(4, 2) if model.grid.continuous else Exhaustive(1)
    a, b = (per_example(m, points, estimator).nats for m in (ours, theirs))
    close(a, b, relative, "the bound is not that of the exact model")
    if model.grid.continuous:
        bound = per_example(ours, points, Stratified(32, 2))
        z_scores = (bound.nats + data.log_prob(points)) / bound.standard_error
        mean = float(z_scores.mean()) * len(points) ** 0.5
        hold(abs(mean) <= 4.5, f"the continuous bound is {mean:.3g} standard errors from −log p(x)")


def some_levels(model: DiffusionModel, count: int = 7) -> Levels:
    """Up to `count` levels of the model's chain, including both ends."""
    if model.grid.continuous:
        logsnr = model.levels().logsnr
        ends = model.schedule.time_of(logsnr)
        return model.schedule.at(torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64))
    levels = model.levels()
    return levels[torch.linspace(0, len(levels) - 1, min(count, len(levels))).round().long()]


def per_example(
    model: DiffusionModel, x: Any, estimator: Estimator, run: Run | None = None, **options: Any
) -> PerExample:
    """The bound of every example, without warnings about the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        bound = evaluate(model, x, run or Run(precision="float64"), estimator=estimator, per_example=True, **options)
    assert bound.per_example is not None
    return bound.per_example


def close(a: Tensor, b: Tensor, relative: float, law: str) -> None:
    """AssertionError with the law and the difference, if a and b differ by more than `relative`."""
    error = float((a - b).abs().max() / (1 + b.abs().max()))
    hold(error <= relative, f"{law}: off by {error:.3g}, relative")


def hold(holds: bool, law: str) -> None:
    """AssertionError with the law unless it holds."""
    if not holds:
        raise AssertionError(law)
