"""Ancestral sampling: the law of the samples, their independence of batches, and what is refused.

With a Gaussian denoiser every step is linear, so that the law of the samples of a *finite* chain is known exactly: a
recursion for its mean and covariance in plain numpy, from alpha-bars. The samples are tested against that, and that
against the data's law as the chain grows.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo import sample
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.model.prior import GaussianPrior
from nelbo.process import grids
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


def test_a_long_chain_has_the_law_of_the_data():
    """Mean and covariance of the data itself, on 300 steps; the recursion closes in on it as 1/T."""
    x = sample(PLANE.model(LAW, grids.even(300)), N).numpy()
    mean, cov = PLANE.mean.numpy(), PLANE.covariance.numpy()
    assert worst_z(x, mean, cov) < 4.5
    gap = [np.abs(law_of_samples(PLANE, bars(LAW, T), "beta_tilde", True)[3] - cov).max() for T in (300, 600, 1200)]
    assert gap[0] / gap[1] == pytest.approx(2, rel=0.15) and gap[1] / gap[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("variance", ["beta_tilde", "beta"])
def test_ddpm_with_somebodys_network(variance):
    """DDPM's linear table, an exact ε-network in index time by `from_callable`, N(0, I): the law of that chain."""
    T = 200
    betas = np.linspace(5e-4, 0.1, T)
    bar = np.cumprod(1 - betas)
    m, c = 0.7, 0.5

    def eps(z, i):
        a = torch.from_numpy(bar)[i][:, None]
        return (1 - a).sqrt() * (z - a.sqrt() * m) / (a * c + 1 - a)

    model = nelbo.from_callable(
        eps, schedule=nelbo.schedules.from_betas(betas), domain=nelbo.DataDomain((1,)), variance=variance
    )
    x = sample(model, N).numpy()
    *_, mean, cov = law_of_samples(LINE, bar, variance, exact_prior=False)
    assert worst_z(x, mean, cov) < 4.5
    assert stats.kstest(x[:, 0], "norm", (mean[0], math.sqrt(cov[0, 0]))).pvalue > 1e-4
    assert abs(mean[0] - m) < 0.01 and abs(cov[0, 0] - c) < 0.04  # and that is nearly the data's


def test_mixture_modes():
    """Three modes get their weights: chi-square on which mode a sample falls to."""
    data = MixtureData([0.2, 0.5, 0.3], [[-2.0], [0.0], [2.0]], [0.01, 0.01, 0.01])
    x = sample(data.model(LAW, grids.even(200), exact_ends=False), N)[:, 0]
    counts = np.histogram(x, [-math.inf, -1, 1, math.inf])[0]
    assert stats.chisquare(counts, N * np.array([0.2, 0.5, 0.3])).pvalue > 1e-4
    assert stats.chisquare(counts, N * np.array([0.25, 0.45, 0.3])).pvalue < 1e-4


def frequencies_p_value(codes: torch.Tensor, probabilities: torch.Tensor) -> float:
    """The smallest p-value of the pixels' frequencies and of the pair's (the pixels are independent)."""
    p = probabilities.numpy()
    tests = [stats.chisquare(np.bincount(codes[:, d], minlength=4), len(codes) * p[d]).pvalue for d in (0, 1)]
    joint = np.bincount(4 * codes[:, 0] + codes[:, 1], minlength=16)
    return min([*tests, stats.chisquare(joint, len(codes) * np.outer(p[0], p[1]).ravel()).pvalue])


def test_codes_have_their_frequencies():
    """The exact categorical posterior on a long chain draws the table; a wrong prior or a short chain does not."""
    model = CODES.model(schedules.logsnr_linear(7.0, -8.0), grids.even(300), exact_ends=False)
    codes = sample(model, N)
    assert codes.dtype == torch.int64 and codes.shape == (N, 2)
    assert frequencies_p_value(codes, CODES.probabilities) > 1e-4
    short = CODES.model(schedules.logsnr_linear(7.0, -1.0), grids.even(60), exact_ends=False)
    shifted = dataclasses.replace(short, prior=GaussianPrior(0.8, 1.0))
    assert frequencies_p_value(sample(shifted, N), CODES.probabilities) < 1e-6
    coarse = CODES.model(schedules.logsnr_linear(7.0, -8.0), grids.even(6), exact_ends=False)
    assert frequencies_p_value(sample(coarse, N), CODES.probabilities) < 1e-6


