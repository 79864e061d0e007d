"""What all declarations share: the network's outputs, the draws, and the halving of declarations by what they cost."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo.bound.prepare import prepare
from nelbo.bound.runner import Runner
from nelbo.diagnosis import draws, halving
from nelbo.diagnosis.cached import Cache, Cached, Negated
from nelbo.diagnosis.draws import Stage, Values
from nelbo.diagnosis.halving import Candidate
from nelbo.diagnosis.ranking import LEAST, ranked
from nelbo.diagnosis.schedules import OnPath
from nelbo.diagnosis.subject import Sibling
from nelbo.errors import UsageError
from nelbo.workers import Run
from tests.diagnosis.cases import CODES, SHAPE, Counted, model, network

# ---------------------------------------------------------------- cached outputs


def test_no_input_is_evaluated_twice():
    counted, cache = Counted(network("law")), Cache()
    net = Cached(counted, cache)
    z, t = torch.randn(5, *SHAPE, dtype=torch.float64), torch.linspace(-3, 3, 5, dtype=torch.float64)
    first = net(z, t)
    torch.testing.assert_close(net(z.flip(0), t.flip(0)), first.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(first, counted.net(z, t))
    assert counted.rows == cache.nfe == 5
    net(z + 1e-9, t), net(z, t + 1e-9), net(z.float(), t)
    assert cache.nfe == 20


def test_outputs_are_dropped_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr("nelbo.diagnosis.cached.MEMORY", 8 * 12 * 3)
    counted, cache = Counted(lambda z, t: 2 * z), Cache()
    net = Cached(counted, cache)
    z, t = torch.randn(6, *SHAPE, dtype=torch.float64), torch.zeros(6)
    torch.testing.assert_close(net(z, t), 2 * z)
    assert len(cache.outputs) == 3
    torch.testing.assert_close(net(z, t), 2 * z)
    assert cache.nfe == 9


def test_the_sign_of_a_learned_variance_stays():
    value = Negated(lambda z, t: torch.cat([z, z + 1], 1), 3)(torch.ones(2, *SHAPE), torch.zeros(2))
    assert bool((value[:, :3] == -1).all()) and bool((value[:, 3:] == 2).all())


# ---------------------------------------------------------------- draws


def test_values_are_the_bound_within_their_errors():
    """The mean of many stages against the exhaustive estimate; the errors that stages expect are those they have."""
    one = model("law", grid=nelbo.grids.even(12))
    codes = CODES[:64]
    exact = nelbo.evaluate(one, codes, estimator="exhaustive")
    chain = prepare(one, codes, Run()).chain
    runner, p = Runner(Run(), 12), draws.density(chain)
    assert math.isclose(float(p.sum()), 1.0) and bool((p > 0).all())
    prior = float(chain.priors().mean())
    stages = []
    for k in range(40):
        stage = Stage.of(0, k % 60, 200 * k, 6, 6, len(codes))
        values = draws.evaluated(chain, runner, stage, p)
        stages.append(dataclasses.replace(values, exact=prior))
    totals = torch.tensor([v.total for v in stages])
    value, variance = draws.pooled(stages)
    expected = exact.bits_per_dim * 12 * math.log(2)
    assert math.isclose(value, float(totals.mean()), rel_tol=1e-5)
    assert abs(value - expected) < 4 * variance**0.5 + 4 * exact.standard_error.estimator * 12 * math.log(2)
    assert 0.6 < float(totals.var()) / (40 * variance) < 1.7


def test_pooled_stages_weigh_by_their_strata():
    one = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    other = Values(torch.full((2, 6), 4.0), torch.tensor([1.0, 3.0]), 0.5, torch.zeros(2, 6))
    single = Values(one, torch.tensor([0.0]), 0.5, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    inside = single.inside(2.0, 3.5)
    assert inside.along.tolist() == [[0.0, 3.0], [1.0, 0.0]] and inside.total == 1.0
    assert single.total == 2.0 and single.variance == 4 / 4 / 2**2
    assert other.total == 6.5 and other.variance == 2.0 / 2
    value, variance = draws.pooled([single, other])
    assert math.isclose(value, (2 * 2.0 + 6 * 6.5) / 8)
    assert math.isclose(variance, (2 / 8) ** 2 * single.variance + (6 / 8) ** 2 * other.variance)


# ---------------------------------------------------------------- halving


class Named(Sibling):
    """A declaration of a name."""

    def __init__(self, name: str, **attributes: bool):
        self.word = name
        vars(self).update(attributes)

    name = property(lambda self: self.word)
    declaration = property(lambda self: {})
    claim = change = name

    def of(self, subject):
        return subject


class Fixed(Candidate):
    """A declaration whose draws cost what it says, and the stages in which it was looked at."""

    def __init__(self, sibling: Sibling | None, level: float, spike: float = 0.0, **more):
        super().__init__(sibling, prepare(model("law"), CODES[:50], Run()).chain, 0.0, torch.zeros(0), **more)
        self.level, self.spike, self.stages = level, spike, []

    def evaluate(self, count, stage, runner):
        self.stages.append((count, stage))
        along = torch.full((2, stage.strata), self.level)
        along[0, 0] += self.spike
        self.values[count] = Values(along, torch.zeros(len(stage.first_examples)), 0.0, along)


def halved(others: list[Fixed], following=lambda candidate: None, budget: int = 2000) -> tuple[list[Candidate], int]:
    """All candidates in the end, and what they cost."""
    done, all_of = [], [Fixed(None, 5.0), *others]

    def spent() -> int:
        return sum(c.cost(len(s.u), len(s.first_numbers)) for c in all_of for _, s in c.stages)

    found = halving.run(all_of, Runner(Run(), 12), spent, budget, 0, lambda: done.append(1), following)
    all_of += [c for c in found if c not in all_of]
    assert spent() <= budget and len(done) == sum(len(c.stages) for c in all_of)
    return found, spent()


def test_the_better_ones_go_on_to_more_draws():
    """Of declarations those of the lowest bounds and others that cost less in most draws; as much as is allowed."""
    first, second = halving.KEPT
    others = [Fixed(Named(f"{k}"), 4.02 + k / 10) for k in range(20)]
    spiky = [Fixed(Named(f"spiky {k}"), 4.9 + k / 20, spike=1000.0) for k in range(2)]
    choices = [Fixed(Named(f"choice {k}", choice=True), 4.05 + k / 10) for k in range(6)]
    controls = [Fixed(Named(f"control {k}", control=True), 9.0) for k in range(2)]
    found, cost = halved([*spiky, *reversed(others), *choices, *controls], budget=5000)
    assert len(found) == 1 + 30
    counts = [sum(count in c.values for c in found) for count in range(3)]
    assert counts == [31, *(sum(numbers) + 1 + 2 for numbers in (first, second))]
    assert [c.name for c in others if 1 in c.values] == [str(k) for k in range(first[0] + first[1] - 2)]
    assert all(1 in c.values and 2 not in c.values for c in spiky)
    assert [c.name for c in others if 2 in c.values] == [str(k) for k in range(second[0] + second[1])]
    assert [c.name for c in choices if 1 in c.values] == [f"choice {k}" for k in range(first[2])]
    assert all(2 in c.values for c in controls)
    one = [stage for _, stage in others[0].stages]
    assert [s.strata for s in one][:2] == [8, 24]
    assert all(len(s.first_numbers) == draws.FREE_DRAWS for s in one)  # the decoder of this model asks no network
    more = counts[2] * others[0].cost(2, 0)
    assert cost <= 5000 < cost + more  # one stratum more would be too much
    for numbers in (torch.cat([s.numbers for s in one]), torch.cat([s.first_numbers for s in one])):
        assert len(numbers.unique()) == len(numbers)  # no noise is used twice


def test_the_better_ones_bring_others_along_before_the_last_stage():
    asked, others = [], [Fixed(Named(f"{k}"), 4.0 + k / 2) for k in range(5)]

    def following(candidate: Candidate) -> Candidate | None:
        asked.append(candidate.name)
        return None if candidate.name == "0" else Fixed(Named(f"after {candidate.name}"), 1.0, followed=candidate)

    found, _ = halved(others, following)
    assert sorted(asked) == ["0", "1"]  # the others cost as much as what was declared, or more
    assert [c.name for c in found[6:]] == ["after 1"] and list(found[6].values) == [2]


def test_declarations_that_say_the_same_are_looked_at_once():
    twin = Fixed(Named("b"), 4.0)
    found, _ = halved([Fixed(Named("a"), 4.0), twin, Fixed(Named("c"), 5.0)])
    assert [c.failure for c in found] == [None, None, "the same as a", "the same as as declared"]
    assert twin.values == {} and len(twin.stages) == 1


def test_a_budget_below_one_look_is_refused_with_the_least():
    others = [Fixed(Named("a"), 4.0), Fixed(Named("b"), 3.0)]
    with pytest.raises(UsageError, match="less than one look at 3 declarations") as caught:
        halved(others, budget=5)
    least = int(caught.value.hint.split()[-2])
    found, _ = halved([Fixed(Named("a"), 4.0), Fixed(Named("b"), 3.0)], budget=least)
    assert all(list(c.values) == [0] for c in found)


# ---------------------------------------------------------------- ranking

UNIFORM = 8.0
"""Bits/dim without a model, of codes in 256 bins."""


class NamedPath(Named):
    """A declaration of a path."""

    least_share = OnPath.least_share


def candidate(sibling: Named | None, bits: float | torch.Tensor, spread: float = 0.0) -> Candidate:
    """One whose draws cost about so many bits/dim of two dimensions, by stratum (4,) or in all, in two stages."""
    chain = prepare(model("law"), CODES[:2], Run()).chain
    noise = spread * torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]])
    values = Values(2 * math.log(2) * (bits + noise), torch.zeros(1), 0.0, torch.zeros(2, 4))
    return Candidate(sibling, chain, 0.0, torch.zeros(0), {0: values, 1: values})


def order(*candidates: Candidate) -> list[str]:
    return [row.name for row in ranked(list(candidates), 2).rows]


def test_what_is_better_for_sure_comes_first():
    declared = candidate(None, 3.0)
    assert order(declared, candidate(Named("a"), 3.0 - 2 * LEAST)) == ["a", "as declared"]
    ranking = ranked([declared, candidate(Named("a"), 3.0 - 0.5 * LEAST), candidate(Named("b"), 4.0)], 2)
    assert [row.name for row in ranking.rows] == ["as declared", "a", "b"]
    assert ranking.best is None and ranking.alike == ("a",)
    noisy = ranked([declared, candidate(Named("a"), 2.8, 1.0)], 2)  # better, and its draws do not agree
    assert noisy.best is None and noisy.alike == ("a",)
    choice = ranked([declared, candidate(Named("a", choice=True), 2.0)], 2)
    assert choice.best is None and choice.choice is not None and choice.choice.name == "a"


def test_what_is_within_two_standard_errors_of_the_best_is_named():
    declared, best, spread = candidate(None, 5.0), candidate(Named("best"), 3.0), 0.8
    error = candidate(Named("other"), 3.0, spread).difference(best)[1] ** 0.5 / (2 * math.log(2))
    for errors, near in ((1.8, True), (2.2, False), (2.8, False)):
        ranking = ranked([declared, best, candidate(Named("other"), 3.0 + errors * error, spread)], 2)
        assert ranking.best is not None and ranking.best.name == "best"
        assert (ranking.alike == ("other",)) == near, errors


def test_little_is_no_evidence_where_a_network_may_do_anything():
    """Above log2(bins) a declaration must save a fiftieth, and another path a twentieth wherever the bound is."""
    for bits, saved, best in ((0.9, 0.015, "a"), (1.1, 0.015, None), (1.1, 0.025, "a")):
        declared = UNIFORM * bits
        ranking = ranked([candidate(None, declared), candidate(Named("a"), (1 - saved) * declared)], 2)
        assert (ranking.best and ranking.best.name) == best, (bits, saved)
    path = NamedPath("path")
    for saved, best in ((0.03, None), (0.06, "path")):
        ranking = ranked([candidate(None, 0.9 * UNIFORM), candidate(path, (1 - saved) * 0.9 * UNIFORM)], 2)
        assert (ranking.best and ranking.best.name) == best, saved


def test_what_costs_less_in_half_of_the_draws_is_no_evidence_where_a_network_may_do_anything():
    """A few draws whose terms explode decide on the mean of a network that was hardly trained."""
    for bits, changes, best in (
        (0.9, (-2.0, -2.0, 0.1, 0.1), "a"),
        (1.1, (-2.0, -2.0, 0.1, 0.1), None),
        (1.1, (-2.0, -2.0, -0.1, -0.1), "a"),
    ):
        declared = UNIFORM * bits
        other = candidate(Named("a", same_chain=True), declared + torch.tensor(changes))
        ranking = ranked([candidate(None, declared), other], 2)
        assert (ranking.best and ranking.best.name) == best, (bits, changes)


def test_a_usual_declaration_that_is_about_as_good_is_preferred():
    declared = candidate(None, 5.0)
    usual, unusual = candidate(Named("usual"), 3.1), candidate(Named("unusual", unusual=True), 3.0)
    assert order(declared, usual, unusual) == ["usual", "unusual", "as declared"]
    assert order(declared, candidate(Named("usual"), 3.5), unusual)[0] == "unusual"
    near = ranked([declared, usual, candidate(Named("near"), 3.1 + 0.5 * LEAST)], 2)
    assert near.best is not None and near.best.name == "usual" and near.alike == ("near",)
