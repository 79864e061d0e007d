"""`compare`: exact where the answer is exact, paired error bars that are right, and common noise that pays."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo import compare
from nelbo.bound.compare import sign_is_known
from nelbo.bound.contrast.race import Goal
from nelbo.errors import UsageError
from nelbo.model.reverse import Beta, Reverse
from tests.bound.shrunk import Shrunk, sum_over_steps

SPECTRUM = torch.tensor([0.6, 0.4, 0.2, 0.1], dtype=torch.float64)
DATA = nelbo.exact.GaussianData(torch.zeros(4), torch.diag(SPECTRUM))
X = DATA.sample(60)
SCHEDULE = nelbo.schedules.linear(60, 1e-3, 0.2)
EXACT = DATA.model(SCHEDULE, nelbo.grids.full(), exact_ends=False)


def worse(factor: float = 0.9):
    return dataclasses.replace(EXACT, denoiser=Shrunk(DATA, factor))


def test_a_model_against_itself_is_exactly_zero():
    c = compare(EXACT, EXACT, X, tolerance=0.1)
    assert c.difference == 0 and c.standard_error.estimator == 0 and c.common_noise
    assert "no difference" in str(c)


def test_few_examples_do_not_show_the_error_of_the_data():
    c = compare(EXACT, worse(), X[:4], tolerance=0.5)
    found = c.to_dict()["standard_error"]
    assert found["data"] is None and found["total"] is None and found["estimator"] > 0
    assert "± data not measurable" in str(c) and "standard errors of the estimator" in str(c)


def test_difference_and_its_error_bar_are_right():
    right, wrong = (sum_over_steps(np.linspace(1e-3, 0.2, 60), X, SPECTRUM, factor) for factor in (1.0, 0.9))
    exact = float((right - wrong).mean()) / 4 / math.log(2)  # the first level is the same for both
    runs = [compare(EXACT, worse(), X, tolerance=0.04, seed=s) for s in range(24)]
    values = np.array([r.difference for r in runs])
    errors = np.array([r.standard_error.estimator for r in runs])
    assert abs(values.mean() - exact) < 4 * errors.mean() / math.sqrt(24)
    z = (values - exact) / errors
    assert 0.5 < z.std() < 1.6  # a chi of 24 degrees of freedom lies within with probability 0.9999
    # power: with the sign of one model's noise lost the same test would miss by the size of the loss itself
    assert abs(exact) > 4 * errors.mean() / math.sqrt(24)


def test_common_noise_shortens_the_error_bar():
    with pytest.warns(UserWarning, match="the tolerance 1e-09 was not reached"):
        paired = compare(EXACT, worse(0.98), X, tolerance=1e-9, max_nfe=1)
    alone = [nelbo.evaluate(m, X, per_example=True, max_nfe=None, tolerance=0.2) for m in (EXACT, worse(0.98))]
    unpaired = math.hypot(*(b.standard_error.estimator * math.sqrt(b.nfe_per_example) for b in alone))
    assert paired.standard_error.estimator * math.sqrt(paired.nfe_total / 2 / len(X)) < 0.75 * unpaired


def test_it_ends_when_the_sign_is_known():
    options = {"tolerance": 0.002, "confidence": 0.99}
    found, whole = compare(EXACT, worse(), X, **options), compare(EXACT, worse(), X, tolerance=0.02)
    assert found.decided and found.difference < 0 and found.nfe_total < whole.nfe_total
    assert found.to_dict()["decided"] and "known at 0.99" in str(found) and not found.warnings
    same = compare(EXACT, EXACT, X, **options)
    assert same.decided is False and "not known at 0.99" in str(same)
    with pytest.raises(UsageError, match="confidence=2"):
        compare(EXACT, EXACT, X, confidence=2)


@pytest.mark.slow
def test_the_level_of_a_known_sign():
    """Of 2,000 comparisons of models that are as good, with heavy tails, and as many draws again at every stage."""
    runs = 2000
    draws = torch.distributions.StudentT(torch.tensor(4.0).double())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        drawn = draws.sample((runs, 3, 64))
    wrong = naive = 0
    for run in drawn:
        ended, plain = False, False
        for stage, n in enumerate((4, 8, 16, 32, 64)):
            values = run[:, :n]
            errors = (values[:, 0::2] - values[:, 1::2]) / n
            difference, error = float(values.mean()), float(errors.square().sum().sqrt()) / 3
            ended = ended or (difference > 0 and sign_is_known(Goal(0.95), stage, difference, errors))
            plain = plain or difference > 1.645 * error
        wrong, naive = wrong + ended, naive + plain
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong / runs < most < 1.5 * most < naive / runs


def test_other_chains_are_compared_with_independent_noise():
    c = compare(EXACT, DATA.model(nelbo.schedules.linear(30), nelbo.grids.full(), exact_ends=False), X, tolerance=0.2)
    assert not c.common_noise and c.standard_error.estimator <= 0.2


def test_other_variance_shares_the_chain():
    c = compare(EXACT, dataclasses.replace(EXACT, reverse=Reverse(Beta())), X, tolerance=0.05)
    assert c.common_noise
    json.dumps(c.to_dict(), allow_nan=False)
    assert c.to_dict()["difference"] == pytest.approx(c.a - c.b)


def test_unlike_domains_are_refused():
    other = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3)).model(SCHEDULE, nelbo.grids.full(), exact_ends=False)
    with pytest.raises(UsageError, match="unlike data"):
        compare(EXACT, other, X)
