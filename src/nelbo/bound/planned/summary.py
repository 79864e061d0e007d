"""The result of a design's draws: values and variances of both random terms, and where along the chain they lie.

Both designs (`pooled.py`, `per_example.py`) estimate, from draws independent of the fit,

    mean of the bound = mean prior + mean of the fit over all examples (closed form) + mean of (y − fit − a·n)/(p N q),

and both put two independent draws in every stratum of the cells, so that half their squared difference is an unbiased
estimate of the stratum's variance (the per-example design, of many examples, for a part of them: `collapsed.py`). The
pooled design draws examples at random, with probabilities q: cheapest for a
coarse answer. The per-example design (q = 1/N) gives every example its own strata, so that differences between examples
cost nothing: cheapest for a fine one. Both correct the fit by their own draws (`crossfit.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate, PerExample, Spread, Stratum, TermEstimate
from nelbo.bound.planned.regression import Features, TermFit
from nelbo.bound.problem import Problem
from nelbo.typing import Json

BINS = 16
"""Strata of the chain that results report: as many rows as a table or a figure shows well."""


@dataclass(frozen=True, eq=False)
class ExampleValues:
    """Per-example values (N,) of the two random terms, and their errors (N, k): e such that the Monte Carlo variance of
    an example's value is ‖e‖². Of two draws in every stratum they are linear in the draws, and those of a difference
    are the difference of errors. ‖e‖² is right on average, and has as many degrees of freedom as pairs of draws."""

    diffusion: Tensor
    reconstruction: Tensor
    diffusion_errors: Tensor
    reconstruction_errors: Tensor


@dataclass(frozen=True, eq=False)
class Summary:
    """The mean over examples by all draws so far, in nats: values and Monte Carlo variances of the two random terms,
    contributions (value, variance, draws) of BINS bins of cells, per-example values or None, the degrees of freedom of
    the variance, and the third cumulants of both terms' errors, nats³."""

    diffusion: tuple[float, float]
    reconstruction: tuple[float, float]
    bins: Tensor
    examples: ExampleValues | None
    freedom: float
    third: tuple[float, float] = (0.0, 0.0)

    @property
    def value(self) -> float:
        """Both terms."""
        return self.diffusion[0] + self.reconstruction[0]

    @property
    def variance(self) -> float:
        """Of both terms; their draws are independent."""
        return self.diffusion[1] + self.reconstruction[1]

    def stopped(self) -> Summary:
        """The result where draws were stopped by its variance, less the bias −K₃/V of that (see `error_bars.py`), at
        most one standard error. The bins take the diffusion term's by their variances, the examples equal parts."""
        V = self.variance
        if not 0 < V < math.inf:
            return self
        most = math.sqrt(V)
        d, r = (min(max(third / V, -most), most) for third in self.third)
        bins = self.bins.clone()
        bins[:, 0] += d * bins[:, 1] / bins[:, 1].sum().clamp_min(1e-300)
        rows = self.examples
        if rows is not None:
            rows = replace(rows, diffusion=rows.diffusion + d, reconstruction=rows.reconstruction + r)
        return replace(
            self,
            examples=rows,
            diffusion=(self.diffusion[0] + d, self.diffusion[1]),
            reconstruction=(self.reconstruction[0] + r, self.reconstruction[1]),
            bins=bins,
        )

    def estimate(
        self, prior: Tensor, strata: tuple[Stratum, ...], spreads: list[Spread], estimator: Json, note: str | None
    ) -> Estimate:
        """With the prior (N,) of every example. spreads: how examples differ in the diffusion term, the reconstruction
        and the whole, where they have no values of their own."""
        rows = None
        if self.examples is not None:
            v, rv = self.examples.diffusion, self.examples.reconstruction
            w, rw = (e.square().sum(1) for e in (self.examples.diffusion_errors, self.examples.reconstruction_errors))
            rows = PerExample(prior + v + rv, (w + rw).sqrt(), prior, v, rv)
            spreads = [Spread(p, -float(e.mean())) for p, e in ((v, w), (rv, rw), (rows.nats, w + rw))]
        data = [(s.variance, s) for s in spreads]
        return Estimate(
            prior=TermEstimate.of(prior, torch.zeros_like(prior)),
            diffusion=TermEstimate(*self.diffusion, *data[0]),
            reconstruction=TermEstimate(*self.reconstruction, *data[1]),
            total=TermEstimate(float(prior.mean()) + self.value, self.variance, *data[2]),
            strata=strata,
            per_example=rows,
            estimator=estimator,
            note=note,
        )


def residuals(fit: TermFit, features: Features, examples: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """y − fit − a·n of draws, (n,)."""
    return columns[:, 0] - fit.predict(cells, features[examples]) - fit.control(cells, columns[:, 1:])


def binned(
    problem: Problem, cells: Tensor, residual: Tensor, fit: TermFit, features: Tensor, share: float = 1.0
) -> Tensor:
    """(BINS, 3): value, variance and number of draws of each bin of cells, from weighted residuals (n,) of a fit for
    examples of mean features (q,).

    share: of the examples that these draws stand for, where several calls are added up.
    """
    n = max(1, len(residual))
    bins = bin_of_cells(problem)
    bin_of_draws = bins[cells]
    mean = fit.mean + fit.size * (fit.weights @ features)
    total = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, mean)
    first = torch.zeros(BINS, dtype=torch.float64).index_add(0, bin_of_draws, residual) / n
    second = torch.zeros(BINS, dtype=torch.float64).index_add(0, bin_of_draws, residual.square()) / n
    count = torch.zeros(BINS, dtype=torch.float64).index_add(0, bin_of_draws, torch.ones_like(residual))
    variance = share**2 * (second - first.square()).clamp_min(0) / n
    return torch.stack([share * (total + first), variance, count], 1)


def bin_of_cells(problem: Problem) -> Tensor:
    """The bin, 0..BINS−1, of every cell (M,): even in the coordinate from the first level to the last."""
    cells = problem.cells
    if not len(cells):
        return torch.zeros(0, dtype=torch.long)
    first, last = cells.start[0], cells.stop[-1]
    return ((cells.place - first) / (last - first) * BINS).floor().long().clamp(0, BINS - 1)


def strata(problem: Problem, bins: Tensor) -> tuple[Stratum, ...]:
    """The bins (BINS, 3) that have cells as strata with their ends."""
    of_cells = bin_of_cells(problem)
    rows = []
    for b in range(BINS):
        cells = (of_cells == b).nonzero()[:, 0]
        if len(cells):
            near, far = (problem.position(float(edge) / len(problem.cells)) for edge in (cells[0], cells[-1] + 1))
            value, variance, count = bins[b].tolist()
            rows.append(Stratum(far[0], near[0], far[1], near[1], value, variance, int(count)))
    return tuple(rows)
