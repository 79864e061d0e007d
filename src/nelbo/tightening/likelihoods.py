"""Likelihoods of a latent model, fitted to x̂ at draws of z, and the choice among their forms.

scale       one scale, or one a channel, of a Gaussian or logistic
local       the scale follows x̂ from pixel to pixel
context     the codes before a pixel are read as well (`ContextGaussian`, with x̂ in the place of z_1, clipped)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.errors import UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, Decoder
from nelbo.model.domain import DataDomain
from nelbo.model.latent.clipped import ClippedDecoder
from nelbo.model.latent.likelihood import LIKELIHOODS, best_local, best_scale
from nelbo.model.latent.model import clean
from nelbo.process.prediction import Prediction
from nelbo.tightening.decoders import fit_context

SCALE, LOCAL, CONTEXT = "scale", "local", "context"
NAMES = {
    SCALE: "scale of the likelihood",
    LOCAL: "likelihood with a local scale",
    CONTEXT: "likelihood that reads the codes before it",
}
_AT_ONCE = 16
"""Images scored at once."""


@dataclass(frozen=True)
class Likelihood:
    """What is fitted: `kind` "gaussian" or "logistic" in the `form` scale or local, or the form context."""

    kind: str = "gaussian"
    form: str = SCALE
    per_channel: bool = False

    @classmethod
    def parse(cls, kind: str, per_channel: bool, local: bool) -> Likelihood:
        """The one that `nelbo.latent.fit_likelihood` names. Errors: UnknownNameError, UsageError."""
        if kind not in [*LIKELIHOODS, CONTEXT]:
            raise UnknownNameError.of("likelihood", kind, [*LIKELIHOODS, CONTEXT])
        if ((kind == CONTEXT or local) and per_channel) or (kind == CONTEXT and local):
            raise UsageError(
                f"the likelihood {kind!r} with per_channel={per_channel} and local={local}",
                "a local scale and 'context' have weights a channel already: give one of them alone",
            )
        return cls(kind if kind != CONTEXT else "gaussian", CONTEXT if kind == CONTEXT else LOCAL if local else SCALE,
                   per_channel)  # fmt: skip

    def fitted(self, target: Tensor, x0: Tensor, domain: DataDomain) -> Decoder:
        """The best one for codes or values `target` (N, *shape) about x̂ (N, *shape). Errors: those of its `check`."""
        if self.form == SCALE:
            return best_scale(LIKELIHOODS[self.kind], target, x0, domain, self.per_channel)
        if self.form == LOCAL:
            return best_local(LIKELIHOODS[self.kind], target, x0, domain)
        if not domain.discrete:
            raise UsageError("the likelihood 'context' for real values", "it is of codes: use 'gaussian' or 'logistic'")
        histogram = Categorical.from_histogram(target, domain).log_prior
        assert histogram is not None
        x0 = x0.clamp(domain.low, domain.high)
        return ClippedDecoder(fit_context(target, x0, x0, clean(x0[:1]), domain, histogram))


def chosen(own: Likelihood, target: Tensor, x0: Tensor, domain: DataDomain) -> Likelihood:
    """`own`, or one with the further forms that images of codes have, whichever costs least on the last third of the
    images when it is fitted to the others."""
    if not domain.discrete or len(domain.shape) < 2:
        return own
    cut = max(1, 2 * len(target) // 3)
    forms = dict.fromkeys([own, Likelihood(own.kind, LOCAL), Likelihood(own.kind, CONTEXT)])
    return min(forms, key=lambda form: _cost(form.fitted(target[:cut], x0[:cut], domain), target, x0, domain, cut))


def _cost(likelihood: Decoder, target: Tensor, x0: Tensor, domain: DataDomain, start: int) -> float:
    """Mean −log p in nats of the images from `start` on."""
    nats = [
        likelihood.nll(target[rows], x0[rows], clean(x0[rows]), Prediction(x0[rows]), domain)
        for rows in torch.arange(start, len(target)).split(_AT_ONCE)
    ]
    return float(torch.cat(nats).mean())
