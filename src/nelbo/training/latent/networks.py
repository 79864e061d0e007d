"""A latent model in training: the scale of its likelihood is a parameter beside the weights of its networks."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor, nn

from nelbo.model.diffusion import DiffusionModel
from nelbo.model.latent.encoder import Encoder, ImageDecoder
from nelbo.model.latent.likelihood import ScaledDecoder
from nelbo.model.latent.model import LatentModel, LatentNetworks


class TrainedNetworks(LatentNetworks):
    """The networks of a latent model with log_scale, the logarithm of the scale of its likelihood, in float64."""

    def __init__(self, encoder: Encoder, decoder: ImageDecoder, chain: DiffusionModel, likelihood: ScaledDecoder):
        super().__init__(encoder, decoder, chain)
        self.log_scale = nn.Parameter(torch.as_tensor(likelihood.scale, dtype=torch.float64).log())


class LatentInTraining(LatentModel):
    """A `LatentModel` whose `denoiser` has all that is trained."""

    @cached_property
    def denoiser(self) -> TrainedNetworks:  # type: ignore[override]
        """All networks and the scale as one module."""
        assert isinstance(self.likelihood, ScaledDecoder)
        return TrainedNetworks(self.encoder, self.decoder, self.prior, self.likelihood)

    def pixels(self, data: Tensor, z: Tensor) -> Tensor:
        """As of every latent model, with the scale that is trained."""
        assert isinstance(self.likelihood, ScaledDecoder)
        target = data.long() if self.domain.discrete else self.domain.values(data)
        costs = self.likelihood.costs(target, self.decode(z), self.domain, self.denoiser.log_scale.exp())
        return costs.flatten(1).sum(1) + self.domain.log_volume

    def with_networks(self, networks: TrainedNetworks) -> LatentModel:  # type: ignore[override]
        """The model of these networks and their scale, no longer in training."""
        assert isinstance(self.likelihood, ScaledDecoder)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        scale = networks.log_scale.detach().exp().cpu().clone()
        prior = dataclasses.replace(self.prior, denoiser=networks.prior)
        values |= {"encoder": networks.encoder, "decoder": networks.decoder, "prior": prior}
        return LatentModel(**{**values, "likelihood": self.likelihood.of_scale(scale)})
