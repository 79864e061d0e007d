"""Sequences of symbols whose law is known: an enumerated joint, a Markov chain, independent places.

With evidence e_i(k) = q(z_i | k) of every place, the law of a symbol given z is

    p(x_i = k | z) ∝ Σ_{x: x_i = k} p(x) Π_j e_j(x_j),

by a sum over all x, by forward-backward recursion (Rabiner 1989, eq. 27), or place by place. Of masked places the
chain over counts then has a bound of exactly −log p(x) for every sequence, in every order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import DomainError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.denoiser import TokenDenoiser, TokenLaw
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel, grid_for, prior_for
from nelbo.model.tokens.reverse import TokenPrior, TokenReverse
from nelbo.process.grid import Grid
from nelbo.process.tokens.kernel import Absorbing, Kernel, Steps
from nelbo.process.tokens.levels import TokenLevels
from nelbo.process.tokens.survival import Survival
from nelbo.typing import Condition, Json

MOST = 1 << 16
"""Sequences of an enumerated joint."""


class ExactTokens(ABC):
    """Abstract: sequences whose log p, entropy, draws and posterior of a place are known."""

    @property
    @abstractmethod
    def domain(self) -> TokenDomain:
        """V and L."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), for x (N, L) int64."""

    @abstractmethod
    def entropy(self) -> float:
        """−Σ p log p in nats a sequence."""

    @abstractmethod
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws, (n, L) int64; draw i depends on (seed, i) alone."""

    @abstractmethod
    def posterior(self, evidence: Tensor) -> Tensor:
        """p(x_i = k | z), (B, L, V), from evidence q(z_i | k) (B, L, V)."""

    def denoiser(self, kernel: Kernel, law: TokenLaw | str = TokenLaw.POSTERIOR) -> ExactTokenDenoiser:
        """The exact network of a kernel: the law of a symbol given z, or given z without its place."""
        return ExactTokenDenoiser(self, kernel, law)

    def model(
        self,
        kernel: Kernel | None = None,
        *,
        schedule: Survival | None = None,
        grid: Grid | None = None,
        reverse: str = "mixture",
        law: TokenLaw | str = TokenLaw.POSTERIOR,
        prior: TokenPrior | None = None,
    ) -> TokenModel:
        """The model with the exact network; kernel: a mask of its own where None. Of the rest, see `TokenModel`."""
        kernel = kernel or Absorbing(self.domain.vocabulary)
        grid = grid or grid_for(kernel, schedule)
        return TokenModel(
            domain=self.domain,
            kernel=kernel,
            denoiser=self.denoiser(kernel, law),
            schedule=schedule,
            grid=grid,
            reverse=TokenReverse(reverse),
            prior=prior or prior_for(kernel, schedule, grid, self.domain.vocabulary),
        )


class ExactTokenDenoiser(TokenDenoiser):
    """The law of every place's symbol given z, or given z without the place, of known data."""

    def __init__(self, data: ExactTokens, kernel: Kernel, law: TokenLaw | str):
        super().__init__()
        self.data, self.kernel, self.law = data, kernel, TokenLaw.parse(law)  # no buffers: it stays in float64

    def describe(self) -> Json:
        data = {name: v.tolist() if isinstance(v, Tensor) else v for name, v in vars(self.data).items()}
        return {**super().describe(), "law": self.law.value, "data": data}

    def forward(self, z: Tensor, hidden: Tensor, at: TokenLevels | None, condition: Condition | None = None) -> Tensor:
        V, kernel = self.data.domain.vocabulary, self.kernel
        if kernel.absorbing:
            evidence = torch.where(hidden[..., None], 1, one_hot(z.clamp(max=V - 1), V)).double()
        else:
            assert at is not None  # such a chain has levels
            if isinstance(kernel, Steps):  # on a coarser grid, too, t says the level of the table
                at = TokenLevels(at.t, at.alpha, at.noise, (at.t * len(kernel.matrices)).round().long())
            evidence = kernel.likelihood(z, at, V)
        posterior = self.data.posterior(evidence)
        if self.law is TokenLaw.LEAVE_ONE_OUT:
            posterior = posterior / evidence
        return posterior.log()


