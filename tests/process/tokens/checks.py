"""Checks of kernels, steps and counts against dense matrices and enumeration, for tests and deliberate breaks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.linalg
import torch

from nelbo.process.tokens import counts, steps, streams, survival
from nelbo.process.tokens.kernel import Absorbing, Kernel, Rates, Steps, Uniform, gaussian_steps
from nelbo.process.tokens.levels import TokenLevels

V, LENGTH = 4, 3
GENERATOR = np.array([[-1.0, 0.7, 0.3, 0.0], [0.2, -0.4, 0.1, 0.1], [0.0, 1.5, -2.0, 0.5], [0.4, 0.0, 0.6, -1.0]])
BETAS = [0.05, 0.2, 0.7]


def table() -> np.ndarray:
    return np.random.default_rng(3).dirichlet(np.ones(V), (3, V)) * 0.4 + 0.6 * np.eye(V)


def kernels() -> dict[str, Kernel]:
    return {
        "uniform": Uniform(),
        "rates": Rates(torch.from_numpy(GENERATOR)),
        "steps": Steps(torch.from_numpy(table())),
        "gaussian": gaussian_steps(V, torch.tensor(BETAS, dtype=torch.float64)),
    }


def gaussian_table() -> np.ndarray:
    Q = np.zeros((3, V, V))
    for t, beta in enumerate(BETAS):
        z = sum(math.exp(-4 * n**2 / ((V - 1) ** 2 * beta)) for n in range(-(V - 1), V))
        for i, j in itertools.product(range(V), range(V)):
            if i != j:
                Q[t, i, j] = math.exp(-4 * (i - j) ** 2 / ((V - 1) ** 2 * beta)) / z
        for i in range(V):
            Q[t, i, i] = 1 - Q[t, i].sum()
    return Q


def dense(name: str, level: int) -> np.ndarray:
    """q(z | x) at level 0, 1, 2 or 3 by other means than the library's."""
    alpha = ALPHAS[level]
    if name == "uniform":
        return alpha * np.eye(V) + (1 - alpha) / V
    if name == "rates":
        return scipy.linalg.expm(-math.log(alpha) * GENERATOR)
    Q = table() if name == "steps" else gaussian_table()
    return np.linalg.multi_dot([np.eye(V), np.eye(V), *Q[:level]])


def between(name: str, level: int) -> np.ndarray:
    """q(z at the level | z at the one before)."""
    kept = ALPHAS[level] / ALPHAS[level - 1]
    if name == "uniform":
        return kept * np.eye(V) + (1 - kept) / V
    if name == "rates":
        return scipy.linalg.expm(-math.log(kept) * GENERATOR)
    return (table() if name == "steps" else gaussian_table())[level - 1]


ALPHAS = [1.0, 0.8, 0.35, 0.1]


def at(level: int, rows: int) -> TokenLevels:
    alpha = torch.full((rows,), ALPHAS[level], dtype=torch.float64)
    return TokenLevels(1 - alpha, alpha, 1 - alpha, torch.full((rows,), level))


def cases():
    """Every (x, z) of one place: x, z (V², 1)."""
    x, z = torch.meshgrid(torch.arange(V), torch.arange(V), indexing="ij")
    return x.reshape(-1, 1), z.reshape(-1, 1)


def laws(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).dirichlet(np.ones(V), (rows, 1)))


def same(value: torch.Tensor, expected: np.ndarray | torch.Tensor, tolerance: float = 1e-12) -> None:
    difference = np.abs(np.asarray(value) - np.asarray(expected)).max()
    assert difference <= tolerance, difference


def check_marginals(name: str) -> None:
    kernel, (_, z) = kernels()[name], cases()
    for level in (1, 2, 3):
        M, n = dense(name, level), len(z)
        same(kernel.likelihood(z, at(level, n), V)[:, 0], M.T[z[:, 0]])
        w = laws(n)
        same(kernel.marginal(w, at(level, n))[:, 0], w[:, 0].numpy() @ M)
        same(kernel.backward(z, at(level - 1, n), at(level, n), V)[:, 0], between(name, level).T[z[:, 0]])


