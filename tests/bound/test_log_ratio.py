"""`log_ratio`: against the exact ratio of two laws."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import nelbo
from nelbo.errors import UsageError
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.prior import GaussianPrior
from tests.bound.conditional import LOGSNR, gaussians

LAWS = gaussians(2, 3, seed=5)
A, B = (law.model(LOGSNR, nelbo.grids.continuous()) for law in LAWS)
X = torch.cat([law.sample(8) for law in LAWS])


def test_the_ratio_is_exact_within_its_errors():
    found = nelbo.log_ratio(A, B, X, tolerance=0.1)
    exact = LAWS[0].log_prob(X) - LAWS[1].log_prob(X)
    z = (found.value - exact) / found.standard_error
    assert float(z.abs().max()) < 4 and float(found.standard_error.max()) <= 0.1
    other = nelbo.log_ratio(B, A, X, tolerance=0.1)
    torch.testing.assert_close(other.value, -found.value)
    assert float(((found.value + exact) / found.standard_error).abs().max()) > 10  # power: the sign
    assert "16 examples" in repr(found)


def test_first_level_and_prior_are_counted_where_they_differ():
    """The same network, with a decoder and a prior of its own: nothing else is left of the difference."""
    law, schedule = LAWS[0], nelbo.schedules.logsnr_linear(4.0, -1.0)
    one = dataclasses.replace(
        law.model(schedule, nelbo.grids.even(6), exact_ends=False), decoder=ContinuousGaussian(0.2)
    )
    two = dataclasses.replace(one, decoder=ContinuousGaussian(0.05), prior=GaussianPrior(0.5, 2.0))
    x, levels = X[:4], one.levels()
    found = nelbo.log_ratio(one, two, x, tolerance=0.05)
    eps = torch.randn(4, 20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = levels[:1].expand(20_000)
    ends = [Normal(levels[-1:].alpha * x, levels[-1:].sigma), Normal(0.0, 1.0), Normal(0.5, math.sqrt(2.0))]
    prior = (kl_divergence(ends[0], ends[2]) - kl_divergence(ends[0], ends[1])).sum(1)
    for k in range(4):
        z = first.alpha[:, None] * x[k] + first.sigma[:, None] * eps[k]
        own, other = (Normal(one.denoiser(z, first).x0, v**0.5).log_prob(x[k]) for v in (0.2, 0.05))
        drawn = (own - other).sum(1)
        error = (found.standard_error[k].square() + drawn.var() / len(drawn)).sqrt()
        assert abs(float((found.value[k] - prior[k] - drawn.mean()) / error)) < 4 and float(error) < 0.1


def test_a_model_against_itself():
    found = nelbo.log_ratio(A, A, X[:3])
    assert found.value.tolist() == [0.0] * 3 and found.standard_error.tolist() == [0.0] * 3


def test_what_is_refused():
    with pytest.raises(UsageError, match="other levels"):
        nelbo.log_ratio(A, B.with_grid(nelbo.grids.even(5)), X)
    with pytest.raises(UsageError, match="unlike data"):
        nelbo.log_ratio(A, gaussians(1, 2)[0].model(LOGSNR, nelbo.grids.continuous()), X)
    with pytest.raises(UsageError, match="tolerance"):
        nelbo.log_ratio(A, B, X, tolerance=0.0)
    assert nelbo.log_ratio(A, B, X, grid=nelbo.grids.even(3), max_nfe=2000).nfe_total <= 2000
