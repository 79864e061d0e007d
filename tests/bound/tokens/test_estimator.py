"""Estimates of chains over hidden places: coverage, corpora, memory, and workers to the last bit."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Exhaustive
from nelbo.bound.tokens import controls
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model.tokens.reverse import TokenReverse
from tests.bound.tokens import oracles
from tests.bound.workers import on_two
from tests.model.tokens.checks import markov

L = 16
DATA = markov(L)
X = DATA.sample(300, seed=1)
MODEL = DATA.model()
EXACT = float(-DATA.log_prob(X).mean()) / L / math.log(2)


def z_of(bound: nelbo.Bound) -> float:
    return (bound.bits_per_dim - EXACT) / bound.standard_error.estimator


def test_a_corpus_changes_no_value():
    """Neighbours are counted in other sequences, of another length too; or in ones that have nothing to do with it."""
    corpus, nothing = DATA.sample(500, seed=2)[:, :11], torch.zeros(40, 3, dtype=torch.long)
    for other in (corpus, nothing):
        assert abs(z_of(nelbo.evaluate(MODEL, X, tolerance=0.02, corpus=other, seed=4))) < 4
    with pytest.raises(DomainError, match="symbols from 1 to 3"):
        nelbo.evaluate(MODEL, X, corpus=torch.ones(2, 4).long() + torch.tensor([0, 0, 0, 2]))
    with pytest.raises(ShapeError, match="one row a sequence"):
        nelbo.evaluate(MODEL, X, corpus=torch.zeros(2, 2, 2).long())
    with pytest.raises(UsageError, match="corpus with a model of images"):
        data = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
        images = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
        nelbo.evaluate(images, data.sample(4), corpus=X)


def test_costs_that_are_kept_change_nothing(monkeypatch):
    """Of few data what n-grams say is computed once, and of many again for every draw."""
    kept = nelbo.evaluate(MODEL, X[:80], tolerance=0.05, seed=2)
    monkeypatch.setattr(controls, "KNOWN", 0)
    assert nelbo.evaluate(MODEL, X[:80], tolerance=0.05, seed=2).bits_per_dim == kept.bits_per_dim


def test_draws_that_agree_by_chance():
    """Of one sequence of two symbols each step has two draws, and two of them agree half of the time."""
    data = oracles.joint(2, 2, seed=3)
    x = data.sample(1, seed=1)
    exact = float(-data.log_prob(x)) / 2 / math.log(2)
    for seed, estimator in ((0, "auto"), (3, "auto"), (0, "exhaustive"), (3, "exhaustive")):
        bound = nelbo.evaluate(data.model(), x, seed=seed, estimator=estimator)
        error = bound.standard_error.estimator
        assert 0 < error < 0.01 and abs(bound.bits_per_dim - exact) < 4 * error and not bound.warnings
    for few in ({"estimator": Exhaustive(2)}, {"max_nfe": 9}):  # of which the first has an error bar of 0
        with pytest.warns(NelboWarning, match="may agree by chance"):
            nelbo.evaluate(data.model(), x, seed=0, **few)
    one = dataclasses.replace(data.model(), reverse=TokenReverse(block=1))  # nothing is random
    bound = nelbo.evaluate(one, x)
    assert bound.estimator["name"] == "exhaustive" and bound.standard_error.estimator < 1e-12
    assert abs(bound.bits_per_dim - exact) < 1e-6


@pytest.mark.slow
def test_coverage():
    """Of 100 estimates 95 % cover the exact bound, but for three standard deviations of that number."""
    z = torch.tensor([z_of(nelbo.evaluate(MODEL, X, tolerance=1e-6, max_nfe=300, seed=s)) for s in range(100)])
    assert float((z.abs() < 1.96).double().mean()) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 100)
    assert abs(float(z.mean())) < 4 / math.sqrt(100)


@pytest.mark.slow
def test_two_workers_to_the_last_bit():
    def evaluated(**how) -> nelbo.Bound:
        return nelbo.evaluate(MODEL, X[:80], tolerance=0.05, precision="float64", batch_size=1, **how)

    whole = evaluated()
    for bound in on_two(lambda workers: evaluated(workers=workers))[0]:
        assert bound.bits_per_dim == whole.bits_per_dim and bound.nfe_total == whole.nfe_total


GROWN = """
import resource, sys, torch, nelbo
from tests.model.tokens.checks import markov
torch.set_num_threads(1)
data = markov(16)
x = data.sample(500, seed=1).repeat(int(sys.argv[1]) // 500, 1)
nelbo.evaluate(data.model(), x, tolerance=1e-6, max_nfe=600, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data():
    """But for what a sequence itself takes, its features and its place in random orders."""
    few, many = 1000, 40_000
    peaks = [int(subprocess.run([sys.executable, "-W", "ignore", "-c", GROWN, str(n)], capture_output=True, text=True,
                                check=True).stdout) for n in (few, many)]  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    assert (peaks[1] - peaks[0]) * unit < (many - few) * (8 * L + 700)
