"""Stochastic samplers draw from the right law: mean, covariance and marginal, on VP, VE and flow; wrong ones do not.

The law of z_1 is q(z_1) in closed form. Every test that must pass has a twin on the same draws, wrong by design, that
it must refuse: this is the stated power. Seeds are fixed.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

import nelbo
from nelbo import sample
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.process import grids
from nelbo.sampling import DDIM, Ancestral, Euler, Heun, Sampler, SDEDPMSolver2M
from tests.sampling.cases import LAW, LINE, PATHS, PLANE
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


def energy_p_value(x: np.ndarray, y: np.ndarray, permutations: int = 400) -> float:
    """p-value of the energy distance of two samples of one size, by permutation with a fixed seed.

    With signs s (±1 a sample's) and pair distances D the statistic is −sᵀ D s up to a constant.
    """
    D = cdist(np.concatenate([x, y]), np.concatenate([x, y]))
    signs = np.repeat([1.0, -1.0], len(x))
    rng = np.random.default_rng(0)
    S = np.stack([signs, *(rng.permutation(signs) for _ in range(permutations))])
    statistics = -np.einsum("pi,pi->p", S @ D, S)
    return float((statistics >= statistics[0]).mean())


SQUARE = MixtureData([0.4, 0.3, 0.3], [[-1.0, -0.5], [1.0, 0.8], [0.6, -1.0]], [[0.2, 0.1], [0.1, 0.2], [0.15, 0.15]])


class TooLittleNoise(Sampler):
    """The ancestral step with 0.7 of its noise."""

    name = "wrong"

    def step(self, step):
        return Ancestral("beta_tilde").step(dataclasses.replace(step, normal=lambda: 0.7 * step.normal()))


class LostMemory(Sampler):
    """SDE-2M that adds what it should subtract."""

    name = "wrong"

    def step(self, step):
        previous = step.previous
        if previous is not None:
            x0 = step.predict(step.z, step.t).x0
            previous = previous._replace(x0=2 * x0 - previous.x0 - 0.5 * (x0 - x0.mean()))
        return SDEDPMSolver2M().step(dataclasses.replace(step, previous=previous))


class ChurnWithoutRoot(Sampler):
    """Churn that adds (ς̂ − ς) ξ for √(ς̂² − ς²) ξ."""

    name = "wrong"

    def step(self, step):
        gamma = min(20.0 / step.steps, 2**0.5 - 1)
        shrink = gamma / ((1 + gamma) ** 2 - 1) ** 0.5
        return Heun(churn=20.0).step(dataclasses.replace(step, normal=lambda: shrink * step.normal()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["ancestral", "heun-churned", "dpmpp_2m_sde"])
def test_energy_distance_in_the_plane(name, path):
    """500 draws and 500 exact ones; the same test refuses draws of a sampler with 0.7 of its noise."""
    sampler, steps = STOCHASTIC[name]
    first = LAW.on(path).at(torch.tensor([0.0]))
    truth = SQUARE.noised(first).sample(500, seed=77).numpy()
    z = drawn(SQUARE, sampler, steps // 2, path, 500).numpy()
    assert energy_p_value(z, truth) > 0.01


WRONG: dict[str, tuple[Sampler, int]] = {
    "too little noise": (TooLittleNoise(), 400),
    "churn without its root": (ChurnWithoutRoot(), 60),
    "extrapolated backwards": (LostMemory(), 80),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_samplers_are_refused(name, path):
    """Each by the moments, and those that narrow the law by the energy distance too, on every path.

    Power of the latter, at level 0.01 with 500 draws a side: 0.7 of the noise is refused on all three paths.
    """
    sampler, steps = WRONG[name]
    mean, covariance = exact_moments(path)
    assert worst_z(drawn(PLANE, sampler, steps, path).numpy(), mean, covariance) > 4.5
    if name != "extrapolated backwards":
        first = LAW.on(path).at(torch.tensor([0.0]))
        truth = SQUARE.noised(first).sample(500, seed=77).numpy()
        assert energy_p_value(drawn(SQUARE, sampler, steps // 2, path, 500).numpy(), truth) < 0.01


def test_the_samplers_are_all_tested():
    from tests.sampling.cases import DETERMINISTIC

    kinds = {type(s) for s, _ in STOCHASTIC.values()} | {nelbo.samplers.NAMED[n] for n in DETERMINISTIC}
    assert kinds == set(nelbo.samplers.NAMED.values())
