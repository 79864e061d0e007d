"""What a model of symbols makes of its network's logits: rules of the reverse step, and the law of the last level."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import DomainError, UsageError
from nelbo.parts import Part
from nelbo.process.tokens import steps
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.levels import TokenLevels
from nelbo.typing import Choice


class Rule(Choice, noun="reverse step"):
    """p(z_s | z_t): the mixture of q(z_s | z_t, k) over the network's law of k, or that law in the place of x."""

    MIXTURE = "mixture"
    PLUG_IN = "plug_in"


@dataclass(frozen=True, eq=False)
class TokenReverse(Part, family="token_reverse", kind="token_reverse"):
    """The rule of a step, and of masked places: whether the probability that the network puts on the mask itself is
    removed (`remove_mask`), and whether a visible symbol stays as it is (`carry_over`). Left in, either makes a looser
    bound; both are part of the model.

    block: so many places at a time, from the left, are revealed before the first of the next (Arriola et al. 2025,
    "Block diffusion", eq. 3): 1 is the chain rule from left to right, None or L all places in any order.

    absent: symbols of the vocabulary that stand at no scored place, such as a tokenizer's padding: the probability that
    the network puts on them is removed.
    """

    rule: str = "mixture"
    remove_mask: bool = True
    carry_over: bool = True
    block: int | None = None
    absent: tuple[int, ...] = ()

    def __post_init__(self):
        Rule.parse(self.rule)
        if self.block is not None and self.block < 1:
            raise UsageError(f"blocks of {self.block} places", "give block ≥ 1, or None for all places at once")

    @equation("token-mask-removed")
    def log_law(
        self, logits: Tensor, kernel: Kernel, vocabulary: int, precision: torch.dtype = torch.float64
    ) -> Tensor:
        """log probabilities (B, L, V) of the symbols of the vocabulary, of logits (B, L, V or V + 1)."""
        return self._compared(logits.to(precision), kernel, vocabulary).log_softmax(-1)[..., :vocabulary]

    def costs(self, logits: Tensor, x: Tensor, kernel: Kernel, vocabulary: int) -> Tensor:
        """−log p(x) of symbols x (m,) by `log_law` of logits (m, V or V + 1), (m,) float64.

            log Σ_k e^{l_k − m} + (m − l_x),        m = max_k l_k

        Of logits of less precision than float64 the exponentials are in float32, and the sum, its logarithm and m − l_x
        in float64: of normal logits with standard deviation 4 over 8,192 symbols this is within 2·10⁻⁸ nats of float64
        throughout, a tenth of what rounding the logits themselves to float32 does, in a sixth of the time.
        """
        if logits.dtype == torch.float64:
            log_p = self.log_law(logits, kernel, vocabulary)
            return -log_p.gather(-1, x[:, None])[:, 0]
        logits = self._compared(logits.float(), kernel, vocabulary)
        most = logits.amax(-1, keepdim=True)
        total = (logits - most).exp_().sum(-1, dtype=torch.float64)
        return total.log() + (most.double() - logits.gather(-1, x[:, None]).double())[:, 0]

    def _compared(self, logits: Tensor, kernel: Kernel, vocabulary: int) -> Tensor:
        """The logits of all symbols that have a probability, others −∞: those of the vocabulary come first."""
        if self.absent:
            logits = logits.index_fill(-1, torch.tensor(self.absent, device=logits.device), -math.inf)
        mask = getattr(kernel, "mask", None)
        if mask is None or (logits.shape[-1] == vocabulary and mask == vocabulary):
            return logits[..., :vocabulary]
        if self.remove_mask:
            column = torch.arange(logits.shape[-1], device=logits.device) == mask
            logits = logits.masked_fill(column, -math.inf)
        return logits


class TokenPrior(Part, family="token_prior"):
    """Abstract: p(z_T)."""

    @abstractmethod
    def divergence(self, x: Tensor, at: TokenLevels, kernel: Kernel, vocabulary: int) -> Tensor:
        """KL(q(z_T | x) ‖ p(z_T)) of every place, (B, L) float64, at levels (B,)."""

    def check(self, kernel: Kernel, last: TokenLevels, vocabulary: int) -> None:
        """Errors: UsageError where it is not for the kernel, or gives every sequence an infinite bound."""
        if kernel.absorbing:
            raise UsageError(
                f"the prior {self.kind!r} of a chain that ends in masked places", "use 'all_masked' or 'matched'"
            )


@dataclass(frozen=True, eq=False)
class AllMasked(TokenPrior, kind="all_masked"):
    """Every place is masked; right for a chain that ends with α_T = 0, and infinitely costly for any other."""

    def divergence(self, x: Tensor, at: TokenLevels, kernel: Kernel, vocabulary: int) -> Tensor:
        return torch.zeros_like(x, dtype=torch.float64)

    @equation("token-prior-infinite")
    def check(self, kernel: Kernel, last: TokenLevels, vocabulary: int) -> None:
        if not kernel.absorbing:
            raise UsageError(f"the prior 'all_masked' of a {kernel.kind!r} kernel", "it has no mask; leave prior=None")
        alpha = float(last.alpha[-1])
        if alpha > 0:
            raise UsageError(
                f"the bound is infinite: the chain ends with α_T = {alpha:.6g}, so that a place may still be visible, "
                "and the prior, in which every place is masked, gives that probability 0",
                'give prior="matched", which costs α_T log V nats a place, or a schedule with α_T = 0; a network that '
                "is not told the time needs neither schedule nor prior: time=None",
            )


@dataclass(frozen=True, eq=False)
class MatchedMask(TokenPrior, kind="matched"):
    """Each place by itself: masked with probability 1 − α_T, else any symbol alike; KL = α_T log V nats a place."""

    @equation("token-prior-matched")
    def divergence(self, x: Tensor, at: TokenLevels, kernel: Kernel, vocabulary: int) -> Tensor:
        symbols = vocabulary - int(getattr(kernel, "mask", vocabulary) < vocabulary)
        return (at.alpha * math.log(symbols))[:, None].expand(x.shape)

    def check(self, kernel: Kernel, last: TokenLevels, vocabulary: int) -> None:
        if not kernel.absorbing:
            raise UsageError(f"the prior 'matched' of a {kernel.kind!r} kernel", "it has no mask; leave prior=None")


@dataclass(frozen=True, eq=False)
class SymbolPrior(TokenPrior, kind="symbols"):
    """Each place by itself, with probabilities (V,) > 0 of the symbols."""

    probabilities: Tensor

    def __post_init__(self):
        p = torch.as_tensor(self.probabilities, dtype=torch.float64)
        if p.ndim != 1 or not bool((p > 0).all()) or not bool(torch.isfinite(p).all()):
            raise DomainError(f"a prior of shape {tuple(p.shape)}", "give (V,) positive probabilities")
        object.__setattr__(self, "probabilities", p / p.sum())

    def divergence(self, x: Tensor, at: TokenLevels, kernel: Kernel, vocabulary: int) -> Tensor:
        return steps.prior_divergence(x, at, kernel, self.probabilities)

    def check(self, kernel: Kernel, last: TokenLevels, vocabulary: int) -> None:
        super().check(kernel, last, vocabulary)
        if len(self.probabilities) != vocabulary:
            raise UsageError(
                f"a prior over {len(self.probabilities)} symbols for a vocabulary of {vocabulary}", "they must agree"
            )
