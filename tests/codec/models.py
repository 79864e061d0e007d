"""Models small enough that coding them costs milliseconds, one for every kind of part that can be coded."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import Tensor

import nelbo
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import CategoricalData
from nelbo.model.fitted.basis import Reflections
from nelbo.model.fitted.variance import FittedVariance
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Reverse
from nelbo.process import grids
from tests.folder_cases import CASES, make

DATA = CategoricalData(torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).repeat(4, 1))


def exact(steps: int = 10) -> DiffusionModel:
    """The model of `DATA` with its exact denoiser: 12 pixels of 4 codes."""
    model = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), grids.even(steps))
    return dataclasses.replace(model, prior=GaussianPrior())


class Reflected:
    """The same data with a fitted variance in a basis of reflections."""

    @staticmethod
    def model(steps: int) -> DiffusionModel:
        nodes = torch.tensor([4.0, 0.0, -5.0]).double()
        axes = Reflections(torch.linspace(-1, 1, 24).double().reshape(12, 2))
        table = torch.linspace(-4, -1, 36).double().reshape(3, 12)
        return dataclasses.replace(exact(steps), reverse=Reverse(FittedVariance(axes, nodes, table)))


def codes(n: int, seed: int = 0) -> Tensor:
    """n images of `DATA`, uint8."""
    return DATA.sample(n, seed).to(torch.uint8)


CODED = [name for name in CASES if name not in
         ("continuous", "density", "density, network", "exact ends", "mixture ends", "code mixture")]  # fmt: skip


def case(name: str) -> DiffusionModel:
    """A model of `folder_cases`."""
    return make(name)


def images(model: DiffusionModel, n: int, seed: int = 0) -> Tensor:
    """n images of random codes for a model."""
    bins = cast(int, model.domain.bins)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(bins, (n, *model.domain.shape), generator=generator)


@dataclasses.dataclass(eq=False)
class Noisy:
    """A denoiser's `forward` with errors of a given size on x̂, fresh at every call."""

    inner: object
    size: float
    calls: int = 0

    def __call__(self, z, t, condition=None):
        exact = self.inner(z, t, condition)  # type: ignore[operator]
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        noise = self.size * torch.randn(exact.x0.shape, generator=generator, dtype=exact.x0.dtype)
        log_probs = None if exact.log_probs is None else exact.log_probs + noise[..., None]
        return dataclasses.replace(exact, x0=exact.x0 + noise, log_probs=log_probs)
