"""Fitted variances: bases, tables, KLs with full covariances, draws, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import nelbo
from nelbo.errors import NelboError, ShapeError
from nelbo.model.fitted.basis import Basis, Cosine, Pixel, Reflections
from nelbo.model.fitted.variance import FittedVariance, HybridVariance
from nelbo.model.reverse import BetaTilde, Reverse, parse_variance
from nelbo.process import grid
from tests.model.cases import BASES, FITTED, GAUSSIAN, IMAGE, NODES, turned
from tests.model.fitted import LAW
from tests.tables import refusals


def exact_covariance(steps: int) -> nelbo.DiffusionModel:
    """Gaussian data with its exact denoiser and the exact covariance of its errors, in the data's own directions."""
    model = GAUSSIAN.model(LAW, grid.even(steps))
    levels = model.levels()
    c = GAUSSIAN._c.flip(0)  # falling, as the directions below
    V = c * levels.sigma[:, None] ** 2 / (levels.alpha[:, None] ** 2 * c + levels.sigma[:, None] ** 2)
    basis = Reflections.through(GAUSSIAN._U.flip(1))
    policy = FittedVariance(basis, levels.logsnr, V.log())
    return dataclasses.replace(model, reverse=Reverse(policy))


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_what_was_scored_can_be_differentiated_through(basis: Basis):
    """A basis keeps its matrices; those that were first needed in inference mode serve gradients as well."""
    basis = dataclasses.replace(basis)
    with torch.inference_mode():
        basis.coordinates(torch.ones(1, *IMAGE, dtype=torch.float64))
    x = torch.ones(1, *IMAGE, dtype=torch.float64, requires_grad=True)
    basis.coordinates(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=1e-12, atol=1e-12)  # an orthonormal basis


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


test_nonsense_is_refused = refusals(
    (lambda: parse_variance("fitted"), r"variance='fitted'.*\nhint: .*nelbo\.tighten"),
    (lambda: FittedVariance(Pixel(), NODES.flip(0), NODES[:, None]), r"do not fall"),
    (lambda: FittedVariance(Pixel(), NODES, NODES[:2, None]), r"one row a level"),
    (lambda: FittedVariance(Pixel(), NODES, NODES[:, None] * float("nan")), r"not finite"),
    (lambda: Cosine(torch.ones(2, 2)), r"orthonormal"),
    (lambda: Cosine(turned(2), 1), r"blocks of 1"),
    (lambda: Cosine(turned(3)).check((8,)), r"needs images.*'pca'"),
    (lambda: Cosine(turned(3)).check((3, 3, 8)), r"at least 4×4"),
    (lambda: Cosine(turned(3)).check((1, 8, 8)), ShapeError, r"3×3 matrix in images of shape \(1, 8, 8\)"),
    (lambda: Reflections(torch.zeros(3, 1)), r"by a vector that is 0"),
    (lambda: Reflections(torch.ones(3, 1)).check((4,)), ShapeError, r"in 3 dimensions"),
    (lambda: HybridVariance(BetaTilde(), FITTED["local"], 0.0), r"not fitted"),
    (lambda: FITTED["in dct"].check_shape((2, 6, 8)), ShapeError, r"a level for examples of shape \(2, 6, 8\)"),
    (lambda: dataclasses.replace(FITTED["local"], scales=torch.ones(3, 2)), ShapeError, r"scales of shape \(2,\)"),
    (lambda: FITTED["hybrid"].check_shape((12,)), NelboError, r"needs images"),
    (lambda: FITTED["map"].check_shape((12,)), r"variance of pixels .*\nhint: it needs images"),
    (lambda: FITTED["map"].check_shape((3, 6, 7)), ShapeError, r"in 2 channels for examples of shape \(3, 6, 7\)"),
    (lambda: dataclasses.replace(FITTED["map"], centres=torch.ones(3, 2)), ShapeError, r"centres of shape \(2,\)"),
    (lambda: dataclasses.replace(FITTED["map"], high=-1.0), r"range \[-1.0, -1.0\]"),
    (
        lambda: dataclasses.replace(GAUSSIAN.model(LAW, grid.even(4)), reverse=Reverse(FITTED["local"])),
        r"needs images",
    ),
    (lambda: FITTED["in pixel"].check_shape((4, 4, 4)), ShapeError, r"they must agree"),
)
