"""What an estimate costs is known after the pilot: announced, refused where nobody agreed, and never a false alarm.

The models are those of `shrunk.py`, whose exact bound is a few lines of numpy: a factor of 1.6 makes a network that is
far worse than none.
"""

from __future__ import annotations

import math
import pickle
import re

import numpy as np
import pytest
import torch

import nelbo
from nelbo import Relative, compare, evaluate
from nelbo.bound import runner, tolerance
from nelbo.bound.planned import blocks_plan, cost, pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.errors import CostError, UsageError
from nelbo.workers import Run
from tests.bound.shrunk import D, X, exact_diffusion, exact_reconstruction, model, sum_over_steps

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
BAD, PILOT = model(factor=1.6), 216
EXACT = float(exact_diffusion(False, 1.6).mean()) / D / math.log(2)
"""Bits/dim of the diffusion term; the other two are a few."""


@pytest.fixture(scope="module")
def refused() -> CostError:
    with pytest.raises(CostError) as caught:
        evaluate(BAD, X)
    return caught.value


# ---------------------------------------------------------------- the rule


def laws():
    """Models that are exactly right, from one number to 64, by name: the schedule, its grid, the data."""
    for size in (1, 2, 4, 64):
        law, table = nelbo.schedules.logsnr_linear(12.0, -9.0), nelbo.schedules.linear(1000)
        gaussian = nelbo.exact.GaussianData(torch.zeros(size), 0.8 * torch.eye(size))
        mixture = nelbo.exact.MixtureData([0.5, 0.5], [[-0.6] * size, [0.5] * size], [0.01, 0.05])
        codes = nelbo.exact.CategoricalData(torch.linspace(0.1, 1, 17 * size).reshape(size, 17))
        for name, data in (("gaussian", gaussian), ("mixture", mixture), ("codes", codes)):
            yield f"{name}-{size}", data.model(law, nelbo.grids.continuous(), exact_ends=False), data
            yield f"{name}-{size}-table", data.model(table, nelbo.grids.full(), exact_ends=False), data


class Announced(Exception):
    """Ends an estimate once it is known that it is not refused."""


@pytest.mark.parametrize("case", list(laws()), ids=lambda case: case[0])
def test_a_right_model_is_never_refused(case, monkeypatch):
    """At the default tolerance: 3 examples, whose pilot knows little, to 1000; a dozen seeds of the smallest."""

    def stop(*_):
        raise Announced

    monkeypatch.setattr(runner.Runner, "announce", stop)
    _, right, data = case
    for n, seeds in ((1, 2), (3, 12), (24, 2), (1000, 1)):
        x = data.sample(n, seed=n)
        for seed in range(seeds):
            with pytest.raises(Announced):
                evaluate(right, x, estimator=Adaptive(0.01), seed=seed)


def test_the_rule_is_a_multiple_and_two_floors():
    chain = prepare(BAD, X).chain
    assert (chain.examples, chain.dimensions) == (120, 12)
    assert cost.unasked(chain) == cost.NUMBERS // 12
    image = nelbo.DataDomain((3, 64, 64), bins=256)
    large = nelbo.from_callable(lambda z, t: z, schedule=nelbo.schedules.linear(10), domain=image)
    for n, most in ((2, 20_000), (300, 30_000)):
        assert cost.unasked(prepare(large, torch.zeros(n, 3, 64, 64, dtype=torch.uint8)).chain) == most


# ---------------------------------------------------------------- the refusal


def test_it_stops_after_the_pilot(monkeypatch):
    counts: list[tuple[int, int]] = []
    with pytest.raises(CostError):
        evaluate(BAD, X, progress=lambda done, planned: counts.append((done, planned)))
    assert counts[-1] == (PILOT, 0)


def test_it_says_what_it_would_cost_and_what_is_known(refused):
    assert "a standard error of 0.01 bits/dim takes about" in refused.message and "an example" in refused.message
    assert f"no more than {cost.NUMBERS // 12:,} are spent unasked" in refused.message
    check_what_the_pilot_knows()


def check_what_the_pilot_knows() -> None:
    """The plan is right to a factor of four, by the variance of independent draws; the value within 4 errors."""
    one, bits = prepare(BAD, X), 1 / D / math.log(2)
    found = pilot.run(one.chain, one.runner, pilot.EXAMPLES)
    known = cost.of_pilot(one.chain, found, one.chain.priors())
    for term, exact in ((known.diffusion, EXACT), (known.total, EXACT + exact_reconstruction() * bits)):
        error = math.sqrt(term.variance) * bits
        assert abs(term.mean * bits - exact) < 4 * error < 0.7 * exact
    assert abs(sum(s.mean for s in known.strata) / known.diffusion.mean - 1) < 0.02
    some = evaluate(BAD, X, max_nfe=20_000)
    needed = some.nfe_total * (some.standard_error.estimator / 0.01) ** 2
    assert needed / 4 < blocks_plan.for_error(one.chain, found, 0.01 / bits).needed < 4 * needed


