"""A Gaussian chain over examples that are Gaussians themselves, x ~ N(m, s²), averaged over them where that is exact.

z_t is drawn by one normal for two, and x given z_t is a Gaussian again (`forward.noised_spread`). A term that is
quadratic in x is averaged over it without a draw, by its values at the two points one standard deviation from the
middle: its variance is then that of its conditional mean, which is the smaller (Rao 1945; Blackwell 1947). Where the
term is not quadratic in every element by itself x is drawn, given z_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import Noised
from nelbo.bound.problem import Draws
from nelbo.maths import tiles
from nelbo.maths.keys import Purpose
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.reverse import Variance
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition


def _point() -> Tensor:
    return torch.zeros(1)


@dataclass(frozen=True, eq=False)
class SpreadChain(GaussianChain):
    """data (N, *shape): the means m. std: s, of the shape of the data, or with one row for all."""

    std: Tensor = field(default_factory=_point)

    def std_of(self, examples: Tensor) -> Tensor:
        """s of `examples` (n,), float64, (n, *shape), on the device."""
        rows = self.std[examples] if len(self.std) > 1 else self.std
        return rows.to(self.device, torch.float64).expand(len(examples), *self.model.domain.shape)

    def prior(self, examples: Tensor) -> Tensor:
        """E KL(q(z_L | x) ‖ p(z_L)) over x, (n,) float64 on the CPU; exact."""
        last = self.levels[-1:].expand(len(examples))
        spread = self.model.prior.kl_of_spread(self.std_of(examples).square(), last)
        return super().prior(examples) + spread.cpu()

    @property
    def averaged_steps(self) -> bool:
        """Whether the KLs of the steps are quadratic in every element of x by itself."""
        policy = type(self.model.reverse.variance)
        return self.cells.continuous or policy.coordinates is Variance.coordinates

    @property
    def averaged_first(self) -> bool:
        """Whether the first level's term is."""
        return isinstance(self.model.decoder, ContinuousGaussian)

    def noised(
        self, draws: Draws, rows: Tensor, each: Callable[[slice, Tensor, Tensor, Levels], None] | None = None
    ) -> Noised:
        """As of every chain, x being the middle of x given z_t, or a draw of it. each: with the means m, and the
        normals that z_t is made of."""
        examples = draws.examples[rows]
        cells, at = self._levels_of(draws, rows)
        eps = self._noise(Purpose.TERM_NOISE, draws, rows)
        drawn = not (self.averaged_first if cells is None else self.averaged_steps)
        inner = self._noise(Purpose.LATENT_INNER, draws, rows) if drawn else None
        x, z = torch.empty_like(eps), torch.empty_like(eps)
        data = self.data_of(examples)
        for part in tiles.tiles(len(rows), self.dimensions, self.device):
            mean, s = self.model.domain.values(data[part]), self.std_of(examples[part])
            z[part], x[part], left = forward.noised_spread(mean, s, eps[part], at[part])
            if inner is not None:
                x[part] += left * inner[part]
            if each is not None:
                each(part, mean, eps[part], at[part])
        return Noised(examples, cells, data, x, z, at)

    def term(self, noised: Noised, condition: Condition) -> tuple[Tensor, Prediction | None]:
        """The term of every draw in nats, (b,), averaged over x given z_t, and what the network predicts for it."""
        model, (_, cells, _, x, z, at) = self.model, noised
        asked = cells is not None or model.decoder.calls_network
        prediction = model.predict(z, at, condition) if asked else None
        std = self._left(noised)
        if cells is None or prediction is None:
            return _two_points(x, std, lambda x: terms.reconstruction(model, x, z, prediction, at)), prediction
        if self.cells.continuous:
            slope = -2 * self.cells.scale[cells].to(self.device)
            rate = terms.diffusion_rate(x, prediction, at, slope)
            left = 0.0 if std is None else std.square().flatten(1).sum(1)
            return rate - 0.5 * slope * (at.alpha / at.sigma).square() * left, prediction
        s = self.levels[cells.to(self.device)]
        return _two_points(x, std, lambda x: terms.diffusion(model, x, prediction, s, at)), prediction

    def _left(self, noised: Noised) -> Tensor | None:
        """The standard deviation of x given z_t, (b, *shape); None where x was drawn."""
        if not (self.averaged_first if noised.cells is None else self.averaged_steps):
            return None
        s, at = self.std_of(noised.examples), noised.at
        alpha, sigma = column(at.alpha, s), column(at.sigma, s)
        return s * sigma / (sigma.square() + (alpha * s).square()).sqrt()


def _two_points(x: Tensor, std: Tensor | None, term: Callable[[Tensor], Tensor]) -> Tensor:
    """E term(x + std ξ) of a term that is quadratic in every element, from ξ = ±1."""
    return term(x) if std is None else 0.5 * (term(x + std) + term(x - std))
