"""Draws of models of symbols against the law of the whole chain, by enumeration of orders and of paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo.errors import DomainError, NelboError, ShapeError, UnknownNameError, UsageError
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import MatchedMask
from nelbo.process import every_grid as grids
from nelbo.process.tokens.kernel import Absorbing, Uniform
from nelbo.process.tokens.survival import AlphaTable, Geometric, Linear
from nelbo.sampling.tokens import draw
from tests.bound.tokens import oracles

V, L, N = 2, 3, 6000
MASK = Absorbing(V)
TABLE = AlphaTable(torch.tensor([0.7, 0.4, 0.1]))
MASKED = {
    "counts": oracles.model(MASK, V, L),
    "two steps": oracles.model(MASK, V, L, grid=grids.even(2)),
    "times": oracles.model(
        MASK, V, L, times=2, time="unit", schedule=AlphaTable(torch.tensor([0.6, 0.0])), grid=grids.full()
    ),
    "matched prior": oracles.model(
        MASK, V, L, times=3, time="unit", schedule=TABLE, grid=grids.full(), prior=MatchedMask()
    ),
}
NOISED = {
    rule: oracles.model(Uniform(), V, L, times=3, time="unit", schedule=TABLE, grid=grids.full(), rule=rule)
    for rule in ("mixture", "plug_in")
}
MODELS = {**MASKED, **NOISED}


def law_of(of: TokenModel, given: dict[int, int] | None = None) -> np.ndarray:
    """p(x) of every sequence, in the order of `oracles.states`: over counts by all orders, else by all paths."""
    every = oracles.states(V, L)
    if not of.counted:
        S = V + of.kernel.absorbing
        states = oracles.states(S, L)
        p = {z: float(np.prod([oracles.prior_law(of)[k] for k in z])) for z in states}
        for level in range(len(of.levels()[0]), 0, -1):
            after = dict.fromkeys(oracles.states(S if level > 1 else V, L), 0.0)
            for z, weight in p.items():
                if weight > 0:
                    step = oracles.reverse_step(of, level, z)
                    for y in after:
                        after[y] += weight * float(np.prod([step[i, k] for i, k in enumerate(y)]))
            p = after
        return np.array([p[x] for x in every])
    given = given or {}
    places = [i for i in range(L) if i not in given]
    orders = list(itertools.permutations(places))
    total = np.zeros(len(every))
    for n, x in enumerate(every):
        if any(x[i] != k for i, k in given.items()):
            continue
        for order in orders:
            log_p = 0.0
            for low, high in itertools.pairwise([0, *of.counts(len(places))]):
                z = [V if i in order[:high] else x[i] for i in range(L)]
                log_p += sum(oracles.log_law(of, z)[i, x[i]] for i in order[low:high])
            total[n] += np.exp(log_p) / len(orders)
    return total


def p_value(drawn: torch.Tensor, law: np.ndarray) -> float:
    """Of Pearson's χ² for the frequencies of whole sequences; 0 where an impossible one was drawn."""
    seen = np.bincount((drawn * V ** torch.arange(L - 1, -1, -1)).sum(1), minlength=len(law))
    if seen[law == 0].sum():
        return 0.0
    return float(stats.chisquare(seen[law > 0], len(drawn) * law[law > 0]).pvalue)


@pytest.mark.parametrize("name", MODELS)
def test_the_law_of_the_chain(name):
    law = law_of(MODELS[name])
    assert abs(law.sum() - 1) < 1e-9
    x = draw.sample(MODELS[name], N)
    assert p_value(x, law) > 1e-3
    other = np.roll(law, 1)
    assert p_value(x, other) < 1e-6  # the test can fail


def test_of_the_exact_network_the_law_is_that_of_the_data():
    data = oracles.joint(V, L)
    assert p_value(draw.sample(data.model(), N), data.joint.flatten().numpy()) > 1e-3


def test_the_order_of_confidence_has_another_law():
    law = law_of(MASKED["counts"])
    x = draw.sample(MASKED["counts"], N, sampler="confidence")
    assert p_value(x, law) < 1e-6
    data = oracles.joint(V, L)  # of the exact network any order that is a function of z has the law of the data
    assert p_value(draw.sample(data.model(), N, sampler="confidence"), data.joint.flatten().numpy()) > 1e-3


def test_given_places():
    start = torch.tensor([V, 1, V])
    x = draw.sample(MASKED["counts"], N, start=start)
    assert bool((x[:, 1] == 1).all()) and p_value(x, law_of(MASKED["counts"], {1: 1})) > 1e-3
    prompt = torch.tensor([False, True, False])
    assert torch.equal(x, draw.sample(MASKED["counts"], N, start=torch.tensor([0, 1, 0]), prompt=prompt))


