"""Stochastic samplers draw from the right law: mean, covariance and marginal, on VP, VE and flow; wrong ones do not.

The law of z_1 is q(z_1) in closed form. Every test refuses the same draws against a law that is wrong by design: this
is the stated power. Samplers that are wrong by design are rows of `tests/mutations/test_verbs.py`. Seeds are fixed.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo import sample
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.process import every_grid as grids
from nelbo.sampling import DDIM, Ancestral, Euler, Heun, Sampler, SDEDPMSolver2M
from tests.sampling.cases import DETERMINISTIC, LAW, LINE, PATHS, PLANE
from tests.sampling.test_ancestral import worst_z

N = 3000
STOCHASTIC: dict[str, tuple[Sampler, int]] = {
    "ancestral": (Ancestral("beta_tilde"), 400),
    "ancestral-beta": (Ancestral("beta"), 400),
    "ddim-0.7": (DDIM(0.7), 400),
    "euler-churned": (Euler(churn=20.0), 400),
    "heun-churned": (Heun(churn=20.0), 60),
    "dpmpp_2m_sde": (SDEDPMSolver2M(), 80),
}
"""With as many steps as bring the error of the steps well below that of N draws."""


def drawn(data: GaussianData | MixtureData, sampler: Sampler, steps: int, path: str, n: int = N) -> torch.Tensor:
    """z_1 (n, D) of chains that start from the exact q(z_L)."""
    schedule = LAW.on(path)
    last = schedule.at(torch.tensor([1.0]))
    if isinstance(data, MixtureData):
        start = data.noised(last).sample(n, seed=5)
    else:
        start = GaussianData(last.alpha * data.mean, data.prior(last).covariance).sample(n, seed=5)
    model = data.model(schedule, grids.even(8), exact_ends=False)
    return sample(model, n, sampler=sampler, steps=steps, start=start, trajectory=True).z[-1]


def exact_moments(path: str) -> tuple[np.ndarray, np.ndarray]:
    first = LAW.on(path).at(torch.tensor([0.0]))
    return (first.alpha * PLANE.mean).numpy(), PLANE.prior(first).covariance.numpy()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_mean_and_covariance(name, path):
    z = drawn(PLANE, *STOCHASTIC[name], path).numpy()
    mean, covariance = exact_moments(path)
    assert worst_z(z, mean, covariance) < 4.5
    assert worst_z(z, mean, 0.8 * covariance) > 4.5  # N sees a fifth of a variance
    assert worst_z(z, mean + 0.1, covariance) > 4.5


@functools.cache
def cdf(path: str):
    """F of the noisy mixture at the first level."""
    law = LINE.noised(LAW.on(path).at(torch.tensor([0.0])))
    mean, spread = law.means[:, 0].numpy(), law.covariances[:, 0, 0].sqrt().numpy()
    return lambda x: stats.norm.cdf((np.asarray(x)[..., None] - mean) / spread) @ law.weights.numpy()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_marginal_of_a_mixture(name, path):
    z = drawn(LINE, *STOCHASTIC[name], path)[:, 0].numpy()
    assert stats.kstest(z, cdf(path)).pvalue > 1e-3
    assert stats.kstest(1.1 * z, cdf(path)).pvalue < 1e-3  # a tenth too wide is seen
    assert stats.kstest(z + 0.12, cdf(path)).pvalue < 1e-3


def test_the_samplers_are_all_tested():
    kinds = {type(s) for s, _ in STOCHASTIC.values()} | {nelbo.samplers.NAMED[n] for n in DETERMINISTIC}
    assert kinds == set(nelbo.samplers.NAMED.values())
