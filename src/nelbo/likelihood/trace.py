"""The divergence of the flow, tr ∂v/∂y: exactly, or by Hutchinson's estimator with keyed random signs.

    exact         Σ_d ∂v_d/∂y_d, by D backward passes
    Hutchinson    eᵀ (∂v/∂y) e for random signs e: one backward pass a probe, unbiased because E e eᵀ = I

Source: Hutchinson 1990; Grathwohl et al. 2019 (FFJORD), §3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.typing import Shape

EXACT_DIMENSIONS = 16
"""Dimensions up to which the trace is exact unless the caller says otherwise. The value is right with any limit: a
higher one pays more backward passes an evaluation and is spared the noise of probes."""


@dataclass(frozen=True)
class ExactTrace:
    """The exact trace: as many backward passes an evaluation as the data have dimensions."""

    probes = 0

    def __str__(self) -> str:
        return "exact"


@numbers
@dataclass(frozen=True)
class Hutchinson:
    """Hutchinson's estimator with so many probes an example and starting point, fixed along a solve."""

    probes: int = 1

    def __post_init__(self):
        if self.probes < 1:
            raise UsageError(f"{self.probes} probes", "give a whole number ≥ 1, or exact_trace=True")

    def __str__(self) -> str:
        return f"{self.probes} probes"


Trace = ExactTrace | Hutchinson


def parse(
    trace: Trace | None, probes: int | None, exact: bool | None, *, dimensions: int, default_probes: int
) -> Trace:
    """The trace that the keywords of a verb ask for: one of them at most. Errors: UsageError.

    Where none does, the exact trace up to `EXACT_DIMENSIONS` and `default_probes` probes above.
    """
    if exact and probes is not None:
        raise UsageError(f"an exact trace and {probes} probes were both asked for", "give one of them, or none")
    if trace is not None and (exact is not None or probes is not None):
        raise UsageError(f"trace={trace!r} together with probes or exact_trace", "give one of them, or none")
    if isinstance(trace, Trace):
        return trace
    if trace is not None:
        raise UsageError(f"trace={trace!r}", "give nelbo.likelihood.ExactTrace() or nelbo.likelihood.Hutchinson(2)")
    if probes is not None:
        return Hutchinson(probes)
    if exact or (exact is None and dimensions <= EXACT_DIMENSIONS):
        return ExactTrace()
    return Hutchinson(default_probes)


def rademacher(seed: int, examples: Tensor, draw: int, probe: int, shape: Shape, device: torch.device) -> Tensor:
    """A probe: random signs ±1 (B, *shape), keyed by (seed, example, probe, draw)."""
    return signs(Purpose.ODE_PROBES.uniform(seed, examples, probe, draw, shape, device=device))


def signs(u: Tensor) -> Tensor:
    """Signs ±1 of uniform numbers u."""
    return torch.where(u < 0.5, -1.0, 1.0)


def divergence(v: Tensor, y: Tensor, probes: list[Tensor]) -> Tensor:
    """tr ∂v/∂y of v (B, …), a function of y (B, …): eᵀ (∂v/∂y) e for each probe e (B, …), (P, B); without probes the
    exact trace, (1, B)."""
    if probes:
        traces = []
        for i, e in enumerate(probes):
            (row,) = torch.autograd.grad((v * e).sum(), y, retain_graph=i < len(probes) - 1)
            traces.append((row * e).flatten(1).sum(1))
        return torch.stack(traces)
    flat = v.flatten(1)
    D = flat.shape[1]
    trace = torch.zeros(len(y), dtype=v.dtype, device=v.device)
    for d in range(D):
        (row,) = torch.autograd.grad(flat[:, d].sum(), y, retain_graph=d < D - 1)
        trace += row.flatten(1)[:, d]
    return trace[None]
