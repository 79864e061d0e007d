"""`from_callable`: any network as a `DiffusionModel`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.errors import UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior, Prior
from nelbo.model.reverse import Clip, Reverse, Variance, parse_variance
from nelbo.process.grid import Continuous, Full
from nelbo.process.schedule import Schedule, Table

DECODERS = ("discretized_gaussian", "categorical", "continuous_gaussian")


def from_callable(
    fn: Callable[..., Tensor],
    *,
    schedule: Schedule,
    domain: DataDomain,
    predicts: str = "eps",
    time: str = "index",
    variance: str | Variance = "beta_tilde",
    decoder: str | Decoder | None = None,
    prior: Prior | None = None,
    first_level: int | None = None,
    clip: bool | tuple[float, float] = False,
) -> DiffusionModel:
    """The model p_θ that a network fn(z_t, t, **condition) → (B, *shape) stands for.

    predicts: "eps", "x0" or "v". time: what fn takes as t (B,): "index" (int64, 0..T−1 = DDPM's step − 1), "unit"
    (float, t/T) or "logsnr". variance: "beta_tilde", "beta" or a policy. decoder: "discretized_gaussian" (where the
    domain has bins; its variance follows from the policy and the full table), "categorical" (VDM's) or
    "continuous_gaussian"; chosen by the domain where None. prior: N(0, I) where None. first_level: table index where
    the chain begins (0). clip: True clamps x̂ to the domain's range, a pair to that range.

    A tabulated schedule gives the full grid, a law the continuous one. Errors: UsageError, UnknownNameError.

    >>> import nelbo, torch
    >>> model = nelbo.from_callable(lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.linear(T=10),
    ...                             domain=nelbo.DataDomain((1, 8, 8), bins=17))
    >>> model.steps
    10
    """
    if not callable(fn):
        raise UsageError(f"from_callable was given a {type(fn).__name__}", "give a function or module fn(z, t)")
    policy = parse_variance(variance)
    first = first_level or 0
    if isinstance(schedule, Table):
        grid = Full(first)
    elif first_level is None:
        grid = Continuous()
    else:
        raise UsageError(f"first_level={first_level} on a schedule without a table", "choose the first time by a grid")
    if clip is True:
        bounds: Clip | None = Clip(domain.low, domain.high)
    else:
        bounds = Clip(*clip) if clip else None
    return DiffusionModel(
        domain=domain,
        schedule=schedule,
        grid=grid,
        denoiser=NetworkDenoiser(fn, predicts, time),
        reverse=Reverse(policy, bounds),
        decoder=_decoder(decoder, domain, schedule, policy, first),
        prior=prior or GaussianPrior(),
    )


def _decoder(
    choice: str | Decoder | None, domain: DataDomain, schedule: Schedule, policy: Variance, first: int
) -> Decoder:
    if isinstance(choice, Decoder):
        return choice
    if choice is None:
        if not domain.discrete:
            choice = "continuous_gaussian"
        else:
            choice = "discretized_gaussian" if isinstance(schedule, Table) else "categorical"
    if choice not in DECODERS:
        raise UnknownNameError.of("decoder", choice, DECODERS)
    if choice == "categorical":
        return Categorical()
    if not isinstance(schedule, Table):
        if choice == "continuous_gaussian":
            return ContinuousGaussian()
        raise UsageError(
            "the decoder 'discretized_gaussian' takes its variance from the first two levels of a table, "
            f"and a {schedule.kind!r} schedule has none",
            "give decoder=nelbo.decoders.DiscretizedGaussian(variance), or 'categorical'",
        )
    if len(schedule.table) < first + 2:
        raise UsageError(f"a chain of {len(schedule.table)} level(s)", "give the decoder's variance explicitly")
    ends = schedule.at_index(torch.tensor([first, first + 1]))
    spread = policy.of_decoder(ends[0], ends[1])
    return DiscretizedGaussian(spread) if choice == "discretized_gaussian" else ContinuousGaussian(spread)
