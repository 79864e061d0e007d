"""Chains over few symbols by enumeration, in numpy: a table of laws over every state, its orders, subsets and paths.

Nothing here knows the library's terms. A state is a tuple of symbols, V of them, the number V being the mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
State = tuple[int, ...]
Law = Callable[[State], Array]
"""Probabilities (L, V) of the symbols of every place, given a state."""


def subsets(L: int, size: int | None = None) -> list[tuple[int, ...]]:
    """All subsets of L places with at least one, or those of one size."""
    sizes = range(1, L + 1) if size is None else [size]
    return [M for n in sizes for M in itertools.combinations(range(L), n)]


@dataclass(frozen=True, eq=False)
class Masked:
    """A network over L places of V symbols as laws of every masked state, and the sequences."""

    V: int
    L: int
    law: Law

    @property
    def sequences(self) -> list[State]:
        """All V^L of them."""
        return list(itertools.product(range(self.V), repeat=self.L))

    def state(self, x: State, hidden: Sequence[int]) -> State:
        """x with the mask at the hidden places."""
        return tuple(self.V if i in hidden else v for i, v in enumerate(x))

    def cost(self, x: State, hidden: Sequence[int]) -> Array:
        """−log p_i(x_i | x outside of `hidden`) of every place, (L,)."""
        return -np.log(self.law(self.state(x, hidden))[np.arange(self.L), x])

    def mean_cost(self, x: State, size: int) -> float:
        """The mean of the cost of a hidden place, over all subsets of a size and their places."""
        return float(np.mean([self.cost(x, M)[list(M)].mean() for M in subsets(self.L, size)]))

    def by_orders(self, x: State, edges: Sequence[int] | None = None) -> float:
        """The mean over all orders of what it costs to reveal x, place by place, or as many at once as the falling
        differences of counts 0 = l_0 < … < l_K = L say."""
        counts = list(range(self.L + 1)) if edges is None else list(edges)
        orders = list(itertools.permutations(range(self.L)))
        total = 0.0
        for order in orders:
            for low, high in itertools.pairwise(counts):
                total += self.cost(x, order[:high])[list(order[low:high])].sum()
        return total / len(orders)

    def over_masks(self, x: State, rate: float, of: Callable[[Array], float] = np.sum) -> float:
        """E over the sets M in which every place is with probability `rate` of the sum (or another function) of the
        costs of the places of M."""
        total = 0.0
        for M in subsets(self.L):
            chance = rate ** len(M) * (1 - rate) ** (self.L - len(M))
            total += chance * float(of(self.cost(x, M)[list(M)]))
        return total

    def by_paths(self, x: State, alphas: Sequence[float], prior: str) -> float:
        """E_q log q(z_1 … z_T | x)/p(x, z_1 … z_T) over all paths, with survivals 1 > α_1 > … > α_T.

        prior: all places are "masked"; or "matched", each by itself, masked with probability 1 − α_T, else any symbol.
        """
        a, T = [1.0, *alphas], len(alphas)
        when = [a[k] - a[k + 1] for k in range(T)] + [a[T]]  # the step that masks a place, or none
        total = 0.0
        for steps in itertools.product(range(T + 1), repeat=self.L):
            weight = float(np.prod([when[k] for k in steps]))
            if weight == 0:
                continue
            hidden = [[i for i in range(self.L) if steps[i] < t] for t in range(T + 1)]
            log_q = float(np.log([when[k] for k in steps]).sum())
            visible = self.L - len(hidden[T])
            if prior == "masked" and visible:
                return float("inf")
            log_p = len(hidden[T]) * np.log(1 - a[T]) if prior == "matched" else 0.0
            log_p += visible * np.log(a[T] / self.V) if visible else 0.0
            for t in range(T, 0, -1):
                stays = (1 - a[t - 1]) / (1 - a[t])
                cost = self.cost(x, hidden[t])
                for i in hidden[t]:
                    revealed = i not in hidden[t - 1]
                    log_p += np.log(1 - stays) - cost[i] if revealed else np.log(stays)
            total += weight * (log_q - log_p)
        return float(total)


def of_table(V: int, L: int, seed: int = 0, spread: float = 1.5) -> Masked:
    """Laws of random logits of every state: a network that is right for no data."""
    random = np.random.default_rng(seed)
    laws = {}
    for z in itertools.product(range(V + 1), repeat=L):
        weights = np.exp(spread * random.normal(size=(L, V)))
        laws[z] = weights / weights.sum(1, keepdims=True)
    return Masked(V, L, laws.__getitem__)


def of_joint(joint: Array) -> Masked:
    """The exact conditionals of a joint law (V, …, V)."""
    V, L = joint.shape[0], joint.ndim

    def law(z: State) -> Array:
        seen = joint[tuple(slice(None) if v == V else slice(v, v + 1) for v in z)]
        rows = []
        for i in range(L):
            row = seen.sum(axis=tuple(j for j in range(L) if j != i))
            rows.append(row / row.sum() if z[i] == V else np.eye(V)[z[i]])
        return np.stack(rows)

    return Masked(V, L, law)


def random_joint(V: int, L: int, seed: int = 0) -> Array:
    """A joint law of strongly dependent symbols."""
    weights = np.random.default_rng(seed).random((V,) * L) ** 3
    return weights / weights.sum()


def uniform_kernel(V: int, alpha: float) -> Array:
    """q(z | x) of a symbol that survives with probability α and is else any of V, (V, V)."""
    return alpha * np.eye(V) + (1 - alpha) / V
