"""`LatentModel`: an encoder, a decoder with its likelihood, and a diffusion prior over z, one complete p(x).

    p(x) = ∫ p(x | z) p(z) dz,      −log p(x) ≤ E_q(z|x)[−log p(x | z)] − H[q(z | x)] + E_q(z|x)[bound of z]

z is in the prior's units throughout (`LatentUnits`): a change of units moves H and the prior's bound by the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import ShapeError, UsageError
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.frozen import FrozenModel
from nelbo.model.latent.encoder import Encoder, ImageDecoder, Moments
from nelbo.model.latent.units import LatentUnits
from nelbo.model.opened import plain
from nelbo.model.predictor import Predictor
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Prediction
from nelbo.typing import Json, Shape

UNFITTED = "likelihood not fitted"
"""Entry of the provenance of a model whose likelihood's scale is nobody's choice."""


def clean(x0: Tensor) -> Levels:
    """The level of x̂ (B, …) taken for a state of a chain over images, (B,): one of no noise, α = 1."""
    logsnr = torch.full((len(x0),), 80.0, dtype=torch.float64, device=x0.device)
    return Levels(torch.zeros_like(logsnr), logsnr, Path.VP)


class LatentNetworks(Predictor):
    """The networks of a latent model as one module, with the chain over z that one of them is of: their weights, modes
    and inside."""

    def __init__(self, encoder: Encoder, decoder: ImageDecoder, chain: DiffusionModel):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, chain.denoiser
        self.chain = chain

    @property
    def net(self) -> LatentNetworks:
        """All of them."""
        return self

    @property
    def recipe(self) -> Json | None:
        """Those of the three networks, by their name; None where one of them is not nelbo's own."""
        found = {}
        for name in ("encoder", "decoder", "prior"):
            net = getattr(getattr(self, name), "net", None)
            found[name] = None if net is None else getattr(plain(net), "recipe", None)
        return None if None in found.values() else found

    def describe(self) -> Json:
        parts = {name: getattr(self, name).describe() for name in ("encoder", "decoder", "prior")}
        return {**super().describe(), **parts}


