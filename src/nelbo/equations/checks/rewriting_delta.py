"""Group E, fourth part: the reconstruction term as one more KL: right for discrete data, infinite for real numbers."""

from __future__ import annotations

import math

import numpy as np
import torch

from nelbo.bound import terms
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.linear import forward_law
from nelbo.equations.oracles.quadrature import hermite, log_normal
from nelbo.equations.twins import BETAS
from nelbo.maths import gaussian
from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process import forward, grid, schedule
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Prediction
from nelbo.testing import at_noise

DECODER_MEAN, DECODER_VARIANCE = 0.3, 0.2


def _t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def halves(x0: float, eta: float) -> tuple[float, float]:
    """KL(N(x_0, η²) ‖ p) and −E log N(x_0, η²) for p = N(0.3, 0.2), both by the library."""
    wide = _t(eta**2)
    kl = gaussian.kl(_t(x0), wide, _t(DECODER_MEAN), _t(DECODER_VARIANCE))
    return float(kl), float(gaussian.entropy(wide))


@check("delta-posterior-insert")
def _(c: Checks) -> None:
    x0 = 0.6
    level = Levels(_t(0.25), _t(2.0), Path.VP)
    decoder, prediction = ContinuousGaussian(DECODER_VARIANCE), Prediction(_t(DECODER_MEAN)[:, None])
    nll = float(decoder.nll(_t(x0)[:, None], _t(0.0)[:, None], level, prediction, DataDomain((1,))))
    parts = {eta: halves(x0, eta) for eta in (1e-1, 1e-3, 1e-6)}
    for eta, (kl, entropy) in parts.items():
        c.info(f"η = {eta:g}: KL(N(x0, η²) ‖ p(· | x1)), nats", kl)
        c.info(f"η = {eta:g}: −E log N(x0, η²), nats", entropy)
    c.holds("their sum → −log p(x0 | x1) of the library's decoder (η = 1e-6)", sum(parts[1e-6]) - nll, 1e-9)
    growth = parts[1e-6][0] - parts[1e-3][0]
    c.must_fail("003: the KL stays finite for real data; it grows from η = 1e-3 to 1e-6 by", growth, 6.0)
    c.holds("it grows like −log η", growth - math.log(1e3), 1e-5)
    c.must_fail("and its other half falls", parts[1e-6][1] - parts[1e-3][1], 6.0)


def discrete_model() -> DiffusionModel:
    """Four codes, two steps, β̃, and a network that says x̂ = tanh z/2."""
    return DiffusionModel(
        domain=DataDomain((1,), bins=4),
        schedule=schedule.from_betas([0.2, 0.4]),
        grid=grid.full(),
        denoiser=NetworkDenoiser(lambda z, t: 0.5 * torch.tanh(z), "x0", "index"),
        reverse=Reverse(BetaTilde()),
        decoder=DiscretizedGaussian(0.3),
        prior=GaussianPrior(),
    )


@check("delta-posterior-kl")
def _(c: Checks) -> None:
    model = discrete_model()
    first, codes = model.levels()[:1].expand(4), torch.arange(4)[:, None]
    z = torch.tensor([[-0.7], [0.1], [0.4], [1.2]], dtype=torch.float64)
    prediction = model.predict(z, first)
    pmf = model.decoder.log_pmf(z, first, prediction, model.domain)[:, 0].numpy()  # type: ignore[attr-defined]
    nll = model.decoder.nll(codes, z, first, prediction, model.domain).numpy()
    point = np.eye(4)
    kl = np.where(point > 0, point * (np.log(np.where(point > 0, point, 1.0)) - pmf), 0.0).sum(1)
    c.holds("KL(δ ‖ p(· | x1)) = −log p(x0 | x1) of the library's decoder, four codes", kl - nll, 1e-14)
    c.holds("and log q(x0 | x1, x0) = 0: the decoder's masses sum to one", np.exp(pmf).sum(1) - 1, 1e-14)
    law = forward_law(np.array(BETAS), 0.4, 0.7)
    table = schedule.from_betas(BETAS)
    one, data = table.at_index(torch.tensor([0])), Levels(_t(0.0), _t(math.inf), Path.VP)
    q = forward.posterior(data, one)
    c.holds(
        "β̃_1 = 0 and μ̃_1 = x0 in the library's posterior",
        [*q.variance, *q.z_coefficient, *(q.x_coefficient - 1)],
        1e-14,
    )
    second = forward.posterior(one, table.at_index(torch.tensor([1])))
    gain, _, spread = law.regression([1], [2, 0])
    rest = [
        float(second.variance) - spread[0, 0],
        float(second.z_coefficient) - gain[0, 0],
        float(second.x_coefficient) - gain[0, 1],
    ]
    c.holds("while at t = 2 it is the regression of x_1 on x_2 and x_0", rest, 1e-14)
    c.must_fail("whose variance is not zero", spread, 0.01)


