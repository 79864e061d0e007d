"""A second kind of chain, in closed form and without a network: bits that flip, scored by a model of independent bits.

    q(z_t^d = x^d | x) = 1 − f_t,     0 < f_1 < … < f_L ≤ ½,         p(x) = Π_d Bernoulli(x^d; θ_d)

The model's posterior of a bit is θ with the likelihood of z; a step is the mixture of q(z_s | z_t, x) over it, and the
first level decodes by it. The exact value of a term is a sum over z ∈ {0, 1}, bit by bit. It has one control of known
mean zero, one feature, and a cost of one evaluation a draw of a cell; the first level is free. Nothing is Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Cells, Draws, Problem
from nelbo.maths import random
from nelbo.workers import Workers


def entropy(p: Tensor) -> Tensor:
    """−Σ p log p of a bit, nats."""
    return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p))


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL of two bits, nats."""
    return torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p))


def posterior(prior: Tensor, z: Tensor, flip: Tensor) -> Tensor:
    """P(y = 1 | z) of a bit y with P(y = 1) = `prior` that has flipped to z with probability `flip`."""
    one, zero = prior * torch.where(z > 0, 1 - flip, flip), (1 - prior) * torch.where(z > 0, flip, 1 - flip)
    return one / (one + zero)


@dataclass(frozen=True, eq=False)
class Flips(Problem):
    """x (N, D) of zeros and ones, the model's θ (D,), and the probabilities f (L,) of a flip at each level."""

    x: Tensor
    theta: Tensor
    flips: Tensor
    seed: int = 0

    @property
    def examples(self) -> int:
        return len(self.x)

    @property
    def dimensions(self) -> int:
        return self.x.shape[1]

    @property
    def first_cost(self) -> int:
        return 0

    @cached_property
    def cells(self) -> Cells:
        """A step is one cell, by the entropy of a flipped bit, which grows along the chain and is what a step loses."""
        at = entropy(self.flips)
        return Cells(at[:-1], at[1:], at[1:], (at[1:] - at[:-1]) * self.dimensions)

    def position(self, u: float) -> tuple[float, float]:
        return u, float("nan")

    def prior(self, examples: Tensor) -> Tensor:
        last = self.flips[-1]
        return divergence(torch.where(self.x[examples] > 0, 1 - last, last), torch.tensor(0.5).double()).sum(1)

    def terms(self, x: Tensor, z: Tensor, level: Tensor) -> Tensor:
        """Of bits x and z (…, D) at `level` (…): KL of the step down to the level before, at level 0 −log p(x | z)."""
        f = self.flips[level][..., None]
        guess = posterior(self.theta, z, f)
        before = self.flips[(level - 1).clamp(min=0)][..., None]
        between = (f - before) / (1 - 2 * before)  # a flip from the level before to this one
        true = posterior(torch.where(x > 0, 1 - before, before), z, between)
        model = guess * posterior(1 - before, z, between) + (1 - guess) * posterior(before, z, between)
        decoded = -torch.where(x > 0, guess, 1 - guess).log()
        return torch.where(level[..., None] == 0, decoded, divergence(true, model)).sum(-1)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        examples = draws.examples[rows]
        x = self.x[examples]
        level = torch.zeros_like(examples) if draws.cells is None else draws.cells[rows] + 1
        u = random.uniform(self.seed, examples, draws.keys[rows], draws.numbers[rows], (self.dimensions,))
        flipped = (u < self.flips[level][:, None]).double()
        columns = torch.zeros(len(rows), 2, dtype=torch.float64)
        columns[:, 0] = self.terms(x, (x - flipped).abs(), level)
        if controls is not None:
            columns[:, 1] = (flipped - self.flips[level][:, None]).sum(1) * controls
        return columns

    @property
    def control_columns(self) -> int:
        return 1

    def fit_controls(self, examples: Tensor, workers: Workers) -> float:
        """A unit for the number of flips, which every worker takes from rank 0."""
        unit = torch.tensor([[1 / self.dimensions + workers.rank]], dtype=torch.float64)  # other workers are wrong
        return float(workers.gather(unit)[0])

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """The surprise of an example under the model, which is what its terms add up to but for the noise."""
        x = self.x[examples]
        surprise = -torch.where(x > 0, self.theta, 1 - self.theta).log().sum(1, keepdim=True)
        return surprise.float(), (1 + surprise).float()

    def exact(self) -> tuple[Tensor, Tensor]:
        """The exact diffusion and reconstruction terms of every example, (N,) each, summed over z ∈ {0, 1} by bits."""
        totals = []
        for level in range(len(self.flips)):
            at = torch.tensor(level)
            mean = torch.zeros(self.examples, dtype=torch.float64)
            for d in range(self.dimensions):
                bit = Flips(self.x[:, d : d + 1], self.theta[d : d + 1], self.flips)
                for flipped in (0.0, 1.0):
                    chance = float(self.flips[level]) if flipped else 1 - float(self.flips[level])
                    mean += chance * bit.terms(bit.x, (bit.x - flipped).abs(), at.expand(self.examples))
            totals.append(mean)
        return torch.stack(totals[1:]).sum(0), totals[0]


def problem(N: int = 160, D: int = 24, L: int = 40, seed: int = 0) -> Flips:
    """Bits of unequal θ, drawn from a law that the model has nearly right."""
    make = torch.Generator().manual_seed(1)
    theta = 0.1 + 0.8 * torch.rand(D, generator=make, dtype=torch.float64)
    x = (torch.rand(N, D, generator=make, dtype=torch.float64) < theta.square().add(theta).div(2)).double()
    return Flips(x, theta, torch.linspace(0.01, 0.495, L, dtype=torch.float64), seed)
