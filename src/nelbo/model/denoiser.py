"""Denoisers: (z_t, t, condition) ↦ Prediction.

The network computes in its own dtype; what leaves the denoiser is in the dtype of z, so that evaluation stays in
float64 outside the network and a training step stays in float32 throughout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import NelboError, ShapeError, UsageError
from nelbo.model.calling import explained
from nelbo.model.domain import DataDomain
from nelbo.model.opened import entered, name_of, opened, plain
from nelbo.model.predictor import Predictor
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Output, Prediction, network_input, x0_from
from nelbo.typing import Choice, Condition, Json


class TimeInput(Choice, noun="time input"):
    """How a network is told the level: table position (int64, 0 = DDPM's step 1), the schedule's own time (unit time,
    flow time), log-SNR λ, σ of z = αx + σε, or EDM's c_noise = ln(σ)/4."""

    INDEX = "index"
    UNIT = "unit"
    LOGSNR = "logsnr"
    SIGMA = "sigma"
    C_NOISE = "c_noise"

    def of(self, t: Levels, dtype: torch.dtype) -> Tensor:
        """The network's time argument (B,) at levels t. Errors: UsageError where the schedule has no table."""
        if self is TimeInput.LOGSNR:
            return t.logsnr.to(dtype)
        if self is TimeInput.UNIT:
            return (t.t if t.time is None else t.time).to(dtype)
        if self is TimeInput.SIGMA:
            return t.sigma.to(dtype)
        if self is TimeInput.C_NOISE:
            return (t.log_sigma / 4).to(dtype)
        if t.index is None:
            raise UsageError(
                "the network wants a table position as its time, but the schedule is a law without a table",
                "declare time='unit', 'logsnr', 'sigma' or 'c_noise', or use a tabulated schedule",
            )
        return t.index.to(dtype) if t.index.is_floating_point() else t.index


class Denoiser(Predictor, ABC):
    """Abstract: predicts x from z_t. Holds weights only; `compute_dtype` is what its network computes in."""

    learned_variance: bool = False
    """Whether its predictions carry a raw variance output."""

    @abstractmethod
    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        """The prediction at z (B, …) and levels t (B,), in the dtype of z."""

    def _call(self, net: Callable[..., Tensor], z: Tensor, t: Levels, time: TimeInput, condition: Condition | None):
        dtype = self._dtype(z.dtype)
        rows = {k: v.to(dtype) if v.is_floating_point() else v for k, v in (condition or {}).items()}
        # a network that embeds its time in a precision of its own says which: a step of 999 is none in bf16
        times = time.of(t, getattr(plain(net), "time_dtype", dtype))
        arguments = z.to(dtype, copy=True), times.clone()  # a network may write into what it is given
        with entered(net) as function:
            try:
                return function(*arguments, **rows)
            except (KeyboardInterrupt, MemoryError, NelboError):
                raise
            except Exception as error:
                if "memory" in str(error):
                    raise  # a smaller batch may do
                raise explained(error, function, arguments, rows, time.value) from error


class NetworkDenoiser(Denoiser):
    """A network that says ε̂, x̂, v̂ or another `Output`: net(z, time, **condition) → (B, …), time (B,).

    learned_variance: the network returns (B, 2C, …) for z (B, C, …), and the second half of axis 1 is its raw variance
    output. sigma_data: of EDM's preconditioning, where the output is "edm_F". stochastic: the network may answer
    differently when it is asked twice. modules: those that it calls and that cannot be found by looking into it.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        output: Output | str,
        time: TimeInput | str,
        *,
        sigma_data: float | None = None,
        learned_variance: bool = False,
        stochastic: bool = False,
        modules: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.net = opened(net, modules)
        self.stochastic = stochastic
        self.output = Output.parse(output)
        self.time = TimeInput.parse(time)
        self.sigma_data = sigma_data
        self.learned_variance = learned_variance
        if sigma_data is not None and not (math.isfinite(sigma_data) and sigma_data > 0):
            raise UsageError(f"sigma_data = {sigma_data}", "give the standard deviation of the data, a number > 0")
        if (self.output is Output.EDM_F) != (sigma_data is not None):
            raise UsageError(
                f"a network that predicts {self.output.value!r} "
                + ("without sigma_data" if sigma_data is None else f"with sigma_data = {sigma_data}"),
                "sigma_data belongs to 'edm_F': give the standard deviation that the preconditioning was built with "
                "(0.5 in EDM's own models), and to no other output",
            )

    def describe(self) -> Json:
        description = {
            **super().describe(),
            **name_of(self.net),
            "output": self.output.value,
            "time": self.time.value,
        }
        return {**description, **self.settings()}

    def settings(self) -> Json:
        """What is not at its default besides output and time."""
        settings: Json = {"sigma_data": self.sigma_data} if self.sigma_data is not None else {}
        settings |= {"learned_variance": True} if self.learned_variance else {}
        return settings | ({"stochastic": True} if self.stochastic else {})

    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        shown, at = network_input(self.output, z, t, self.sigma_data)
        value = self._call(self.net, shown, at, self.time, condition)
        _check_answer(value, z)
        channels = z.shape[1] * (2 if self.learned_variance else 1)
        if value.shape != (len(z), channels, *z.shape[2:]):
            raise ShapeError(
                f"the network returned shape {tuple(value.shape)} for an input of shape {tuple(z.shape)}",
                _remedy(value, z, self.learned_variance),
            )
        variance = None
        if self.learned_variance:
            value, variance = value.chunk(2, dim=1)
            variance = variance.to(z.dtype)
        x0 = x0_from(self.output, value.to(z.dtype), z, t, self.sigma_data)
        return Prediction(x0, variance=variance, output=value)


def _check_answer(value: Any, z: Tensor) -> None:
    """Errors: ShapeError, UsageError where the answer of a network is no tensor of real numbers where z is."""
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"the network returned {type(value).__name__} where a tensor is expected",
            "wrap it: lambda z, t: net(z, t).sample, say",
        )
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise UsageError(
            f"the network returned {kind} numbers", "it predicts real numbers: return a tensor of float32, say"
        )
    if value.device != z.device:
        raise UsageError(
            f"the network was given a tensor on {z.device} and returned one on {value.device}",
            "it must compute where its input is; a model is put on another device by device= of the call",
        )


def _remedy(value: Tensor, z: Tensor, learned: bool) -> str:
    if learned:
        return "a learned variance doubles the channels: (B, 2C, …) for z (B, C, …); else declare a fixed variance"
    if value.shape == (len(z), 2 * z.shape[1], *z.shape[2:]):
        return "twice the channels are a learned variance: declare variance='learned_range' or 'learned_log'"
    return "a network returns the shape of its input, or twice the channels where its variance is learned"


class CategoricalDenoiser(Denoiser):
    """A network that says a distribution over the codes of every pixel, combined with what z itself says:

        p̂(k | z_t) ∝ exp(logits_θ(z_t, t)_k) · N(z_t; α_t x_k, σ_t²),      x̂ = Σ_k p̂(k | z_t) x_k.

    The network supplies a prior over codes given the other pixels, the Gaussian factor is exact; x̂ can therefore
    never leave the lattice, and p̂ is a decoder of its own at the first level. net(z, time, **condition) → (B, …, K).
    """

    def __init__(self, net: Callable[..., Tensor], domain: DataDomain, time: TimeInput | str = TimeInput.LOGSNR):
        super().__init__()
        self.net = opened(net)
        self.time = TimeInput.parse(time)
        self.domain = domain  # no buffer for the lattice: it would be rounded to the network's precision

    def describe(self) -> Json:
        return {**super().describe(), **name_of(self.net), "time": self.time.value}

    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        logits = self._call(self.net, z, t, self.time, condition)
        _check_answer(logits, z)
        lattice = self.domain.lattice(device=z.device, dtype=z.dtype)
        if logits.shape != (*z.shape, len(lattice)):
            raise ShapeError(
                f"the network returned shape {tuple(logits.shape)} for an input of shape {tuple(z.shape)}",
                f"a categorical head returns one logit a code: {(*tuple(z.shape), len(lattice))}",
            )
        alpha, sigma = column(t.alpha, z)[..., None], column(t.sigma, z)[..., None]
        logits = logits.to(z.dtype) - 0.5 * ((z[..., None] - alpha * lattice) / sigma).square()
        log_probs = logits.log_softmax(-1)
        return Prediction((log_probs.exp() * lattice).sum(-1), log_probs)
