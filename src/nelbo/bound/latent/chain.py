"""The bound of a latent model as a `Problem`: the prior's chain over z, and the likelihood's term at its first level.

exact       −H[q(z | x)],  E KL(q(z_L | x) ‖ p(z_L)),  and −E log p(z | z_1) where it needs no network
first level −log p(x | z) at a draw of q(z | x), with −log p(z | z_1) where that asks the prior's network
cells       those of the prior, averaged over q(z | x) in closed form where they can be (`spread.py`)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound import features
from nelbo.bound.gaussian_controls import Controls
from nelbo.bound.latent.spread import SpreadChain
from nelbo.bound.problem import Cells, Draws, Problem
from nelbo.errors import NumericalError
from nelbo.maths import tiles
from nelbo.maths.keys import Purpose
from nelbo.model.latent.encoder import negative_entropy
from nelbo.model.latent.model import LatentModel
from nelbo.process.levels import column
from nelbo.typing import Condition
from nelbo.workers import Workers

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class LatentChain(Problem):
    """A latent model and checked images data (N, *shape) with the moments of q(z′ | x), mean and std (N, *latent), std
    with one row where it is the same for all.

    All else is as of `GaussianChain`; the condition is that of the prior's network.
    """

    model: LatentModel
    data: Tensor
    mean: Tensor
    std: Tensor
    condition: Condition = field(default_factory=dict)
    seed: int = 0
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32
    release: Callable[[], None] = lambda: None

    @cached_property
    def inner(self) -> SpreadChain:
        """The chain over z′, trained as the whole model was, where it does not say otherwise itself."""
        prior = self.model.prior
        return SpreadChain(
            model=prior if prior.provenance else dataclasses.replace(prior, provenance=self.model.provenance),
            data=self.mean,
            condition=self.condition,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            std=self.std,
        )

    @property
    def examples(self) -> int:
        """N."""
        return len(self.data)

    @property
    def dimensions(self) -> int:
        """D of an image."""
        return self.model.domain.dimensions

    @property
    def cells(self) -> Cells:
        """Those of the prior."""
        return self.inner.cells

    @property
    def first_cost(self) -> int:
        """The decoder's evaluation, and the prior network's where its own first level asks it."""
        return 1 + self.inner.first_cost

    @property
    def signed(self) -> bool:
        """All normals of a draw."""
        return True

    @property
    def control_columns(self) -> int:
        """As of the chain over z′; of the likelihood's term the second is ‖η‖² − D_z, z′ being μ + s η."""
        return self.inner.control_columns

    @cached_property
    def free_first(self) -> bool:
        """Whether −E log p(z | z_1) is the same exact number for all examples: of N(z_1/α, σ²/α²)."""
        return self.inner.averaged_first and not self.model.prior.decoder.calls_network

    def reconstruction(self) -> float:
        """−E log p(z | z_1) where it is `free_first`: ½ D_z (1 + log 2π − λ_1), in nats."""
        first = float(self.inner.levels.logsnr[0])
        return 0.5 * self.inner.dimensions * (1 + math.log(2 * math.pi) - first)

    def entropy(self, examples: Tensor) -> Tensor:
        """−H[q(z′ | x)] of `examples` (n,), (n,) float64 nats."""
        std = self.std[examples] if len(self.std) > 1 else self.std
        return negative_entropy(std, self.model.latent_shape).expand(len(examples))

    def prior(self, examples: Tensor) -> Tensor:
        """All that is exact, (n,)."""
        exact = self.inner.prior(examples) + self.entropy(examples)
        return exact + self.reconstruction() if self.free_first else exact

    def position(self, u: float) -> tuple[float, float]:
        """Of the chain over z′."""
        return self.inner.position(u)

    def edge(self, j: int) -> tuple[float, float]:
        """Of the chain over z′."""
        return self.inner.edge(j)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """Of cells those of the chain over z′, and what is observed; at the first level with −log p(x | z)."""
        if draws.cells is not None:
            return self.inner.columns(draws, controls, rows)
        if self.free_first:
            columns = torch.zeros(len(rows), 1 + self.control_columns, dtype=torch.float64)
        else:
            columns = self.inner.columns(draws, controls, rows)
        nats, square = self.pixels(draws, rows)
        columns[:, 0] += nats
        if controls is not None:
            columns[:, 2] = square - self.inner.dimensions
        return columns

    def pixels(self, draws: Draws, rows: Tensor) -> tuple[Tensor, Tensor]:
        """−log p(x | z) of the draws `rows` (b,) in nats, and ‖η‖² of their z′ = μ + s η, (b,) on the CPU.

        Errors: NumericalError where a term is not finite.
        """
        examples, shape = draws.examples[rows], self.model.latent_shape
        eta = Purpose.LATENT_DRAW.normal(self.seed, examples, 0, draws.numbers[rows], shape, device=self.device)
        if draws.signs is not None:
            eta *= column(draws.signs[rows].to(eta), eta)
        z = self.inner.values(examples) + self.inner.std_of(examples) * eta
        data = self.data[examples].to(self.device)
        self.release()
        with torch.no_grad():
            nats = self.model.pixels(data, z).cpu()
        if not bool(torch.isfinite(nats).all()):
            bad = int(examples[(~torch.isfinite(nats)).nonzero()[0, 0]])
            raise NumericalError(
                f"the pixels' term of example {bad} is not finite",
                "the encoder or decoder returned NaN or infinity there: check its weights, its precision, the range of "
                "the domain and the units of the latents",
            )
        return nats, tiles.squared_norm(eta).cpu()

    def observed(self, draws: Draws) -> int:
        """As of the chain over z′, where its network is asked."""
        return 0 if draws.cells is None and self.free_first else self.inner.observed(draws)

    def observe(self, draws: Draws, values: Tensor, columns: Tensor) -> None:
        self.inner.observe(draws, values, columns)

    def fit_controls(self, examples: Tensor, workers: Workers) -> Controls:
        """As of the chain over z′."""
        return self.inner.fit_controls(examples, workers)

    def refine(self, controls: object, draws: Draws, columns: Tensor, workers: Workers) -> tuple[object, Tensor]:
        """As of the chain over z′."""
        return self.inner.refine(controls, draws, columns, workers)

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """As of the chain over z′, and what is counted on the images, which foretells the likelihood's term."""
        of_latents, expected = self.inner.features(examples, controls)
        values = self.model.domain.values(self.data[examples]).float()
        self.release()
        return torch.cat([of_latents, features.counts(values, self.model.domain)], 1), expected
