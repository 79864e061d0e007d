"""The probability-flow ODE of a model and the density that it gives, in the clock log-SNR λ.

With s(λ) = d log σ/dλ of the path (d log α/dλ = s + ½), on every path, VP, VE or flow,

    dz/dλ = s z + ½ α x̂(z, λ),        ∇·(dz/dλ) = s D + ½ α tr ∂x̂/∂z,

    log p(z_1) = log p(z_L) + ∫_{λ_1}^{λ_L} ∇·(dz/dλ) dλ        (λ falls from the first level to the last).

Source: Song et al. 2021, eq. 13 and 39; Chen et al. 2018, theorem 1; in log-SNR Kingma & Gao 2023, app. A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.ragged.elements import over
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.likelihood.solvers import Solver
from nelbo.likelihood.trace import divergence
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels, Path, column
from nelbo.process.schedule import Schedule, Table
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the flow ends: z at the last level (B, …), and ∫ ∇·(dz/dλ) dλ by probe (P, B), P = 1 for exact traces."""

    z: Tensor
    divergence: Tensor


@equation("pf-ode")
def drift(x0: Tensor, z: Tensor, at: Levels) -> Tensor:
    """dz/dλ = (d log σ/dλ) z + ½ α x̂, shape of z; x̂ = x0 predicted at z and levels `at` (B,).

    It is (dα/dλ) x̂ + (dσ/dλ) ε̂, and Song et al.'s f − ½ g² ∇ log q in the clock λ. Source: Song et al. 2021, eq. 13.
    """
    return column(at.path.dlog_sigma(at.logsnr), z) * z + 0.5 * column(at.alpha, z) * x0


def law(schedule: Schedule) -> Schedule:
    """The law λ(t) that the flow follows: the schedule itself, or a table's interpolation, linear in λ."""
    return schedule.interpolated() if isinstance(schedule, Table) else schedule


def level_at(schedule: Schedule, logsnr: float, batch: int, device: torch.device) -> Levels:
    """The level of a law at one log-SNR, for `batch` examples."""
    value = torch.full((batch,), logsnr, dtype=torch.float64, device=device)
    time = schedule.time_of(value).clamp(0, 1)  # the ends of the chain are ends of the law up to rounding
    return replace(schedule.at(time), logsnr=value)


def span(model: DiffusionModel) -> tuple[float, float]:
    """The log-SNR of the first and the last level. Errors: UsageError for a chain of one level."""
    levels = model.levels()
    if len(levels) < 2:
        raise UsageError(
            "the chain has one level, and a flow runs from a first to a last one", "use a grid of two levels or more"
        )
    return float(levels.logsnr[0]), float(levels.logsnr[-1])


def predicted(model: DiffusionModel, z: Tensor, at: Levels, condition: Condition | None) -> Tensor:
    """x̂ at z (B, …) as a function of z that autograd can differentiate. Errors: UsageError where it cannot."""
    try:
        x0 = model.predict(z, at, condition).x0
    except (RuntimeError, IndexError) as error:
        if at.index is not None and any(word in str(error) for word in ("indices", "Long", "Int")):
            raise UsageError(
                f"the network does not accept the table position {float(at.index[0]):.3f}: {error}",
                "the flow runs between the levels of the table, and the network must take fractional positions there",
            ) from None
        raise
    if not x0.requires_grad:
        raise UsageError(
            "the network's prediction carries no gradient, and the likelihood needs its derivative",
            "remove torch.no_grad, inference_mode, detach and .numpy() from the network's own code",
        )
    return x0


def with_divergence(
    model: DiffusionModel,
    y: Tensor,
    at: Levels,
    condition: Condition | None,
    probes: list[Tensor],
    there: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """dy/dλ (B, …) and its divergence (P, B) of y = z σ_VP/σ, the state on the VP path.

    probes: as of `divergence`. there (B, …): what is there; nothing else moves, or counts. Errors: UsageError where the
    prediction carries no gradient.
    """
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        vp = at.on(Path.VP)
        x0 = predicted(model, y * column((at.log_sigma - vp.log_sigma).exp(), y), at, condition)
        v = drift(x0, y, vp)
        if there is not None:
            v = v.where(there, torch.zeros_like(v))
        return v.detach(), divergence(v, y, probes)


def solve(
    model: DiffusionModel,
    z: Tensor,
    first: float,
    last: float,
    *,
    solver: Solver,
    condition: Condition | None = None,
    probes: Sequence[Tensor] = (),
    there: Tensor | None = None,
) -> Solution:
    """Carry z (B, …), float64, from log-SNR `first` to `last` by even steps in λ; the probes stay as they are.

    Whatever the path, the steps are taken on the VP path, whose state neither grows nor shrinks: y = z σ_VP/σ, and the
    change of scale is added to the integral as D log of it. A solve is therefore as good on one path as on another.
    there (B, …): of examples of different size the numbers that are there; z and the probes are zero elsewhere.
    """
    schedule = law(model.schedule)

    def field(y: Tensor, logsnr: float) -> tuple[Tensor, Tensor]:
        return with_divergence(model, y, level_at(schedule, logsnr, len(y), y.device), condition, list(probes), there)

    start, end = (_log_scale(level_at(schedule, logsnr, 1, z.device)) for logsnr in (first, last))
    y, integral = solver.integrate(field, z * start.exp(), first, last)
    D = z[0].numel() if there is None else there.flatten(1).sum(1)
    return Solution(y * (-end).exp(), integral + D * (start - end))


def _log_scale(at: Levels) -> Tensor:
    """log σ_VP/σ of one level, (1,)."""
    return at.on(Path.VP).log_sigma - at.log_sigma


@equation("pf-ode-likelihood")
def log_density(
    model: DiffusionModel,
    z: Tensor,
    *,
    solver: Solver,
    condition: Condition | None = None,
    probes: Sequence[Tensor] = (),
    there: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log p(z_L) (B,) and ∫ ∇·(dz/dλ) dλ (P, B) in nats; their sum is log p(z_1) of the model's flow at z (B, …).

    p(z_L) is the model's own prior. Source: Song et al. 2021, eq. 39. Errors: UsageError.

    >>> import nelbo, torch
    >>> data, solver = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3)), nelbo.likelihood.RK4(32)
    >>> model = data.model(nelbo.schedules.logsnr_linear(9.0, -9.0), nelbo.grids.continuous())
    >>> end, flow = log_density(model, torch.zeros(1, 3).double(), solver=solver)
    >>> round(float(end + flow[0]), 6)              # −1.5 log 2π, the density of N(0, I) at 0
    -2.756816
    """
    solution = solve(model, z, *span(model), solver=solver, condition=condition, probes=probes, there=there)
    return end_density(model, solution.z, there), solution.divergence


def end_density(model: DiffusionModel, z: Tensor, there: Tensor | None = None) -> Tensor:
    """log p(z_L) of the model's prior, (B,) nats; of what is there (B, …) alone, by a prior of independent numbers."""
    last = model.levels()[-1:].to(device=z.device)
    if there is not None:
        return over(there, model.prior.log_density, z, last.expand(len(z)))
    return model.prior.log_density(z, last.expand(len(z)))