@check("delta-posterior-merged")
def _(c: Checks) -> None:
    model = discrete_model()
    levels = model.levels()
    first, second = levels[:1], levels[1:2]
    nodes, weights = hermite(60)
    eps, w = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights)
    split, merged = [], []
    for code in range(4):
        target = torch.full((60, 1), code)
        x = model.domain.values(target)
        one, two = first.expand(60), second.expand(60)
        common = float(terms.prior(model, x[:1], second)) + float(w @ at_noise.diffusion(model, x, eps, one, two))
        split.append(common + float(w @ at_noise.reconstruction(model, x, target, eps, one)))
        z = forward.noised(x, eps, one)
        pmf = model.decoder.log_pmf(z, one, model.predict(z, one), model.domain)[:, 0]  # type: ignore[attr-defined]
        merged.append(common + float(w @ (0.0 - pmf[:, code])))  # KL(δ ‖ p) at t = 1, where log q(x_0 | x_1, x_0) = 0
    exact = np.array([discrete_bound(code) for code in range(4)])
    c.holds("four codes: L_T + Σ_{t≥1} KL = L_T + Σ_{t>1} KL + L_0", np.subtract(merged, split), 1e-13)
    c.holds("both = E log q/p by quadrature over the path", np.subtract(split, exact), 1e-9)
    mass = float(np.exp(-np.array(split)).sum())
    c.true("as lengths of a code they waste something: Σ exp(−bound) < 1", mass < 1, mass)
    c.must_fail("003, real data: Σ_{t≥1} KL is finite; at η = 1e-100 it is", halves(0.6, 1e-100)[0], 200.0)
    c.true("at η = 0 the library's KL is +∞", math.isinf(halves(0.6, 0.0)[0]))


def discrete_bound(code: int) -> float:
    """E log q/p of `discrete_model` from its plain numbers: 60² nodes of a path, bin masses by the error function."""
    nodes, w = hermite(60)
    lattice = np.linspace(-1.0, 1.0, 4)
    eps_1, eps_2 = (e.ravel() for e in np.meshgrid(nodes, nodes, indexing="ij"))
    x1 = math.sqrt(0.8) * lattice[code] + math.sqrt(0.2) * eps_1
    x2 = math.sqrt(0.6) * x1 + math.sqrt(0.4) * eps_2
    log_q = log_normal(x1, math.sqrt(0.8) * lattice[code], 0.2) + log_normal(x2, math.sqrt(0.6) * x1, 0.4)
    (g,), _, ((spread,),) = forward_law(np.array([0.2, 0.4]), 0.0, 1.0).regression([1], [2, 0])
    log_p = log_normal(x2, 0.0, 1.0) + log_normal(x1, g[0] * x2 + g[1] * 0.5 * np.tanh(x2), spread)
    low = -math.inf if code == 0 else lattice[code] - 1 / 3
    high = math.inf if code == 3 else lattice[code] + 1 / 3
    mean, scale = 0.5 * np.tanh(x1), math.sqrt(2 * 0.3)
    mass = [0.5 * (math.erf((high - m) / scale) - math.erf((low - m) / scale)) for m in mean]
    return float(np.outer(w, w).ravel() @ (log_q - log_p - np.log(mass)))