def test_a_continuous_chain():
    """Its draws have the law of many steps: places that come one by one, each at its own time."""
    network = oracles.TableNetwork(2, V + 1, V, 1)

    def fn(z, t):
        return torch.lerp(network(z, torch.zeros_like(t)), network(z, torch.ones_like(t)), t.double()[:, None, None])

    law = Linear()
    settings = {"vocabulary": V, "length": 2, "kernel": MASK, "time": "unit", "schedule": law}
    one = nelbo.tokens.from_callable(fn, **settings, modules=[network])
    fine = draw.sample(one, 500, steps=200)
    assert (draw.sample(one, 500) != fine).double().mean() < 0.02  # the same uniform numbers
    ends = {**settings, "schedule": Geometric(0.2, 3.0), "prior": "matched"}  # noise at both ends
    late = nelbo.tokens.from_callable(fn, **ends, modules=[network])
    drawn, fine = draw.sample(late, 500), draw.sample(late, 500, steps=200)
    assert bool((drawn < V).all()) and (drawn != fine).double().mean() < 0.02


@pytest.mark.parametrize("name", ["matched prior", "mixture"])
def test_batches_change_nothing(name):
    whole = draw.sample(MODELS[name], 40, nelbo.workers.Run(seed=3))
    assert torch.equal(whole, draw.sample(MODELS[name], 40, nelbo.workers.Run(seed=3, batch_size=7)))
    assert torch.equal(whole[:5], draw.sample(MODELS[name], 5, nelbo.workers.Run(seed=3)))


def test_guidance():
    """w = 0 is the null condition, w = 1 the condition, and w = 2 what its formula says."""
    tables = torch.stack([oracles.TableNetwork(1, V + 1, V, seed=k).table[0] for k in range(2)])

    def fn(z, y):
        return tables[y, z[:, 0]]

    one = nelbo.tokens.from_callable(fn, vocabulary=V, length=1, kernel=MASK)
    y, none = torch.ones(N, dtype=torch.long), torch.tensor(0)
    log_p = tables[:, V, 0].log_softmax(-1).numpy()
    for w in (0.0, 1.0, 2.0):
        law = np.exp(log_p[0] + w * (log_p[1] - log_p[0]))
        x = draw.sample(one, N, condition={"y": y}, guidance=w, null_condition={"y": none})
        assert stats.binomtest(int((x == 1).sum()), N, law[1] / law.sum()).pvalue > 1e-3


REFUSED = [
    (lambda: draw.sample(MASKED["counts"], 0), UsageError, "0 samples"),
    (lambda: draw.sample(MASKED["counts"], 2, sampler="ddim"), UnknownNameError, "ddim"),
    (lambda: draw.sample(MASKED["times"], 2, sampler="confidence"), UsageError, "confidence"),
    (lambda: draw.sample(MASKED["counts"], 2, steps=9), UsageError, "9 steps for 3 places"),
    (lambda: draw.sample(MASKED["counts"], 2, start=torch.tensor([0, 5, V])), DomainError, "symbols from 0 to 5"),
    (lambda: draw.sample(MASKED["counts"], 2, start=torch.zeros(4)), ShapeError, "start of shape"),
    (lambda: draw.sample(MASKED["counts"], 2, prompt=torch.ones(3) > 0), UsageError, "start"),
    (
        lambda: draw.sample(oracles.model(MASK, V, L, columns=V + 1, remove_mask=False), 2),
        UsageError,
        "remove_mask",
    ),
    (lambda: draw.sample(NOISED["mixture"].with_grid(grids.continuous(0.1)), 2), NelboError, "contin"),
]


@pytest.mark.parametrize("call, error, words", REFUSED)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_verb():
    """`nelbo.sample` draws the same; what is of images alone is refused."""
    one = MODELS["two steps"]
    assert torch.equal(nelbo.sample(one, 9, seed=2), draw.sample(one, 9, nelbo.workers.Run(seed=2)))
    assert torch.equal(nelbo.sample(MODELS["counts"], 9, steps=2, seed=2), nelbo.sample(one, 9, seed=2))
    with pytest.raises(UsageError, match="its samplers are ancestral"):
        nelbo.sample(one, 2, codes=False)
    image = nelbo.exact.GaussianData(torch.zeros(2), torch.eye(2)).model(nelbo.schedules.linear(4), nelbo.grids.full())
    with pytest.raises(UsageError, match="one of images"):
        nelbo.sample(image, 2, prompt=torch.ones(2) > 0)
