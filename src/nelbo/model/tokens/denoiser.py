"""Denoisers of symbols: (z_t, t) ↦ logits over the symbol of every place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from nelbo.equation import equation
from nelbo.errors import DomainError, NelboError, ShapeError, UsageError
from nelbo.model.calling import first_line
from nelbo.model.opened import entered, name_of, opened
from nelbo.model.predictor import Predictor
from nelbo.process.tokens.levels import TokenLevels, cells
from nelbo.typing import Choice, Condition, Json


class TokenTime(Choice, noun="time input of a network over tokens"):
    """What a network is told besides z (B,): nothing; how many places are hidden (int64), or the share of them; unit
    time t; or σ = −log α_t."""

    NONE = "none"
    COUNT = "count"
    MASK_FRACTION = "mask_fraction"
    UNIT = "unit"
    SIGMA = "sigma"

    @property
    def timed(self) -> bool:
        """Whether it says more than z itself does where places are masked."""
        return self in (TokenTime.UNIT, TokenTime.SIGMA)

    def of(self, hidden: Tensor, at: TokenLevels | None, dtype: torch.dtype) -> Tensor | None:
        """The network's second argument (B,), for hidden places (B, L)."""
        if self is TokenTime.NONE:
            return None
        if self is TokenTime.COUNT:
            return hidden.sum(1)
        if self is TokenTime.MASK_FRACTION:
            return hidden.double().mean(1).to(dtype)
        assert at is not None  # a model whose network is told the time has levels
        return at.t.to(dtype) if self is TokenTime.UNIT else (-torch.log1p(-at.noise)).to(dtype)


class TokenLaw(Choice, noun="law that a network over tokens gives"):
    """What the logits of a place say: its symbol given all of z, or given z without that place. Of a masked place both
    are the same."""

    POSTERIOR = "posterior"
    LEAVE_ONE_OUT = "leave_one_out"


class TokenOutput(Choice, noun="output of a network over tokens"):
    """What a network says of a place: logits; probabilities; or log p_t(z with y there) − log p_t(z) of every symbol y,
    the logarithms of the ratios that score entropy learns (Lou et al. 2024, eq. 5).

    Of a hidden place the ratios are proportional to p(y | z). Of uniform noise they are so to the law of the noised
    symbol given the other places, m_y = r_y/Σ r, with r = 1 at the symbol that is there, and the law of the symbol
    itself is p_y = (m_y − (1 − α)/V)/α. A network's ratios may be those of no law at all: p_y is then at least `LEAST`
    of (1 − α)/V.
    """

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LOG_RATIOS = "log_ratios"


LEAST = 1e-6
"""See `TokenOutput`."""


class TokenDenoiser(Predictor, ABC):
    """Abstract: logits over symbols. `timed`: whether they depend on the time and not on z alone."""

    law: TokenLaw = TokenLaw.POSTERIOR
    timed: bool = False

    @abstractmethod
    def forward(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, condition: Condition | None = None) -> Tensor:
        """Logits of any precision (B, L, V), or (B, L, V + 1) with the mask's as the last, at z (B, L) int64.

        hidden (B, L): where z is masked. at: levels (B,), None for a chain over counts.
        """

    def at_places(
        self, z: Tensor, hidden: Tensor, at: TokenLevels | None, places: Tensor, condition: Condition | None = None
    ) -> Tensor:
        """What `forward` returns at the m places of `places` (B, L) alone, (m, V) or (m, V + 1)."""
        return self(z, hidden, at, condition)[places]


