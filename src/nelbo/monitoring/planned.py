"""Where along the chain the bound is expected to lie, of the data alone: before there is a network, or a first loss.

A Gaussian is fitted to the data. With the variances w_i of its principal directions, the best network for it errs at
the log-SNR λ by

    E‖ε − ε̂‖² = Σ_i w_i e^λ / (1 + w_i e^λ)

and a cell of the chain with scale s costs s · E‖ε − ε̂‖². Draws of the value go where this is large. The gradient of a
draw is 2 s (ε̂ − ε)ᵀ ∂ε̂, of the size s √E‖ε − ε̂‖² where the network's own derivative varies little, and draws of
gradients go where that is large. A part of both is even in the scales, that is in what a network which predicts nothing
costs, so that no weight is large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.gaussian_controls import Controls
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Problem
from nelbo.data import readers
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.schedule import Table
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.workers import Alone, Run, Workers

VALUES, GRADIENTS = (1.0, 0.3), (0.5, 0.1)
"""Of a density: the power of the expected error that it follows, and the part of it that does not."""
_FITTED = 2048
"""Most examples that the Gaussian is fitted to."""


def density(
    problem: Problem, place: Tensor, scale: Tensor, workers: Workers, form: tuple[float, float] = VALUES
) -> Tensor:
    """p (M,), which sum to 1, of cells at −λ = place (M,) with scales (M,); even in the scales for a chain without
    Gaussian. form: VALUES or GRADIENTS."""
    even = scale / scale.sum()
    chosen = Purpose.MONITOR_EXAMPLES.permutation(problem.seed, problem.examples, draw=2)[:_FITTED].sort().values
    controls = problem.fit_controls(chosen, workers)
    if not isinstance(controls, Controls):
        return even
    surrogate = controls.surrogate
    spectrum = torch.cat([surrogate.variances, surrogate.variances.new_tensor([surrogate.rest])]).double().cpu()
    counts = torch.ones_like(spectrum)
    counts[-1] = surrogate.dimensions - len(surrogate.variances)
    signal = (-place)[:, None] + spectrum.log()
    power, even_share = form
    expected = scale * (signal.sigmoid() @ counts) ** power
    return (1 - even_share) * expected / expected.sum() + even_share * even


@numbers
def planned_times(model: DiffusionModel, data: Any, *, seed: int = 0, cells: int = 96) -> TimeSampler:
    """The times of `nelbo.bound_loss`, drawn where its gradient on such data is expected to be large.

    Give it as `times=`. data: as of `nelbo.evaluate`; those that are trained on, or a part of them. seed: of the choice
    of at most 2,048 of them. cells: of [0, 1], on each of which the density is constant; a table has one a level. The
    weights are 1/p, so that the loss stays unbiased, and times are of low discrepancy. Errors: those of
    `nelbo.evaluate` for data that do not fit the model.
    """
    if not isinstance(model, DiffusionModel):
        raise UsageError(f"times of a {type(model).__name__}", "give what nelbo.from_callable made")
    if cells < 1:
        raise UsageError(f"cells={cells}", "give a number of cells from 1 on")
    examples = readers.whole(data, "planned times", "their density is of the gradient of whole examples")
    chain: GaussianChain = prepare(model, examples, Run(seed=seed)).chain
    if isinstance(model.schedule, Table):
        place, scale = chain.cells.place, chain.cells.scale
    else:
        logsnr = model.schedule.logsnr(torch.linspace(0, 1, cells + 1, dtype=torch.float64)).detach().cpu()
        place, scale = -(logsnr[:-1] + logsnr[1:]) / 2, logsnr[:-1] - logsnr[1:]
    p = density(chain, place, scale, Alone(), GRADIENTS)
    times = TimeSampler(TimeSampling.PLANNED, len(p))
    times.fixed.copy_(p * len(p))
    return times
