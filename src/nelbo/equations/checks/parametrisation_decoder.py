"""The discretised Gaussian decoder: grey levels, bins, masses, and what is lost without it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.maths import bins
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.domain import DataDomain
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction

CODES = torch.arange(256)
VALUES = 2 * CODES.double() / 255 - 1
HALF = 1 / 255


def phi(edge: Tensor | float, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Normal distribution function at an edge."""
    return torch.special.ndtr((torch.as_tensor(edge, dtype=torch.float64) - mean) / std)


@check("pixel-scaling")
def _(c: Checks) -> None:
    domain = DataDomain((1,), 256)
    for name, x in {
        "code_values": bins.code_values(CODES, 256, -1.0, 1.0),
        "DataDomain.values": domain.values(CODES),
    }.items():
        c.holds(f"{name}: both ends exact", torch.stack([x[0] + 1, x[-1] - 1]), 0.0)
        c.holds(f"{name}: 2k/255 − 1, elementwise", x - VALUES, 5e-16)
        c.holds(f"{name}: even steps of 2/255", x.diff() - 2 / 255, 5e-16)
        c.holds(f"{name}: every code comes back", (domain.codes(x) - CODES).double(), 0.0)
    c.must_fail(
        "k over 256: codes that come back one off", (domain.codes(2 * CODES.double() / 256 - 1) - CODES).double(), 0.5
    )


@check("decoder-likelihood")
def _(c: Checks) -> None:
    mean, std = torch.tensor([[0.31, -0.87]], dtype=torch.float64), 0.06
    decoder, domain = DiscretizedGaussian(std**2), DataDomain((2,), 256)
    level = schedules.linear(10).at_index(torch.zeros(1, dtype=torch.long))
    table = decoder.log_pmf(mean, level, Prediction(mean), domain)
    images = torch.cartesian_prod(CODES[::5], CODES[::5])  # 52² of the 256²
    n = len(images)
    nll = decoder.nll(images, mean.expand(n, 2), level.expand(n), Prediction(mean.expand(n, 2)), domain)
    pairs = table[0, 0][images[:, 0]] + table[0, 1][images[:, 1]]
    c.holds("nelbo's −log p of an image = the sum over its pixels, relative", (nll + pairs) / nll, 1e-12)
    c.holds("all 256² images of two pixels: total mass", torch.exp(table[0, 0][:, None] + table[0, 1]).sum() - 1, 1e-12)
    node, w = nodes.interval(-HALF, HALF, 30)
    inner = slice(1, 255)
    exact = nodes.log_normal(VALUES[inner, None] + node, mean[0, 0], std**2).exp() @ w
    c.holds("a pixel's mass = the integral of the density over its bin", table[0, 0][inner].exp() - exact, 1e-14)
    c.must_fail("a sum over pixels for the product: total mass of two pixels", 2 * table[0, 0].exp().sum() - 1, 0.9)
    c.must_fail("identical limits (002): total mass", (phi(VALUES, 0.31, std) - phi(VALUES, 0.31, std)).sum() - 1, 0.9)


@check("decoder-bin-edges")
def _(c: Checks) -> None:
    edges = bins.bin_edges(256, -1.0, 1.0)
    lower, upper = edges[:-1], edges[1:]
    c.holds("nelbo's upper edges are x + 1/255", upper[:-1] - VALUES[:-1] - HALF, 5e-16)
    c.holds("its lower edges are x − 1/255", lower[1:] - VALUES[1:] + HALF, 5e-16)
    c.true("both ends are open", bool(lower[0] == -math.inf and upper[-1] == math.inf))
    c.holds("an inner bin is one grey level wide", (upper - lower)[1:-1] - 2 / 255, 5e-16)
    whole = (VALUES[:-1] + 2 / 255) - (VALUES[1:] - 2 / 255)
    c.must_fail("from one level below to one above (002): overlap of neighbours", whole, 0.001)


