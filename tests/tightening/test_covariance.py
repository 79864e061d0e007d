"""Fitted covariances: closed forms, safety with few examples, bounds above the entropy, what is refused."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.prepare import prepare
from nelbo.errors import DomainError, UnknownNameError, UsageError
from nelbo.model.exact import CategoricalData, MixtureData
from nelbo.model.fitted.variance import Fitted, FittedVariance, HybridVariance
from nelbo.model.reverse import Reverse
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.tightening import covariance, families
from nelbo.tightening.families import Family
from nelbo.workers import Run
from tests.tightening import covariance_checks as checks
from tests.tightening import oracles
from tests.tightening.oracles import PLANE, diffusion_nats

CHECKS = [
    checks.check_scalar,
    checks.check_costs,
    checks.check_expected,
    checks.check_gamma,
    checks.check_regress,
    checks.check_prices,
    checks.check_turns,
    checks.check_surroundings,
    checks.check_energies,
    functools.partial(checks.check_contrasts, "local"),
    functools.partial(checks.check_contrasts, "map"),
    checks.check_learned,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check(check):
    check()


def images(n: int, seed: int = 0) -> torch.Tensor:
    return oracles.texture().sample(n, seed).reshape(n, 1, oracles.SIDE, oracles.SIDE)


@pytest.fixture(scope="module")
def patch_fit() -> tuple[nelbo.DiffusionModel, covariance.Measurement]:
    model = oracles.patch_model(6)
    families = ["pixel", "dct", "block", "local", "map", "pca"]
    return model, covariance.measure(model, oracles.patches(300), families=families)


def test_colours_are_the_principal_directions_of_channels():
    """Of channels with means far apart, which are no colour; the strongest first, each mostly positive."""
    turn = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]], dtype=torch.float64)
    turn = turn / turn.norm(dim=1, keepdim=True)
    at = torch.randn(40, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (at * torch.tensor([3.0, 1.0, 0.3])) @ turn + torch.tensor([9.0, 0.0, -4.0])
    images = x.mT.reshape(40, 3, 4, 4)
    law = MixtureData([1.0], torch.zeros(1, 48), [1.0])
    model = dataclasses.replace(law.model(oracles.LAW, grids.even(4)), domain=nelbo.DataDomain((3, 4, 4)))
    found = families._colours(prepare(model, images).chain, torch.arange(30))
    cov = torch.from_numpy(np.cov(x[:30].reshape(-1, 3).T.numpy()))
    torch.testing.assert_close(
        found @ cov @ found.mT, torch.diag((found @ cov @ found.mT).diagonal()), atol=1e-6, rtol=0
    )
    strength = (found @ cov @ found.mT).diagonal()
    assert bool((strength.diff() < 0).all()) and bool((found.sum(1) > 0).all())
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64))
    assert float((found[0] @ turn[0]).abs()) > 0.99


def test_the_costs_are_those_of_the_bound(patch_fit):
    """What cross-validation says a chain costs is what new images cost in the engine, within 4 standard errors and 2 %
    of it; correlations are worth what they are, and so is the dependence on the input."""
    model, measured = patch_fit
    x, levels = oracles.patches(120, seed=9), model.levels()
    nats = {f: diffusion_nats(model, x, measured[f].policy) for f in measured.fits}
    for family, found in nats.items():
        said, error = measured.cost(family, levels), float(found.std()) / math.sqrt(len(x))
        assert abs(said - float(found.mean())) < 4 * error + 0.02 * said, family
    D = model.domain.dimensions
    gain = {f: (v - nats[Family.SCALAR]) / D for f, v in nats.items()}
    for family in (Family.DCT, Family.BLOCK, Family.PCA):
        assert float(gain[family].mean() + 4 * gain[family].std() / math.sqrt(len(x))) < 0, family
    better = gain[Family.LOCAL] - gain[Family.BLOCK]
    assert float(better.mean() + 4 * better.std() / math.sqrt(len(x))) < 0
    better = gain[Family.MAP]  # over one number a level: correlations are not its
    assert float(better.mean() + 4 * better.std() / math.sqrt(len(x))) < 0
    assert float(gain[Family.PIXEL].mean()) < 0.002


def test_a_hybrid_switches_where_it_costs_least(patch_fit):
    model, measured = patch_fit
    levels = model.levels()
    hybrid = measured.hybrid(levels)
    assert isinstance(hybrid.policy, HybridVariance) and hybrid.note
    whole = [measured.cost(f, levels) for f in ("local", "map", "dct")]
    cost = float(hybrid.cost.of(levels[:-1], levels[1:]).sum())
    assert cost <= min(whole) + 1e-9
    s, t = levels[:-1], levels[1:]
    each = [measured[f].cost.of(s, t) for f in ("local", "map", "dct")]
    pairs = itertools.permutations(each, 2)
    every = [float(a[:k].sum() + b[k:].sum()) for a, b in pairs for k in range(len(t) + 1)]
    assert cost == pytest.approx(min(every), rel=1e-9)


@pytest.mark.parametrize("count", [10, 25, 100])
@pytest.mark.parametrize("family", ["pixel", "dct", "pca", "local", "map", "hybrid"])
def test_few_examples_do_no_harm(family, count):
    """Fitted to as few as ten images, no family costs new images more than one number a level does, beyond 1 % of the
    diffusion term; with a hundred the correlated ones cost less."""
    model = oracles.texture_model(5)
    fitted = covariance.fit(model, images(count), family=family)
    scalar = fitted.measured["scalar"].policy
    x = images(150, seed=8)
    ours, theirs = (diffusion_nats(model, x, p) for p in (fitted.reverse.variance, scalar))
    assert float(ours.mean()) < 1.01 * float(theirs.mean())
    if count == 100 and family not in ("pixel", "map"):
        assert float((ours - theirs).mean() + 4 * (ours - theirs).std() / math.sqrt(len(x))) < 0


def test_white_noise_falls_back():
    """Where nothing is to be learned, what was fitted is one number a level or costs as good as that; a family that
    costs more on examples left out is dropped, and the notes say so."""
    white = oracles.GaussianData(torch.zeros(64), torch.eye(64))
    model = oracles.image_model(oracles.AsImages(white.denoiser()), (1, 8, 8), 5)
    data = white.sample(20).reshape(20, 1, 8, 8)
    fitted = covariance.fit(model, data, family="local")
    assert fitted.family is Family.SCALAR
    (told,) = (note for note in fitted.notes if "left out of the fit" in note)
    assert 0 < float(re.search(r"costs (\S+) bits/dim more", told)[1]) < 0.3  # type: ignore[index]
    assert isinstance(fitted.reverse.variance, FittedVariance)


# ---------------------------------------------------------------- the bound


def excess(model: nelbo.DiffusionModel, x: torch.Tensor, log_prob: torch.Tensor) -> tuple[float, float]:
    """Mean of bound + log p in nats, and its standard error."""
    bound = nelbo.evaluate(model, x, estimator="exhaustive", per_example=True, seed=2)
    assert bound.per_example is not None
    over = bound.per_example.nats + log_prob
    return float(over.mean()), float(over.std()) / math.sqrt(len(x))


MIXTURE = MixtureData([0.3, 0.7], [[1.0, 0.0], [-0.5, 0.4]], [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.5]]])
CODES = CategoricalData([[0.7, 0.1, 0.1, 0.1], [0.1, 0.4, 0.4, 0.1]])
ORACLES = {
    "gaussian": (PLANE, PLANE.model(oracles.LAW, grids.even(3))),
    "mixture": (MIXTURE, MIXTURE.model(oracles.LAW, grids.even(3), exact_ends=False)),
    "codes": (CODES, CODES.model(schedules.logsnr_linear(8.0, -8.0), grids.even(6))),
    "images": (oracles.texture(), oracles.texture_model(4)),
}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *itertools.product(("gaussian", "mixture", "codes"), ("scalar", "pixel", "pca")),
        *itertools.product(("images",), ("dct", "local", "hybrid")),
    ],
)
def test_no_covariance_takes_the_bound_below_the_entropy(name, family):
    """E[bound + log p] ≥ 0 within 4 standard errors, and less than with β̃: on the data's own log p, paired."""
    data, model = ORACLES[name]
    shape = model.domain.shape
    fitted = covariance.fit(model, data.sample(500).reshape(-1, *shape), family=family)
    x = data.sample(600, seed=4)
    log_p, x = data.log_prob(x), x.reshape(-1, *shape)
    over, error = excess(dataclasses.replace(model, reverse=fitted.reverse), x, log_p)
    assert over > -4 * error
    assert over < excess(model, x, log_p)[0]
    if name == "gaussian" and family == "pca":
        assert over < 4 * error + 0.02  # all that β̃ loses comes back