def model_steps(name: str, level: int, p: np.ndarray, x: int, z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q(y | z, x), the mixture and the plug-in of p, by explicit sums over symbols."""
    s, t, step = dense(name, level - 1), dense(name, level), between(name, level)
    each = np.array([[step[y, z] * s[k, y] / t[k, z] for y in range(V)] for k in range(V)])
    plugged = step[:, z] * (p @ s)
    return each[x], p @ each, plugged / plugged.sum()


def check_steps(name: str) -> None:
    kernel, (x, z) = kernels()[name], cases()
    for level in (1, 2, 3):
        s, t, p = at(level - 1, len(z)), at(level, len(z)), laws(len(z))
        found = (
            steps.true_step(x, z, s, t, kernel, V),
            steps.mixture(p, z, s, t, kernel),
            steps.plug_in(p, z, s, t, kernel),
        )
        for row in range(len(z)):
            for one, expected in zip(found, model_steps(name, level, *row_of(p, x, z, row)), strict=True):
                same(one[row, 0], expected)


def row_of(p: torch.Tensor, x: torch.Tensor, z: torch.Tensor, row: int) -> tuple[np.ndarray, int, int]:
    return p[row, 0].numpy(), int(x[row, 0]), int(z[row, 0])


def check_leave_one_out(name: str) -> None:
    """The plug-in of the leave-one-out law is the mixture of the posterior that belongs to it; and back again."""
    kernel, (_, z) = kernels()[name], cases()
    s, t, loo = at(1, len(z)), at(2, len(z)), laws(len(z))
    posterior = steps.posterior_from_leave_one_out(loo.log(), z, t, kernel)
    by_hand = loo[:, 0].numpy() * dense(name, 2).T[z[:, 0]]
    same(posterior.exp()[:, 0], by_hand / by_hand.sum(1, keepdims=True))
    same(steps.leave_one_out_from_posterior(posterior, z, t, kernel), loo.log())
    same(steps.plug_in(loo, z, s, t, kernel), steps.mixture(posterior.exp(), z, s, t, kernel))


def check_divergence() -> None:
    p = laws(6)
    q = p.flip(0)
    same(steps.divergence(q, p)[:, 0], (q * (q.log() - p.log())).sum(-1)[:, 0])
    certain = torch.tensor([[[1.0, 0, 0, 0]]], dtype=torch.float64)
    same(steps.divergence(certain, p[:1])[0], -p[0, :, 0].log())


def check_rate(name: str, plugged: bool) -> None:
    """The limit of a small step's divergence over its length, extrapolated from two lengths."""
    kernel, (x, z) = kernels()[name], cases()
    n, law = len(z), laws(len(z))
    t = at(2, n)

    def over(dtau: float) -> torch.Tensor:
        alpha = t.alpha * math.exp(dtau)
        s = TokenLevels(1 - alpha, alpha, 1 - alpha)
        step = steps.plug_in if plugged else steps.mixture
        q = steps.true_step(x, z, s, t, kernel, V)
        return steps.divergence(q, step(law, z, s, t, kernel)) / dtau

    limit = 2 * over(1e-4) - over(2e-4)
    same(steps.rate_divergence(x, law, z, t, kernel, plugged=plugged), limit, 2e-6)


def check_uniform_is_a_generator() -> None:
    kernel, other, (x, z) = Uniform(), Rates(torch.full((V, V), 1 / V).double() - torch.eye(V).double()), cases()
    n, law = len(z), laws(len(z))
    for one in (
        lambda k: k.likelihood(z, at(2, n), V),
        lambda k: k.backward(z, at(1, n), at(3, n), V),
        lambda k: steps.rate_divergence(x, law, z, at(2, n), k),
    ):
        same(one(kernel), one(other), 1e-12)


def check_prior() -> None:
    prior, x = torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), torch.arange(V)[None]
    for name, kernel in kernels().items():
        M = dense(name, 3)
        expected = (M * np.log(M / prior.numpy())).sum(1)
        same(steps.prior_divergence(x, at(3, 1), kernel, prior)[0], expected)


