"""The law of adapters: a network of known data, wrapped, is the exact model of those data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.denoiser import TimeInput
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process.levels import column
from nelbo.process.prediction import Output
from nelbo.process.schedule import Schedule
from nelbo.testing.hold import close, hold, per_example, some_levels
from nelbo.testing.networks import Denoise, Network, as_network, oracle

GAUSSIAN = GaussianData(
    torch.tensor([0.3, -0.5, 0.1]).double(),
    torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]]).double(),
)
"""The data that adapters are tried on unless others are given."""


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
    data tried by default); schedule, predicts, time: the convention in which it is told what the network is, as of
    `nelbo.from_callable`, the schedule being the one that the network was trained on.

    The laws: x̂ is the exact posterior mean at every level, and the bound is that of the exact model at the same noise,
    both to `relative`; where the schedule is a law and examples are vectors, the continuous bound with exact ends is
    −log p(x) within 4.5 standard errors. AssertionError says which is broken.

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
        said = model.denoiser(z, levels).x0
    for k in range(len(levels)):
        scale = 1 + float(exact[k].abs().max()) + float((levels.sigma / levels.alpha)[k]) * 1e-3
        error = float((said[k] - exact[k]).abs().max()) / scale
        hold(
            error <= relative,
            f"x̂ is not the exact posterior mean at log-SNR {float(levels.logsnr[k]):.4g} (t = {float(levels.t[k]):.4g})"
            f": it errs by {error:.3g} of its size; check the output and the time that the adapter declares",
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
        found = per_example(ours, points, Stratified(32, 2))
        z_scores = (found.nats + data.log_prob(points)) / found.standard_error
        mean = float(z_scores.mean()) * len(points) ** 0.5
        hold(abs(mean) <= 4.5, f"the continuous bound is {mean:.3g} standard errors from −log p(x)")