def test_the_estimator_stays_unbiased_and_cheap(patch_fit):
    """The default estimator, its control variates and error bar against every level of every image: |z| ≤ 4 for each
    policy, at no more than 3 times the evaluations that β̃ needs."""
    model, measured = patch_fit
    model = model.with_grid(grids.even(24))
    x = oracles.patches(100, seed=3)
    settings = {"tolerance": 0.02, "seed": 1}
    base = nelbo.evaluate(model, x, **settings)
    for policy in (measured["dct"].policy, measured.hybrid(model.levels()).policy):
        tight = dataclasses.replace(model, reverse=Reverse(policy))
        bound = nelbo.evaluate(tight, x, **settings)
        every = nelbo.evaluate(tight, x, estimator="exhaustive", seed=7)
        error = math.hypot(bound.standard_error.estimator, every.standard_error.estimator)
        assert abs(bound.bits_per_dim - every.bits_per_dim) < 4 * error
        assert bound.standard_error.estimator <= 0.0201
        assert bound.nfe_total < 3 * base.nfe_total


# ---------------------------------------------------------------- use


def test_every_kind_of_chain():
    """Flow times, a table of betas respaced, a continuous law cut into steps: V serves them all, and gains in all."""
    for law, grid in (
        (schedules.flow(0.02, 0.99), grids.even(4)),
        (schedules.linear(60, 0.002, 0.3), grids.even(5)),
        (schedules.linear(60, 0.002, 0.3), grids.subset([0, 7, 30, 59])),
        (oracles.LAW, grids.times([0.0, 0.2, 0.7, 1.0])),
    ):
        model = PLANE.model(law, grid, exact_ends=False)
        fitted = covariance.fit(model, PLANE.sample(300), family="pca")
        x = PLANE.sample(200, seed=1)
        tight = diffusion_nats(model, x, fitted.reverse.variance)
        assert float((tight - diffusion_nats(model, x)).mean()) < 0
        # of another grid of the same law, without another fit
        other = grids.even(9)
        more = diffusion_nats(model.with_grid(other), x, fitted.reverse.variance)
        assert float((more - diffusion_nats(model.with_grid(other), x)).mean()) < 0


