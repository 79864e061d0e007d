"""What an adapter must choose where a network alone does not say it: decoder, prior and clipping."""

from __future__ import annotations

import torch

from nelbo.errors import UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian, Spread
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Clip, Variance
from nelbo.process.levels import Path
from nelbo.process.schedule import Schedule, Table

DECODERS = ("discretized_gaussian", "categorical", "continuous_gaussian")


def decoder_for(
    choice: str | Decoder | None, domain: DataDomain, schedule: Schedule, policy: Variance, first: int = 0
) -> Decoder:
    """The decoder called `choice`, its variance by the policy from levels `first` and `first` + 1 of the full table.

    None chooses by the domain: a density for real data; for codes the discretised Gaussian on a table, VDM's
    categorical decoder on a law. Errors: UsageError, UnknownNameError.
    """
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
    found = policy.of_decoder(ends[0], ends[1])
    variance, spread = (None, found) if isinstance(found, Spread) else (found, None)
    make = DiscretizedGaussian if choice == "discretized_gaussian" else ContinuousGaussian
    return make(variance, spread)


def prior_for(schedule: Schedule) -> GaussianPrior:
    """N(0, I), or N(0, σ²) of the last level where the path is variance exploding."""
    if schedule.path is not Path.VE:
        return GaussianPrior()
    return GaussianPrior(0.0, float(schedule.at(torch.ones(1, dtype=torch.float64)).sigma.square()))


def clip_for(choice: bool | tuple[float, float] | None, domain: DataDomain) -> Clip | None:
    """True: the domain's range; a pair: that range; False or None: x̂ is used as predicted. Errors: UsageError."""
    if choice is True:
        return Clip(domain.low, domain.high)
    if not choice:
        return None
    try:
        low, high = (float(v) for v in choice)
    except (TypeError, ValueError):
        raise UsageError(f"clip={choice!r}", "give True, False or a pair (low, high)") from None
    return Clip(low, high)
