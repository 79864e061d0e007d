"""Models of p(x | y) whose laws are known: an exact network for every class, one network that is told the class."""

from __future__ import annotations

import torch
from torch import Tensor

import nelbo
from nelbo import testing
from nelbo.process.schedule import Schedule

LOGSNR = nelbo.schedules.logsnr_linear(9.0, -9.0)


def model_of(laws: list[nelbo.exact.GaussianData], schedule: Schedule = LOGSNR, time: str = "logsnr"):
    """The model of p(x | y) with y = 0, 1, … for the laws, and for y left out the first of them."""
    nets = [testing.as_network(testing.oracle(law), schedule, "eps", time) for law in laws]

    def network(z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return nets[0](z, t)
        out = torch.empty_like(z)
        for label in y.unique().tolist():
            rows = (y == label).nonzero()[:, 0]
            out[rows] = nets[int(label)](z[rows], t[rows])
        return out

    domain = nelbo.DataDomain((laws[0].dimensions,))
    return nelbo.from_callable(network, schedule=schedule, domain=domain, predicts="eps", time=time, modules=[])


def gaussians(count: int, dimensions: int, seed: int = 0) -> list[nelbo.exact.GaussianData]:
    generator = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    variances = 0.1 + 0.5 * torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
    return [nelbo.exact.GaussianData(m, torch.diag(v)) for m, v in zip(means, variances, strict=True)]


def swapped() -> list[nelbo.exact.GaussianData]:
    """Two laws that are each other's mirror image: of an example (a, a) their densities, and bounds, are equal."""
    mean, variance = torch.tensor([0.8, -0.4]).double(), torch.tensor([0.2, 0.6]).double()
    return [nelbo.exact.GaussianData(m, torch.diag(v)) for m, v in ((mean, variance), (mean.flip(0), variance.flip(0)))]