def test_it_names_what_is_amiss_and_what_to_pass(refused):
    assert "the network is worse than none: between log-SNR" in refused.message
    for word in ("tolerance=", "tolerance='5%'", "max_nfe=", "any_cost=True"):
        assert word in refused.hint
    assert pickle.loads(pickle.dumps(refused)).hint == refused.hint


def test_every_remedy_works(refused):
    """What the hint suggests is not refused again, and the tolerances are reached."""
    share = evaluate(BAD, X, tolerance="5%")
    assert share.standard_error.estimator <= 0.05 * share.bits_per_dim
    coarse = 5 * float(refused.hint.split("tolerance=")[1].split()[0])
    assert evaluate(BAD, X, tolerance=coarse).standard_error.estimator <= coarse
    budget = evaluate(BAD, X, max_nfe=5000)
    assert budget.nfe_total <= 5000 and any("max_nfe=5000 was reached" in w for w in budget.warnings)


def test_consent_changes_no_draw(monkeypatch, tmp_path):
    """any_cost goes on from the pilot in the state of the refused evaluation, to the number without any rule."""
    whole = evaluate(BAD, X, tolerance=4.0)
    monkeypatch.setattr(cost, "unasked", lambda problem: 300)
    state = tmp_path / "state"
    with pytest.raises(CostError):
        evaluate(BAD, X, tolerance=4.0, state=state)
    pilot = state.read_bytes()
    found = evaluate(BAD, X, tolerance=4.0, any_cost=True, state=state)
    assert found.bits_per_dim == whole.bits_per_dim and found.nfe_total == whole.nfe_total
    assert state.read_bytes().startswith(pilot) and len(pilot) > PILOT  # which was recalled and not drawn again


def test_a_budget_and_the_consent_exclude_each_other():
    for make in (
        lambda: evaluate(BAD, X, max_nfe=5, any_cost=True),
        lambda: compare(BAD, BAD, X, max_nfe=5, any_cost=True),
        lambda: Adaptive(0.1, 5, any_cost=True),
    ):
        with pytest.raises(UsageError, match="max_nfe=5 and any_cost=True"):
            make()


# ---------------------------------------------------------------- the announcement


@pytest.mark.parametrize("design", ["pooled", "per_example"])
def test_the_plan_is_known_at_once(design, monkeypatch):
    """The first call after the pilot has the whole plan, which the estimate keeps to within a factor of three."""
    monkeypatch.setattr(runner, "ANNOUNCED", 0.0)
    counts, lines = [], []
    bound = evaluate(
        model(), X, tolerance=0.03, estimator=design, message=lines.append, progress=lambda *c: counts.append(c)
    )
    first = next(i for i, (_, planned) in enumerate(counts) if planned)
    done, planned = counts[first]
    assert done == PILOT and bound.nfe_total / 3 < planned < 3 * bound.nfe_total
    assert counts[first + 1][1] == planned
    (line,) = lines
    assert line.startswith("planned: about ") and "an example, about" in line


def test_tolerances_that_are_proposed_have_one_digit():
    rounded = [(0.0131, 0.02), (0.02, 0.02), (3.01, 4.0), (9.5, 10.0), (250.0, 300.0), (0.0, 0.0), (math.inf, math.inf)]
    assert [cost._up(value) for value, _ in rounded] == pytest.approx([up for _, up in rounded])


def test_short_work_is_not_announced():
    lines: list[str] = []
    evaluate(model(), X, tolerance=1.0, message=lines.append)
    assert not lines


def test_the_time_is_that_of_what_was_computed(monkeypatch, tmp_path):
    """Seconds an evaluation by a clock that ticks 3 s a call; evaluations that a state recalls take none."""
    clock = iter(range(0, 10**6, 3))
    monkeypatch.setattr(runner.time, "monotonic", lambda: float(next(clock)))
    one = prepare(BAD, X[:8], Run(batch_size=8))
    assert math.isnan(one.runner.seconds_for(1))
    rows, zeros = torch.arange(8), torch.zeros(8, dtype=torch.long)
    one.runner.nats(one.chain, Draws.first_level(rows, zeros))  # asks no network
    assert math.isnan(one.runner.seconds_for(1))
    one.runner.nats(one.chain, Draws(rows, zeros + 1, zeros, zeros, torch.zeros(8)))
    assert one.runner.seconds_for(80) == pytest.approx(30.0)


# ---------------------------------------------------------------- relative tolerances