@dataclass(frozen=True, eq=False)
class TokenData(ExactTokens):
    """A joint law (V, …, V) of L symbols, at most 65,536 sequences, ≥ 0; normalised here."""

    joint: Tensor

    def __post_init__(self):
        p = torch.as_tensor(self.joint, dtype=torch.float64)
        if p.ndim < 1 or len(set(p.shape)) > 1 or p.shape[0] < 2 or p.numel() > MOST:
            raise DomainError(
                f"a joint law of shape {tuple(p.shape)}", f"give (V, …, V), one axis a place, at most {MOST} sequences"
            )
        if not bool((p >= 0).all()) or not float(p.sum()) > 0:
            raise DomainError("a joint law with negative probabilities, or none", "give numbers ≥ 0, some of them > 0")
        object.__setattr__(self, "joint", p / p.sum())

    @property
    def domain(self) -> TokenDomain:
        return TokenDomain(self.joint.shape[0], self.joint.ndim)

    @property
    def sequences(self) -> Tensor:
        """All of them, (V^L, L), in the order of the joint's elements."""
        V, L = self.joint.shape[0], self.joint.ndim
        return torch.cartesian_prod(*[torch.arange(V)] * L).reshape(-1, L)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.joint[tuple(x.T)].log()

    def entropy(self) -> float:
        return -float(torch.special.xlogy(self.joint, self.joint).sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        cdf = self.joint.flatten().cumsum(0)
        u = Purpose.EXACT_DRAW.uniform(seed, torch.arange(n))
        return self.sequences[torch.searchsorted(cdf, u * cdf[-1]).clamp(max=len(cdf) - 1)]

    @equation("token-bayes-exact")
    def posterior(self, evidence: Tensor) -> Tensor:
        B, L, V = evidence.shape
        every = self.sequences.to(evidence.device)
        weight = self.joint.flatten().to(evidence.device).expand(B, -1)
        for i in range(L):
            weight = weight * evidence[:, i, every[:, i]]
        by_place = weight @ one_hot(every, V).double().reshape(-1, L * V)
        by_place = by_place.reshape(B, L, V)
        return by_place / by_place.sum(-1, keepdim=True)


@numbers
@dataclass(frozen=True, eq=False)
class MarkovData(ExactTokens):
    """x_1 ~ initial (V,), x_{i+1} ~ transition[x_i] (V, V): a Markov chain of `length` symbols."""

    initial: Tensor
    transition: Tensor
    length: int

    def __post_init__(self):
        first = torch.as_tensor(self.initial, dtype=torch.float64)
        P = torch.as_tensor(self.transition, dtype=torch.float64)
        if P.ndim != 2 or P.shape != (len(first), len(first)) or self.length < 1:
            raise DomainError(
                f"a Markov chain of {self.length} symbols with {tuple(first.shape)} and {tuple(P.shape)}",
                "give initial (V,), transition (V, V) and a length ≥ 1",
            )
        if not bool((first >= 0).all() & (P >= 0).all()) or not bool((P.sum(1) > 0).all()):
            raise DomainError("a Markov chain with negative probabilities, or rows of none", "give numbers ≥ 0")
        object.__setattr__(self, "initial", first / first.sum())
        object.__setattr__(self, "transition", P / P.sum(1, keepdim=True))

    @property
    def domain(self) -> TokenDomain:
        return TokenDomain(len(self.initial), self.length)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.initial.log()[x[:, 0]] + self.transition.log()[x[:, :-1], x[:, 1:]].sum(1)

    def entropy(self) -> float:
        total, now = -float(torch.special.xlogy(self.initial, self.initial).sum()), self.initial
        of_row = -torch.special.xlogy(self.transition, self.transition).sum(1)
        for _ in range(self.length - 1):
            total += float(now @ of_row)
            now = now @ self.transition
        return total

    def sample(self, n: int, seed: int = 0) -> Tensor:
        u = Purpose.EXACT_DRAW.uniform(seed, torch.arange(n), shape=(self.length,))
        last = len(self.initial) - 1
        x = torch.zeros(n, self.length, dtype=torch.long)
        x[:, 0] = torch.searchsorted(self.initial.cumsum(0), u[:, 0].contiguous()).clamp(max=last)
        for i in range(1, self.length):
            rows = self.transition.cumsum(1)[x[:, i - 1]]
            x[:, i] = torch.searchsorted(rows, u[:, i : i + 1].contiguous())[:, 0].clamp(max=last)
        return x

    def posterior(self, evidence: Tensor) -> Tensor:
        first, P = (v.to(evidence.device) for v in (self.initial, self.transition))
        before = [_normalised(first * evidence[:, 0])]
        for i in range(1, self.length):
            before.append(_normalised((before[-1] @ P) * evidence[:, i]))
        after = [torch.ones_like(before[0])]
        for i in range(self.length - 1, 0, -1):
            after.append(_normalised((after[-1] * evidence[:, i]) @ P.T))
        return _normalised(torch.stack(before, 1) * torch.stack(after[::-1], 1))


@dataclass(frozen=True, eq=False)
class ProductTokens(ExactTokens):
    """Independent places with probabilities (L, V) > 0."""

    probabilities: Tensor

    def __post_init__(self):
        p = torch.as_tensor(self.probabilities, dtype=torch.float64)
        if p.ndim != 2 or not bool((p > 0).all()):
            raise UsageError(f"probabilities of shape {tuple(p.shape)}", "give (L, V), all positive")
        object.__setattr__(self, "probabilities", _normalised(p))

    @property
    def domain(self) -> TokenDomain:
        L, V = self.probabilities.shape
        return TokenDomain(V, L)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.probabilities.log()[torch.arange(x.shape[1]), x].sum(1)

    def entropy(self) -> float:
        return -float(torch.special.xlogy(self.probabilities, self.probabilities).sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        u = Purpose.EXACT_DRAW.uniform(seed, torch.arange(n), shape=(len(self.probabilities),))
        return (u[..., None] > self.probabilities.cumsum(1)[:, :-1]).sum(-1)

    def posterior(self, evidence: Tensor) -> Tensor:
        return _normalised(self.probabilities.to(evidence.device) * evidence)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
