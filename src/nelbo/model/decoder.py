"""Decoders p(x | z_1): the likelihood of the data given the first level.

Discrete data need a mass for every code, and the masses of a pixel sum to one: the end bins are open and nothing is
clamped. Real data get a density. Whether a decoder calls the network is part of its type, because that costs an
evaluation a pass. The variance of a Gaussian decoder, in units of x², is a number where the reverse steps have a fixed
variance, and a `Spread` where the network predicts it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import ShapeError, UsageError
from nelbo.maths import bins, gaussian
from nelbo.model.domain import DataDomain
from nelbo.parts import Part
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction


class Spread(Part, family="spread"):
    """Abstract: a Gaussian decoder's variance of every element, from the network's prediction at the first level."""

    @abstractmethod
    def of(self, prediction: Prediction) -> Tensor:
        """The variance (B, …), in units of x². Errors: UsageError where the network predicts none."""


@numbers
@dataclass(frozen=True, eq=False)
class RangeSpread(Spread, kind="learned_range"):
    """log variance = (1 − f) log low + f log high with f = (v + 1)/2, v the network's output.

    low is the β̃ number β_2 (1 − ᾱ_1)/(1 − ᾱ_2) of the full table, high is β_1.
    """

    low: float
    high: float

    def __post_init__(self):
        if not all(math.isfinite(v) and v > 0 for v in (self.low, self.high)):
            raise UsageError(f"a decoder variance between {self.low} and {self.high}", "give two finite numbers > 0")

    def of(self, prediction: Prediction) -> Tensor:
        f = 0.5 * (prediction.raw_variance() + 1)
        return ((1 - f) * math.log(self.low) + f * math.log(self.high)).exp()


@dataclass(frozen=True, eq=False)
class LogSpread(Spread, kind="learned_log"):
    """The network's second half is the log variance itself."""

    def of(self, prediction: Prediction) -> Tensor:
        return prediction.raw_variance().exp()


class Decoder(Part, family="decoder"):
    """Abstract: the likelihood of an example given the first level."""

    calls_network: bool = False
    discrete: bool = True
    spread: Spread | None = None
    """How the variance follows from the network's prediction, of a Gaussian decoder whose variance is learned."""

    @abstractmethod
    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        """−log p(target | z_1) in nats an example, (B,). target: codes (int64) or values (float64), (B, …)."""

    @abstractmethod
    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        """A draw of p(x | z_1) made from uniforms u in (0, 1), (B, …): codes or values."""

    @abstractmethod
    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        """E[x | z_1] as real values, (B, …)."""

    def check(self, domain: DataDomain) -> None:
        """Raise UsageError where this decoder makes no sense on the domain."""
        if self.discrete and not domain.discrete:
            raise UsageError(
                f"the decoder {self.kind!r} gives masses of integer codes, but the data domain is real numbers "
                f"of shape {domain.shape}",
                "latents and other real data need decoder='continuous_gaussian'; pixels need DataDomain(…, bins=K)",
            )
        if domain.discrete and not self.discrete:
            raise UsageError(
                f"the decoder {self.kind!r} gives a density, but the data domain has {domain.bins} bins",
                "a density of integer codes is no code length; use 'discretized_gaussian' or 'categorical'",
            )


