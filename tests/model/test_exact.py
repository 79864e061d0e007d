"""The closed-form oracles themselves, against scipy, Schur complements and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.errors import DomainError, ShapeError
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from tests.model import checks
from tests.model.cases import CODES_1, GAUSSIAN, GAUSSIAN_1, MIXTURE, MIXTURE_1
from tests.tables import refusals


@pytest.mark.parametrize("data", [GAUSSIAN, GAUSSIAN_1, GaussianData([1.0, 2.0], 0.3)], ids=["3d", "1d", "isotropic"])
def test_gaussian(data):
    law = stats.multivariate_normal(data.mean.numpy(), data.covariance.numpy())
    x = np.random.default_rng(0).normal(size=(6, data.dimensions)) * 2
    checks.close(data.log_prob(torch.from_numpy(x)), law.logpdf(x), 1e-11)
    checks.close(data.entropy(), law.entropy(), 1e-11)


def test_mixture():
    for data in (MIXTURE, MIXTURE_1):
        x = np.random.default_rng(1).normal(size=(6, data.dimensions))
        checks.close(data.log_prob(torch.from_numpy(x)), np.log(checks.mixture_density(data, x)), 1e-10)
    x = np.linspace(-5, 5, 100_001)
    p = checks.mixture_density(MIXTURE_1, x[:, None])
    checks.close(MIXTURE_1.entropy(), -np.sum(p * np.log(p)) * 1e-4, 1e-9)
    estimate, error = MIXTURE_1.entropy_estimate(20_000, seed=3)
    assert abs(estimate - MIXTURE_1.entropy()) <= 4 * error < 0.05  # a bias of 0.08 nats has power > 0.99
    one = MixtureData([2.0], [[0.4]], [0.8])
    checks.close(one.entropy(), GAUSSIAN_1.entropy(), 1e-9)


def test_codes():
    p = CODES_1.probabilities[0].numpy()
    checks.close(CODES_1.log_prob(torch.arange(4)[:, None]), np.log(p), 1e-12)
    checks.close(CODES_1.entropy(), stats.entropy(p), 1e-12)
    two = CategoricalData([[1.0, 3.0], [0.5, 0.5]])
    checks.close(two.log_prob(torch.tensor([[1, 0]])), [math.log(0.75 * 0.5)], 1e-12)


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_samples_have_the_moments(data):
    """Each mean and second moment within 4 standard errors at a fixed seed; an error of 5 standard errors of 1/√n
    (0.035 of a standard deviation at n = 20,000) is caught with power 0.84, one of 7 (0.05) with 0.998."""
    n = 20_000
    x = data.sample(n, seed=1).numpy()
    if isinstance(data, GaussianData):
        mean, second = data.mean.numpy(), data.covariance.numpy() + np.outer(data.mean, data.mean)
    else:
        w, m = data.weights.numpy(), data.means.numpy()
        mean = w @ m
        second = np.einsum("m,mde->de", w, data.covariances.numpy() + m[:, :, None] * m[:, None, :])
    assert np.all(np.abs(x.mean(0) - mean) <= 4 * x.std(0) / math.sqrt(n))
    products = x[:, :, None] * x[:, None, :]
    assert np.all(np.abs(products.mean(0) - second) <= 4 * products.std(0) / math.sqrt(n))
    assert torch.equal(data.sample(7, seed=1), data.sample(n, seed=1)[:7])  # draw i depends on (seed, i) alone
    assert not torch.equal(data.sample(7, seed=2), data.sample(7, seed=1))


def test_sampled_codes_have_the_frequencies():
    n = 20_000
    p = CODES_1.probabilities[0].numpy()
    counts = np.bincount(CODES_1.sample(n, seed=1).flatten().numpy(), minlength=4)
    assert np.all(np.abs(counts - n * p) <= 4 * np.sqrt(n * p * (1 - p)))


test_nonsense_is_refused = refusals(
    (lambda: GaussianData([0.0, 0.0], [[1.0]]), ShapeError, r"mean \(2,\), covariance \(1, 1\)"),
    (lambda: GaussianData([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), DomainError, r"not symmetric positive definite"),
    (lambda: GaussianData([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), DomainError, r"not symmetric positive definite"),
    (lambda: MixtureData([0.5, 0.5], [[0.0], [1.0]], torch.ones(3, 1, 1)), ShapeError, r"\(M,\), \(M, D\)"),
    (lambda: MixtureData([0.5, 0.0], [[0.0], [1.0]], [1.0, 1.0]), DomainError, r"a weight is not positive"),
    (lambda: MixtureData([0.5, 0.5], [[0.0], [1.0]], [1.0, -1.0]), DomainError, r"covariance is not positive definite"),
    (lambda: CategoricalData([[0.0, 1.0]]), DomainError, r"all positive"),
    (lambda: CategoricalData([0.5, 0.5]), DomainError, r"shape \(2,\)"),
)