def test_the_decoder_draws():
    """One level of pure noise: the codes are draws of the decoder, not its most likely code, and x is its mean."""
    model = CODES.model(schedules.logsnr_linear(1.0, -12.0), grids.even(1), exact_ends=False)
    assert frequencies_p_value(sample(model, N), CODES.probabilities) > 1e-4
    values = sample(model, 50, codes=False)
    lattice = torch.linspace(-1, 1, 4, dtype=torch.float64)
    assert values.is_floating_point()
    torch.testing.assert_close(values, (CODES.probabilities @ lattice).expand(50, -1), rtol=0.05, atol=0.02)


# ---------------------------------------------------------------- keys, batches, trajectories


def models():
    net = torch.nn.Linear(3, 3).double()
    callable_model = nelbo.from_callable(
        lambda z, t: torch.tanh(net(z)),
        schedule=nelbo.schedules.linear(12, 1e-2, 0.4),
        domain=nelbo.DataDomain((3,), 8),
    )
    return {
        "codes": CODES.model(LAW, grids.even(10), exact_ends=False),
        "gaussian": PLANE.model(LAW, grids.even(10)),
        "callable": callable_model,
    }


@pytest.mark.parametrize("name", ["codes", "gaussian", "callable"])
def test_sample_i_depends_on_seed_and_i(name):
    model = models()[name]
    whole = sample(model, 25, seed=3)
    for n, size in ((25, 4), (10, None), (7, 1), (25, 1000)):
        part = sample(model, n, seed=3, batch_size=size)
        torch.testing.assert_close(part, whole[:n], rtol=1e-12, atol=1e-12)
    assert not torch.equal(sample(model, 25, seed=4), whole)
    state = torch.random.get_rng_state()
    sample(model, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    if name != "codes":  # four values a pixel
        assert len(torch.unique(sample(model, 25, codes=False), dim=0)) == 25


def test_trajectory():
    """z and x̂ at every level from noise to data; the same samples as without it; x̂ at the end is what is decoded."""
    model = models()["callable"]
    plain, whole = sample(model, 6, codes=False), sample(model, 6, codes=False, trajectory=True, batch_size=4)
    torch.testing.assert_close(plain, whole.samples, rtol=1e-12, atol=1e-12)
    assert whole.z.shape == whole.denoised.shape == (12, 6, 3) and whole.logsnr.shape == (12,)
    torch.testing.assert_close(whole.logsnr.flip(0), model.levels().logsnr)
    assert bool((whole.logsnr.diff() > 0).all())
    assert torch.equal(whole.denoised[-1], whole.samples)
    # From each z to the next by the reverse step: the noise that remains has the policy's variance.
    levels = model.levels()
    many = sample(model, 2000, trajectory=True)
    for k in (0, 5, 10):
        t, s = levels[11 - k : 12 - k].expand(2000), levels[10 - k : 11 - k].expand(2000)
        mean, variance = model.reverse.step(many.z[k], model.predict(many.z[k], t), s, t)
        noise = (many.z[k + 1] - mean) / variance.sqrt()
        assert stats.kstest(noise.flatten().detach().numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(many.z[0].flatten().numpy(), "norm").pvalue > 1e-4


def test_steps_count_evaluations():
    """`steps` counts network evaluations, the decoder's included."""
    for steps, levels in ((None, 12), (5, 5), (12, 12)):
        assert sample(models()["callable"], 2, steps=steps, trajectory=True).z.shape[0] == levels
    continuous = PLANE.model(LAW, grids.continuous())
    assert sample(continuous, 2, trajectory=True).z.shape[0] == 251  # 250 steps where none are given
    assert sample(continuous, 2, steps=3, trajectory=True).z.shape[0] == 4


def test_clipping_and_conditions():
    """The clipping policy is part of the model and acts on x̂; a condition goes to its own sample, in any batches."""

    def fn(z, t, target):
        return target[:, None].expand(z.shape)

    model = nelbo.from_callable(
        fn,
        schedule=nelbo.schedules.linear(30, 1e-2, 0.4),
        domain=nelbo.DataDomain((2,), 9),
        predicts="x0",
        clip=True,
    )
    target = torch.tensor([-1.0, 0.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    values = sample(model, 5, condition={"target": target}, batch_size=2, codes=False)
    torch.testing.assert_close(values, target.clamp(max=1.0)[:, None].expand(-1, 2))
    codes = sample(model, 5, condition={"target": target}, batch_size=2)
    assert bool(((codes - model.domain.codes(values)).abs() <= 1).all())


def test_the_network_is_left_in_its_mode():
    """Dropout is off while sampling, and a network in training mode is still so afterwards."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 3))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, z, t):
            assert not self.training and not net[0].training
            return self.net(z)

    module = Net().train()
    model = nelbo.from_callable(module, schedule=nelbo.schedules.linear(5, 0.1, 0.4), domain=nelbo.DataDomain((3,), 8))
    sample(model, 2)
    assert module.training and net[0].training
