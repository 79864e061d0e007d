"""Reverse steps and priors against matrices; the variance and clipping policies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse, parse_variance
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction
from tests.model import checks
from tests.model.cases import CODES_1, GAUSSIAN, MIXTURE, MIXTURE_1, PRIORS, level


@pytest.mark.parametrize("variance", [BetaTilde(), Beta()], ids=lambda v: v.kind)
def test_kl_equals_that_of_two_multivariate_gaussians(variance):
    checks.check_reverse_kl(variance)


@pytest.mark.parametrize("check", [checks.check_prior_kl, checks.check_clipping, checks.check_step_composition])
def test_check(check):
    check()


def test_beta_tilde_leaves_the_snr_difference():
    """½ (SNR(s) − SNR(t)) (x − x̂)², Kingma et al. 2021 eq. 13–14."""
    law = schedules.logsnr_linear(4.0, -4.0)
    s, t = law.at(torch.tensor([0.2])), law.at(torch.tensor([0.6]))
    x, x0 = torch.tensor([[0.3]]).double(), torch.tensor([[-0.5]]).double()
    expected = 0.5 * (np.exp(4 - 8 * 0.2) - np.exp(4 - 8 * 0.6)) * 0.8**2
    checks.close(Reverse(BetaTilde()).kl(x, Prediction(x0), s, t), [[expected]], 1e-6)


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

    from nelbo.model.exact.mixture import MixturePrior

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
    checks.close(PRIORS["code_mixture"].kl(x, t), expected, 1e-7, 1e-9)


def test_prior_draws():
    eps = torch.randn(5, 3, dtype=torch.float64)
    checks.close(GaussianPrior(0.1, 4.0).draw(eps), 0.1 + 2 * eps.numpy(), 1e-14)
    prior = GAUSSIAN.prior(level(0.0))
    moved = prior.draw(torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()).numpy()
    checks.close(moved[0], prior.mean, 1e-14)
    A = (moved[1:] - moved[0]).T
    checks.close(A @ A.T, prior.covariance, 1e-12, 1e-14)


BAD = [
    (lambda: parse_variance("beta_hat"), UnknownNameError, r"unknown variance policy 'beta_hat'\nhint: .*beta_tilde"),
    (lambda: Clip(1.0, -1.0), UsageError, r"clipping to \[1\.0, -1\.0\]"),
    (lambda: Clip(float("nan"), 1.0), UsageError, r"finite ends"),
    (lambda: GaussianPrior(0.0, 0.0), UsageError, r"N\(0\.0, 0\.0\)\nhint: .*variance > 0"),
    (lambda: GaussianPrior(float("inf")), UsageError, r"N\(inf"),
    (
        lambda: PRIORS["multivariate_gaussian"].check((2,)),
        ShapeError,
        r"a prior over \(3,\) for examples of shape \(2,\)",
    ),
    (lambda: PRIORS["mixture"].draw(torch.zeros(1, 1)), UsageError, r"cannot be drawn"),
    (lambda: PRIORS["code_mixture"].draw(torch.zeros(1, 1)), UsageError, r"scores, it does not sample"),
    (lambda: PRIORS["mixture"].kl(torch.zeros(1, 2), level(0)), UsageError, r"in 2 dimensions has no closed form"),
    (lambda: MIXTURE.entropy(), UsageError, r"entropy_estimate"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_nonsense_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_policies_are_parsed_at_the_edge():
    assert isinstance(parse_variance("beta"), Beta) and isinstance(parse_variance("beta_tilde"), BetaTilde)
    policy = Beta()
    assert parse_variance(policy) is policy
