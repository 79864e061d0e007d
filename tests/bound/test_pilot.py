"""What a race is told before its first draw, on values whose law is known."""

import math
from typing import Any

import pytest
import torch

import nelbo
from nelbo.bound.contrast import pilot as pilots
from nelbo.bound.contrast.alternatives import UnderConditions
from nelbo.bound.contrast.race import Goal, Race
from nelbo.bound.contrast.spread import Spread
from nelbo.bound.prepare import prepare
from tests.bound.conditional import gaussians, model_of

FIRST = Spread((1.0,), 6.0, first=1.0, first_share=0.25, first_look=4)


def test_what_strata_are_expected_to_say():
    """Of y = 8u + noise of variance 1, for draws of S strata: what a race's half differences add up to."""
    n, generator = 4000, torch.Generator().manual_seed(0)

    def drawn(strata: int) -> torch.Tensor:
        u = (torch.arange(strata) + torch.rand(n, strata, generator=generator)) / strata
        return (8 * u + torch.randn(n, strata, generator=generator)).double()

    found = pilots.expectations(drawn(8))
    assert float(found[0]) == pytest.approx(64 / 12 + 1, rel=0.03)
    for k, strata in enumerate((2, 4, 8), 1):
        values = drawn(strata)
        halves = (values[:, 0::2] - values[:, 1::2]) / strata
        assert float(found[k]) == pytest.approx(float(halves.square().sum(1).mean()), rel=0.05)


def test_variances_grow_with_differences():
    spread = Spread((1.0,), 6.0, near=4.0, power=0.5)
    assert spread.growth(torch.tensor([0.0, 2.0, 10.0])).tolist() == pytest.approx([1.0, 1.0, math.sqrt(13.0)])
    worse = torch.tensor([[1.0, 4.0, 9.0], [3.0, 7.0, 20.0], [2.0, 5.0, 12.0]]).double()
    near, power = pilots._growth(((worse.square() + 4) ** 0.7).flatten(), worse)
    assert near == 4.0 and power == pytest.approx(0.7)


def test_freedom_is_that_of_the_law_of_the_variances():
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(3000, 8, generator=generator, dtype=torch.float64)
    chi = torch.distributions.Chi2(torch.tensor(4.0, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        unlike = normal / (chi.sample((3000,)) / 4).sqrt()[:, None]
    assert 3.5 <= pilots.freedom_of(unlike) <= 4.5 and pilots.freedom_of(normal) == 8.0


def test_a_first_level_is_drawn_by_itself():
    """Once by a look that decides, whose error is the pilot's; later as its share of the strata demands, in pairs."""
    race = Race(torch.zeros(2).double(), 1, Goal(0.99), FIRST)
    assert (race.next_strata, race.next_firsts) == (4, 1)
    race.look(torch.zeros(1, 4, 2).double(), torch.tensor([[[0.0, 2.0]]]).double())
    values, errors, _ = race._tested(torch.arange(1), race.best)
    assert values.tolist() == [[0.0, 2.0]] and float(errors[0, 1]) > 1.0
    assert (race.next_strata, race.next_firsts) == (4, 0)
    race.look(torch.zeros(1, 4, 2).double(), torch.zeros(1, 0, 2).double())
    assert (race.next_strata, race.next_firsts) == (8, 2)
    race.look(torch.zeros(1, 8, 2).double(), torch.tensor([[[0.0, 5.0], [0.0, 5.0]]]).double())
    assert race.mean.tolist() == [[0.0, 4.0]] and race.firsts == 3


@pytest.mark.parametrize("large", [False, True])
def test_whether_a_first_level_is_drawn_by_itself_depends_on_its_size(large):
    """In a chain whose first step is coarse, the decoder's term, which asks the network, is most of a difference."""
    schedule = nelbo.schedules.linear(20, 0.2 if large else 1e-4, 0.3)
    model = model_of(gaussians(3, 3), schedule, "index")
    one = prepare(model, torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    alternatives: Any = UnderConditions(one.chain, {"y": torch.arange(3)}, torch.zeros(3, dtype=torch.bool))
    known = pilots.pilot(alternatives, one.runner, Goal(0.95))
    assert (known.first is not None) == large and known.chain.first == int(not large)
