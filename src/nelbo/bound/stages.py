"""Stages of one estimate put together: their averages, their rows of examples, their stretches of the chain."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound import designs
from nelbo.bound.designs import BINS, Rows, Stage
from nelbo.bound.estimate import Stratum
from nelbo.bound.problem import Problem


def merge_rows(stages: list[Stage]) -> Rows | None:
    """The rows of several per-example stages as one, with the stages' weights; None where a stage has none."""
    whole = sum(s.weight for s in stages)
    parts = [(s.weight / whole, s.examples) for s in stages if s.examples is not None]
    if len(parts) < len(stages):
        return None
    return Rows(
        diffusion=sum((w * r.diffusion for w, r in parts), torch.zeros(1, dtype=torch.float64)),
        reconstruction=sum((w * r.reconstruction for w, r in parts), torch.zeros(1, dtype=torch.float64)),
        diffusion_errors=torch.cat([w * r.diffusion_errors for w, r in parts], 1),
        reconstruction_errors=torch.cat([w * r.reconstruction_errors for w, r in parts], 1),
    )


def averaged(stages: list[Stage]) -> Stage:
    """The stages averaged with weights in proportion to their sizes."""
    whole = sum(s.weight for s in stages)
    share = [s.weight / whole for s in stages]

    def mean(name: str) -> tuple[float, float]:
        parts = [getattr(s, name) for s in stages]
        return (
            sum(w * p[0] for w, p in zip(share, parts, strict=True)),
            sum(w**2 * p[1] for w, p in zip(share, parts, strict=True)),
        )

    weight = torch.tensor(share, dtype=torch.float64)[:, None]
    bins = torch.stack([s.bins for s in stages])
    columns = [(weight * bins[..., 0]).sum(0), (weight.square() * bins[..., 1]).sum(0), bins[..., 2].sum(0)]
    return Stage(mean("diffusion"), mean("reconstruction"), torch.stack(columns, 1), None, whole)


def stretches(problem: Problem, bins: Tensor) -> tuple[Stratum, ...]:
    """The stretches of the chain that have cells, with their ends."""
    edge = designs.bin_of_cells(problem)
    found = []
    for b in range(BINS):
        cells = (edge == b).nonzero()[:, 0]
        if len(cells):
            ends = [problem.place(float(u) / len(problem.cells)) for u in (cells[0], cells[-1] + 1)]
            value, variance, count = bins[b].tolist()
            found.append(Stratum(ends[1][0], ends[0][0], ends[1][1], ends[0][1], value, variance, int(count)))
    return tuple(found)
