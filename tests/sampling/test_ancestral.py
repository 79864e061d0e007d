"""Ancestral sampling: the law of the samples, their independence of batches, and what is refused.

With a Gaussian denoiser every step is linear, so that the law of the samples of a *finite* chain is known exactly: a
recursion for its mean and covariance in plain numpy, from alpha-bars. `test_laws.py` tests the limit of many steps.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo import sample
from nelbo.model.exact import CategoricalData, GaussianData
from nelbo.process import every_grid as grids
from nelbo.process import schedule as schedules

LINE = GaussianData([0.7], [[0.5]])
PLANE = GaussianData([0.4, -1.0], [[0.6, 0.25], [0.25, 0.3]])
CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
LAW = schedules.logsnr_linear(9.0, -9.0)
N = 4000


def law_of_samples(data: GaussianData, bar: np.ndarray, variance: str, exact_prior: bool) -> tuple:
    """Mean (D,) and covariance (D, D) of z_1 under the chain with ᾱ_1 > … > ᾱ_L, and of E[x | z_1] under N(m, C)."""
    m, C = data.mean.numpy(), data.covariance.numpy()
    identity = np.eye(len(m))

    def denoise(a):
        """x̂ = K z + k: the posterior mean of N(m, C) at ᾱ = a."""
        K = math.sqrt(a) * C @ np.linalg.inv(a * C + (1 - a) * identity)
        return K, m - math.sqrt(a) * K @ m

    mean, cov = np.zeros_like(m), identity
    if exact_prior:
        mean, cov = math.sqrt(bar[-1]) * m, bar[-1] * C + (1 - bar[-1]) * identity
    for j in range(len(bar) - 1, 0, -1):
        beta = 1 - bar[j] / bar[j - 1]
        spread = beta if variance == "beta" else beta * (1 - bar[j - 1]) / (1 - bar[j])
        K, k = denoise(bar[j])
        on_x = math.sqrt(bar[j - 1]) * beta / (1 - bar[j])
        A = math.sqrt(1 - beta) * (1 - bar[j - 1]) / (1 - bar[j]) * identity + on_x * K
        mean, cov = A @ mean + on_x * k, A @ cov @ A.T + spread * identity
    K, k = denoise(bar[0])
    return mean, cov, K @ mean + k, K @ cov @ K.T


def bars(schedule, steps: int) -> np.ndarray:
    logsnr = np.linspace(schedule.logsnr_max, schedule.logsnr_min, steps + 1)
    return 1 / (1 + np.exp(-logsnr))


def worst_z(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """The largest |z| among the sample's means and covariances, for normal data."""
    n = len(x)
    z = [(x.mean(0) - mean) / np.sqrt(np.diag(cov) / n)]
    error = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / n)
    centred = x - mean
    z.append(((centred.T @ centred / n - cov) / error).ravel())
    return float(np.abs(np.concatenate(z)).max())


# ---------------------------------------------------------------- the law of the samples


@pytest.mark.parametrize("exact_ends", [True, False])
@pytest.mark.parametrize("variance", ["beta_tilde", "beta"])
@pytest.mark.parametrize("data", [LINE, PLANE], ids=["1-D", "2-D"])
def test_gaussian_law(data, variance, exact_ends):
    """The samples of a coarse chain have exactly its law; that of the other variance policy is seen to be another."""
    law = schedules.logsnr_linear(6.0, -5.0)
    model = data.model(law, grids.even(8), exact_ends=exact_ends, variance=variance)
    drawn = sample(model, N, trajectory=True)
    z_mean, z_cov, x_mean, x_cov = law_of_samples(data, bars(law, 8), variance, exact_ends)
    assert worst_z(drawn.z[-1].numpy(), z_mean, z_cov) < 4.5
    if exact_ends:
        assert worst_z(drawn.samples.numpy(), x_mean, x_cov) < 4.5
    else:  # the decoder N(z/α, …) does not know the data
        alpha = math.sqrt(bars(law, 8)[0])
        assert worst_z(drawn.samples.numpy(), z_mean / alpha, z_cov / alpha**2) < 4.5
    other = law_of_samples(data, bars(law, 8), "beta" if variance == "beta_tilde" else "beta_tilde", exact_ends)
    assert worst_z(drawn.z[-1].numpy(), other[0], other[1]) > 6