class MassDecoder(Decoder):
    """Abstract: a decoder of codes, given by its table of log masses."""

    @abstractmethod
    def log_pmf(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        """log p(code k | z_1) for every code, (B, …, K); sums to one over k."""

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_pmf = self.log_pmf(z, t, prediction, domain)
        return -log_pmf.gather(-1, target[..., None])[..., 0].flatten(1).sum(1)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        cdf = self.log_pmf(z, t, prediction, domain).exp().cumsum(-1)
        return (u[..., None] * cdf[..., -1:] > cdf).sum(-1).clamp(max=cdf.shape[-1] - 1)

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_pmf = self.log_pmf(z, t, prediction, domain)
        return (log_pmf.exp() * domain.lattice(device=z.device).to(log_pmf.dtype)).sum(-1)


@numbers
@dataclass(frozen=True, eq=False)
class DiscretizedGaussian(MassDecoder, kind="discretized_gaussian"):
    """Ho et al. 2020, eq. 13: the mass of N(x̂, v) in the bin of each code, the end bins open.

    v is fixed when the model is built, from the full table, and respacing leaves it as it is. Where the network says
    it, `variance` is None and `spread` tells how it follows from the network's output at the first level.
    """

    variance: float | None
    spread: Spread | None = None
    calls_network = True

    def __post_init__(self):
        if (self.variance is None) == (self.spread is None):
            raise UsageError(
                f"a decoder of variance {self.variance} and spread {self.spread}", "give one of the two, in units of x²"
            )
        if self.variance is not None and not (math.isfinite(self.variance) and self.variance > 0):
            raise UsageError(f"a decoder of variance {self.variance}", "give a finite variance > 0, in units of x²")

    @equation("decoder-likelihood", "loss-term-recon")
    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        x0, std = self._moments(prediction)
        return -bins.bin_log_mass(target, x0, std, domain._bins(), domain.low, domain.high).flatten(1).sum(1)

    def log_pmf(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return bins.log_pmf(*self._moments(prediction), domain._bins(), domain.low, domain.high)

    def _moments(self, prediction: Prediction | None) -> tuple[Tensor, Tensor]:
        """x̂ and the standard deviation, one number or one an element."""
        given = _given(prediction)
        if self.spread is not None:
            return given.x0, self.spread.of(given).sqrt()
        assert self.variance is not None
        return given.x0, torch.as_tensor(math.sqrt(self.variance), dtype=given.x0.dtype, device=given.x0.device)

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return _given(prediction).x0


@dataclass(frozen=True, eq=False)
class Categorical(MassDecoder, kind="categorical"):
    """VDM's decoder, without the network: p(k | z_1) ∝ N(z_1; α x_k, σ²) · prior(k).

    log_prior: None (uniform, as Kingma et al. 2021, eq. 8 and app. B), one table (K,) for all pixels, or (*shape, K).
    """

    log_prior: Tensor | None = None

    @equation("vdm-reconstruction", "bayes-rule", "bayes-normaliser")
    def log_pmf(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        alpha, sigma = column(t.alpha, z)[..., None], column(t.sigma, z)[..., None]
        lattice = domain.lattice(device=z.device).to(z.dtype)
        logits = -0.5 * ((z[..., None] - alpha * lattice) / sigma).square()
        if self.log_prior is not None:
            logits = logits + self.log_prior.to(logits)
        return logits.log_softmax(-1)

    def check(self, domain: DataDomain) -> None:
        super().check(domain)
        if self.log_prior is not None and tuple(self.log_prior.shape) not in {
            (domain.bins,),
            (*domain.shape, domain.bins),
        }:
            raise ShapeError(
                f"the decoder's table over codes has shape {tuple(self.log_prior.shape)}",
                f"give ({domain.bins},) or {(*domain.shape, domain.bins)}",
            )

    @classmethod
    def from_histogram(cls, codes: Tensor, domain: DataDomain, per_pixel: bool = False, pseudo_count: float = 0.5):
        """The decoder whose prior over codes is the histogram of training codes (N, *shape), smoothed by a count."""
        counts = bins.counts(domain.checked(codes), domain._bins())
        counts = counts if per_pixel else counts.flatten(0, -2).sum(0)
        counts = counts + pseudo_count
        return cls((counts / counts.sum(-1, keepdim=True)).log())


@dataclass(frozen=True, eq=False)
class NetworkCategorical(MassDecoder, kind="network_categorical"):
    """The network's own per-pixel categorical posterior p̂(k | z_1) at the first level (see CategoricalDenoiser)."""

    calls_network = True

    def log_pmf(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_probs = _given(prediction).log_probs
        if log_probs is None:
            raise UsageError(
                "the decoder 'network_categorical' needs a network with a categorical head, and this one has none",
                "use decoder='discretized_gaussian' or 'categorical', or train with net.head='categorical'",
            )
        return log_probs


@numbers
@dataclass(frozen=True, eq=False)
class ContinuousGaussian(Decoder, kind="continuous_gaussian"):
    """A density for real data: N(z_1/α, σ²/α²) without the network, or N(x̂, v) where a variance v is given, as a
    number or as the `spread` of a network that says its own."""

    variance: float | None = None
    spread: Spread | None = None
    discrete = False

    def __post_init__(self):
        if self.variance is not None and self.spread is not None:
            raise UsageError(f"a decoder of variance {self.variance} and a spread as well", "give at most one of them")
        if self.variance is not None and not (math.isfinite(self.variance) and self.variance > 0):
            raise UsageError(f"a decoder of variance {self.variance}", "give a finite variance > 0, or None")

    @property
    def calls_network(self) -> bool:  # type: ignore[override]
        return self.variance is not None or self.spread is not None

    def _moments(self, z: Tensor, t: Levels, prediction: Prediction | None) -> tuple[Tensor, Tensor]:
        if self.spread is not None:
            return _given(prediction).x0, self.spread.of(_given(prediction))
        if self.variance is not None:
            return _given(prediction).x0, torch.as_tensor(self.variance, dtype=z.dtype, device=z.device)
        return z / column(t.alpha, z), (-column(t.logsnr, z)).exp()

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        mean, variance = self._moments(z, t, prediction)
        return -gaussian.log_density(target, mean, variance).flatten(1).sum(1)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        mean, variance = self._moments(z, t, prediction)
        return mean + variance.sqrt() * torch.special.ndtri(u)

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return self._moments(z, t, prediction)[0]


def _given(prediction: Prediction | None) -> Prediction:
    if prediction is None:
        raise UsageError("a decoder that calls the network was not given its prediction", "pass model.predict(z, t)")
    return prediction