def test_a_relative_tolerance_is_of_the_value():
    for design in ("pooled", "per_example"):
        found = evaluate(model(), X, tolerance="2%", estimator=design)
        assert found.standard_error.estimator <= 0.02 * abs(found.bits_per_dim)
        assert found.nfe_total < evaluate(model(), X, tolerance="1%", estimator=design).nfe_total
        same = evaluate(model(), X, tolerance=Relative(0.02), estimator=design)
        assert same.bits_per_dim == found.bits_per_dim and found.estimator["tolerance"] == "2%"


def test_a_state_belongs_to_its_tolerance(tmp_path):
    evaluate(model(), X, tolerance="5%", state=tmp_path / "s")
    with pytest.raises(UsageError, match="the state of another evaluation"):
        evaluate(model(), X, tolerance="4%", state=tmp_path / "s")


@pytest.mark.parametrize("value", ["5 %", " 5% ", "0.05", 0.05, np.float64(0.05), Relative(0.05)])
def test_tolerances_that_are_read(value):
    parsed = tolerance.parse(value)
    assert (parsed.share if isinstance(parsed, Relative) else parsed) == 0.05


@pytest.mark.parametrize("value", ["", "%", "five", "-5%", "0%", 0, -1.0, math.nan, math.inf, "nan", None, "1e999%"])
def test_tolerances_that_are_refused(value):
    with pytest.raises(UsageError, match="tolerance=") as caught:
        tolerance.parse(value)
    assert "'5%'" in caught.value.hint


def test_a_value_of_zero_has_no_relative_tolerance():
    """Refused for its cost, and no division by zero."""
    assert tolerance.in_nats(Relative(0.05), 0.0, 3) > 0


# ---------------------------------------------------------------- comparisons


def test_a_comparison_stops_when_its_cost_is_known(monkeypatch):
    with pytest.raises(CostError, match=r"the difference is about -?\d") as caught:
        compare(BAD, model(), X, tolerance=1e-4)
    assert "any_cost=True" in caught.value.hint and "max_nfe=" in caught.value.hint
    budget = compare(BAD, model(), X, tolerance=1e-4, max_nfe=4000)
    assert budget.nfe_total <= 4000


def test_a_comparison_relative_to_its_difference():
    found = compare(BAD, model(), X, tolerance="5%")
    assert found.standard_error.estimator <= 0.05 * abs(found.difference)
    assert found.to_dict()["tolerance"] == "5%"
    near = model(factor=0.97)
    with pytest.raises(CostError, match="the difference is about"):
        compare(near, near.with_grid(nelbo.grids.subset(list(range(0, 200, 2)))), X, tolerance="0.001%")


# ---------------------------------------------------------------- data of extreme scales

UNIT = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3))
TABLE = UNIT.model(nelbo.schedules.linear(200, 5e-4, 0.1), nelbo.grids.full(), exact_ends=False)
EXTREME = UNIT.sample(100, seed=2) * torch.tensor([1.0, 1e6, 1e-6])


@pytest.mark.parametrize("design", ["pooled", "per_example"])
def test_columns_of_extreme_scales(design):
    """A model of N(0, I) on columns of 1, 10⁶ and 10⁻⁶, 10¹⁰ bits/dim: refused, or what a budget affords, and right."""
    exact = sum_over_steps(np.linspace(5e-4, 0.1, 200), EXTREME, torch.ones(3).double(), 1.0)
    with pytest.raises(CostError, match=r"takes about \d\.\de\+\d\d network evaluations"):
        evaluate(TABLE, EXTREME, estimator=design)
    for options in ({"max_nfe": 5000}, {"tolerance": "5%"}):
        term = evaluate(TABLE, EXTREME, estimator=design, **options).terms.diffusion
        assert term.standard_error < 0.2 * term.bits_per_dim
        assert abs(term.bits_per_dim - exact.mean() / 3 / math.log(2)) < 4 * term.standard_error


def test_more_draws_than_fit_into_memory_are_refused():
    with pytest.raises(UsageError, match=r"a stage of \S+ draws of the pooled design, all in memory at once"):
        evaluate(TABLE, EXTREME, estimator="pooled", any_cost=True)


def test_one_example_under_a_continuous_grid():
    """Nothing is known of a single example's spread, and the plan stays finite: it used to overflow."""
    codes = nelbo.exact.CategoricalData(torch.linspace(0.1, 1, 17).expand(16, 17))
    right = codes.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    found = evaluate(right, codes.sample(1), tolerance=0.05)
    assert found.standard_error.estimator <= 0.05 and found.nfe_total < 20_000


def test_numbers_of_any_size_keep_their_columns():
    large = str(evaluate(TABLE, EXTREME, max_nfe=2000)).splitlines()
    assert [len(re.split("  +", line.strip())) for line in (*large[2:5], large[6])] == [4] * 4
