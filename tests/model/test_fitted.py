"""Fitted variances: bases, tables, KLs with full covariances, draws, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import nelbo
from nelbo.errors import NelboError, ShapeError, UsageError
from nelbo.model.domain import DataDomain
from nelbo.model.fitted.basis import Cosine, Pixel, Reflections
from nelbo.model.fitted.variance import FittedVariance, HybridVariance
from nelbo.model.reverse import BetaTilde, Reverse, parse_variance
from nelbo.process import grid
from tests.model import fitted
from tests.model.cases import FITTED, GAUSSIAN, NODES, turned
from tests.model.fitted import LAW

CHECKS = [
    fitted.check_bases,
    fitted.check_cosines,
    fitted.check_reflections,
    fitted.check_kls,
    fitted.check_draws,
    fitted.check_tables,
    fitted.check_optimum,
    fitted.check_rows,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check):
    check()


def exact_covariance(steps: int) -> nelbo.DiffusionModel:
    """Gaussian data with its exact denoiser and the exact covariance of its errors, in the data's own directions."""
    model = GAUSSIAN.model(LAW, grid.even(steps))
    levels = model.levels()
    c = GAUSSIAN._c.flip(0)  # falling, as the directions below
    V = c * levels.sigma[:, None] ** 2 / (levels.alpha[:, None] ** 2 * c + levels.sigma[:, None] ** 2)
    basis = Reflections.through(GAUSSIAN._U.flip(1))
    policy = FittedVariance(basis, levels.logsnr, V.log())
    return dataclasses.replace(model, reverse=Reverse(policy))


@pytest.mark.parametrize("steps", [1, 4])
def test_exact_covariances_make_the_bound_exact(steps):
    """With every part exact the bound is −log p of every example, however few the steps."""
    model = exact_covariance(steps)
    x = GAUSSIAN.sample(400)
    bound = nelbo.evaluate(model, x, estimator="stratified", per_example=True)
    nll = -GAUSSIAN.log_prob(x)
    assert bound.per_example is not None
    error = bound.per_example.standard_error
    z = float((bound.per_example.nats - nll).mean()) / float(error.square().mean() / len(x)) ** 0.5
    assert abs(z) < 4  # an excess of 0.1 nats, a fiftieth of what β̃ costs here, has power > 0.99
    plain = dataclasses.replace(model, reverse=Reverse(BetaTilde()))
    assert float((nelbo.evaluate(plain, x, estimator="stratified", per_example=True).per_example.nats - nll).mean()) > 1


def test_samples_have_the_covariance():
    """Two steps reproduce mean and covariance: each entry within 4.5 standard errors of 20,000 samples, where the
    pixel-wise best variance is off in some entry by more than 20."""
    n = 20_000
    for policy, close in ((None, True), ("pixel", False)):
        model = exact_covariance(2)
        if policy:
            variance = model.reverse.variance
            assert isinstance(variance, FittedVariance)
            mean = variance.log_error.exp().mean(1, keepdim=True).log()
            model = dataclasses.replace(model, reverse=Reverse(FittedVariance(Pixel(), variance.logsnr, mean)))
        x = torch.as_tensor(nelbo.sample(model, n, sampler="ancestral", seed=3, codes=False)) - GAUSSIAN.mean
        C = GAUSSIAN.covariance
        d = C.diagonal()
        spread = ((d[:, None] * d + C.square()) / n).sqrt()
        z = (x.mT @ x / n - C) / spread
        assert (float(z.abs().max()) < 4.5) == close, z
        assert close or float(z.abs().max()) > 20


BAD = [
    (lambda: parse_variance("fitted"), UsageError, r"variance='fitted'.*\nhint: .*nelbo\.tighten"),
    (lambda: FittedVariance(Pixel(), NODES.flip(0), NODES[:, None]), UsageError, r"do not fall"),
    (lambda: FittedVariance(Pixel(), NODES, NODES[:2, None]), UsageError, r"one row a level"),
    (lambda: FittedVariance(Pixel(), NODES, NODES[:, None] * float("nan")), UsageError, r"not finite"),
    (lambda: Cosine(torch.ones(2, 2)), UsageError, r"orthonormal"),
    (lambda: Cosine(turned(2), 1), UsageError, r"blocks of 1"),
    (lambda: Cosine(turned(3)).check((8,)), UsageError, r"needs images.*'pca'"),
    (lambda: Cosine(turned(3)).check((3, 3, 8)), UsageError, r"at least 4×4"),
    (lambda: Cosine(turned(3)).check((1, 8, 8)), ShapeError, r"3×3 matrix in images of shape \(1, 8, 8\)"),
    (lambda: Reflections(torch.zeros(3, 1)), UsageError, r"by a vector that is 0"),
    (lambda: Reflections(torch.ones(3, 1)).check((4,)), ShapeError, r"in 3 dimensions"),
    (lambda: HybridVariance(BetaTilde(), FITTED["local"], 0.0), UsageError, r"not fitted"),
    (lambda: FITTED["in dct"].check_shape((2, 6, 8)), ShapeError, r"a level for examples of shape \(2, 6, 8\)"),
    (lambda: dataclasses.replace(FITTED["local"], scales=torch.ones(3, 2)), ShapeError, r"scales of shape \(2,\)"),
    (lambda: FITTED["hybrid"].check_shape((12,)), NelboError, r"needs images"),
    (lambda: FITTED["map"].check_shape((12,)), UsageError, r"variance of pixels .*\nhint: it needs images"),
    (lambda: FITTED["map"].check_shape((3, 6, 7)), ShapeError, r"in 2 channels for examples of shape \(3, 6, 7\)"),
    (lambda: dataclasses.replace(FITTED["map"], centres=torch.ones(3, 2)), ShapeError, r"centres of shape \(2,\)"),
    (lambda: dataclasses.replace(FITTED["map"], high=-1.0), UsageError, r"range \[-1.0, -1.0\]"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_nonsense_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_model_of_another_shape_is_refused():
    model = GAUSSIAN.model(LAW, grid.even(4))
    with pytest.raises(UsageError, match="needs images"):
        dataclasses.replace(model, reverse=Reverse(FITTED["local"]))
    with pytest.raises(ShapeError, match="they must agree"):
        FITTED["in pixel"].check_shape(DataDomain((4, 4, 4)).shape)
