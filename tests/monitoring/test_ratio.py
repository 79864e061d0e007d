"""`RatioEstimator`: log-ratios and their gradients, against laws whose both are known."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from tests.bound.conditional import LOGSNR

SPREAD = 0.3
X = torch.tensor([[0.4, -0.2], [1.0, 0.3], [-0.5, 0.1]], dtype=torch.float64)


class Shifted(torch.nn.Module):
    """The exact ε̂ of N(m, SPREAD I), whose mean is learned."""

    def __init__(self, mean: list[float]):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(mean, dtype=torch.float64))

    def forward(self, z, logsnr):
        alpha2 = torch.sigmoid(logsnr.double())[:, None]
        return (1 - alpha2).sqrt() * (z - alpha2.sqrt() * self.mean) / (alpha2 * SPREAD + 1 - alpha2)


def model(mean: list[float], schedule=LOGSNR, grid=None) -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        Shifted(mean), schedule=schedule, domain=nelbo.DataDomain((2,)), predicts="eps", time="logsnr",
        grid=grid or nelbo.grids.continuous(),
    )  # fmt: skip


A, B = model([0.5, 0.0]), model([0.0, 0.4])


def test_values_and_gradients_are_those_of_the_laws():
    """Over steps; log p of a Gaussian and its slope in the mean, (x − m)/v."""
    ratio, steps = nelbo.RatioEstimator(A, B, X, seed=4), 60
    (mean,) = A.denoiser.parameters()
    values, slopes = [], []
    for step in range(steps):
        r = ratio(X, step=step)
        values.append(r.detach())
        slopes.append(torch.autograd.grad(r.sum(), mean)[0])
    exact = [-(X - m).square().sum(1) / (2 * SPREAD) for m in ([0.5, 0.0], [0.0, 0.4]) for m in [torch.tensor(m)]]
    right = (exact[0] - exact[1], ((X - mean.detach()) / SPREAD).sum(0))
    for found, true in zip((torch.stack(values), torch.stack(slopes)), right, strict=True):
        z = (found.mean(0) - true) / (found.std(0) / math.sqrt(steps))
        assert float(z.abs().max()) < 4.5
        assert float((z + true / (found.std(0) / math.sqrt(steps))).abs().max()) > 4.5  # power: twice as much


def test_calls_of_one_step_share_their_noise():
    ratio = nelbo.RatioEstimator(A, B, X)
    assert torch.equal(ratio(X, step=3), ratio(X, step=3)) and not torch.equal(ratio(X, step=3), ratio(X, step=4))
    torch.testing.assert_close(ratio(X, step=3)[:2], ratio(X[:2], step=3))
    assert float(nelbo.RatioEstimator(A, A, X)(X, draws=3).detach().abs().max()) < 1e-9


def gradient_variance(draw, parameters, steps: int) -> float:
    """The sum of the variances of all partial derivatives."""
    found = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(draw(k), parameters)]) for k in range(steps)]
    )
    return float(found.var(0).sum())


@pytest.mark.slow
def test_gradients_vary_less_than_those_of_a_uniform_time():
    """Of the steps of a DDPM, at as many evaluations: by more than ten times."""
    schedule = nelbo.schedules.linear(1000)
    a, b = (model(m, schedule, nelbo.grids.even(1000)) for m in ([0.5, 0.0], [0.0, 0.4]))
    ratio, chain_steps = nelbo.RatioEstimator(a, b, X), a.levels()[1:]
    before = a.levels()[:-1]
    generator = torch.Generator().manual_seed(0)

    def uniform(step: int) -> torch.Tensor:
        t = torch.randint(len(chain_steps), (len(X),), generator=generator)
        z = torch.randn(X.shape, generator=generator, dtype=torch.float64)
        at, s = chain_steps[t], before[t]
        noised = at.alpha[:, None] * X + at.sigma[:, None] * z
        weight = len(chain_steps) * 0.5 * torch.expm1(s.logsnr - at.logsnr)
        return -(weight * (a.denoiser.net(noised, at.logsnr) - z).square().sum(1)).sum()

    own = list(a.denoiser.parameters())
    ours = ratio.evaluations * gradient_variance(lambda k: ratio(X, step=k).sum(), own, 200)
    assert gradient_variance(uniform, own, 200) > 10 * ours


def test_what_is_refused():
    with pytest.raises(UsageError, match="other levels"):
        nelbo.RatioEstimator(A, model([0.0, 0.0], grid=nelbo.grids.even(5)), X)
    with pytest.raises(UsageError, match="domain"):
        nelbo.RatioEstimator(A, nelbo.exact.GaussianData([0.0], [[1.0]]).model(LOGSNR, nelbo.grids.continuous()), X)
    with pytest.raises(UsageError, match="draws"):
        nelbo.RatioEstimator(A, B, X)(X, draws=0)
