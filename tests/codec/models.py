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
from nelbo.process import every_grid as grids
from tests.folder_cases import CASES

DATA = CategoricalData(torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).repeat(4, 1))


def exact(steps: int = 10) -> DiffusionModel:
    """The model of `DATA` with its exact denoiser: 12 pixels of 4 codes."""
    model = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), grids.even(steps))
    return dataclasses.replace(model, prior=GaussianPrior())


def reflected(steps: int) -> DiffusionModel:
    """The same data with a fitted variance in a basis of reflections."""
    nodes = torch.tensor([4.0, 0.0, -5.0]).double()
    axes = Reflections(torch.linspace(-1, 1, 24).double().reshape(12, 2))
    table = torch.linspace(-4, -1, 36).double().reshape(3, 12)
    return dataclasses.replace(exact(steps), reverse=Reverse(FittedVariance(axes, nodes, table)))


def codes(n: int, seed: int = 0) -> Tensor:
    """n images of `DATA`, uint8."""
    return DATA.sample(n, seed).to(torch.uint8)


CODED = [name for name in CASES if name not in
         ("continuous", "density", "density, network", "exact ends", "mixture ends", "code mixture", "of a scale",
          "logistic", "a local scale", "about a clipped prediction")]  # fmt: skip


def images(model: DiffusionModel, n: int, seed: int = 0) -> Tensor:
    """n images of random codes for a model."""
    bins = cast(int, model.domain.bins)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(bins, (n, *model.domain.shape), generator=generator)
