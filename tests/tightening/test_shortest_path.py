"""Shortest paths against brute force over all chains, with every kind of end."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nelbo.errors import UsageError
from nelbo.tightening.shortest_path import fixed_end, shortest


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
            called, prior = fixed_end(M, 0, called[0]), fixed_end(M, M - 1, prior[-1])
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
    paths = shortest(edges, np.full(3, np.inf), fixed_end(3, 0), fixed_end(3, 2))
    assert [paths.fewest(t) for t in (9.0, 8.9, 2.0, 1.9)] == [2, 3, 3, None]


def test_a_thousand_levels_for_every_number_of_steps():
    """Steps that cost (j − i)²: the cheapest K of them from one fixed end to the other are as equal as can be."""
    T = 1000
    edges = np.subtract.outer(np.arange(T), np.arange(T)) ** 2.0
    paths = shortest(edges, np.full(T, np.inf), fixed_end(T, 0, 5.0), fixed_end(T, T - 1), 60)
    for K in (2, 41, 60):
        chain, calls = paths.chain(K)
        assert calls and chain[0] == 0 and chain[-1] == T - 1 and np.ptp(np.diff(chain)) <= 1
    assert np.all(np.diff(paths.cost[2:]) < 0) and paths.cost[2] == 5 + (T - 1) ** 2
