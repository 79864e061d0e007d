"""Encoders q(z | x): Gaussians whose mean, and whose variance unless it is declared, a network says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import NelboError, ShapeError, UsageError
from nelbo.model.calling import first_line
from nelbo.model.opened import entered, name_of, opened
from nelbo.model.predictor import Predictor
from nelbo.typing import Json


class Moments(NamedTuple):
    """q(z | x) = N(mean, std²): mean (B, *latent), and std of that shape or one that broadcasts over it."""

    mean: Tensor
    std: Tensor


class LatentNetwork(Predictor):
    """Abstract: a network between images and latents, called with one tensor (B, …) in its own precision."""

    what = "network"

    def __init__(self, net: Callable[..., Any], modules: Iterable[nn.Module] = ()):
        super().__init__()
        self.net = opened(net, modules)

    def describe(self) -> Json:
        return {**super().describe(), **name_of(self.net)}

    def _asked(self, values: Tensor) -> Tensor:
        """The network's answer. Errors: UsageError with what it raised, or where it returns no tensor of reals."""
        shown = values.to(self._dtype(values.dtype), copy=True)
        with entered(self.net) as function:
            try:
                answer = function(shown)
            except (KeyboardInterrupt, MemoryError, NelboError):
                raise
            except Exception as error:
                if "memory" in str(error):
                    raise  # a smaller batch may do
                raise UsageError(
                    f"the {self.what} raised {first_line(error)} for an input of shape {tuple(values.shape)}",
                    "check the shapes of the two domains; NELBO_TRACEBACK=1 shows where it happened",
                ) from error
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            kind = str(answer.dtype) if isinstance(answer, Tensor) else type(answer).__name__
            raise UsageError(
                f"the {self.what} returned {kind} where a tensor of real numbers is expected",
                "wrap it in a function that returns the tensor: lambda x: net(x).sample, say",
            )
        if len(answer) != len(values):
            raise ShapeError(f"the {self.what} returned {len(answer)} rows for {len(values)}", "one row an example")
        return answer


class Encoder(LatentNetwork, ABC):
    """Abstract: q(z | x), a Gaussian whose elements are independent given x."""

    what = "encoder"

    @abstractmethod
    def forward(self, x: Tensor) -> Moments:
        """Mean and standard deviation of z for values x (B, *shape), at least in float32, as the network says them."""


@numbers
class GaussianEncoder(Encoder):
    """A network that returns (B, 2C, …): the mean of z and the logarithm of its variance, halves of axis 1.

    range: the interval that the log variance is cut to, as the network's own code does it (diffusers: −30 to 20).
    Source: Kingma & Welling 2014, eq. 9 and appendix C.2.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        range: tuple[float, float] | None = None,
        modules: Iterable[nn.Module] = (),
    ):
        super().__init__(net, modules)
        if range is not None and not (len(range) == 2 and range[0] < range[1]):
            raise UsageError(f"a log variance cut to {range}", "give a pair (low, high), or None")
        self.range = range

    def describe(self) -> Json:
        return {**super().describe(), "range": None if self.range is None else list(self.range)}

    def forward(self, x: Tensor) -> Moments:
        answer = self._asked(x)
        if answer.ndim < 2 or answer.shape[1] % 2:
            raise ShapeError(
                f"the encoder returned shape {tuple(answer.shape)}",
                "a Gaussian encoder returns a mean and a log variance, (B, 2C, …); of one that returns z itself "
                "declare q: DeterministicEncoder(net, tau=…)",
            )
        mean, log_variance = answer.to(torch.promote_types(answer.dtype, torch.float32)).chunk(2, dim=1)
        if self.range is not None:
            log_variance = log_variance.clamp(*self.range)
        return Moments(mean, (0.5 * log_variance).exp())


@equation("latent-width")
@numbers
class DeterministicEncoder(Encoder):
    """A network that returns z itself, with the declared q(z | x) = N(μ(x), τ²I), τ > 0 in units of z.

    A point mass has the entropy −∞, and the bound with it is infinite: τ is part of the bound, and the best one is a
    compromise between the decoder and the entropy, which `nelbo.tighten` finds.
    """

    def __init__(self, net: Callable[..., Any], *, tau: float, modules: Iterable[nn.Module] = ()):
        super().__init__(net, modules)
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not math.isfinite(tau) or tau < 0:
            raise UsageError(f"tau = {tau!r}", "give the standard deviation of z given x, a finite number > 0")
        if tau == 0:
            raise UsageError(
                "tau = 0 of a deterministic encoder: q(z | x) is a point, its entropy is −∞, and the bound +∞",
                "declare a width tau > 0 in units of z; nelbo.tighten finds the best one on other images",
            )
        self.tau = float(tau)

    def describe(self) -> Json:
        return {**super().describe(), "tau": self.tau}

    def forward(self, x: Tensor) -> Moments:
        answer = self._asked(x)
        mean = answer.to(torch.promote_types(answer.dtype, torch.float32))
        return Moments(mean, torch.full((1,) * mean.ndim, self.tau, dtype=mean.dtype, device=mean.device))


class ImageDecoder(LatentNetwork):
    """The network that makes the middle x̂ (B, *shape) of p(x | z) from z, in the values of the domain."""

    what = "decoder"

    def forward(self, z: Tensor) -> Tensor:
        """x̂ for z (B, *latent) in the encoder's units, at least in float32."""
        answer = self._asked(z)
        return answer.to(torch.promote_types(answer.dtype, torch.float32))


@equation("vae-loss-split", "vae-elbo")
def normal_cross_entropy(mean: Tensor, std: Tensor) -> Tensor:
    """E_q[−log N(z; 0, I)] = ½ Σ (μ² + σ² + log 2π) in nats, (B,), of q = N(mean, std²), both (B, *latent).

    With `negative_entropy` it is KL(q ‖ N(0, I)), what a VAE pays for its latents (Kingma & Welling 2014, app. B).
    """
    return 0.5 * (mean.square() + std.square() + math.log(2 * math.pi)).double().flatten(1).sum(1)


@equation("latent-rescaling", "latent-bound")
def negative_entropy(std: Tensor, shape: tuple[int, ...]) -> Tensor:
    """−H[N(·, std²)] = −½ Σ (1 + log 2π + 2 log std) in nats, (B,), of latents of `shape`; std (B, …) broadcasts."""
    log_std = std.double().log().expand(len(std), *shape).flatten(1)
    return -(log_std + 0.5 * (1 + math.log(2 * math.pi))).sum(1)
