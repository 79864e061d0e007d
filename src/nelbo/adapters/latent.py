"""`nelbo.latent`: the parts that a `LatentModel` is made of, and the fit of its likelihood."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nelbo import data as readers
from nelbo.adapters.diffusers.text import encode_text
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.examples import Examples
from nelbo.model.latent.encoder import DeterministicEncoder, Encoder, GaussianEncoder, ImageDecoder
from nelbo.model.latent.fit import reconstructions, with_fitted
from nelbo.model.latent.likelihood import ScaledGaussian, ScaledLogistic
from nelbo.model.latent.model import LatentModel
from nelbo.model.latent.units import LatentUnits
from nelbo.tightening.likelihoods import Likelihood

__all__ = [
    "DeterministicEncoder",
    "Encoder",
    "GaussianEncoder",
    "ImageDecoder",
    "LatentUnits",
    "ScaledGaussian",
    "ScaledLogistic",
    "encode_text",
    "fit_likelihood",
]


@numbers
def fit_likelihood(
    model: LatentModel,
    data: Examples | Tensor | str | Any,
    kind: str = "gaussian",
    *,
    per_channel: bool = False,
    local: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> LatentModel:
    """The model with the likelihood of the scale that is best for `data`, as of `nelbo.evaluate`, at one draw of z an
    image.

    The data are images that the autoencoder was not trained on, and not those that the bound is then computed of: on
    its training images an autoencoder errs less, and the scale would be too small. kind: "gaussian" or "logistic";
    or, of codes, "context", a mixture of Gaussians about x̂ and what the codes before a pixel say of it. per_channel: a
    scale for each index of an image's first axis; local: of codes, a scale that follows the energy and the place of x̂
    from pixel to pixel. limit: only the first so many images; seed: of the draws. Errors: UnknownNameError; UsageError;
    those of a domain's data.

    >>> import nelbo, torch
    >>> prior = nelbo.exact.GaussianData(torch.zeros(1), torch.eye(1)).model(
    ...     nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    >>> encoder = nelbo.latent.DeterministicEncoder(lambda x: x.mean(1, keepdim=True), tau=0.1)
    >>> model = nelbo.LatentModel(encoder, lambda z: z.expand(-1, 2), prior, nelbo.latent.ScaledGaussian(1.0),
    ...                           nelbo.DataDomain((2,)))
    >>> data = torch.tensor([[0.9, 1.1], [-1.1, -0.9], [0.4, 0.6], [0.1, -0.1]])
    >>> float(nelbo.latent.fit_likelihood(model, data).likelihood.scale) < 0.3
    True
    """
    if not isinstance(model, LatentModel):
        raise UsageError(f"fit_likelihood of a {type(model).__name__}", "give a model that is a nelbo.LatentModel")
    wanted = Likelihood.parse(kind, per_channel, local)
    target, x0 = reconstructions(model, readers.resolve(data, limit=limit), seed)
    return with_fitted(model, wanted.fitted(target, x0, model.domain))
