"""Places revealed block by block: one place is the chain rule from left to right, all of them the whole bound."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

import nelbo
from nelbo.bound.estimators import Exhaustive, Stratified
from nelbo.bound.tokens.blocks import BlockChain
from nelbo.errors import UsageError
from nelbo.model.tokens.reverse import TokenReverse
from nelbo.process.grid import Even
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Uniform
from tests.bound.tokens import oracles
from tests.bound.tokens.checks import L, V, X, estimate, many, near
from tests.model.tokens import checks

ROWS = 1500


def chain(block: int, data: torch.Tensor, scored: torch.Tensor | None = None, **settings) -> BlockChain:
    model = oracles.model(Absorbing(V), V, L, block=block, **settings)
    return BlockChain(model, data, torch.ones_like(data).bool() if scored is None else scored)


def from_left_to_right(of: nelbo.TokenModel, x: list[int]) -> float:
    """The chain rule, with masks at all places to the right."""
    hidden = [[*x[:i], *[V] * (L - i)] for i in range(L)]
    return -sum(float(oracles.log_law(of, z)[i, x[i]]) for i, z in enumerate(hidden))


def over_all_orders(problem: BlockChain) -> float:
    """The chain's own costs of its only example, each averaged over every order of the random numbers."""
    orders = torch.tensor(list(itertools.permutations(range(L)))) / L
    x, scored = (rows.expand(len(orders), -1) for rows in problem.rows(torch.tensor([0])))
    counts = problem.edges.long()
    total = 0.0
    for before, after in itertools.pairwise(counts.tolist()):
        cost = problem.mean_cost(x, scored, torch.full((len(x),), after), orders, {})
        total += (after - before) * float(cost.mean())
    return total


@pytest.mark.parametrize("block", [1, 2, 3, L])
def test_against_all_orders(block):
    """The costs are the mean over the orders that keep to the blocks, and so is the mean of draws."""
    for x in X:
        problem = chain(block, many(x, 1))
        expected = oracles.by_orders(problem.model, x)
        near(over_all_orders(problem), expected)
        assert len(problem.cells) == L and problem.model.counts(L) == [1, 2, 3, 4]
        total = estimate(chain(block, many(x, ROWS)), Exhaustive(2)).total
        assert abs(total.mean - expected) < 4 * math.sqrt(total.variance) + 1e-10
        if block == 1:  # nothing is random
            near(estimate(problem, Exhaustive(1)).total.mean, from_left_to_right(problem.model, x))
    whole = oracles.by_orders(oracles.model(Absorbing(V), V, L), X[1])
    assert (abs(expected - whole) < 1e-10) == (block == L)


@pytest.mark.parametrize("block", [1, 2, 3, L])
def test_an_exact_network_costs_what_the_data_do(block):
    data = oracles.joint(V, L)
    exact = data.model()
    model = dataclasses.replace(exact, reverse=TokenReverse(block=block))
    for x in X:
        problem = BlockChain(model, torch.tensor([x]), torch.ones(1, L).bool())
        near(over_all_orders(problem), -float(data.log_prob(torch.tensor([x]))))


def test_a_few_steps_a_block():
    """Two steps of each block of three, and of the last one, which has one place, one."""
    with pytest.raises(UsageError, match="at most 1"):
        oracles.model(Absorbing(V), V, L, block=3, grid=Even(2))
    problem = chain(4, many(X[0], ROWS), grid=Even(2))
    assert problem.model.counts(L) == [2, 4]
    problem = chain(2, many(X[0], 1), grid=Even(1))
    assert problem.model.counts(L) == [2, 4]
    near(estimate(problem, Exhaustive(1)).total.mean, oracles.by_orders(problem.model, X[0]))


def test_evaluate():
    """Planned draws give the bound of the data under their exact network, and the result names the blocks."""
    data = checks.markov(24)
    x, exact = data.sample(40, seed=4), data.model()
    model = nelbo.tokens.from_callable(
        lambda z: exact.denoiser(z, z == 3, None), vocabulary=3, length=24, kernel=nelbo.tokens.absorbing(3), block=5
    )
    bound = nelbo.evaluate(model, x, tolerance=0.03)
    bits = -float(data.log_prob(x).mean()) / 24 / math.log(2)
    assert abs(bound.bits_per_dim - bits) < 4 * bound.standard_error.estimator and "blocks of 5" in str(bound)


def test_places_that_are_given():
    """Blocks are of the scored places, also where sequences have unequal numbers of them."""
    scored = [[0, 1, 3], [1, 2]]
    flags = torch.zeros(2, L, dtype=torch.bool)
    for row, places in enumerate(scored):
        flags[row, places] = True
    for row in range(2):
        problem = chain(2, many(X[row], 1), flags[row : row + 1])
        rows = chain(2, many(X[row], ROWS), flags[row : row + 1].expand(ROWS, -1))
        total = estimate(rows, Exhaustive(2)).total
        expected = oracles.by_orders(problem.model, X[row], scored[row])
        assert abs(total.mean - expected) < 4 * math.sqrt(total.variance) + 1e-9
    both = torch.tensor(X).repeat_interleave(400, 0)
    ragged = chain(2, both, flags.repeat_interleave(400, 0))
    found = estimate(ragged, Stratified(16, 2)).total
    expected = [oracles.by_orders(ragged.model, X[row], scored[row]) for row in range(2)]
    assert ragged.ragged and abs(found.mean - sum(expected) / 2) < 4 * math.sqrt(found.variance)
    with pytest.raises(UsageError, match="unequal numbers"):
        chain(2, both, flags.repeat_interleave(400, 0), grid=Even(1))


def test_samples_have_the_law_of_the_blocks():
    """The frequencies of drawn sequences are the products of the chain rule."""
    make = torch.Generator().manual_seed(3)
    table = torch.randn(9, 2, 2, generator=make).double()

    def net(z: torch.Tensor) -> torch.Tensor:
        return table[z[:, 0] * 3 + z[:, 1]]

    model = nelbo.tokens.from_callable(net, vocabulary=2, length=2, kernel=nelbo.tokens.absorbing(2), block=1)
    x = nelbo.sample(model, 3000, seed=1)
    assert isinstance(x, torch.Tensor)
    first, second = table[8, 0].softmax(-1), torch.stack([table[k * 3 + 2, 1].softmax(-1) for k in range(2)])
    p = (first[:, None] * second).flatten()
    seen = torch.bincount(x[:, 0] * 2 + x[:, 1], minlength=4) / 3000
    assert float(((seen - p).abs() / (p * (1 - p) / 3000).sqrt()).max()) < 4.5


def test_what_has_no_blocks():
    timed = {"schedule": survival.Linear(), "time": "unit"}
    for kernel, settings in ((Uniform(), timed), (Absorbing(V), timed), (Absorbing(V), {"carry_over": False})):
        with pytest.raises(UsageError, match="leave block=None"):
            oracles.model(kernel, V, L, block=2, **settings)
    with pytest.raises(UsageError, match="blocks of 0 places"):
        TokenReverse(block=0)