@equation("latent-marginal", "latent-bound")
@dataclass(frozen=True, eq=False)
class LatentModel(FrozenModel):
    """encoder: q(z | x), a `GaussianEncoder` or a `DeterministicEncoder` with its τ. decoder: an `ImageDecoder` or the
    function z ↦ x̂ itself. prior: a `DiffusionModel` of real values over z′. likelihood: of x about x̂, such as
    `nelbo.latent.ScaledGaussian(scale)` or `nelbo.decoders.DiscretizedGaussian(variance)`. domain: of x. units: the map
    from z to z′.

    Errors: UsageError where parts do not fit each other, ShapeError.
    """

    encoder: Encoder
    decoder: ImageDecoder
    prior: DiffusionModel
    likelihood: Decoder
    domain: DataDomain
    units: LatentUnits = field(default_factory=LatentUnits)
    provenance: Json = field(default_factory=dict)
    trained_on: Tensor | None = None

    def __post_init__(self):
        if not isinstance(self.encoder, Encoder):
            raise UsageError(
                f"encoder={type(self.encoder).__name__}",
                "say what it returns: nelbo.latent.GaussianEncoder(net) for a mean and a log variance, "
                "DeterministicEncoder(net, tau=…) for z itself",
            )
        if not isinstance(self.decoder, ImageDecoder):
            if not callable(self.decoder):
                raise UsageError(f"decoder={self.decoder!r}", "give the function or module that makes x̂ from z")
            object.__setattr__(self, "decoder", ImageDecoder(self.decoder))
        if not isinstance(self.prior, DiffusionModel):
            raise UsageError(f"prior={type(self.prior).__name__}", "give a DiffusionModel over the latents")
        if self.prior.domain.discrete or self.prior.domain.scale is not None:
            kind = f"{self.prior.domain.bins} bins" if self.prior.domain.discrete else "a scale of its own"
            raise UsageError(
                f"a prior over latents whose domain has {kind}",
                "latents are real numbers: DataDomain(shape) without bins; a scale belongs to units=LatentUnits(…)",
            )
        if not self.likelihood.calls_network:
            raise UsageError(
                f"the likelihood {self.likelihood.kind!r}, which does not look at the decoder's x̂",
                "give nelbo.latent.ScaledGaussian(scale), ScaledLogistic(scale) or DiscretizedGaussian(variance)",
            )
        if self.likelihood.spread is not None:
            raise UsageError("a likelihood whose variance a network says", "give one of a fixed scale")
        self.likelihood.check(self.domain)
        self.units.check(self.latent_shape)

    @property
    def latent_shape(self) -> Shape:
        """The shape of z of one example."""
        return self.prior.domain.shape

    @property
    def grid(self) -> Grid:
        """The grid of the prior."""
        return self.prior.grid

    @property
    def steps(self) -> int | None:
        """Evaluations of the prior's network of one pass of its chain; None where the grid is continuous."""
        return self.prior.steps

    @cached_property
    def denoiser(self) -> LatentNetworks:  # type: ignore[override]
        """All networks as one module."""
        return LatentNetworks(self.encoder, self.decoder, self.prior)

    def with_grid(self, grid: Grid) -> Self:
        """The model whose prior is on another grid."""
        return dataclasses.replace(self, prior=self.prior.with_grid(grid))

    def with_networks(self, networks: Predictor) -> LatentModel:  # type: ignore[override]
        """The model with the encoder, the decoder and the prior's network of another `LatentNetworks`."""
        assert isinstance(networks, LatentNetworks)
        prior = dataclasses.replace(self.prior, denoiser=networks.prior)
        return dataclasses.replace(self, encoder=networks.encoder, decoder=networks.decoder, prior=prior)

    def in_precision(self, dtype: torch.dtype | None, device: torch.device | str | None = None) -> Self:
        """The model whose networks compute in `dtype` on `device`; self is left as it is."""
        parts = {name: getattr(self, name).in_precision(dtype, device) for name in ("encoder", "decoder", "prior")}
        return dataclasses.replace(self, **parts)

    def encode(self, x: Tensor) -> Moments:
        """q(z′ | x) for values x (B, *shape) of the domain, in the prior's units and at least float32.

        Errors: ShapeError where the latents are not of the shape of the prior's domain.
        """
        mean, std = self.encoder(x)
        if tuple(mean.shape[1:]) != self.latent_shape:
            raise ShapeError(
                f"the encoder makes latents of shape {tuple(mean.shape[1:])}, and the prior is over "
                f"{self.latent_shape}",
                "give a prior over the latents of this encoder, or examples of the size it was trained on",
            )
        mean = self.units.to_prior(mean)
        std = self.units.spread(std)
        return Moments(mean, std.expand(std.shape[0], *mean.shape[1:]))

    def decode(self, z: Tensor) -> Tensor:
        """x̂ (B, *shape) for z′ (B, *latent) in the prior's units, in the dtype of z′. Errors: ShapeError."""
        x0 = self.decoder(self.units.from_prior(z))
        if tuple(x0.shape[1:]) != self.domain.shape:
            raise ShapeError(
                f"the decoder makes images of shape {tuple(x0.shape[1:])} for a domain of {self.domain.shape}",
                "give the domain of the images that the autoencoder was trained on",
            )
        return x0.to(z.dtype)

    @equation("loss-term-recon")
    def pixels(self, data: Tensor, z: Tensor) -> Tensor:
        """−log p(x | z) in nats, (B,), of codes or values `data` (B, *shape) at z′ (B, *latent)."""
        target = data.long() if self.domain.discrete else self.domain.values(data)
        x0 = self.decode(z)
        nats = self.likelihood.nll(target, x0, clean(x0), Prediction(x0), self.domain)
        return nats if self.domain.scale is None else nats + self.domain.log_volume

    def describe(self) -> Json:
        """The parts as JSON; those of the chain under the names that they have of every model."""
        prior = self.prior.describe()
        return {
            **prior,
            "domain": self.domain.to_config(),
            "decoder": {
                **self.likelihood.to_config(),
                **{name: value.tolist() for name, value in self.likelihood.to_tensors().items()},
            },
            "latent": {
                "shape": list(self.latent_shape),
                "encoder": self.encoder.describe(),
                "reconstruction": prior["decoder"],
                "units": {name: value.tolist() for name, value in self.units.to_tensors().items()},
            },
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model by name: `encoder.…`, `decoder.…`, `likelihood.…`, `units.…`, `prior.…`."""
        named = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        named |= {f"decoder.{k}": v for k, v in self.decoder.state_dict().items()}
        for part in ("domain", "likelihood", "units"):
            named |= {f"{part}.{k}": v for k, v in getattr(self, part).to_tensors().items()}
        return named | {f"prior.{k}": v for k, v in self.prior.tensors().items()}
