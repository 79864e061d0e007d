"""Reverse steps and priors against matrices; the variance and clipping policies."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from nelbo.errors import ShapeError, UnknownNameError
from nelbo.model.exact.mixture import MixturePrior
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, parse_variance
from nelbo.process import grid
from tests.model import checks
from tests.model.cases import CODES_1, GAUSSIAN, LAW, MIXTURE, MIXTURE_1, level
from tests.tables import refusals

CODE_PRIOR, MIXTURE_PRIOR = (data.model(LAW, grid.even(4)).prior for data in (CODES_1, MIXTURE_1))


def mixture_prior_kl(prior_pdf, alpha: float, sigma: float, x: float) -> float:
    z = alpha * x + sigma * np.linspace(-9, 9, 20001)
    q = stats.norm.pdf(z, alpha * x, sigma)
    return float(np.sum(q * (np.log(q) - np.log(prior_pdf(z)))) * (z[1] - z[0]))


def test_prior_of_a_mixture():
    x, t = torch.tensor([[-1.2], [0.0], [0.9]], dtype=torch.float64), level(-1.0, 3)
    alpha, sigma = float(t.alpha[0]), float(t.sigma[0])
    noisy = MIXTURE_1.noised(t[:1])
    checks.close(noisy.covariances.flatten(), alpha**2 * np.array([0.02, 0.05, 0.1]) + sigma**2, 1e-13)

    def density(z):
        return checks.mixture_density(noisy, z[:, None])

    kl = MixturePrior(noisy.weights, noisy.means, noisy.covariances).kl(x, t)
    checks.close(kl, [mixture_prior_kl(density, alpha, sigma, float(v)) for v in x], 1e-7, 1e-9)


def test_prior_of_codes():
    codes = torch.tensor([[0], [2], [3]])
    t = level(-1.0, 3)
    alpha, sigma = float(t.alpha[0]), float(t.sigma[0])

    def density(z):
        return stats.norm.pdf(z[:, None], alpha * np.linspace(-1, 1, 4), sigma) @ CODES_1.probabilities[0].numpy()

    x = CODES_1.domain.values(codes)
    expected = [mixture_prior_kl(density, alpha, sigma, float(v)) for v in x]
    checks.close(CODE_PRIOR.kl(x, t), expected, 1e-7, 1e-9)


def test_prior_draws():
    eps = torch.randn(5, 3, dtype=torch.float64)
    checks.close(GaussianPrior(0.1, 4.0).draw(eps), 0.1 + 2 * eps.numpy(), 1e-14)
    prior = GAUSSIAN.prior(level(0.0))
    moved = prior.draw(torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()).numpy()
    checks.close(moved[0], prior.mean, 1e-14)
    A = (moved[1:] - moved[0]).T
    checks.close(A @ A.T, prior.covariance, 1e-12, 1e-14)


test_nonsense_is_refused = refusals(
    (lambda: parse_variance("beta_hat"), UnknownNameError, r"unknown variance policy 'beta_hat'\nhint: .*beta_tilde"),
    (lambda: Clip(1.0, -1.0), r"clipping to \[1\.0, -1\.0\]"),
    (lambda: Clip(float("nan"), 1.0), r"low=nan is not finite"),
    (lambda: GaussianPrior(0.0, 0.0), r"N\(0\.0, 0\.0\)\nhint: .*variance > 0"),
    (lambda: GaussianPrior(float("inf")), r"mean=inf is not finite"),
    (
        lambda: GAUSSIAN.prior(level(0.0)).check((2,)),
        ShapeError,
        r"a prior over \(3,\) for examples of shape \(2,\)",
    ),
    (lambda: MIXTURE_PRIOR.draw(torch.zeros(1, 1)), r"cannot be drawn"),
    (lambda: CODE_PRIOR.draw(torch.zeros(1, 1)), r"scores, it does not sample"),
    (lambda: MIXTURE_PRIOR.kl(torch.zeros(1, 2), level(0)), r"in 2 dimensions has no closed form"),
    (lambda: MIXTURE.entropy(), r"entropy_estimate"),
)


def test_policies_are_parsed_at_the_edge():
    assert isinstance(parse_variance("beta"), Beta) and isinstance(parse_variance("beta_tilde"), BetaTilde)
    policy = Beta()
    assert parse_variance(policy) is policy
