"""No two purposes of random numbers share a key within one call, but for the pairs that the table names."""

import itertools
import math

import pytest
import torch

from nelbo.maths import keys, random
from nelbo.maths.keys import Purpose

DESIGNS = ({"pooled", "designs", "laps"}, {"per_example", "designs"})
ESTIMATES = [
    {"evaluate", *more}
    for more in ({"exhaustive"}, {"stratified"}, {"one_time", "pilot"}, *({"pilot", *d} for d in DESIGNS))
]
PRECISION = {"precision", "laps"}
CERTIFICATES = [e for e in ESTIMATES if not e & {"one_time", "pooled"}]  # of `tighten`, whose paired draws are two each
CALLS = [
    *(e | PRECISION for e in ESTIMATES),
    {"ode"},
    *({"tighten"} | e for e in CERTIFICATES),
    *({"train"} | e for e in ESTIMATES),
    {"sample"},
    {"exact"},
    *({"testing"} | e for e in ESTIMATES),
]
"""The rooms whose random numbers meet in one call, at one seed."""

ACROSS = [frozenset({Purpose.TERM_NOISE, Purpose.ODE_START})]
"""Pairs of two calls that share keys on purpose."""


def meet(a, b) -> bool:
    """Whether two sequences of keys have one in common; ranges may be long."""
    if isinstance(a, range) and isinstance(b, range):
        assert a.step == b.step == 1
        return max(a[0], b[0]) <= min(a[-1], b[-1])
    few, other = (a, b) if len(a) <= len(b) else (b, a)
    return any(key in other for key in few)


def collide(p: Purpose, q: Purpose) -> bool:
    a, b = p.value, q.value
    return a.stream is b.stream and all(meet(*x) for x in zip(_ranges(a), _ranges(b), strict=True))


def _ranges(k: keys.Keys):
    return k.examples, k.levels, k.draws


def test_no_two_purposes_of_one_call_share_a_key_but_the_pairs_that_are_named():
    assert {k.value.room for k in Purpose} == set().union(*CALLS)
    found = {
        frozenset({p, q})
        for call in CALLS
        for p, q in itertools.combinations([p for p in Purpose if p.value.room in call], 2)
        if collide(p, q)
        and not ("tighten" in call and Purpose.PAIRED_EXAMPLES in (p, q))  # two draws of every example: none is paired
    }
    assert found | set(ACROSS) == set(keys.SHARED)


def test_of_one_room_only_the_named_purposes_share_keys():
    """The estimators that exclude each other have rooms of their own, so that this needs no list of calls."""
    for p, q in itertools.combinations(Purpose, 2):
        if p.value.room == q.value.room and collide(p, q):
            assert frozenset({p, q}) in keys.SHARED


def test_keys_are_words():
    for purpose in Purpose:
        for some in _ranges(purpose.value):
            assert 0 <= some[0] <= some[-1] < 1 << 32


@pytest.mark.parametrize("purpose", Purpose)
def test_a_purpose_draws_at_its_own_keys(purpose):
    k = purpose.value
    level, draw = min(1, len(k.levels) - 1), min(1, len(k.draws) - 1)
    at = (k.levels[level], k.draws[draw])
    examples = torch.arange(3)
    for name in ("normal", "uniform"):
        own = getattr(purpose, name)(7, examples, level, draw, (5,))
        assert torch.equal(own, getattr(random, name)(7, examples, *at, (5,), stream=k.stream))
    assert torch.equal(purpose.permutation(7, 9, level, draw), random.permutation(7, 9, *at, stream=k.stream))


def test_tensors_of_levels_and_draws_count_from_the_first():
    numbers = torch.arange(2)
    found = Purpose.PILOT_NOISE.normal(0, 3, numbers, numbers, (4,))
    assert torch.equal(found, random.normal(0, 3, numbers, (1 << 31) + numbers, (4,)))


def test_a_number_outside_the_range_is_refused():
    with pytest.raises(IndexError):
        Purpose.PILOT_EXAMPLES.permutation(0, 5, draw=1)
    with pytest.raises(IndexError):
        Purpose.TERM_NOISE.normal(0, 0, 0, 1 << 30, (1,))


def test_what_a_shared_key_does_to_the_laps():
    """The named mistake, measured on equal shares, where it does nothing: every example comes once a lap."""
    order = Purpose.LAP_ORDER.permutation(0, 40)
    assert torch.equal(order.sort().values, torch.arange(40))
    start = float(Purpose.LAP_START.uniform(0, 0))
    place = int((order == 0).nonzero()) / 40
    assert math.isclose((start + 0.5) % 1, place, abs_tol=0.25)