def frequencies_p_value(codes: torch.Tensor, probabilities: torch.Tensor) -> float:
    """The smallest p-value of the pixels' frequencies and of the pair's (the pixels are independent)."""
    p = probabilities.numpy()
    tests = [stats.chisquare(np.bincount(codes[:, d], minlength=4), len(codes) * p[d]).pvalue for d in (0, 1)]
    joint = np.bincount(4 * codes[:, 0] + codes[:, 1], minlength=16)
    return min([*tests, stats.chisquare(joint, len(codes) * np.outer(p[0], p[1]).ravel()).pvalue])


def test_codes_have_their_frequencies():
    """The exact categorical posterior on a long chain draws the table; a short chain does not."""
    model = CODES.model(schedules.logsnr_linear(7.0, -8.0), grids.even(300), exact_ends=False)
    codes = sample(model, N)
    assert codes.dtype == torch.int64 and codes.shape == (N, 2)
    assert frequencies_p_value(codes, CODES.probabilities) > 1e-4
    assert frequencies_p_value(sample(model, N, steps=6), CODES.probabilities) < 1e-6


def test_the_decoder_draws():
    """One level of pure noise: the codes are draws of the decoder, not its most likely code, and x is its mean."""
    model = CODES.model(schedules.logsnr_linear(1.0, -12.0), grids.even(1), exact_ends=False)
    assert frequencies_p_value(sample(model, N), CODES.probabilities) > 1e-4
    values = sample(model, 50, codes=False)
    lattice = torch.linspace(-1, 1, 4, dtype=torch.float64)
    assert values.is_floating_point()
    torch.testing.assert_close(values, (CODES.probabilities @ lattice).expand(50, -1), rtol=0.05, atol=0.02)


# ---------------------------------------------------------------- keys, trajectories, steps, the network's mode


def test_codes_depend_on_seed_and_place_alone():
    """What the decoder draws does not depend on batches either, and no global random state is read or changed."""
    model = CODES.model(LAW, grids.even(10), exact_ends=False)
    state = torch.random.get_rng_state()
    whole = sample(model, 25, seed=3)
    for n, size in ((25, 4), (10, None), (7, 1)):
        assert torch.equal(sample(model, n, seed=3, batch_size=size), whole[:n])
    assert not torch.equal(sample(model, 25, seed=4), whole)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_trajectory():
    """z and x̂ at every level from noise to data; the same samples as without it; x̂ at the end is what is decoded."""
    model = CODES.model(LAW, grids.even(10), exact_ends=False)
    plain, whole = sample(model, 6, codes=False), sample(model, 6, codes=False, trajectory=True, batch_size=4)
    assert torch.equal(plain, whole.samples) and torch.equal(whole.denoised[-1], whole.samples)
    assert whole.z.shape == whole.denoised.shape == (10, 6, 2)
    torch.testing.assert_close(whole.logsnr.flip(0), model.levels().logsnr)


def test_the_number_of_steps():
    """The grid's own where none is given, 250 on a continuous law; the decoder's call is one of the steps."""
    table = nelbo.from_callable(lambda z, t: 0.1 * z, schedule=schedules.linear(12), domain=nelbo.DataDomain((3,), 8))
    continuous = PLANE.model(LAW, grids.continuous())
    for model, steps, levels in ((table, None, 12), (table, 5, 5), (continuous, None, 251), (continuous, 3, 4)):
        assert sample(model, 2, steps=steps, trajectory=True).z.shape[0] == levels


class Strict(torch.nn.Linear):
    """Refuses to be called in training mode."""

    def forward(self, z, t):
        assert not self.training
        return super().forward(z)


def test_the_network_is_left_in_its_mode():
    """It is in evaluation mode while sampling, and in training mode again afterwards."""
    net = Strict(3, 3).train()
    sample(nelbo.from_callable(net, schedule=nelbo.schedules.linear(5), domain=nelbo.DataDomain((3,), 8)), 2)
    assert net.training