def check_noised(name: str) -> None:
    """Symbols drawn at evenly spaced uniform numbers are as frequent as the kernel says."""
    n, side = 4000, 2000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    pair = torch.stack([u, (torch.arange(n) * 0.6180339887498949) % 1], -1)[:, None]
    for x in range(V):
        z = kernels()[name].noised(torch.full((n, 1), x), at(2, n), pair, V)
        same(torch.bincount(z[:, 0], minlength=V) / n, dense(name, 2)[x], 4 / side)


def check_gaussian() -> None:
    Q = gaussian_steps(V, torch.tensor(BETAS, dtype=torch.float64)).matrices
    same(Q, gaussian_table())
    same(Q.sum(1), np.ones((3, V)))  # doubly stochastic
    far = gaussian_steps(V, torch.full((64,), 5.0))
    same(far._products[-1], np.full((V, V), 1 / V), 1e-9)


def check_respaced() -> None:
    kernel = kernels()["steps"]
    assert isinstance(kernel, Steps)
    two = kernel.respaced([1, 3])
    same(two._products[1], dense("steps", 1))
    same(two._products[2], dense("steps", 3))


LAWS = {
    "linear": survival.Linear(),
    "log-linear": survival.Linear(1e-3),
    "cosine": survival.Cosine(),
    "geometric": survival.Geometric(1e-4, 5.0),
    "table": survival.AlphaTable(torch.tensor([0.75, 0.5, 0.25, 0.01])),
}
FORMULAS = {
    "linear": lambda t: 1 - t,
    "log-linear": lambda t: 1 - 0.999 * t,
    "cosine": lambda t: 1 - math.cos(math.pi / 2 * (1 - t)),
    "geometric": lambda t: math.exp(-(1e-4 ** (1 - t)) * 5.0**t),
    "table": lambda t: [1, 0.75, 0.5, 0.25, 0.01][round(4 * t)],
}


def check_survival(name: str) -> None:
    law, t = LAWS[name], torch.linspace(0, 1, 5, dtype=torch.float64)
    levels = law.at(t)
    same(levels.alpha, np.array([FORMULAS[name](float(v)) for v in t]), 1e-8)
    same(levels.noise, 1 - levels.alpha)
    same(law.time_of(levels.noise)[1:-1], t[1:-1], 1e-9)
    if name in ("linear", "cosine"):
        tiny = law.noise(torch.tensor([1e-12], dtype=torch.float64))
        assert abs(float(tiny) / (1e-12 * (1.0 if name == "linear" else math.pi / 2)) - 1) < 1e-9


SCORED = torch.tensor([[True] * 6, [True, False, True, True, True, False]])


def check_patterns() -> None:
    """The closed form against an enumeration of all subsets, with places that are given."""
    for scored in SCORED:
        places = [int(i) for i in scored.nonzero()[:, 0]]
        for size in range(1, len(places) + 1):
            subsets = list(itertools.combinations(places, size))
            masked = torch.zeros(len(subsets), len(scored), dtype=torch.bool)
            for row, one in enumerate(subsets):
                masked[row, list(one)] = True
            found = torch.nn.functional.one_hot(counts.patterns(masked), 16).double() * masked[..., None]
            frequency = found.sum(0) / masked.sum(0).clamp(min=1)[:, None]
            same(counts.pattern_probabilities(scored[None], torch.tensor([size]))[0], frequency)


def check_independent_patterns() -> None:
    """The closed form against an enumeration of all sets, as likely as a place and independent others make them."""
    offsets, rate = (-3, 1, 2, -1), 0.3
    for scored in SCORED:
        places = [int(i) for i in scored.nonzero()[:, 0]]
        expected = torch.zeros(len(scored), 16, dtype=torch.float64)
        for size in range(1, len(places) + 1):
            for one in itertools.combinations(places, size):
                masked = torch.zeros(1, len(scored), dtype=torch.bool)
                masked[0, list(one)] = True
                chance = rate ** (size - 1) * (1 - rate) ** (len(places) - size)  # of the others, whichever came first
                here = torch.nn.functional.one_hot(counts.patterns(masked, offsets), 16).double() * masked[..., None]
                expected += chance * here[0]
        found = counts.independent_probabilities(scored[None], torch.tensor([rate], dtype=torch.float64), offsets)
        same(found[0], expected)