def test_the_work_is_counted_and_shown():
    seen: list[tuple[int, int]] = []
    model = oracles.texture_model(100)
    fitted = covariance.fit(
        model, images(60), family="dct", nodes=12, limit=40, run=Run(progress=lambda *p: seen.append(p), batch_size=16)
    )
    assert fitted.nfe == 40 * len(fitted.measured.logsnr) and len(fitted.measured.logsnr) <= 12
    assert seen[-1] == (fitted.nfe, fitted.nfe) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert fitted.notes[0] == "the covariance was fitted to 40 of 60 examples"
    levels = model.levels().logsnr
    assert fitted.measured.logsnr[:3].tolist() == levels[:3].tolist() and fitted.measured.logsnr[-1] == levels[-1]


def test_batches_change_nothing():
    """The same policy whatever the batch: noise, folds and blocks are keyed."""
    model = oracles.texture_model(4)
    a, b = (covariance.fit(model, images(40), family="hybrid", run=Run(batch_size=n)).reverse.variance for n in (7, 40))
    assert a.to_config() == b.to_config() and isinstance(a, Fitted)
    for name, tensor in a.to_tensors().items():
        torch.testing.assert_close(tensor, b.to_tensors()[name], rtol=1e-4, atol=1e-6)


BAD = [
    ({"family": "dct"}, UsageError, r"the covariance 'dct' of examples of shape \(3,\)\nhint: .*images.*'pca'"),
    ({"family": "local"}, UsageError, r"'pca', 'pixel' or 'scalar'"),
    ({"family": "full"}, UnknownNameError, r"unknown family of covariances 'full'\nhint: .*scalar"),
    ({"family": "learned"}, UsageError, r"'beta_tilde'\nhint: .*learned_range"),
    ({"grid": grids.continuous()}, UsageError, r"continuous bound, which does not depend on it\nhint: .*even"),
    ({"nodes": 3}, UsageError, r"at 3 levels"),
    ({"limit": 5}, UsageError, r"fitted to 5 example\(s\)\nhint: give at least 10"),
]


@pytest.mark.parametrize(("settings", "error", "match"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_nonsense_is_refused(settings, error, match):
    model = PLANE.model(oracles.LAW, grids.even(5))
    with pytest.raises(error, match=match):
        covariance.fit(model, PLANE.sample(40), **settings)


def test_a_broken_network_is_told():
    model = PLANE.model(oracles.LAW, grids.even(5))
    x = PLANE.sample(40)
    x[7, 0] = float("nan")
    with pytest.raises(DomainError, match="NaN"):
        covariance.fit(model, x)
    with pytest.raises(UsageError, match=r"family 'dct' was not measured"):
        covariance.measure(model, PLANE.sample(40))["dct"]
