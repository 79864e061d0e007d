"""Likelihoods p(x | z) about a decoder's x̂: a Gaussian or logistic of a scale that is fitted, one for all or a channel,
and of codes also one that follows x̂ from pixel to pixel.

Of codes they are masses of bins whose end bins are open; of real values they are densities. The scale is in units of x.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import ShapeError, UsageError
from nelbo.maths import bins, gaussian
from nelbo.maths.stable import log1mexp
from nelbo.model.decoder import Decoder, _given
from nelbo.model.domain import DataDomain
from nelbo.model.fitted.neighbours import IMAGE, of_image, planes
from nelbo.model.latent.units import broadcasts
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.typing import Json


@dataclass(frozen=True, eq=False)
class ScaledDecoder(Decoder):
    """Abstract: independent errors of x̂ of one shape, s = scale, or s = scale · e^{w_c · f(x̂)} at every pixel.

    scale > 0: a number, or a tensor that broadcasts over x (C, …), such as (C, 1, 1). local (C, IMAGE): w, the weights
    of what x̂ says of its own errors (`neighbours.of_image`: the energy of its gradient around, and where it is in the
    range), of images of codes; None where the scale is the same everywhere.
    """

    scale: Tensor | float
    local: Tensor | None = None
    calls_network = True

    def __post_init__(self):
        try:
            value = torch.as_tensor(self.scale, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"a scale that is {self.scale!r}", "give a number or a tensor") from None
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise UsageError(f"a scale of {value.flatten()[:4].tolist()}", "give finite numbers > 0, in units of x")
        object.__setattr__(self, "scale", value)

    def check(self, domain: DataDomain) -> None:
        shape = tuple(self._scale.shape)
        if not broadcasts(shape, domain.shape):
            raise ShapeError(f"a scale of shape {shape} for examples of shape {domain.shape}", "give () or (C, 1, 1)")
        if self.local is None:
            return
        if not domain.discrete or len(domain.shape) < 2:
            raise UsageError(
                f"a scale that follows x̂ for examples of shape {domain.shape}"
                + ("" if domain.discrete else " of real values"),
                "it is of images of codes; fit one scale, or one a channel",
            )
        if tuple(self.local.shape) != (planes(domain.shape)[0], IMAGE):
            raise ShapeError(
                f"weights of shape {tuple(self.local.shape)} of a scale that follows x̂",
                f"they are {(planes(domain.shape)[0], IMAGE)}; fit them to images of this domain",
            )

    def of_local(self, local: Tensor) -> Self:
        """The same kind and scale, with other weights."""
        return type(self)(self.scale, local)

    @property
    def _scale(self) -> Tensor:
        assert isinstance(self.scale, Tensor)
        return self.scale

    def of_scale(self, scale: Tensor) -> Self:
        """The same kind, with the same weights, of another scale."""
        return type(self)(scale, self.local)

    def to_config(self) -> Json:
        return {name: value for name, value in super().to_config().items() if name != "local"}

    def scale_at(self, x0: Tensor, domain: DataDomain) -> Tensor:
        """s for x̂ (B, …), in its dtype; broadcasts over it."""
        if self.local is None:
            return self._scale.to(x0)
        return scale_of(x0, domain, self._scale, self.local)

    def costs(self, target: Tensor, x0: Tensor, domain: DataDomain, scale: Tensor | None = None) -> Tensor:
        """−log p of every element of codes or values `target` (B, …) given x̂, in nats; scale: one in training, in the
        place of its own."""
        return self._costs(target, x0, self.scale_at(x0, domain) if scale is None else scale.to(x0), domain)

    @abstractmethod
    def _costs(self, target: Tensor, x0: Tensor, scale: Tensor, domain: DataDomain) -> Tensor: ...

    @abstractmethod
    def _quantile(self, u: Tensor) -> Tensor:
        """The quantile function of the error in units of the scale."""

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return self.costs(target, _given(prediction).x0, domain).flatten(1).sum(1)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        x0 = _given(prediction).x0
        value = x0 + self.scale_at(x0, domain) * self._quantile(u.to(x0))
        return domain.codes(value) if domain.discrete else value

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return _given(prediction).x0


@numbers
@dataclass(frozen=True, eq=False)
class ScaledGaussian(ScaledDecoder, kind="scaled_gaussian"):
    """N(x̂, scale²), and of codes its mass in the bin of each, as of `DiscretizedGaussian`."""

    @equation("decoder-likelihood")
    def _costs(self, target: Tensor, x0: Tensor, scale: Tensor, domain: DataDomain) -> Tensor:
        if domain.discrete:
            return -bins.bin_log_mass(target, x0, scale.expand(x0.shape), domain._bins(), domain.low, domain.high)
        return -gaussian.log_density(target, x0, scale.square())

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


@numbers
@dataclass(frozen=True, eq=False)
class ScaledLogistic(ScaledDecoder, kind="scaled_logistic"):
    """The logistic law of middle x̂ and this scale, whose tails are heavier than a Gaussian's.

    With a < b the edges of a bin in units of the scale about x̂ its mass is σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{a−b}), no
    difference of near numbers. Source: Salimans et al. 2017, eq. 2.
    """

    def _costs(self, target: Tensor, x0: Tensor, scale: Tensor, domain: DataDomain) -> Tensor:
        if not domain.discrete:
            u = (target - x0) / scale
            return -(logsigmoid(u) + logsigmoid(-u) - scale.log())
        K = domain._bins()
        half = (domain.high - domain.low) / (2 * (K - 1))
        centre = domain.values(target).to(x0) - x0
        first, last = target == 0, target == K - 1
        above = torch.where(last, torch.zeros_like(x0), logsigmoid((centre + half) / scale))
        below = torch.where(first, torch.zeros_like(x0), logsigmoid((half - centre) / scale))
        width = torch.where(first | last, torch.zeros_like(x0), log1mexp(2 * half / scale).expand(x0.shape))
        return -(above + below + width)

    def _quantile(self, u: Tensor) -> Tensor:
        return u.log() - torch.log1p(-u)


LIKELIHOODS: dict[str, type[ScaledDecoder]] = {"gaussian": ScaledGaussian, "logistic": ScaledLogistic}
"""Likelihoods whose scale is fitted, by name."""


RIDGE = 1e-4
"""Weight of Σ w² in the fit of a local scale, in nats an element: numbers that x̂ says twice get small weights."""


def scale_of(x0: Tensor, domain: DataDomain, scale: Tensor, local: Tensor) -> Tensor:
    """s = scale · e^{w_c · f(x̂)} of x̂ (B, *shape), between a thirtieth of a bin and the whole range."""
    planar = x0.reshape(len(x0), *planes(domain.shape))
    log_s = sum(local[:, k, None, None].to(x0) * f for k, f in enumerate(of_image(planar, domain)))
    assert isinstance(log_s, Tensor)
    log_s = log_s.reshape(x0.shape) + scale.to(x0).log()
    width = domain.high - domain.low
    return log_s.clamp(math.log(width / (30 * (domain._bins() - 1))), math.log(width)).exp()


def best_local(
    kind: type[ScaledDecoder], target: Tensor, x0: Tensor, domain: DataDomain, rounds: int = 60
) -> ScaledDecoder:
    """The likelihood whose scale follows x̂ with the least −log p of codes `target` (N, *shape) about x̂ (N, *shape):
    scale and weights together, by L-BFGS from the best scale that is the same everywhere."""
    start = best_scale(kind, target, x0, domain)
    start.of_local(torch.zeros(planes(domain.shape)[0], IMAGE, dtype=torch.float64)).check(domain)
    log_scale = start._scale.log().clone().requires_grad_()
    local = torch.zeros(planes(domain.shape)[0], IMAGE, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, local], max_iter=rounds, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimizer.zero_grad()
        scale = scale_of(x0, domain, log_scale.exp(), local)
        penalised = start.costs(target, x0, domain, scale).mean() + RIDGE * local.square().sum()
        penalised.backward()
        return penalised

    optimizer.step(cost)  # type: ignore[arg-type]  # a tensor is a number here
    return kind(log_scale.detach().exp(), local.detach())


def best_scale(
    kind: type[ScaledDecoder], target: Tensor, x0: Tensor, domain: DataDomain, per_channel: bool = False
) -> ScaledDecoder:
    """The likelihood whose scale gives `target` (N, *shape) the least −log p about x̂ (N, *shape), by golden section of
    the logarithm of the scale, to 10⁻⁵; per_channel: one scale for each index of the first axis of an example."""
    axes = (1,) * (len(domain.shape) - 1)
    shape = (domain.shape[0], *axes) if per_channel else ()
    over = [axis for axis in range(x0.ndim) if not (per_channel and axis == 1)]

    def cost(log_scale: Tensor) -> Tensor:
        each = kind(log_scale.exp()).costs(target, x0, domain)
        return each.mean(over).reshape(shape)

    width = domain.high - domain.low if domain.discrete else float(target.double().std()) + 1e-12
    low = torch.full(shape, math.log(1e-6 * width), dtype=torch.float64)
    high = torch.full(shape, math.log(10 * width), dtype=torch.float64)
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = cost(left), cost(right)
    while float((high - low).max()) > 1e-5:
        smaller = at_left < at_right
        high, low = torch.where(smaller, right, high), torch.where(smaller, low, left)
        new = torch.where(smaller, high - golden * (high - low), low + golden * (high - low))
        of_new = cost(new)
        left, right = torch.where(smaller, new, right), torch.where(smaller, left, new)
        at_left, at_right = torch.where(smaller, of_new, at_right), torch.where(smaller, at_left, of_new)
    return kind((0.5 * (low + high)).exp())