def check_streams() -> None:
    """Sets of a stream have their sizes, hold the places about equally often, and each by itself is uniform."""
    S, L, sizes = 6000, 5, [1, 2, 3, 4, 4, 2]
    v = torch.rand(S, len(sizes), L, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    scored = torch.ones(S, L, dtype=torch.bool)
    scored[S // 2 :, 3] = False
    sets = streams.subsets(v, scored, torch.tensor([sizes]).expand(S, -1))
    assert torch.equal(sets.sum(2), torch.tensor([sizes]).expand(S, -1)) and not bool((sets & ~scored[:, None]).any())
    for rows in (slice(0, S // 2), slice(S // 2, S)):
        often = sets[rows].sum(1)[:, scored[rows][0]]
        assert int((often.amax(1) - often.amin(1)).max()) <= 1  # no place is taken before all have been
        for k, size in enumerate(sizes):
            keys = frequencies(sets[rows, k])
            seen = keys[keys > 0].double()
            expected = (S // 2) / math.comb(int(scored[rows][0].sum()), size)
            assert len(seen) == round((S // 2) / expected)
            assert float(((seen - expected) ** 2 / expected).sum()) < len(seen) + 4 * math.sqrt(2 * len(seen))


def check_patterns_by_hand() -> None:
    masked = torch.tensor([[True, False, True, True, False]])
    # of place 2: two to the left hidden, left visible, right hidden, two to the right visible
    assert int(counts.patterns(masked)[0, 2]) == 0b1010
    assert int(counts.patterns(masked)[0, 0]) == 0b0100


def frequencies(masked: torch.Tensor) -> torch.Tensor:
    return torch.bincount((masked.long() << torch.arange(masked.shape[1])).sum(1), minlength=1 << masked.shape[1])


def check_subsets() -> None:
    """Uniform among the subsets of their size; 24,000 draws, a chi-square with 5 degrees of freedom."""
    n, L = 24_000, 6
    v = torch.rand(n, L, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scored = SCORED[1].expand(n, L)
    masked = counts.subset(v, scored, torch.full((n,), 2))
    assert bool((masked.sum(1) == 2).all()) and not bool(masked[:, ~SCORED[1]].any())
    seen = frequencies(masked)
    seen = seen[seen > 0].double()
    assert len(seen) == 6 and float(((seen - n / 6).square() / (n / 6)).sum()) < 25


def check_around_a_place() -> None:
    """P(M) = |M|/(n u) u^|M| (1 − u)^{n − |M|}; a chi-square with 14 degrees of freedom."""
    n, u, size = 40_000, 0.3, 4
    make = torch.Generator().manual_seed(1)
    v, place = (torch.rand(n, k, generator=make, dtype=torch.float64) for k in (6, 1))
    masked = counts.around_a_place(v, place[:, 0], SCORED[1].expand(n, 6), torch.full((n,), u).double())
    seen = frequencies(masked[:, SCORED[1]]).double()
    number = torch.tensor([bin(k).count("1") for k in range(16)])
    expected = n * number / (size * u) * u**number * (1 - u) ** (size - number)
    assert seen[0] == 0 and float((seen - expected)[1:].square().div(expected[1:]).sum()) < 45


def check_counts() -> None:
    assert counts.even(10, 10) == list(range(1, 11)) and counts.even(10, 1) == [10] and counts.even(10, 4)[-1] == 10


def check_absorbing() -> None:
    kernel, z = Absorbing(V), torch.tensor([[0, V, 2]])
    M = np.concatenate([0.35 * np.eye(V), np.full((V, 1), 0.65)], 1)
    same(kernel.likelihood(z, at(2, 1), V)[0], M[:, z[0]].T)