class NetworkTokenDenoiser(TokenDenoiser):
    """A network fn(z) or fn(z, time) → logits (B, L, V), or (B, L, V + 1) where the mask is a symbol of its own.

    shift: the logits at a place are those of the next place, as of networks made from left-to-right ones; the first
    place takes its own. predicts: its output; log-ratios with the law "leave_one_out" are those of uniform noise, with
    "posterior" those of masks. stochastic, modules: as of `NetworkDenoiser`.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        vocabulary: int,
        time: TokenTime | str | None = None,
        *,
        law: TokenLaw | str = TokenLaw.POSTERIOR,
        predicts: TokenOutput | str = TokenOutput.LOGITS,
        shift: bool = False,
        stochastic: bool = False,
        modules: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.net = opened(net, modules)
        self.vocabulary = vocabulary
        self.time = TokenTime.parse("none" if time is None else time)
        self.law = TokenLaw.parse(law)
        self.predicts = TokenOutput.parse(predicts)
        self.shift = bool(shift)
        self.stochastic = stochastic

    @property
    def timed(self) -> bool:  # type: ignore[override]
        return self.time.timed

    def describe(self) -> Json:
        return {**super().describe(), **name_of(self.net), **self.settings()}

    def settings(self) -> Json:
        """How the network is called and read."""
        how = {"time": self.time.value, "law": self.law.value, "predicts": self.predicts.value}
        return {**how, "shift": self.shift, "stochastic": self.stochastic}

    def forward(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, condition: Condition | None = None) -> Tensor:
        return self._read(self._checked(self._output(z, hidden, at, condition), z), z, at)

    def at_places(self, z, hidden, at, places, condition=None):
        few = getattr(self.net, "takes_places", False) and self.predicts is TokenOutput.LOGITS and not self.shift
        if not few:
            return super().at_places(z, hidden, at, places, condition)
        return self._output(z, hidden, at, condition, places=places)

    def _output(
        self, z: Tensor, hidden: Tensor, at: TokenLevels | None, condition: Condition | None, **more: Tensor
    ) -> Tensor:
        """What the network returns; more: keywords of its own."""
        dtype = self._dtype(torch.float32)
        time = self.time.of(hidden, at, dtype)
        rows = {k: v.to(dtype) if v.is_floating_point() else v for k, v in (condition or {}).items()}
        arguments = (z.clone(),) if time is None else (z.clone(), time)
        with entered(self.net) as function:
            try:
                return function(*arguments, **rows, **more)
            except (KeyboardInterrupt, MemoryError, NelboError):
                raise
            except Exception as error:
                if "memory" in str(error):
                    raise  # a smaller batch may do
                time_given = "nothing else" if time is None else f"time {str(time.dtype).removeprefix('torch.')} (B,)"
                raise UsageError(
                    f"the network raised {first_line(error)}; it was called with z {tuple(z.shape)} int64, symbols up "
                    f"to {int(z.max())}, and {time_given}"
                    + "".join(f", {name} {tuple(v.shape)}" for name, v in rows.items()),
                    "check vocabulary, length, the mask's number and `time` (None, 'count', 'mask_fraction', 'unit', "
                    "'sigma'); NELBO_TRACEBACK=1 shows where it happened",
                ) from error

    @equation("token-logit-shift")
    def _checked(self, logits: Tensor, z: Tensor) -> Tensor:
        V = self.vocabulary
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise ShapeError(
                f"the network returned {type(logits).__name__} where a tensor of logits is expected",
                "wrap it: lambda z: net(z).logits, say",
            )
        if logits.shape[:2] != z.shape or logits.ndim != 3 or logits.shape[2] not in (V, V + 1):
            raise ShapeError(
                f"the network returned shape {tuple(logits.shape)} for sequences of shape {tuple(z.shape)}",
                f"it gives logits over {V} symbols, (B, L, {V}), or {V + 1} with the mask's as the last",
            )
        return torch.cat([logits[:, :1], logits[:, :-1]], 1) if self.shift else logits

    def _read(self, output: Tensor, z: Tensor, at: TokenLevels | None) -> Tensor:
        """The output as logits."""
        if self.predicts is TokenOutput.PROBABILITIES:
            if not bool((output >= 0).all()):
                raise DomainError(
                    f"the network returned probabilities with values down to {float(output.min()):.3g}",
                    "probabilities are at least 0; of logits leave predicts='logits'",
                )
            return output.double().log()
        if self.predicts is TokenOutput.LOGITS or self.law is TokenLaw.POSTERIOR or at is None:
            return output  # of a hidden place, ratios are proportional to the law
        ratios = output[..., : self.vocabulary].double().scatter(-1, z[..., None], 0.0)
        lowest = cells(at.noise) / self.vocabulary
        return ((ratios.softmax(-1) - lowest) / cells(at.alpha)).clamp_min(LEAST * lowest).log()
