"""`ClippedDecoder`: a likelihood about x̂ clipped to the range of the codes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nelbo.model.decoder import Decoder, _given
from nelbo.model.domain import DataDomain
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction


@dataclass(frozen=True, eq=False)
class ClippedDecoder(Decoder, kind="of_clipped"):
    """p(x | clip(x̂)) of a latent model. inner: the decoder of codes, whose z_1 is x̂ too.

    The open end bins let a decoder that is trained with a scale put x̂ far beyond the range where a pixel is black or
    white, at no cost. What reads the residuals x − x̂ of other pixels would take these for errors.
    """

    inner: Decoder
    calls_network = True

    def check(self, domain: DataDomain) -> None:
        super().check(domain)
        self.inner.check(domain)

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        clipped = _clipped(prediction, domain)
        return self.inner.nll(target, clipped.x0, t, clipped, domain)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        clipped = _clipped(prediction, domain)
        return self.inner.draw(u, clipped.x0, t, clipped, domain)

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        clipped = _clipped(prediction, domain)
        return self.inner.mean(clipped.x0, t, clipped, domain)


def _clipped(prediction: Prediction | None, domain: DataDomain) -> Prediction:
    return _given(prediction).clipped(domain.low, domain.high)
