"""Choices that a network alone does not determine: decoder, prior and clipping, and `Overrides` of a model's own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from nelbo.arguments import numbers
from nelbo.errors import UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian, Spread
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Clip, Reverse, Variance, parse_variance
from nelbo.process.levels import Path
from nelbo.process.schedule import Schedule, Table
from nelbo.typing import Json

DECODERS = ("discretized_gaussian", "categorical", "continuous_gaussian")


def decoder_for(
    choice: str | Decoder | None, domain: DataDomain, schedule: Schedule, policy: Variance, first: int = 0
) -> Decoder:
    """The decoder called `choice`; the policy gives its variance from levels `first`, `first` + 1 of the full table.

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
    if choice not in [*DECODERS]:
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
    variance = policy.of_decoder(ends[0], ends[1])
    spread, variance = (variance, None) if isinstance(variance, Spread) else (None, variance)
    make = DiscretizedGaussian if choice == "discretized_gaussian" else ContinuousGaussian
    return make(variance, spread)


def prior_for(schedule: Schedule) -> GaussianPrior:
    """N(0, I), or N(0, σ²) of the last level if the path is variance exploding."""
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


@numbers
@dataclass(frozen=True)
class Overrides:
    """Choices that replace those of a model; None keeps the model's own. On the command line they are flags.

    variance, decoder: names as in `from_callable`. bins, range: number of codes, and the values of the first and last
    code. clip: True clamps x̂ to the range of the data, a pair to that range, False not at all.
    """

    variance: str | Variance | None = None
    decoder: str | Decoder | None = None
    bins: int | None = None
    range: tuple[float, float] | None = None
    clip: bool | tuple[float, float] | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def to_json(self) -> Json:
        """The choices, for the result: only those that are not None; parts by their configuration."""
        described: Json = {}
        for name, value in vars(self).items():
            if isinstance(value, (Variance, Decoder)):
                described[name] = value.to_config()
            elif value is not None:
                described[name] = list(value) if isinstance(value, tuple) else value
        return described

    def domain(self, domain: DataDomain) -> DataDomain:
        """The domain with the bins and range chosen here."""
        low, high = (domain.low, domain.high) if self.range is None else self.range
        return DataDomain(domain.shape, domain.bins if self.bins is None else self.bins, float(low), float(high))

    def apply(self, model: DiffusionModel) -> DiffusionModel:
        """The model with these choices instead of its own.

        A decoder whose variance followed from the model's variance policy follows the new one; any other decoder is
        kept unless one is chosen. Errors: UsageError and UnknownNameError as of the parts, if they do not fit together.
        """
        if not self:
            return model
        domain = self.domain(model.domain)
        old = model.reverse.variance
        policy = old if self.variance is None else parse_variance(self.variance)
        clip = model.reverse.clip if self.clip is None else clip_for(self.clip, domain)
        first = getattr(model.grid, "first", 0)
        decoder: str | Decoder = model.decoder if self.decoder is None else self.decoder
        if self.decoder is None and self.variance is not None and decoder_follows(model, old, first):
            decoder = model.decoder.kind
        return dataclasses.replace(
            model,
            domain=domain,
            reverse=Reverse(policy, clip),
            decoder=decoder_for(decoder, domain, model.schedule, policy, first),
        )


def decoder_follows(model: DiffusionModel, policy: Variance, first: int) -> bool:
    """Whether the model's decoder is the one that follows from its own policy."""
    try:
        usual = decoder_for(model.decoder.kind, model.domain, model.schedule, policy, first)
    except UsageError:
        return False
    return usual.to_config() == model.decoder.to_config()
