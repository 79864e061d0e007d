"""Checks of what a network says about variances, against numpy, scipy and mpmath."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import Clip, LearnedLog, LearnedRange, Reverse
from nelbo.process.prediction import Prediction
from tests.model.cases import level
from tests.model.checks import gaussian_kl, mp_mass
from tests.process.cases import uneven_table
from tests.process.checks import close


def check_learned_range() -> None:
    """log v = f log β + (1 − f) log β̃, f = (u + 1)/2 (Nichol & Dhariwal 2021, eq. 15), in the KL of whole matrices;
    β and β̃ are those of the step from j to i, of one level of the table or of several."""
    _, bar, table = uneven_table()
    rng = np.random.default_rng(15)
    for i, j in ((0, 1), (1, 2), (10, 11), (4, 7)):
        x, x_hat = rng.normal(size=(2, 3))
        u = rng.uniform(-1, 1, 3)
        beta = 1 - bar[j] / bar[i]
        beta_tilde = beta * (1 - bar[i]) / (1 - bar[j])
        v = np.exp((u + 1) / 2 * np.log(beta) + (1 - (u + 1) / 2) * np.log(beta_tilde))
        c_x = np.sqrt(bar[i]) * beta / (1 - bar[j])
        s, t = table.at_index(torch.tensor([i])), table.at_index(torch.tensor([j]))
        prediction = Prediction(torch.from_numpy(x_hat)[None], variance=torch.from_numpy(u)[None])
        close(LearnedRange().of_step(s, t, prediction)[0], v, 1e-11)
        expected = gaussian_kl(c_x * x, beta_tilde * np.eye(3), c_x * x_hat, np.diag(v))
        close(Reverse(LearnedRange()).kl(torch.from_numpy(x)[None], prediction, s, t).sum(), expected, 1e-9)


def check_learned_decoder() -> None:
    """The decoder's log variance lies between those of β_2 (1 − ᾱ_1)/(1 − ᾱ_2) and β_1, per element."""
    betas, bar, table = uneven_table()
    first, second = table.at_index(torch.tensor([0])), table.at_index(torch.tensor([1]))
    spread = LearnedRange().of_decoder(first, second)
    low, high = betas[1] * (1 - bar[0]) / (1 - bar[1]), betas[0]
    u = torch.tensor([[-1.0, 1.0, 0.3]], dtype=torch.float64)
    x0 = torch.tensor([[-0.5, 0.2, 0.9]], dtype=torch.float64)
    variances = np.array([low, high, low**0.35 * high**0.65])
    close(spread.of(Prediction(x0, variance=u)), variances[None], 1e-11)
    codes, domain = torch.tensor([[0, 9, 15]]), DataDomain((3,), 16)
    nll = DiscretizedGaussian(None, spread).nll(codes, x0, first, Prediction(x0, variance=u), domain)
    half = 1 / 15
    edges = [(None, -1 + half), (18 / 15 - 1 - half, 18 / 15 - 1 + half), (1 - half, None)]
    expected = [
        mp_mass(a, b, float(m), float(np.sqrt(v))) for (a, b), m, v in zip(edges, x0[0], variances, strict=True)
    ]
    close(nll, [-sum(expected)], 1e-9)
    x = torch.tensor([[0.1, 0.0, 1.0]], dtype=torch.float64)
    density = ContinuousGaussian(None, spread).nll(x, x0, first, Prediction(x0, variance=u), DataDomain((3,)))
    close(density, [-stats.norm.logpdf(x[0], x0[0], np.sqrt(variances)).sum()], 1e-11)


def check_learned_log() -> None:
    """A raw log variance is the log variance, of steps and of the decoder."""
    u = torch.tensor([[-3.0, 0.5]], dtype=torch.float64)
    prediction = Prediction(torch.zeros(1, 2, dtype=torch.float64), variance=u)
    close(LearnedLog().of_step(level(2.0), level(1.0), prediction), u.exp(), 1e-14)
    spread = LearnedLog().of_decoder(level(2.0), level(1.0))
    close(spread.of(prediction), u.exp(), 1e-14)


def check_split() -> None:
    """(B, 2C, …): the first C of axis 1 are the output, the others the raw variance; vectors and images."""
    for shape in ((4,), (3, 2, 2)):
        both = torch.randn(5, 2 * shape[0], *shape[1:], dtype=torch.float64)
        denoiser = NetworkDenoiser(lambda z, t, both=both: both, "x0", "logsnr", learned_variance=True)
        said = denoiser(torch.zeros(5, *shape, dtype=torch.float64), level(1.0, 5))
        assert torch.equal(said.x0, both[:, : shape[0]]) and torch.equal(said.variance, both[:, shape[0] :])
        clipped = Reverse(LearnedRange(), Clip(-0.1, 0.1)).clipped(said)
        assert float(clipped.x0.abs().max()) <= 0.1 and torch.equal(clipped.variance, both[:, shape[0] :])
