"""Bounds of models of symbols by enumeration, with nothing of the library's terms: orders, sets, and whole paths.

Networks are tables of random logits over every state and time, or exact posteriors. Times are t = level/T.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from nelbo.bound.tokens import terms
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.bound.tokens.noised import NoisedChain
from nelbo.model.exact.tokens import TokenData
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel, grid_for, prior_for
from nelbo.model.tokens.reverse import TokenReverse
from nelbo.process.tokens.kernel import Absorbing, Kernel
from nelbo.process.tokens.levels import TokenLevels

SPREAD = 1.5
"""Standard deviation of random logits."""


class TableNetwork(torch.nn.Module):
    """Logits of every state of L places with S symbols, at `times` + 1 times (one where it is told nothing)."""

    def __init__(self, L: int, S: int, columns: int, times: int = 0, seed: int = 0):
        super().__init__()
        make = torch.Generator().manual_seed(seed)
        table = SPREAD * torch.randn(times + 1, S**L, L, columns, generator=make, dtype=torch.float64)
        self.register_buffer("table", table)
        self.table: torch.Tensor
        self.S, self.times = S, times

    def forward(self, z, t=None):
        key = (z * self.S ** torch.arange(z.shape[1])).sum(1)
        when = torch.zeros_like(key) if t is None else (t * self.times).round().long()
        return self.table[when, key]


def joint(V: int, L: int, seed: int = 0) -> TokenData:
    make = torch.Generator().manual_seed(seed)
    return TokenData(torch.rand(*[V] * L, generator=make, dtype=torch.float64).pow(3))


def model(
    kernel: Kernel, V: int, L: int, *, columns=None, times=0, time=None, schedule=None, grid=None, prior=None, **rules
) -> TokenModel:
    """A model with a table as network."""
    S = V + 1 if kernel.absorbing else V
    law = rules.pop("law", "posterior")
    grid = grid or grid_for(kernel, schedule)
    return TokenModel(
        domain=TokenDomain(V, L),
        kernel=kernel,
        denoiser=NetworkTokenDenoiser(TableNetwork(L, S, columns or V, times), V, time, law=law),
        schedule=schedule,
        grid=grid,
        reverse=TokenReverse(**rules),
        prior=prior or prior_for(kernel, schedule, grid, V),
    )


def log_law(of: TokenModel, z: np.ndarray | list[int], at: TokenLevels | None = None) -> np.ndarray:
    """What the network says of one state, (L, V)."""
    state = torch.as_tensor(np.array(z))[None]
    hidden = state == of.kernel.mask if isinstance(of.kernel, Absorbing) else torch.zeros_like(state).bool()
    return of.predict(state, hidden, at)[0].numpy()


# ------------------------------------------------------------ counts: all orders, block by block
def by_orders(of: TokenModel, x: list[int], scored: list[int] | None = None) -> float:
    """The mean cost over every order of revealing the scored places, block by block as the chain's counts say; without
    carry-over the visible places are paid for, too."""
    assert isinstance(of.kernel, Absorbing)
    places = list(range(len(x))) if scored is None else scored
    edges = [0, *of.counts(len(places))]
    block = of.reverse.block or len(places)
    total, orders = 0.0, list(itertools.permutations(places))
    numbers = {place: k // block for k, place in enumerate(places)}
    orders = [
        o for o in orders if all(numbers[a] >= numbers[b] for a, b in itertools.pairwise(o))
    ]  # later blocks first
    for order in orders:
        for low, high in itertools.pairwise(edges):
            hidden = order[:high]  # of which order[low:] are revealed
            z = [of.kernel.mask if i in hidden else x[i] for i in range(len(x))]
            log_p = log_law(of, z)
            paid = [*order[low:high], *([] if of.reverse.carry_over else [i for i in places if i not in hidden])]
            total -= sum(log_p[i, x[i]] for i in paid)
    return total / len(orders)


# ------------------------------------------------------------ times: all paths
def states(S: int, L: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(S), repeat=L))


def cumulative(of: TokenModel) -> list[np.ndarray]:
    """q(z_t | x) of one place, at data and every level, (V, S), from α or the table alone."""
    V = of.domain.vocabulary
    if of.kernel.kind == "steps":
        products = [np.eye(V)]
        for Q in of.kernel.matrices.numpy():  # type: ignore[attr-defined]
            products.append(products[-1] @ Q)
        return [products[round(float(t) * (len(products) - 1))] for t in [0, *of.levels()[0].t]]
    found = []
    for alpha in [1.0, *of.levels()[0].alpha.tolist()]:
        if of.kernel.absorbing:
            found.append(np.concatenate([alpha * np.eye(V), np.full((V, 1), 1 - alpha)], 1))
        elif of.kernel.kind == "uniform":
            found.append(alpha * np.eye(V) + (1 - alpha) / V)
        else:
            w, U = np.linalg.eig(of.kernel.generator.numpy())  # type: ignore[attr-defined]
            found.append((U @ np.diag(np.exp(-np.log(alpha) * w)) @ np.linalg.inv(U)).real)
    return found


def transitions(of: TokenModel) -> list[np.ndarray]:
    """q(z_t | z_{t−1}) of one place, (S, S); the mask stays."""
    found = []
    for s, t in itertools.pairwise(cumulative(of)):
        if of.kernel.absorbing:
            V = len(s)
            kept = t[0, 0] / s[0, 0]
            M = np.zeros((V + 1, V + 1))
            M[:V, :V], M[:V, V], M[V, V] = kept * np.eye(V), 1 - kept, 1
            found.append(M)
        else:
            found.append(np.linalg.solve(s, t))
    return found


def reverse_step(of: TokenModel, level: int, z: tuple[int, ...]) -> np.ndarray:
    """p(z_s | z_t = z) of every place, (L, S), at level ≥ 1; at level 1 of the data."""
    V, L = of.domain.vocabulary, of.domain.length
    s, t, M = cumulative(of)[level - 1], cumulative(of)[level], transitions(of)[level - 1]
    law = np.exp(log_law(of, list(z), of.levels()[0][level - 1 : level]))
    out = np.zeros((L, s.shape[1]))
    for i in range(L):
        if of.kernel.absorbing:
            if z[i] < V:
                out[i, z[i]] = 1
            else:
                stays = (1 - s[0, 0]) / (1 - t[0, 0])
                out[i, :V], out[i, V] = (1 - stays) * law[i], stays
        elif of.reverse.rule == "plug_in":
            out[i] = M[:, z[i]] * (law[i] @ s)
            out[i] /= out[i].sum()
        else:
            p = law[i] * t[:, z[i]] if of.denoiser.law.value == "leave_one_out" else law[i]
            p = p / p.sum()
            out[i] = sum(p[k] * M[:, z[i]] * s[k] / t[k, z[i]] for k in range(V))
    return out


def prior_law(of: TokenModel) -> np.ndarray:
    """p(z_T) of one place, (S,)."""
    V, last = of.domain.vocabulary, cumulative(of)[-1]
    if of.prior.kind == "matched":
        return np.append(np.full(V, last[0, 0] / V), last[0, -1])
    if of.prior.kind == "all_masked":
        return np.append(np.zeros(V), 1.0)
    return of.prior.probabilities.numpy()  # type: ignore[attr-defined]


def by_paths(of: TokenModel, x: list[int]) -> tuple[float, float]:
    """The bound E_q log q(z_1..z_T | x)/p(x, z_1..z_T) and −log p(x), over every path."""
    M, every = transitions(of), states(cumulative(of)[-1].shape[1], of.domain.length)
    T, L = len(M), of.domain.length
    steps_of = {(level, z): reverse_step(of, level, z) for level in range(1, T + 1) for z in every}
    last = prior_law(of)
    first = cumulative(of)[1]
    bound, evidence = 0.0, 0.0
    for path in itertools.product(every, repeat=T):
        q = math.prod(first[x[i], path[0][i]] for i in range(L))
        for level in range(1, T):
            q *= math.prod(M[level][path[level - 1][i], path[level][i]] for i in range(L))
        p = math.prod(last[path[-1][i]] for i in range(L))
        for level in range(1, T):
            p *= math.prod(steps_of[level + 1, path[level]][i, path[level - 1][i]] for i in range(L))
        p *= math.prod(steps_of[1, path[0]][i, x[i]] for i in range(L))
        evidence += p
        if q > 0:
            bound += q * math.log(q / p)
    return bound, -math.log(evidence)


# ------------------------------------------------------------ the library's terms, averaged exactly
def by_terms(of: TokenModel, x: list[int]) -> float:
    """Prior, diffusion and reconstruction of the library, averaged over every z instead of drawn."""
    data = torch.tensor([x])
    scored = torch.ones_like(data).bool()
    if of.kernel.absorbing:
        return _masked_terms(of, data, scored)
    chain = NoisedChain(of, data, scored)
    levels, kernel = of.levels()
    V, total = of.domain.vocabulary, float(chain.prior(torch.tensor([0])))
    every = torch.tensor(states(V, len(x)))
    rows = len(every)
    for level in range(len(levels)):
        t = levels[level : level + 1][torch.zeros(rows).long()]
        s = TokenLevels.clean(rows) if not level else levels[level - 1 : level][torch.zeros(rows).long()]
        q = kernel.likelihood(every, t, V).gather(-1, data.expand(rows, -1)[..., None])[..., 0].prod(1)
        log_p = of.predict(every, torch.zeros_like(every).bool(), t)
        terms_of = terms.step(of, kernel, log_p, data.expand(rows, -1), every, s, t, scored.expand(rows, -1))
        total += float((q * terms_of).sum())
    return total


def _masked_terms(of: TokenModel, data: torch.Tensor, scored: torch.Tensor) -> float:
    chain = MaskedChain(of, data, scored)
    n, total = data.shape[1], float(chain.prior(torch.tensor([0])))
    for cell in range(len(chain.cells)):
        rate = float(chain.edge_at(torch.tensor([cell]), torch.tensor([0.5])))
        for bits in range(1, 1 << n):
            masked = torch.tensor([[bool(bits >> i & 1) for i in range(n)]])
            size = int(masked.sum())
            if of.counted:
                chance = float(size == chain.counts[0, cell + 1]) / math.comb(n, size)
                at = None
            else:
                chance = size / (n * rate) * rate**size * (1 - rate) ** (n - size)
                at = chain.levels[cell : cell + 1]
            each = of.costs(data, data.masked_fill(masked, chain.mask), masked, at)
            weight = chain.weight_of(torch.tensor([0]), torch.tensor([cell]))
            total += chance * float(terms.revealed(of, each, masked, scored, weight))
    return total
