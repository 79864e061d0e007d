"""Networks for tests: a denoiser in any convention of `nelbo.from_callable`, and the exact denoiser of known data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.denoiser import TimeInput
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.process.levels import Levels, Path, column
from nelbo.process.prediction import Output
from nelbo.process.schedule import Interpolated, Schedule, Table

Network = Callable[[Tensor, Tensor], Tensor]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""x̂ (B, …) from y = z/α = x + (σ/α) ε (B, …) and λ (B,): a denoiser without any convention."""


def levels_of(schedule: Schedule, time: TimeInput | str, value: Tensor, path: Path | None = None) -> Levels:
    """The levels of `schedule` at which a network gets `value` (B,) as its time: the inverse of `TimeInput.of`.

    path: the path of the network's own input if it is not that of the schedule (EDM's networks: VE).
    """
    time, path = TimeInput.parse(time), path or schedule.path
    value = value.double()
    if time is TimeInput.INDEX:
        if isinstance(schedule, Table):
            return schedule.at_index(value.long())
        if isinstance(schedule, Interpolated):
            return schedule.at(value / (len(schedule.table) - 1))
        raise UsageError(f"a table position on a {schedule.kind!r} schedule", "choose another time")
    if time is TimeInput.UNIT:
        ends = schedule.at(torch.tensor([0.0, 1.0])).time if schedule.table_length is None else None
        return schedule.at(value if ends is None else (value - ends[0]) / (ends[1] - ends[0]))
    if time is TimeInput.LOGSNR:
        logsnr = value
    else:
        log_sigma = value.log() if time is TimeInput.SIGMA else 4 * value
        logsnr = {
            Path.VE: -2 * log_sigma,
            Path.VP: torch.log(-torch.expm1(2 * log_sigma)) - 2 * log_sigma,
            Path.FLOW: 2 * (torch.log(-torch.expm1(log_sigma)) - log_sigma),
        }[path]
    return schedule.at(schedule.time_of(logsnr))


@numbers
def as_network(
    denoise: Denoise,
    schedule: Schedule,
    predicts: str | Output = "eps",
    time: str | TimeInput = "index",
    *,
    sigma_data: float | None = None,
    raw_variance: Denoise | None = None,
) -> Network:
    """A network fn(z, t) in a convention of `nelbo.from_callable` that predicts what `denoise` does.

    raw_variance: the second half of the channels of a network that predicts its variance too. The formulas are written
    out here from the definitions and share no code with those that invert them.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> schedule = nelbo.schedules.linear(T=10)
    >>> net = testing.as_network(lambda y, logsnr: 0 * y, schedule, "v", "unit")          # x̂ = 0, so v = αε = αz/σ
    >>> level = schedule.at(torch.tensor([0.5]))
    >>> z = torch.ones(1, 2, dtype=torch.float64)
    >>> bool(torch.allclose(net(z, level.t), level.alpha[:, None] * z / level.sigma[:, None]))
    True
    """
    output, time = Output.parse(predicts), TimeInput.parse(time)

    def network(z: Tensor, t_network: Tensor) -> Tensor:
        z_network = z.double()
        t = levels_of(schedule, time, t_network, Path.VE if output.edm else None)
        alpha, sigma = column(t.alpha, z), column(t.sigma, z)
        noise = sigma / alpha
        if output is Output.EDM_F:
            z_network = z_network * (noise.square() + _number(sigma_data) ** 2).sqrt()
        y = z_network if output.edm else z_network / alpha
        x0 = denoise(y, t.logsnr)
        eps = (y - x0) / noise
        if output is Output.EDM_F:
            d = _number(sigma_data)
            total = noise.square() + d**2
            value = (x0 - d**2 / total * y) * total.sqrt() / (noise * d)
        elif output is Output.VELOCITY:
            d_alpha, d_sigma = _slopes(t)
            value = column(d_alpha, z) * x0 + column(d_sigma, z) * eps
        else:
            value = {
                Output.X0: x0,
                Output.EDM_D: x0,
                Output.EPS: eps,
                Output.SCORE: -eps / sigma,
                Output.V: alpha * eps - sigma * x0,
            }[output]
        if raw_variance is not None:
            value = torch.cat([value, raw_variance(y, t.logsnr)], 1)
        return value.to(z.dtype)

    return network


def oracle(data: GaussianData | MixtureData) -> Denoise:
    """The exact posterior mean of `data` as a denoiser without a convention; any shape (B, …) of D elements."""
    exact = data.denoiser()

    def denoise(y: Tensor, logsnr: Tensor) -> Tensor:
        t = Levels(torch.zeros_like(logsnr), logsnr, Path.VE)
        return exact(y.flatten(1), t).x0.reshape(y.shape)

    return denoise


def _slopes(t: Levels) -> tuple[Tensor, Tensor]:
    """dα/dtime and dσ/dtime by the derivative of the path and the slope of the schedule, each (B,)."""
    if t.slope is None:
        raise UsageError("a velocity on a table of levels", "choose a schedule with a law")
    with torch.enable_grad():
        logsnr = t.logsnr.detach().clone().requires_grad_(True)
        levels = Levels(t.t, logsnr, t.path)
        d_alpha, d_sigma = (
            torch.autograd.grad(v.sum(), logsnr)[0] if v.requires_grad else torch.zeros_like(v)  # VE: α = 1
            for v in (levels.alpha, levels.sigma)
        )
    return d_alpha * t.slope, d_sigma * t.slope


def _number(sigma_data: float | None) -> float:
    if sigma_data is None:
        raise UsageError("a network that predicts 'edm_F' without sigma_data", "give sigma_data=0.5, say")
    return sigma_data
