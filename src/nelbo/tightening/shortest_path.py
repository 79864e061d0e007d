"""Dynamic programming over steps: the cheapest chain of K network evaluations through candidates, for every K at once.

With candidates z_1 … z_M of falling log-SNR, cost F_ij of the step between levels i < j, cost R_i of a chain that
begins at i (reconstruction) and P_j of one that ends at j (prior), the least bound of K evaluations is

    A_0(i) = R_i (decoder without the network),   A_1(j) = min(R_j (decoder with it), min_i A_0(i) + F_ij),
    A_k(j) = min_i A_{k−1}(i) + F_ij,             bound_K = min_j A_K(j) + P_j

(Watson et al. 2021, algorithm 1, where both ends are fixed: R and P infinite but at the first and last candidate).
O(M²) for each K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nelbo.errors import UsageError


@dataclass(frozen=True, eq=False)
class Paths:
    """The cheapest chain of every number of evaluations.

    cost (K + 1,): inf where no chain has so many; last (K + 1,): the candidate it ends at; back (K + 1, M): the
    candidate before each, −1 where the chain begins with a decoder that calls the network.
    """

    cost: np.ndarray
    back: np.ndarray
    last: np.ndarray

    def chain(self, steps: int) -> tuple[list[int], bool]:
        """Rising candidates of the cheapest chain of `steps` evaluations; whether its decoder calls the network.

        Errors: UsageError where no chain has so many evaluations.
        """
        if not self.has(steps):
            possible = np.flatnonzero(np.isfinite(self.cost))
            raise UsageError(
                f"a chain of {steps} network evaluations",
                f"between the levels of this model there are chains of {possible.min()} to {possible.max()}"
                if len(possible)
                else "no chain can be made of these levels",
            )
        j = int(self.last[steps])
        chain = [j]
        for k in range(steps, 0, -1):
            j = int(self.back[k, j])
            if j < 0:
                return chain[::-1], True
            chain.append(j)
        return chain[::-1], False

    def has(self, steps: int) -> bool:
        """Whether there is a chain of so many evaluations."""
        return 0 <= steps < len(self.cost) and bool(np.isfinite(self.cost[steps]))

    def fewest(self, target: float) -> int | None:
        """The smallest number ≥ 1 of evaluations whose cost is at most `target`; None where there is none."""
        reached = np.flatnonzero(self.cost[1:] <= target)
        return int(reached[0]) + 1 if len(reached) else None


def shortest(
    edges: np.ndarray, free: np.ndarray, called: np.ndarray, prior: np.ndarray, most: int | None = None
) -> Paths:
    """The cheapest chains of 0 … `most` evaluations (M where None).

    edges (M, M): F_ij, used where i < j. free, called (M,): R_i of a decoder that does not, or does, call the network;
    inf where a chain may not begin. prior (M,): P_j; inf where it may not end.
    """
    M = len(prior)
    most = M if most is None else min(most, M)
    into = np.where(np.tri(M, k=-1, dtype=bool), edges.T, np.inf)  # (j, i), rows contiguous
    cost, back = np.full(most + 1, np.inf), np.full((most + 1, M), -1, dtype=np.int32)
    last = np.zeros(most + 1, dtype=np.int32)
    best, buffer, rows = free.astype(np.float64), np.empty((M, M)), np.arange(M)
    for k in range(most + 1):
        if k:
            np.add(into, best, out=buffer)
            back[k] = buffer.argmin(1)
            best = buffer[rows, back[k]]
        if k == 1:
            direct = called < best
            best = np.where(direct, called, best)
            back[1, direct] = -1
        total = best + prior
        last[k] = total.argmin()
        cost[k] = total[last[k]]
    return Paths(cost, back, last)


def fixed_end(M: int, index: int, value: float = 0.0) -> np.ndarray:
    """(M,) with `value` at one candidate and inf elsewhere."""
    ends = np.full(M, np.inf)
    ends[index] = value
    return ends
