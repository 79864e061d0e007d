"""`TokenModel`: a complete p(x) over sequences of symbols, made of parts and frozen.

    p(x) = Σ_{z_1..z_T} p(z_T) Π_t p(z_{t−1} | z_t) p(x | z_1)

Where places are masked and the network is not told the time, the chain runs over counts of hidden places and needs no
schedule: every one gives the same bound.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import DomainError, UsageError
from nelbo.model.frozen import FrozenModel
from nelbo.model.tokens.calibration import Calibration, Surroundings
from nelbo.model.tokens.chain import counts_of, levels_of
from nelbo.model.tokens.denoiser import TokenDenoiser, TokenLaw, TokenOutput
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.reverse import AllMasked, Rule, SymbolPrior, TokenPrior, TokenReverse
from nelbo.process.grid import Continuous, Full, Grid
from nelbo.process.tokens import steps
from nelbo.process.tokens.kernel import Kernel, Steps, Uniform
from nelbo.process.tokens.levels import TokenLevels
from nelbo.process.tokens.survival import AlphaTable, Survival
from nelbo.typing import Condition, Json

FIRST = 1e-3
"""Unit time at which the continuous chain of a kernel without a mask begins, unless its grid says otherwise."""


AT_ONCE = 1 << 23
"""Logits in float64 in memory at once."""
CACHED = 1 << 18
"""Logits in float32 at once on a processor: no more than stay in its cache."""


@dataclass(frozen=True, eq=False)
class TokenModel(FrozenModel):
    """Domain, kernel, schedule (None where none is needed), grid, denoiser, reverse, prior and calibration (what was
    fitted to the network's law after its training, None where nothing was), with the provenance of the weights.

    Errors: UsageError where parts do not fit each other, and where the bound is infinite for every sequence.
    """

    domain: TokenDomain
    kernel: Kernel
    denoiser: TokenDenoiser
    schedule: Survival | None = None
    grid: Grid = field(default_factory=Full)
    reverse: TokenReverse = field(default_factory=TokenReverse)
    prior: TokenPrior = field(default_factory=AllMasked)
    calibration: Calibration | None = None
    provenance: Json = field(default_factory=dict)
    trained_on: Tensor | None = None
    """Hashes of the training examples (`Examples.hashes`), so that evaluating on them is noticed."""

    def __post_init__(self):
        self.kernel.check(self.domain.vocabulary)
        if self.calibration is not None:
            self.calibration.check(self.domain.vocabulary, self.kernel.absorbing)
        needed = not isinstance(self.kernel, Steps) and (not self.kernel.absorbing or self.denoiser.timed)
        if needed and self.schedule is None:
            why = "a network that is told the time" if self.kernel.absorbing else f"the kernel {self.kernel.kind!r}"
            raise UsageError(
                f"{why} without a schedule", "give schedule=nelbo.tokens.linear(), cosine(), geometric(…) or table(α)"
            )
        if not needed and self.schedule is not None:
            raise UsageError(
                "a schedule for a chain that has none: "
                + ("the steps are a table" if isinstance(self.kernel, Steps) else "the network is not told the time"),
                "leave schedule=None; every schedule gives the same bound",
            )
        if self.kernel.absorbing and Rule.parse(self.reverse.rule) is Rule.PLUG_IN:
            raise UsageError(
                "a plug-in step of masked places", "it is the mixture itself there: leave reverse='mixture'"
            )
        ratios = getattr(self.denoiser, "predicts", None) is TokenOutput.LOG_RATIOS
        if ratios and (self.denoiser.law is TokenLaw.POSTERIOR) != self.kernel.absorbing:
            raise UsageError(
                f"log-ratios of a network with the law {self.denoiser.law.value!r} for the kernel {self.kernel.kind!r}",
                "of masks they give the law 'posterior', of uniform noise 'leave_one_out'",
            )
        if ratios and not (self.kernel.absorbing or isinstance(self.kernel, Uniform)):
            raise UsageError(
                f"log-ratios of a network for the kernel {self.kernel.kind!r}",
                "they are read of masks and uniform noise",
            )
        if self.counted:
            self.counts(self.domain.length)
            if not isinstance(self.prior, AllMasked):
                raise UsageError(
                    f"the prior {self.prior.kind!r} of a chain over counts", "it ends with every place hidden"
                )
        else:
            levels, _ = self.levels()
            self.prior.check(self.kernel, levels[-1:], self.domain.vocabulary)
        if self.reverse.block is not None and not (self.counted and self.reverse.carry_over):
            raise UsageError(
                "blocks of a network that is told the time, or without a mask, or without carry-over",
                "a block is a chain over counts of hidden places: leave block=None",
            )
        if not self.reverse.carry_over and not self.counted:
            raise UsageError(
                "carry_over=False of a network that is told the time, or without a mask",
                "leave carry_over=True: a visible symbol stays",
            )

    def for_data(self, data: Tensor) -> Self:
        """The model of the length that `data` (N, L) has, where its network takes any; see `TokenDomain`."""
        domain = self.domain.of(data)
        return self if domain.length == self.domain.length else dataclasses.replace(self, domain=domain)

    def of_length(self, n: int) -> Self:
        """The model of sequences of n places by the same network. Errors: those of the network, which may take one
        length only."""
        if n == self.domain.length:
            return self
        domain = TokenDomain(self.domain.vocabulary, n, self.domain.longest)
        return dataclasses.replace(self, domain=domain)

    @property
    def notes(self) -> list[str]:
        """What whoever made the model says that its numbers mean: sentences of the entry `notes` of its provenance."""
        notes = self.provenance.get("notes")
        return [str(note) for note in notes] if isinstance(notes, list) else []

    def check_symbols(self, x: Tensor, scored: Tensor) -> None:
        """Errors: DomainError where a scored place (N, L) of x (N, L) holds the mask itself, or an absent symbol."""
        for symbol in self.reverse.absent:
            if bool(((x == symbol) & scored).any()):
                bad = int(((x == symbol) & scored).any(1).nonzero()[0, 0])
                raise DomainError(
                    f"sequence {bad} holds symbol {symbol} at a place that is scored, and the model has none there",
                    "it stands for no text: leave such places out by `mask`, or make the model with them",
                )
        mask = getattr(self.kernel, "mask", None)
        if mask is not None and bool(((x == mask) & scored).any()):
            bad = int(((x == mask) & scored).any(1).nonzero()[0, 0])
            raise DomainError(
                f"sequence {bad} holds the mask, symbol {mask}, at a place that is scored",
                "data are without masks: check the mask's number, or leave such places out by `mask`",
            )

    @property
    def counted(self) -> bool:
        """Whether the chain runs over counts of hidden places."""
        return self.kernel.absorbing and not self.denoiser.timed

    @equation("token-schedule-invariance")
    def counts(self, n: int) -> list[int]:
        """Counts l_1 < … < l_K = n of a chain over counts, for n scored places; of blocks, those of each, after which
        all later ones are hidden."""
        block = self.reverse.block or n
        ends = [min(end, n) for end in range(block, n + block, block)]
        blocks = reversed(list(pairwise([0, *ends])))
        return [n - end + count for start, end in blocks for count in counts_of(self.grid, end - start)]

    def levels(self) -> tuple[TokenLevels, Kernel]:
        """The levels z_1 … z_K of a chain over times (the two ends of a continuous one), and the kernel of its
        steps."""
        return levels_of(self.grid, self.kernel, self.schedule)

    def predict(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, condition: Condition | None = None) -> Tensor:
        """log probabilities (B, L, V) of every place's symbol as the network says them, after the model's rules.

        z (B, L) int64; hidden (B, L): where it is masked; at: levels (B,), None for a chain over counts.
        """
        log_p = self.reverse.log_law(self.denoiser(z, hidden, at, condition), self.kernel, self.domain.vocabulary)
        near = self._around(z, hidden, at, torch.ones_like(hidden))
        return log_p if near is None else self._calibrated(log_p.flatten(0, 1), near).reshape(log_p.shape)

    def _around(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, places: Tensor) -> Surroundings | None:
        """What the calibration is told of `places` (B, L); None where there is none."""
        if self.calibration is None:
            return None
        return self.calibration.around(z, hidden, self.share(hidden, at), places)

    def _calibrated(self, log_p: Tensor, near: Surroundings | None) -> Tensor:
        return log_p if near is None or self.calibration is None else self.calibration.law(log_p, near)

    def share(self, hidden: Tensor, at: TokenLevels | None) -> Tensor:
        """The share of noise (B,): of hidden places (B, L), or that of the levels (B,) of a kernel without a mask; of a
        table of steps, of the time."""
        if self.kernel.absorbing or at is None:
            return hidden.double().mean(1)
        return torch.where(torch.isfinite(at.noise), at.noise, at.t)

    def costs(
        self,
        x: Tensor,
        z: Tensor,
        hidden: Tensor,
        at: TokenLevels | None,
        condition: Condition | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """−log p_i(x_i) of what `predict` returns, (B, L) float64, at `places` (B, L), all where None; elsewhere 0. See
        `TokenReverse.costs`; a few places at once."""
        places = torch.ones_like(x, dtype=torch.bool) if places is None else places
        logits = self.denoiser.at_places(z, hidden, at, places, condition)
        cached = self.calibration is None and logits.dtype != torch.float64 and logits.device.type == "cpu"
        few, V = max(1, (CACHED if cached else AT_ONCE) // logits.shape[-1]), self.domain.vocabulary
        near, of, nats = self._around(z, hidden, at, places), x[places], []
        for some in (slice(a, a + few) for a in range(0, max(1, len(logits)), few)):
            if near is None:
                nats.append(self.reverse.costs(logits[some], of[some], self.kernel, V))
            else:
                log_p = self._calibrated(self.reverse.log_law(logits[some], self.kernel, V), near.take(some))
                nats.append(surprise(log_p, of[some]))
        nats = torch.cat(nats)
        return torch.zeros(x.shape, dtype=torch.float64, device=nats.device).masked_scatter(places, nats)

    def law_at(
        self,
        z: Tensor,
        hidden: Tensor,
        at: TokenLevels | None,
        places: Tensor,
        condition: Condition | None = None,
        precision: torch.dtype = torch.float64,
    ) -> Tensor:
        """What `predict` returns at the m places of `places` (B, L) alone, (m, V), in a precision."""
        logits = self.denoiser.at_places(z, hidden, at, places, condition)
        log_p = self.reverse.log_law(logits, self.kernel, self.domain.vocabulary, precision)
        return self._calibrated(log_p, self._around(z, hidden, at, places))

    def step(self, log_law: Tensor, z: Tensor, s: TokenLevels, t: TokenLevels, kernel: Kernel) -> Tensor:
        """p(z_s | z_t = z) (B, L, V), of what `predict` returned, at a step of a kernel without a mask."""
        if Rule.parse(self.reverse.rule) is Rule.PLUG_IN:
            return steps.plug_in(log_law.exp(), z, s, t, kernel)
        return steps.mixture(self.posterior(log_law, z, t, kernel).exp(), z, s, t, kernel)

    def posterior(self, log_law: Tensor, z: Tensor, at: TokenLevels, kernel: Kernel) -> Tensor:
        """log p(k | z) of what `predict` returned, at a level of a kernel without a mask."""
        if self.denoiser.law is TokenLaw.LEAVE_ONE_OUT or Rule.parse(self.reverse.rule) is Rule.PLUG_IN:
            return steps.posterior_from_leave_one_out(log_law, z, at, kernel)
        return log_law

    @property
    def steps(self) -> int | None:
        """Network evaluations of one pass of the chain; None where the grid is continuous."""
        if self.counted:
            return len(self.counts(self.domain.length))
        return None if isinstance(self.grid, Continuous) else len(self.levels()[0])

    def describe(self) -> Json:
        """The parts as JSON: what a result must carry to say which model it scored."""
        return {
            "domain": self.domain.to_config(),
            "kernel": self.kernel.to_config(),
            "schedule": None if self.schedule is None else self.schedule.to_config(),
            "grid": {**self.grid.to_config(), "steps": self.steps, "over": "counts" if self.counted else "times"},
            "reverse": self.reverse.to_config(),
            "prior": self.prior.to_config(),
            **({} if self.calibration is None else {"calibration": self.calibration.to_config()}),
        }

    @property
    def parameters(self) -> int:
        """Number of trained scalars, and of those that were fitted or counted after the training."""
        return super().parameters + (0 if self.calibration is None else self.calibration.numbers)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the model by name: weights as the denoiser names them, tables under their part."""
        named = dict(self.denoiser.state_dict())
        for part in ("kernel", "schedule", "prior", "calibration"):
            if getattr(self, part) is not None:
                named |= {f"{part}.{k}": v for k, v in getattr(self, part).to_tensors().items()}
        return named


def surprise(log_p: Tensor, x: Tensor) -> Tensor:
    """−log p(x) of every symbol of x (…), of log_p (…, V)."""
    return -log_p.gather(-1, x[..., None])[..., 0]


def grid_for(kernel: Kernel, schedule: Survival | None) -> Grid:
    """The grid of a model that names none: every count, every level of a table, the whole interval of a law."""
    if isinstance(kernel, Steps) or schedule is None or isinstance(schedule, AlphaTable):
        return Full()
    if kernel.absorbing or float(schedule.noise(torch.zeros(1, dtype=torch.float64))) > 0:
        return Continuous()
    return Continuous(t_first=FIRST)


def prior_for(kernel: Kernel, schedule: Survival | None, grid: Grid, vocabulary: int) -> TokenPrior:
    """The prior of a model that names none: all places masked, or the mean of q(z_T | x) over symbols x, which is
    uniform where the noise is."""
    if kernel.absorbing or (schedule is None and not isinstance(kernel, Steps)):
        return AllMasked()  # of a schedule that is missing, the model says so
    levels, steps_of = levels_of(grid, kernel, schedule)
    even = torch.full((1, 1, vocabulary), 1 / vocabulary, dtype=torch.float64)
    return SymbolPrior(steps_of.marginal(even, levels[-1:])[0, 0])
