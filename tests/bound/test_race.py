"""The race on values whose law is known: its level where there is nothing to find, and what the eliminated keep."""

import math

import pytest
import torch

import nelbo
from nelbo.bound.contrast.race import LOOKS, TOGETHER, Goal, Race
from nelbo.bound.contrast.spread import Spread
from tests.bound.conditional import model_of, swapped

EVEN = torch.zeros(3).double()
SPREAD = Spread.flat(9.1, 4.0)
"""The variance of a difference of two conditions in `values`, of one draw."""


class Naive(Race):
    """One-sided normal quantiles at every look, with nothing shared out."""

    def _tested(self, rows, best):
        values, errors, _ = super()._tested(rows, best)
        level = torch.tensor(1 - (self.goal.confidence or 0.5), dtype=torch.float64)
        return values, errors, -float(torch.special.ndtri(level)) * errors


def values(examples: int, strata: int, conditions: int, generator: torch.Generator) -> torch.Tensor:
    """Of a smooth function along the strata, common to all conditions, and noise with heavy tails, unlike by place."""
    u = (torch.arange(strata) + torch.rand(examples, strata, generator=generator)) / strata
    noise = torch.randn(examples, strata, conditions, generator=generator, dtype=torch.float64)
    heavy = torch.rand(examples, strata, 1, generator=generator, dtype=torch.float64).clamp_min(1e-3).rsqrt()
    return 5 * u[..., None].square() + noise * heavy * (0.2 + u[..., None])


def wrong(
    kind: type[Race],
    conditions: int,
    goal: Goal,
    looks: int = 7,
    runs: int = 2000,
    spread: Spread = SPREAD,
    apart: torch.Tensor | float = 0.0,
    of_first: float = 0.0,
) -> float:
    """The share of runs in which condition 0, which is as good as any other, is eliminated before the stop; examples
    have variances of their own, which the pilot's is the mean of. apart: by how much conditions are worse. of_first:
    the deviation of the first level's terms."""
    race = kind(torch.zeros(conditions).double(), runs, goal, spread)
    generator = torch.Generator().manual_seed(5)
    scale = torch.exp(0.5 * torch.randn(runs, generator=generator, dtype=torch.float64) - 0.25)
    for _ in range(looks):
        some = scale[race.racing][:, None, None]
        if not len(some):
            break
        shape = len(some), race.next_firsts, conditions
        firsts = some * of_first * torch.randn(shape, generator=generator, dtype=torch.float64) if of_first else None
        race.look(some * values(len(some), race.next_strata, conditions, generator) + apart, firsts)
    return float((~race.left[:, 0]).double().mean())


LEVEL = 0.05
MOST = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 2000)


@pytest.mark.parametrize("conditions", [2, 6])
def test_the_level_where_all_conditions_are_equal(conditions):
    assert wrong(Race, conditions, Goal(1 - LEVEL)) < MOST
    assert wrong(Naive, conditions, Goal(1 - LEVEL)) > 2 * MOST  # the same test sees what is not controlled


