"""The stretches of the chain that a result reports."""

from __future__ import annotations

from torch import Tensor

from nelbo.bound.designs import BINS, bin_of_cells
from nelbo.bound.estimate import Stratum
from nelbo.bound.problem import Problem


def of(problem: Problem, bins: Tensor) -> tuple[Stratum, ...]:
    """The stretches of the chain that have cells, with their ends."""
    edge = bin_of_cells(problem)
    found = []
    for b in range(BINS):
        cells = (edge == b).nonzero()[:, 0]
        if len(cells):
            ends = [problem.place(float(u) / len(problem.cells)) for u in (cells[0], cells[-1] + 1)]
            value, variance, count = bins[b].tolist()
            found.append(Stratum(ends[1][0], ends[0][0], ends[1][1], ends[0][1], value, variance, int(count)))
    return tuple(found)
