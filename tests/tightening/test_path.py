"""Shortest paths against brute force over all chains, with every kind of end; costs of steps against the exact KL."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nelbo.errors import UsageError
from nelbo.model.reverse import Beta, BetaTilde, Reverse
from nelbo.process import schedule
from nelbo.process.prediction import Prediction
from nelbo.tightening.path import fixed_edges, only, shortest


def brute(edges, free, called, prior, K):
    """The least cost of exactly K evaluations, from every chain there is."""
    M, best = len(prior), np.inf
    for L in {K, K + 1}:
        source = called if L == K else free
        for chain in itertools.combinations(range(M), L) if L else []:
            steps = sum(edges[a, b] for a, b in itertools.pairwise(chain))
            best = min(best, source[chain[0]] + steps + prior[chain[-1]])
    return best


@pytest.mark.parametrize("kind", ["both", "free", "called", "fixed ends"])
def test_every_number_of_steps_costs_what_brute_force_says(kind):
    rng = np.random.default_rng(7)
    for trial in range(6):
        M = 7
        edges, free, called, prior = rng.exponential(1, (M, M)), *rng.exponential(2, (3, M))
        if kind in ("called", "fixed ends"):
            free = np.full(M, np.inf)
        if kind == "free":
            called = np.full(M, np.inf)
        if kind == "fixed ends":
            called, prior = only(M, 0, called[0]), only(M, M - 1, prior[-1])
        paths = shortest(edges, free, called, prior)
        for K in range(M + 1):
            expected = brute(edges, free, called, prior, K)
            np.testing.assert_allclose(paths.cost[K], expected, rtol=1e-12, err_msg=f"{trial} {K}")
            if not np.isfinite(expected):
                with pytest.raises(UsageError, match=f"{K} network evaluations"):
                    paths.chain(K)
                continue
            chain, calls = paths.chain(K)
            assert chain == sorted(set(chain)) and len(chain) - 1 + calls == K
            cost = (called if calls else free)[chain[0]] + prior[chain[-1]]
            cost += sum(edges[a, b] for a, b in itertools.pairwise(chain))
            np.testing.assert_allclose(cost, expected, rtol=1e-12)


def test_the_fewest_steps_for_a_target():
    edges = np.array([[0, 1.0, 9.0], [0, 0, 1.0], [0, 0, 0]])
    paths = shortest(edges, np.full(3, np.inf), only(3, 0), only(3, 2))
    assert [paths.fewest(t) for t in (9.0, 8.9, 2.0, 1.9)] == [2, 3, 3, None]


def test_a_thousand_levels_for_every_number_of_steps():
    """All K ≤ T at once; a chain of T evaluations is every level, and its cost the sum of the single steps."""
    T = 1000
    levels = schedule.linear(T).at_index(torch.arange(T))
    edges = fixed_edges(levels, torch.linspace(1e-3, 1, T).double(), 10, 0.0)
    paths = shortest(edges, np.full(T, np.inf), only(T, 0, 5.0), only(T, T - 1, 0.0), 60)
    assert paths.chain(40)[0][0] == 0 and paths.chain(40)[0][-1] == T - 1
    assert np.all(np.diff(paths.cost[2:]) < 0)
    assert paths.cost[60] > 5 + np.diagonal(edges, 1).sum()


@pytest.mark.parametrize(("policy", "f"), [(BetaTilde(), 0.0), (Beta(), 1.0)])
def test_fixed_costs_are_the_exact_kl(policy, f):
    levels = schedule.linear(20, 1e-3, 0.3).at_index(torch.arange(20))
    e = torch.linspace(0.01, 0.9, 20).double()
    edges = fixed_edges(levels, e, 3, f)
    for i, j in ((0, 1), (0, 19), (4, 11)):
        x = torch.zeros(1, 3).double()
        prediction = Prediction(x + e[j].sqrt())
        kl = Reverse(policy).kl(x, prediction, levels[i : i + 1], levels[j : j + 1]).sum()
        np.testing.assert_allclose(edges[i, j], float(kl), rtol=1e-10)
    assert (edges[np.tril_indices(20)] == 0).all()