STOPS = {
    "a zone of indifference": Goal(1 - LEVEL, indifference=2.0),
    "differences to a tolerance": Goal(1 - LEVEL, tolerance=0.5),
    "a posterior to a tolerance": Goal(1 - LEVEL, of_posterior=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("conditions", [2, 10])
def test_the_level_at_every_stop(stop, conditions):
    """2,000 runs each; the stop by a budget is that of few looks."""
    assert wrong(Race, conditions, STOPS[stop]) < MOST
    assert max(wrong(Naive, conditions, STOPS[stop]), wrong(Naive, conditions, Goal(1 - LEVEL))) > 2 * MOST
    for looks in (1, 2, 3):
        assert wrong(Race, conditions, Goal(1 - LEVEL), looks=looks) < MOST


LOOKED = {
    "one stratum": {"spread": Spread((9.1, 4.6, 2.3, 1.2), 6.0, first_look=1)},
    "eight strata": {"spread": Spread((9.1, 4.6, 2.3, 1.2), 2.0, first_look=8)},
    "a first level": {"spread": Spread((9.1, 4.6, 2.3, 1.2), 6.0, 4.5, 0.2, 4), "of_first": 1.5},
    "a rival that is as good, others that go early": {"apart": torch.tensor([0.0, 0, 4, 4, 4, 4]).double()},
    "a rival that is as good, others at all distances": {"apart": torch.tensor([0.0, 0, 1, 2, 4, 8]).double()},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", LOOKED)
def test_the_level_of_other_first_looks_and_fewer_rivals(how):
    assert wrong(Race, 6, Goal(1 - LEVEL), **LOOKED[how]) < MOST
    assert wrong(Naive, 6, Goal(1 - LEVEL), **LOOKED[how]) > 1.5 * MOST


def test_the_level_of_a_model_whose_conditions_are_equal_in_law():
    """Mirror images: of an example (a, a) the bounds are equal, and no draw of their difference is zero."""
    x = torch.tensor([[0.3, 0.3]], dtype=torch.float64).expand(1000, -1)
    model = model_of(swapped()).with_grid(nelbo.grids.continuous())
    with pytest.warns(UserWarning, match="are not decided"):
        found = nelbo.contrast(model, x, "y", [0, 1], confidence=0.9, max_nfe=1000 * 2 * 2 * 33)
    gone = (~found.left).double().mean(0)
    assert float(found.difference.max()) > 0 and float(gone.max()) < 0.1
    # the errors of differences that are zero in truth, from 64 strata
    all_left = nelbo.contrast(model, x[:400], "y", [0, 1], confidence=None, tolerance=1e-9, max_nfe=400 * 2 * 2 * 66)
    z = (all_left.difference / all_left.standard_error.clamp_min(1e-12)).max(1).values
    assert 0.8 < float(z.square().mean()) < 1.4


@pytest.mark.slow
def test_the_level_where_some_examples_are_ties_and_others_are_not():
    """The pilot sees few ties, and what it expects of them follows from differences that are larger: two classes are
    mirror images, of which 30 % of the examples say nothing, and three others are near them."""
    far = [([1.0, 1.0], [0.3, 0.3]), ([-1.0, -1.0], [0.2, 0.5]), ([1.0, -1.0], [0.5, 0.2])]
    laws = swapped() + [nelbo.exact.GaussianData(m, torch.diag(torch.tensor(v).double())) for m, v in far]
    tied = torch.tensor([[0.3, 0.3]], dtype=torch.float64).expand(300, -1)
    x = torch.cat([tied, *(law.sample(140, seed=k) for k, law in enumerate(laws))])
    model = model_of(laws).with_grid(nelbo.grids.continuous())
    gone = torch.zeros(2, dtype=torch.float64)
    for seed in range(2):
        with pytest.warns(UserWarning, match="are not decided"):
            found = nelbo.contrast(model, x, "y", range(5), confidence=0.9, max_nfe=len(x) * 200, seed=seed)
        gone += (~found.left[:300, :2]).double().mean(0) / 2
    assert float(gone.max()) < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 600)


def test_what_is_eliminated_keeps_its_difference():
    generator = torch.Generator().manual_seed(1)
    race = Race(EVEN, 4, Goal(0.9), SPREAD)
    apart = torch.tensor([0.0, 0.3, 30.0]).double()
    races = 0
    while bool(race.racing.any()):
        race.look(values(int(race.racing.sum()), race.next_strata, 3, generator) + apart)
        races += 1
        assert races <= LOOKS
    difference, error = race.differences()
    assert not bool(race.left[:, 2].any()) and bool((race.best < 2).all())
    assert float(((difference[:, 2] - 30) / error[:, 2]).abs().max()) < 6  # of few strata: Student's tails
    assert bool(race.covariance()[:, 2].isnan().all())
    p, _ = race.posterior()
    assert float(p[:, 2].max()) < 1e-6


def test_differences_of_the_eliminated_go_by_what_they_were_compared_with():
    """2 went when 1 was best, by 5; 1 went later, when 0 was best, by 3: 2 is 8 above 0."""
    race = Race(EVEN, 1, Goal(0.9), SPREAD)
    race.left[0, 1:] = False
    race._by[0] = torch.tensor([-1, 0, 1])
    race._eliminated[0, 1:] = torch.tensor([[3.0, 0.5], [5.0, 0.25]])
    difference, error = race.differences()
    assert difference.tolist() == [[0.0, 3.0, 8.0]] and error.tolist() == [[0.0, 0.5, 0.25]]


def test_the_error_of_the_posterior_does_not_count_what_all_have_in_common():
    """Noise that is the same for all conditions changes nothing, also where one of some probability is eliminated."""
    generator = torch.Generator().manual_seed(6)
    quiet, loud = (Race(EVEN, 4, Goal(0.9), Spread.flat(0.1, 4.0)) for _ in range(2))
    apart = torch.tensor([0.0, 0.02, 1.0]).double()
    for _ in range(4):
        look = 0.1 * values(4, quiet.next_strata, 3, generator) + apart
        quiet.look(look)
        loud.look(look + 50 * torch.randn(4, look.shape[1], 1, generator=generator, dtype=torch.float64))
        quiet.racing[:] = loud.racing[:] = True
    assert not bool(quiet.left[:, 2].any()) and float(quiet.posterior()[0][:, 2].min()) > 0.1
    for one, other in zip(quiet.posterior(), loud.posterior(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_looks_double_and_weigh_by_their_strata():
    race, generator = Race(EVEN[:2], 1, Goal(None, tolerance=1e-9), SPREAD), torch.Generator().manual_seed(4)
    totals = torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        assert race.next_strata == max(TOGETHER, race.strata)
        look = values(1, race.next_strata, 2, generator)
        totals += look.sum((0, 1))
        race.look(look)
    torch.testing.assert_close(race.mean[0], totals / race.strata)
    difference, _ = race.differences()
    torch.testing.assert_close(difference.max(), (totals.diff() / race.strata).abs()[0])


def test_equal_conditions_never_end_in_a_decision():
    race = Race(EVEN[:2], 3, Goal(0.99), SPREAD)
    while bool(race.racing.any()):
        look = values(3, race.next_strata, 1, torch.Generator().manual_seed(race.looks)).expand(-1, -1, 2)
        race.look(look)
    assert race.looks <= LOOKS and not bool(race.decided.any()) and bool(race.left.all())


def test_indifference_ends_what_is_near():
    race = Race(EVEN[:2], 5, Goal(0.95, indifference=3.0), SPREAD)
    generator = torch.Generator().manual_seed(2)
    while bool(race.racing.any()):
        race.look(values(int(race.racing.sum()), race.next_strata, 2, generator))
    assert bool(race.decided.all()) and bool(race.left.all()) and race.looks < LOOKS
