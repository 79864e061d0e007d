"""What a coarser precision of the network does to the value: the same draws in both, and the mean of the difference.

The error bar of a bound is about noise; rounding in the network moves the value itself, the same way in every draw, and
no number of draws shows it. Common noise does: the difference of one draw in two precisions is all rounding.
"""

from __future__ import annotations

import math

import torch

from nelbo.bound.pooled import anyone
from nelbo.bound.problem import Problem
from nelbo.maths import random
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel

DRAWS = 256
LEAST = 16
"""Fewer draws than these say too little."""
_FIRST = 1 << 30
"""Number of the first draw, out of the way of the estimate's own."""


def note(problem: Problem, reference: DiffusionModel, precision: str, max_nfe: int | None) -> str:
    """A line on how far `precision` moves the bound from that of `reference`, whose network is in float32.

    Costs up to 4·DRAWS evaluations, which are counted and kept within max_nfe.
    """
    each = 2 * (int(len(problem.cells) > 0) + problem.decoder_cost)
    n = DRAWS if max_nfe is None or not each else min(DRAWS, (max_nfe - problem.nfe) // each)
    if n < LEAST:
        return f"{precision} shifts the value; by how much was not measured, for --max-nfe left no evaluations for it"
    running = problem.model
    try:
        ours = _draw(problem, n)
        problem.model = reference
        with reference.denoiser.inference():
            difference = ours - _draw(problem, n)
    except KeyboardInterrupt:
        problem.stopped = True
        return f"{precision} shifts the value; by how much was not measured, for it was interrupted"
    finally:
        problem.model = running
    D = running.domain.dimensions
    value = float(bits_per_dim(float(difference.mean()), D))
    error = float(bits_per_dim(float(difference.std()) / math.sqrt(n), D))
    return f"{precision} shifts the value by {value:+.2g} bits/dim against float32 ({n} paired draws, SE {error:.1g})"


def _draw(problem: Problem, n: int) -> torch.Tensor:
    """n draws (n,) in nats whose mean is that of diffusion and reconstruction together."""
    number = torch.arange(n)
    draws = _FIRST + number
    N = problem.examples
    who = anyone(problem.seed, torch.full((N,), 1 / N), 3, number)
    total = problem.reconstruction(who, draws)
    if len(problem.cells):
        inside = random.uniform(problem.seed, 0, 1, draws, stream=random.Stream.TIME)
        total = total + problem.diffusion_total(who, (number + inside) / n, torch.ones_like(who), draws)
    return total
