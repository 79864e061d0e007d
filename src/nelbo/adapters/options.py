"""What somebody else's model leaves open, said by its user: flags of the command line, recorded in the result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nelbo.adapters.choices import clip_for, decoder_for
from nelbo.errors import UsageError
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import Reverse, Variance, parse_variance
from nelbo.typing import Json


@dataclass(frozen=True)
class Overrides:
    """Choices that replace those of a model; None leaves the model as it is.

    variance, decoder: names as of `from_callable`. bins, range: number of codes, and the values of the first and last
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
        """What was chosen, for the result: only what is not None; parts by their configuration."""
        said: Json = {}
        for name, value in vars(self).items():
            if isinstance(value, (Variance, Decoder)):
                said[name] = value.to_config()
            elif value is not None:
                said[name] = list(value) if isinstance(value, tuple) else value
        return said

    def domain(self, domain: DataDomain) -> DataDomain:
        """The domain with the bins and range chosen here."""
        low, high = (domain.low, domain.high) if self.range is None else self.range
        return DataDomain(domain.shape, domain.bins if self.bins is None else self.bins, float(low), float(high))

    def apply(self, model: DiffusionModel) -> DiffusionModel:
        """The model with these choices in the place of its own.

        A decoder whose variance followed from the model's policy follows the new one; another is kept unless it is
        named. Errors: UsageError and UnknownNameError as of the parts, where they do not fit each other.
        """
        if not self:
            return model
        domain = self.domain(model.domain)
        old = model.reverse.variance
        policy = old if self.variance is None else parse_variance(self.variance)
        clip = model.reverse.clip if self.clip is None else clip_for(self.clip, domain)
        first = getattr(model.grid, "first", 0)
        chosen: str | Decoder = model.decoder if self.decoder is None else self.decoder
        if self.decoder is None and self.variance is not None and _follows(model, old, first):
            chosen = model.decoder.kind
        return dataclasses.replace(
            model,
            domain=domain,
            reverse=Reverse(policy, clip),
            decoder=decoder_for(chosen, domain, model.schedule, policy, first),
        )


def _follows(model: DiffusionModel, policy: Variance, first: int) -> bool:
    """Whether the model's decoder is the one that its own policy gives."""
    try:
        usual = decoder_for(model.decoder.kind, model.domain, model.schedule, policy, first)
    except UsageError:
        return False
    return usual.to_config() == model.decoder.to_config()
