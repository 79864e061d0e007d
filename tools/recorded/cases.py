"""Small models and data for the rows. All imports of the library that are not `nelbo.NAME` stand here."""

from __future__ import annotations

import functools

import torch
from benchmarks.one_time import OneTime
from torch import Tensor

import nelbo
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.cli.main import execute as command
from nelbo.model.reverse import Threshold
from nelbo.training import schema as config_schema

__all__ = ["Adaptive", "Exhaustive", "Stratified", "Threshold", "baseline", "command", "config_schema"]


def baseline(kind: str) -> OneTime:
    """The estimator of one random time an example: "uniform", "low_discrepancy" or "importance"."""
    return OneTime(kind)


SHAPE, BINS = (1, 6, 6), 8
DOMAIN = nelbo.DataDomain(SHAPE, bins=BINS)
LAW = nelbo.schedules.logsnr_linear(7.0, -6.0)
TABLE = nelbo.schedules.linear(40, 1e-3, 0.35)


class Net(torch.nn.Module):
    """A smooth random convolution: (B, C, …) to `channels`. classes: it also takes labels y (B,)."""

    def __init__(self, channels: int = 1, classes: int = 0, inputs: int = 1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner = torch.nn.Conv2d(inputs, 4, 3, padding=1)
            self.out = torch.nn.Conv2d(4, channels, 3, padding=1)
            self.classes = torch.nn.Embedding(classes + 1, 4) if classes else None

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.inner(z)
        if self.classes is not None and y is not None:
            h = h + self.classes(y)[:, :, None, None]
        return self.out(torch.tanh(h))


def codes(n: int = 96, channels: int = 1, seed: int = 5, bins: int = BINS, side: int = 6) -> Tensor:
    """n smooth images of codes, int64."""
    make = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 5, side)
    x = torch.rand(n, channels, 1, 1, generator=make) * 4 + ramp[:, None] * torch.rand(
        n, channels, 1, 1, generator=make
    )
    x = (x + 0.7 * torch.randn(n, channels, side, side, generator=make)) * ((bins - 1) / 7)
    return x.round().clamp(0, bins - 1).long()


def labels(n: int, classes: int = 3) -> Tensor:
    """n labels, int64."""
    return torch.arange(n) % classes


def of_kind(kind: str, **options) -> nelbo.DiffusionModel:
    """A model of `Net` with what `kind` names: an output, a learned variance, a law or a path."""
    if kind in ("learned_range", "learned_log"):
        return nelbo.from_callable(Net(2), schedule=TABLE, domain=DOMAIN, variance=kind, **options)
    if kind == "flow":
        law = nelbo.schedules.flow(0.02, 0.98)
        return nelbo.from_callable(Net(), schedule=law, domain=DOMAIN, predicts="velocity", time="unit", **options)
    if kind == "edm":
        law = nelbo.schedules.edm(0.02, 20.0)
        options = {"predicts": "edm_F", "time": "c_noise", "sigma_data": 0.5, **options}
        return nelbo.from_callable(Net(), schedule=law, domain=DOMAIN, **options)
    if kind == "vdm":
        options = {"predicts": "v", "time": "logsnr", "decoder": "categorical", **options}
        return nelbo.from_callable(Net(), schedule=LAW, domain=DOMAIN, **options)
    if kind == "conditional":
        return nelbo.from_callable(Net(classes=3), schedule=TABLE, domain=DOMAIN, **options)
    if kind == "real":
        options = {"predicts": "v", "time": "logsnr", **options}
        return nelbo.from_callable(Net(), schedule=LAW, domain=nelbo.DataDomain(SHAPE), **options)
    return nelbo.from_callable(Net(), schedule=TABLE, domain=DOMAIN, predicts=kind, **options)


GAUSSIAN = nelbo.exact.GaussianData([0.4, -1.0], [[0.6, 0.25], [0.25, 0.3]])
MIXTURE = nelbo.exact.MixtureData([0.25, 0.35, 0.4], [[-1.0], [0.1], [0.9]], [0.02, 0.05, 0.1])
CODES = nelbo.exact.CategoricalData(
    torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).repeat(4, 1)
)
NARROW = nelbo.schedules.logsnr_linear(5.0, -6.0)


def gaussian(levels=None) -> nelbo.DiffusionModel:
    """Exact model of two real numbers."""
    return GAUSSIAN.model(NARROW, levels or nelbo.grids.continuous())


def mixture(levels=None, exact_ends: bool = False) -> nelbo.DiffusionModel:
    """Exact denoiser of a mixture on the line, with N(0, I) and N(x; z/α, σ²/α²) at the ends."""
    return MIXTURE.model(NARROW, levels or nelbo.grids.continuous(), exact_ends=exact_ends)


def categorical(levels=None) -> nelbo.DiffusionModel:
    """Exact denoiser of 12 pixels of 4 codes, whose masses are the decoder."""
    return CODES.model(NARROW, levels or nelbo.grids.even(10), exact_ends=False)


@functools.cache
def real_data() -> Tensor:
    """96 images of real numbers."""
    return codes().double() / (BINS - 1) * 2 - 1 + 0.1 * torch.sin(torch.arange(96.0 * 36)).reshape(96, 1, 6, 6)