@check("decoder-normalised")
def _(c: Checks) -> None:
    means = torch.linspace(-1.4, 1.4, 57, dtype=torch.float64)[:, None]
    stds = torch.tensor([0.003, 0.05, 0.3, 1.0], dtype=torch.float64)
    total = bins.log_pmf(means, stds, 256, -1.0, 1.0).exp().sum(-1)
    c.holds("nelbo's 256 masses sum to one, 57 means × 4 widths", total - 1, 1e-12)
    mean, std, x = 0.2, 0.3, VALUES

    def mass(lower: Tensor, upper: Tensor) -> Tensor:
        return (phi(upper, mean, std) - phi(lower, mean, std)).sum() - 1

    infinity = torch.tensor([math.inf], dtype=torch.float64)
    whole_low, whole_high = (x - 2 / 255)[1:], (x + 2 / 255)[:-1]
    c.must_fail(
        "one level below to one above (002)",
        mass(torch.cat([-infinity, whole_low]), torch.cat([whole_high, infinity])),
        0.9,
    )
    c.must_fail("identical lower and upper limit (002)", mass(x - HALF, x - HALF), 0.9)
    half_high = torch.cat([(x + HALF)[:-1], infinity])
    c.must_fail(
        "the lower limit printed as an integral, −1/255 − x (002)",
        mass(torch.cat([-infinity, -HALF - x[1:]]), half_high),
        0.9,
    )
    c.must_fail("the upper limit printed as an integral to ∞ (002)", (1 - phi(x + HALF, mean, std)).sum() - 1, 0.9)
    mean = 0.9
    c.must_fail("closed ends, mean 0.9, width 0.3", mass(x - HALF, x + HALF), 0.2)


@check("decoder-mass-monotone")
def _(c: Checks) -> None:
    std = torch.tensor(0.05, dtype=torch.float64)
    code, at = torch.tensor(128), VALUES[128]
    away = torch.linspace(0.0, 0.6, 241, dtype=torch.float64)
    above, below = (bins.bin_log_mass(code, at + side * away, std, 256, -1.0, 1.0) for side in (1, -1))
    c.true(
        "an inner bin: nelbo's log mass falls with every step of the mean away",
        (above.diff() < 0).all(),
        above.diff().max(),
    )
    c.holds("the same on both sides", above - below, 1e-11)
    edge = bins.bin_log_mass(torch.tensor(255), 1 + away[:60], std, 256, -1.0, 1.0)
    rise = (edge[-1] - edge[0]).exp()
    c.must_fail("falls in the open end bin too: the factor it grows by beyond 1, less one", rise - 1, 0.4)
    c.true("there it rises all the way", (edge.diff() > 0).all(), edge.diff().min())


@check("decoder-dropped")
def _(c: Checks) -> None:
    offset = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64)
    for std in (0.05, 0.02, 0.01):
        ratio = HALF / std
        log_mass = bins.bin_log_mass(torch.tensor(128), VALUES[128] + std * offset, nodes.number(std), 256, -1.0, 1.0)
        plain = nodes.log_normal(VALUES[128], VALUES[128] + std * offset, std**2) + math.log(2 * HALF)
        leading = ratio**2 / 6 * (offset.square() - 1)
        # next in the series of log E exp(−z u − u²/2), |u| ≤ ratio: ratio⁴ (5 − 14 z² + … )/360 and smaller
        c.holds(f"σ = {std}: log density + log(2/255) lacks (h/σ)² (z² − 1)/6", log_mass - plain - leading, ratio**4)
        c.info(f"σ = {std}: the largest error of density times width, in nats", (log_mass - plain).abs().max())
    end = bins.bin_log_mass(torch.tensor(255), nodes.number(1.0), nodes.number(0.01), 256, -1.0, 1.0)
    plain = nodes.log_normal(nodes.number(1.0), 1.0, 1e-4) + math.log(2 * HALF)
    c.must_fail("density times width in the end bin, mean 1, σ = 0.01", end - plain, 0.4)
    one, other = (models.affine(AffineChain(scale=(k, 0.45, 0.55, 0.75))) for k in (0.25, 1.5))
    change = models.reconstruction(one, 0.8) - models.reconstruction(other, 0.8)
    c.must_fail("a term without parameters (002, “also ignored”): nelbo's L_0 under two networks", change, 0.01)
