"""The ODE likelihood against closed forms, as functions that take nothing and assert (see also the mutations)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from scipy import stats
from torch import Tensor

import nelbo
from nelbo.likelihood import RK4, Solver, dequantisation, ode
from nelbo.likelihood.dequantisation import Dequantisation
from nelbo.maths import random
from nelbo.model.decoder import Categorical, ContinuousGaussian
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.process.levels import Levels, Path
from tests.process.checks import close

LAW = nelbo.schedules.logsnr_linear(9.0, -9.0)
CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4], [0.25, 0.25, 0.4, 0.1]], -1.0, 2.0)
KINDS = ("variational", "uniform", "truncated_normal", "flow")


def gaussian(D: int, seed: int = 5) -> GaussianData:
    """Correlated data whose variances differ by a factor of ten or so."""
    a = random.normal(seed, 0, 0, 0, (D, D))[0] / D**0.5
    return GaussianData(random.normal(seed, 1, 0, 0, (D,))[0], a @ a.T + 0.2 * torch.eye(D, dtype=torch.float64))


def mixture(D: int, apart: float = 1.0) -> MixtureData:
    """Two bumps, `apart` standard deviations from one another in all, whatever D."""
    means = apart / D**0.5 * random.normal(7, torch.arange(2), 0, 0, (D,))
    return MixtureData(torch.tensor([0.3, 0.7]), means, torch.tensor([[0.3], [0.6]]).expand(2, D))


def noisy(data: Any, level: Levels) -> Any:
    """q(z_1), in closed form."""
    if isinstance(data, MixtureData):
        return data.noised(level)
    alpha, sigma = float(level.alpha), float(level.sigma)
    return GaussianData(
        alpha * data.mean, alpha**2 * data.covariance + sigma**2 * torch.eye(data.dimensions, dtype=torch.float64)
    )


def at_first(data: Any, path: str = "vp", n: int = 3) -> tuple[Any, Tensor, Tensor]:
    """The exact model, draws of z_1 and their log q(z_1)."""
    model = data.model(LAW.on(path), nelbo.grids.continuous())
    q = noisy(data, model.levels()[:1])
    z = q.sample(n, seed=3)
    return model, z, q.log_prob(z)


def log_density(model: Any, z: Tensor, solver: Solver) -> Tensor:
    """log p(z_1), (B,) nats, with the exact trace."""
    end, flow = ode.log_density(model, z, solver=solver)
    return end + flow[0]


def check_exact() -> None:
    """log p(z_1) = log q(z_1) to 1e-5 nats on every path, in 1, 3 and 5 dimensions, for Gaussian and mixture data."""
    for path, data in (("vp", gaussian(5)), ("ve", mixture(1, 3.0)), ("flow", mixture(3)), ("flow", gaussian(1))):
        model, z, exact = at_first(data, path)
        close(log_density(model, z, RK4(64)), exact, 1e-5)


def check_drift() -> None:
    """dz/dλ of N(m, c) data is that of z = α m + √(α² c + σ²) u with u kept: the flow of a Gaussian keeps quantiles."""
    data, u = GaussianData([0.7], [[0.4]]), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    for path in Path:
        for logsnr in (-3.0, 0.5, 4.0):

            def place(value: Tensor, path: Path = path) -> Tensor:
                alpha2, sigma2 = (2 * path.log_alpha(value)).exp(), (2 * path.log_sigma(value)).exp()
                return alpha2.sqrt() * 0.7 + (0.4 * alpha2 + sigma2).sqrt() * u[:, 0]

            value = torch.tensor(logsnr, dtype=torch.float64)
            z, rate = place(value), torch.autograd.functional.jacobian(place, value)
            at = Levels(torch.zeros(5), torch.full((5,), logsnr, dtype=torch.float64), path)
            close(ode.drift(data.denoiser()(z[:, None], at).x0, z[:, None], at)[:, 0], rate, 1e-12)


def check_codes() -> None:
    """The exact model of codes gives −log P(x) for every draw of z_1; the lattice is that of [−1, 2]."""
    model, x = CODES.model(LAW, nelbo.grids.continuous()), CODES.sample(8)
    for path in ("vp", "flow"):
        on_path = dataclasses.replace(model, schedule=LAW.on(path))
        result = nelbo.ode_likelihood(on_path, x, steps=96, per_example=True, precision="float64")
        close(result.per_example.nats, -CODES.log_prob(x), 2e-3)


def check_residual() -> None:
    """The same where the first level leaves x open, so that p(x | z_1) is a good part of it."""
    model, x = CODES.model(nelbo.schedules.logsnr_linear(1.0, -9.0), nelbo.grids.continuous()), CODES.sample(8)
    result = nelbo.ode_likelihood(model, x, steps=48, per_example=True, precision="float64")
    close(result.per_example.nats, -CODES.log_prob(x), 1e-4)
    assert float(result.per_example.reconstruction.mean()) > 0.05


def check_dequantisation() -> None:
    """E exp(−log q) = the volume on which q lives, E log q = −entropy: by the mean over an even grid of u."""
    domain = nelbo.DataDomain((1,), 5, -1.0, 3.0)  # bins of width 1
    u = ((torch.arange(20_001) + 0.5) / 20_001).double()[:, None]
    for logsnr in (1.0, 4.0):
        first = Levels(torch.zeros(1), torch.tensor([logsnr]).double(), Path.FLOW).expand(len(u))
        alpha, sigma = float(first.alpha[0]), float(first.sigma[0])
        c = alpha / (2 * sigma)
        for draw, entropy in (
            (dequantisation.uniform, math.log(alpha)),
            (dequantisation.truncated_normal, stats.truncnorm(-c, c, scale=sigma).entropy()),
        ):
            drawn = draw(u, torch.full_like(u, 0.3), first, domain)
            assert float(drawn.z.min()) >= 0.3 - alpha / 2 and float(drawn.z.max()) <= 0.3 + alpha / 2
            close((-drawn.log_q).exp().mean(), alpha, 2e-3)
            close(drawn.log_q.mean(), -entropy, 1e-3)
            close(drawn.z.mean(), 0.3, 1e-9)


def check_fitted() -> None:
    """A flow of any weights has E exp(−log q) = the volume of its bin, and stays in it: even grids of u."""
    domain = nelbo.DataDomain((1,), 5, -1.0, 3.0)  # bins of width 1
    model = dataclasses.replace(
        GaussianData([0.7], [[0.4]]).model(LAW, nelbo.grids.continuous(), exact_ends=False), domain=domain,
        decoder=Categorical(),
    )  # fmt: skip
    u = ((torch.arange(20_001) + 0.5) / 20_001).double()[:, None]
    first = Levels(torch.zeros(1), torch.tensor([2.0]).double(), Path.FLOW).expand(len(u))
    alpha = float(first.alpha[0])
    begun = dequantisation.DequantisationFlow.initial(1, u.device)
    end = begun.weights[-1] + random.normal(5, 0, 0, 0, begun.weights[-1].shape)[0]
    flow = dequantisation.DequantisationFlow((*begun.weights[:-2], begun.weights[-2] + 0.5, end))
    for slope in (0.0, -3.0):
        drawn = flow.start(u, torch.full_like(u, 0.3), torch.full_like(u, slope), first, model)
        assert abs(float(drawn.z.min()) - alpha * (0.3 - 0.5)) < 0.01
        assert abs(float(drawn.z.max()) - alpha * (0.3 + 0.5)) < 0.01
        close((-drawn.log_q).exp().mean(), alpha, 2e-3)
        assert float(drawn.log_q.std()) > 0.05  # it is not uniform


def check_fit_finds_the_law() -> None:
    """A flow fitted to N(m, c) data cut into wide bins nears its bound: what is lost over the best q is under 0.01.

    The best is −log ∫ p(z_1) over the bin, by the normal's distribution function.
    """
    data = GaussianData([0.7], [[0.4]])
    domain = nelbo.DataDomain((1,), 3, -1.0, 3.0)  # bins of width 2
    law = nelbo.schedules.logsnr_linear(4.0, -8.0)
    model = dataclasses.replace(data.model(law, nelbo.grids.continuous()), domain=domain, decoder=Categorical())
    first = model.levels()[:1]
    alpha, q = float(first.alpha), noisy(data, first)
    codes = torch.arange(2)[:, None]  # the third bin has three in ten thousand of the mass
    edges = (alpha * (domain.values(codes)[:, 0, None] + torch.tensor([-1.0, 1.0]).double()) - q.mean) / (
        q.covariance[0, 0].sqrt()
    )
    best = -torch.special.ndtr(edges).diff(dim=1)[:, 0].log()
    result = nelbo.ode_likelihood(model, codes, dequantisation="flow", steps=12, draws=16, per_example=True).per_example
    gap, error = result.nats - best, result.standard_error
    assert bool((gap > -4 * error).all()) and bool((gap < 0.01 + 4 * error).all()), (gap, error)
    assert float(error.max()) < 0.05, error  # a start that is even over the bin has more than four times that


def check_real() -> None:
    """Gaussian data with the decoder N(z/α, σ²/α²): E −log p by hand, and with none the density of noisy data."""
    data = GaussianData([0.2, -0.4], [[1.0, 0.6], [0.6, 0.8]])
    model = dataclasses.replace(data.model(LAW, nelbo.grids.continuous()), decoder=ContinuousGaussian())
    x = data.sample(6)
    first = model.levels()[:1]
    q = noisy(data, first)
    alone = nelbo.ode_likelihood(model, x, dequantisation="none", per_example=True).per_example.nats
    exact = -q.log_prob(float(first.alpha) * x) - 2 * float(first.log_alpha)
    close(alone, exact, 1e-5)
    eps = random.normal(0, torch.arange(6), 0, 0, (2,))
    drawn = float(first.alpha) * x + float(first.sigma) * eps
    one = dequantisation.start(
        Dequantisation.VARIATIONAL, model, x, first.expand(6), seed=0, examples=torch.arange(6), draw=0
    )
    close(one.z, drawn, 1e-12)
    close(one.log_q + one.reconstruction, -2 * first.log_alpha.expand(6), absolute=1e-9)


def check_units() -> None:
    """Bits/dim are nats over D log 2, and the terms add up."""
    data = gaussian(3)
    result = nelbo.ode_likelihood(data.model(LAW, nelbo.grids.continuous()), data.sample(4), per_example=True)
    close(result.bits_per_dim, float(result.per_example.nats.mean()) / 3 / math.log(2), 1e-12)
    close(result.bits_per_dim, sum(t.bits_per_dim for t in vars(result.terms).values()), 1e-12)
