"""No two purposes of random numbers share a key within one call, but for the pairs that the table names."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.one_time import OneTime

import nelbo
from nelbo.bound.estimators import Exhaustive
from nelbo.maths import keys, random
from nelbo.maths.keys import Purpose
from tests.folder_cases import LINE, make
from tests.training.cases import codes, small

DESIGNS = ({"pooled", "designs", "laps"}, {"per_example", "designs"})
ESTIMATES = [
    {"evaluate", *more}
    for more in ({"exhaustive"}, {"stratified"}, {"one_time", "pilot"}, *({"pilot", *d} for d in DESIGNS))
]
PRECISION = {"precision", "laps"}
CERTIFICATES = [e for e in ESTIMATES if not e & {"one_time", "pooled"}]  # of `tighten`, whose paired draws are two each
CALLS = [
    *(e | PRECISION | {"trial", "latent"} for e in ESTIMATES),
    {"ode", "trial"},
    {"diagnose"},
    {"contrast", "trial"},
    {"monitor", "evaluate", "pilot"},
    {"surprisal"},
    *({"calibrate", "tighten", "trial"} | e for e in CERTIFICATES),
    *({"tighten", "trial", "latent", "latent_fit"} | e for e in CERTIFICATES),
    *({"train"} | e for e in ESTIMATES),
    {"sample"},
    {"latent_fit"},
    {"codec"},
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


# ------------------------------------------------------------------------------------------------------ in real calls


def law() -> nelbo.DiffusionModel:
    return make("continuous")


def train(tmp_path: Path) -> None:
    nelbo.train(codes(), out=tmp_path, config=small(validation={"examples": 20, "every": 12, "max_nfe": 600}))


IMAGES = torch.randint(0, 4, (80, 2), generator=torch.Generator().manual_seed(2))
VERBS: dict[str, Callable[[Path], Any]] = {
    "exhaustive": lambda _: nelbo.evaluate(make("as it is"), IMAGES, estimator=Exhaustive(1, paired=8)),
    "stratified": lambda _: nelbo.evaluate(law(), IMAGES, estimator="stratified", precision="bf16"),
    "importance": lambda _: nelbo.evaluate(law(), IMAGES, estimator=OneTime("importance", passes=2)),
    "pooled": lambda _: nelbo.evaluate(law(), IMAGES, estimator="pooled", tolerance=0.2, precision="bf16"),
    "per_example": lambda _: nelbo.evaluate(law(), IMAGES, estimator="per_example", tolerance=0.2),
    "ode": lambda _: nelbo.ode_likelihood(law(), IMAGES[:9], steps=2, probes=2, dequantisation="flow"),
    "tighten": lambda _: nelbo.tighten(law(), IMAGES, steps=4),
    "train": train,
    "sample": lambda _: nelbo.sample(law(), 5, steps=3),
    "exact": lambda _: LINE.sample(9),
}


@pytest.mark.parametrize("name", VERBS)
def test_in_a_real_call_no_two_purposes_share_a_key(name, tmp_path, monkeypatch):
    """Every number that a call draws has a purpose, lies in a range of the table, and shares its key with no number of
    another purpose but those that the table names."""
    current: list[Purpose] = []
    seen: dict[Purpose, set] = {}
    chunks = random._chunks

    def recorded(seed, stream, indices, blocks):
        (purpose,) = current
        rows = torch.stack(torch.broadcast_tensors(*indices), 1).tolist()
        seen.setdefault(purpose, set()).update((seed, stream, *row) for row in rows)
        return chunks(seed, stream, indices, blocks)

    def noted(method):
        def draw(self, *args, **kwargs):
            current.append(self)
            try:
                return method(self, *args, **kwargs)
            finally:
                current.pop()

        return draw

    monkeypatch.setattr(random, "_chunks", recorded)
    for method in ("normal", "uniform", "permutation", "permutations"):
        monkeypatch.setattr(Purpose, method, noted(getattr(Purpose, method)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        VERBS[name](tmp_path)
    assert seen
    for purpose, drawn in seen.items():
        for _, stream, *key in drawn:
            assert any(p.value.stream is stream and within(p, key) for p in {purpose, *INSIDE.get(purpose, ())})
    for (p, of_p), (q, of_q) in itertools.combinations(seen.items(), 2):
        assert not of_p & of_q or frozenset({p, q}) in keys.SHARED, (p, q)


INSIDE = {Purpose.TERM_NOISE: (Purpose.PILOT_NOISE, Purpose.PRECISION_NOISE)}
"""Purposes whose numbers are drawn by the terms of the bound, at draw numbers of their own."""


def within(purpose: Purpose, key: list[int]) -> bool:
    return all(number in some for number, some in zip(key, _ranges(purpose.value), strict=True))
