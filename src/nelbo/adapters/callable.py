"""`from_callable`: any network as a `DiffusionModel`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nelbo.adapters.choices import clip_for, decoder_for, prior_for
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.decoder import Decoder
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.prior import Prior
from nelbo.model.reverse import Reverse, Variance, parse_variance
from nelbo.process.grid import Continuous, Full, Grid
from nelbo.process.prediction import Output, no_slope
from nelbo.process.schedule import Schedule, Table

_SCHEDULE = (
    "give nelbo.schedules.linear(T=1000), cosine(…), logsnr_linear(…), flow(…) or edm(…), or of a table "
    "nelbo.schedules.from_betas(betas) or from_alphas_cumprod(ᾱ)"
)
_DOMAIN = "give nelbo.DataDomain((channels, height, width), bins=256), and bins=None for real data"


@numbers
def from_callable(
    fn: Callable[..., Tensor],
    *,
    schedule: Schedule,
    domain: DataDomain,
    predicts: str | Output = "eps",
    time: str = "index",
    variance: str | Variance | Tensor | Sequence[float] = "beta_tilde",
    decoder: str | Decoder | None = None,
    prior: Prior | None = None,
    first_level: int | None = None,
    clip: bool | tuple[float, float] = False,
    sigma_data: float | None = None,
    grid: Grid | None = None,
    trained_on: Examples | Tensor | None = None,
    modules: Sequence[nn.Module] = (),
    stochastic: bool = False,
) -> DiffusionModel:
    """The model p_θ that is defined by a network fn(z_t, t, **condition) → (B, *shape).

    fn: the network, or a function around it. schedule: the law of the noise, of `nelbo.schedules`. domain: shape, range
    and bins of the data. predicts: what fn returns, with z = αx + σε and data at t = 0:

        "eps"       ε̂                       "score"     −ε̂/σ, the gradient of log q(z_t)
        "x0"        x̂                       "velocity"  dz/dt of the schedule's own time; ε̂ − x̂ on schedules.flow
        "v"         αε̂ − σx̂                 "edm_D", "edm_F"   EDM's denoiser, or the network inside it (sigma_data)

    EDM's networks get z/α (F times c_in) and the σ of that, whatever the path of the schedule. sigma_data: the σ_data
    of their preconditioning.

    time: what fn gets as t (B,): "index" (int64, 0..T−1 = DDPM's step − 1), "unit" (float: t/T of a table; the law's
    own time, which is the flow time on schedules.flow), "logsnr" (λ), "sigma" (σ) or "c_noise" (ln σ/4).
    variance: "beta_tilde", "beta", "learned_range" or "learned_log" (fn then returns (B, 2C, …), and the second half
    of axis 1 is its raw variance), an array of T variances, or a policy.
    decoder: "discretized_gaussian" (if the domain has bins; its variance follows from the policy and the full table),
    "categorical" (VDM's) or "continuous_gaussian"; None chooses by the domain.
    prior: None is N(0, I), or N(0, σ²) of the last level on a VE path. first_level: table index at which the chain
    begins (0); for a network whose first steps were never trained, the index of the first that was.
    clip: True clamps x̂ to the domain's range, a pair to that range. grid: None is every level of a table, and the
    continuous interval of a law. trained_on: the examples it was trained on, so that evaluating them gives a warning.

    A function is opened: modules in its closure, defaults, attributes and globals count as its own (see
    `nelbo.model.closure`), in evaluation mode while they are called. modules: those that cannot be found so; without
    them the fingerprint is unknown, and what needs it (state, compress) refuses. stochastic: the network may answer
    differently when it is asked twice, which is otherwise refused.

    Errors: UsageError, UnknownNameError; ShapeError when fn returns another shape.

    >>> import nelbo, torch
    >>> model = nelbo.from_callable(lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.linear(T=10),
    ...                             domain=nelbo.DataDomain((1, 8, 8), bins=17))
    >>> model.steps
    10
    """
    if not callable(fn):
        raise UsageError(f"from_callable was given a {type(fn).__name__}", "give a function or module fn(z, t)")
    remedies = {"schedule": (schedule, Schedule, _SCHEDULE), "domain": (domain, DataDomain, _DOMAIN)}
    for name, (given, kind, remedy) in remedies.items():
        if not isinstance(given, kind):
            raise UsageError(f"the {name} of from_callable is a {type(given).__name__}", remedy)
    policy = parse_variance(variance)
    first = first_level or 0
    if Output.parse(predicts) is Output.VELOCITY and isinstance(schedule, Table):
        raise no_slope()
    if first_level is not None and (grid is not None or not isinstance(schedule, Table)):
        what = "with a grid of its own" if grid is not None else "on a schedule without a table"
        raise UsageError(f"first_level={first_level} {what}", "choose the first level by the grid")
    if grid is None:
        grid = Full(first) if isinstance(schedule, Table) else Continuous()
    denoiser = NetworkDenoiser(
        fn,
        predicts,
        time,
        sigma_data=sigma_data,
        learned_variance=policy.learned,
        stochastic=stochastic,
        modules=modules,
    )
    _check_values(denoiser)
    return DiffusionModel(
        domain=domain,
        schedule=schedule,
        grid=grid,
        denoiser=denoiser,
        reverse=Reverse(policy, clip_for(clip, domain)),
        decoder=decoder_for(decoder, domain, schedule, policy, getattr(grid, "first", 0)),
        prior=prior or prior_for(schedule),
        trained_on=None if trained_on is None else hashes(trained_on, domain),
    )


def _check_values(denoiser: NetworkDenoiser) -> None:
    """Errors: UsageError where the network was made on the device meta, and its weights were never read."""
    name = next((name for name, p in denoiser.named_parameters() if p.is_meta), None)
    if name is not None:
        raise UsageError(
            f"the network's parameter {name.rpartition('net.')[2]} is on the device meta and has no values",
            "read its weights first: net.to_empty(device='cpu'), then net.load_state_dict(weights)",
        )


def hashes(data: Examples | Tensor, domain: DataDomain) -> Tensor:
    """(N,) int64: the hashes by which `data` are recognised. Errors: those of data that do not fit the domain."""
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    return dataclasses.replace(examples, data=domain.checked(examples.data, "trained_on")).hashes
