"""Which counts of hidden places a chain of K steps visits: the cheapest ones on a profile that only rises.

A step from l to l′ < l hidden places costs (l − l′) g(l) with g(l) the mean cost of a hidden place, so that the bound
of K steps is an upper sum of g. Draws of g are noisy, and a minimum over their noise lies below the bound; the profile
is therefore smooth and made to rise (of a network that is right g does: less is seen), and what is chosen is predicted
and certified by other sequences.
"""

from __future__ import annotations

import numpy as np

from nelbo.tightening.shortest_path import fixed_end, shortest

CANDIDATES = 1024
"""Most counts that are chosen from."""
DEGREE = 3
"""Of the polynomial that is fitted to costs."""


def isotonic(values: np.ndarray) -> np.ndarray:
    """The rising sequence of least squared distance to `values` (n,), by pooling adjacent violators."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(means, sizes)


def profile(counts: np.ndarray, costs: np.ndarray, n: int) -> np.ndarray:
    """g(1), …, g(n) from draws: their numbers of hidden places (d,) and mean costs of one (d,). What is made to rise is
    a polynomial in the share of hidden places: of draws themselves, the steps would settle at jumps of their noise."""
    degree = min(DEGREE, len(np.unique(counts)) - 1)
    fit = np.polynomial.Polynomial.fit(counts, costs, degree, domain=[0, n])
    return isotonic(fit(np.arange(1, n + 1)).clip(min=0))


def best_counts(g: np.ndarray, steps: int) -> tuple[list[int], float]:
    """Counts l_1 < … < l_K = n of the cheapest chain of K = `steps` ≤ n steps under the profile g (n,), and its bound
    in nats of a sequence."""
    n = len(g)
    candidates = np.unique(np.linspace(0, n, min(n, max(CANDIDATES, steps)) + 1).round().astype(int))
    M = len(candidates)
    edges = (candidates[None, :] - candidates[:, None]) * np.append(0.0, g)[candidates][None, :]
    never = np.full(M, np.inf)
    paths = shortest(edges.astype(np.float64), fixed_end(M, 0), never, fixed_end(M, M - 1), steps)
    chain, _ = paths.chain(steps)
    return candidates[chain[1:]].tolist(), float(paths.cost[steps])


def cost_of(g: np.ndarray, counts: list[int]) -> float:
    """The bound of a chain over `counts` under the profile g, in nats of a sequence."""
    return float(np.diff([0, *counts]) @ g[np.array(counts) - 1])
