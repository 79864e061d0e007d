"""Keyed noise: the published bits, the right law, and no trace of batch, order or chunk."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nelbo.errors import ShapeError, UsageError
from nelbo.maths import philox
from nelbo.maths import random as keyed
from nelbo.maths.random import Stream, normal, permutation, uniform
from tests.tables import refusals

torch.set_num_threads(1)
laws = settings(derandomize=True, deadline=None, max_examples=40)
FULL = 0xFFFFFFFF
KNOWN = [  # kat_vectors of Random123 for philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def reference(counter, key, rounds=10):
    """Philox4x32 in plain integers, as printed in the paper."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & FULL, p0 >> 32 ^ c3 ^ k1, p0 & FULL
        k0, k1 = (k0 + 0x9E3779B9) & FULL, (k1 + 0xBB67AE85) & FULL
    return c0, c1, c2, c3


def rounds_of(counter, key, rounds=10):
    """The same by the rounds of the library."""
    words = philox.apply_rounds(*map(torch.tensor, counter), torch.tensor(0), *key, rounds)
    return tuple(w.item() for w in words)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    assert rounds_of(counter, key) == reference(counter, key) == words
    assert rounds_of(counter, key, rounds=9) != words  # a lost round is caught


word = st.integers(0, FULL)


@laws
@given(st.tuples(word, word, word, word), st.tuples(word, word), st.integers(0, 12))
def test_rounds_are_the_reference(counter, key, rounds):
    assert rounds_of(counter, key, rounds) == reference(counter, key, rounds)


def test_normal_is_box_muller_of_the_documented_words():
    """The saved format: an independent computation of one value from (seed, stream, example, level, draw, position)."""
    z = normal(12345, torch.tensor([7]), 3, 2, (5, 2), stream=Stream.SAMPLE)[0].flatten()
    for element in range(10):
        w = reference((element // 4, 7, 3, 2), keyed.stream_key(12345, Stream.SAMPLE))
        i = element % 4 // 2 * 2
        radius = math.sqrt(-2 * math.log((w[i] + 0.5) / 2**32))
        angle = 2 * math.pi * w[i + 1] / 2**32
        expected = radius * (math.cos, math.sin)[element % 2](angle)
        assert z[element].item() == pytest.approx(expected, rel=1e-13, abs=1e-14)


def test_uniform_is_52_bits_of_two_words():
    u = uniform(9, 4, 5, 6, (3,))[0]
    for element in range(3):
        w = reference((element // 2, 4, 5, 6), keyed.stream_key(9, Stream.TIME))
        i = element % 2 * 2
        assert u[element].item() == ((w[i] << 20 | w[i + 1] >> 12) + 0.5) / 2**52


def test_keys_are_frozen():
    """A change here changes every saved result."""
    assert keyed._mix64(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 from 0
    assert keyed.stream_key(0, Stream.FORWARD) == (0x4D197E6F, 0xA706DD2F)
    assert keyed.stream_key(2**64 - 1, Stream.DECODE) == (0xFB856478, 0xE807689A)
    assert [int(s) for s in Stream] == list(range(8))


def test_keys_do_not_collide():
    seeds = [*range(200), *(2**64 - 1 - s for s in range(200)), *(2**k for k in range(8, 64))]
    keys = [keyed.stream_key(seed, stream) for seed in seeds for stream in Stream]
    assert len(set(keys)) == len(keys)


SHAPE = (3, 5, 7)  # 105 values: 27 blocks, the last one cut


def keys(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2**32, (count,), generator=generator) for _ in range(3)]


@settings(laws, max_examples=12)
@given(st.integers(0, 2**64 - 1), st.integers(1, 40), st.permutations(list(range(12))))
def test_batch_and_order_do_not_matter(seed, chunk, order):
    example, level, draw = keys(12)
    whole = normal(seed, example, level, draw, SHAPE)
    order = torch.tensor(order)
    assert torch.equal(normal(seed, example[order], level[order], draw[order], SHAPE), whole[order])
    parts = [normal(seed, example[i : i + 5], level[i : i + 5], draw[i : i + 5], SHAPE) for i in (0, 5, 10)]
    assert torch.equal(torch.cat(parts), whole)
    times, order_of_101 = uniform(seed, example, level, draw, SHAPE), permutation(seed, 101)
    usual = keyed._CHUNK_CPU
    try:
        keyed._CHUNK_CPU = chunk  # smaller and larger than one example
        assert torch.equal(normal(seed, example, level, draw, SHAPE), whole)
        assert torch.equal(uniform(seed, example, level, draw, SHAPE), times)
        assert torch.equal(permutation(seed, 101), order_of_101)
    finally:
        keyed._CHUNK_CPU = usual


def test_large_batch_is_its_rows():
    """Over chunk borders and any vector tail, at one thread and at two."""
    example = torch.arange(700)
    whole = normal(5, example, 1, 0, (13, 31))
    for i in (0, 1, 324, 325, 699):
        assert torch.equal(normal(5, i, 1, 0, (13, 31))[0], whole[i])
    try:
        torch.set_num_threads(2)
        assert torch.equal(normal(5, example, 1, 0, (13, 31)), whole)
    finally:
        torch.set_num_threads(1)


def test_a_shorter_example_is_a_prefix():
    assert torch.equal(normal(1, 2, 3, 4, (50,))[0], normal(1, 2, 3, 4, (101,))[0, :50])
    assert torch.equal(normal(1, 2, 3, 4, (5, 10))[0].flatten(), normal(1, 2, 3, 4, (50,))[0])


def test_forms_of_the_arguments():
    vector = normal(1, torch.tensor([3, 4]), 2, torch.tensor([5]), (6,))
    assert vector.shape == (2, 6) and vector.dtype == torch.float64
    assert torch.equal(vector[1], normal(1, 4, 2, 5, (6,))[0])
    assert torch.equal(normal(1, torch.tensor([3, 4], dtype=torch.int32), 2, 5, (6,)), vector)
    assert torch.equal(normal(1, torch.tensor([3, 4]), 2, 5, (6,), dtype=torch.float32), vector.float())
    assert normal(1, torch.arange(0), 0, 0, (6,)).shape == (0, 6)
    assert normal(1, torch.arange(3), 0, 0, ()).shape == (3,)
    assert normal(1, torch.arange(3), 0, 0, (2, 0)).shape == (3, 2, 0)
    assert uniform(1, torch.arange(3), 0, 0).shape == (3,)
    assert uniform(1, 2**32 - 1, 2**32 - 1, 2**32 - 1).shape == (1,)


BAD = [(-1, 0, 0), (0, -1, 0), (0, 0, 2**32), (torch.tensor([3, -2]), 0, 0), (0, torch.tensor([2**32]), 0), (0.5, 0, 0)]


@pytest.mark.parametrize("index", [*BAD, (torch.tensor([0.0]), 0, 0), (True, 0, 0)])
@pytest.mark.parametrize("draw", [lambda *i: normal(0, *i, (2,)), lambda *i: uniform(0, *i)])
def test_bad_indices(draw, index):
    with pytest.raises(UsageError, match=r"example|level|draw"):
        draw(*index)


test_nonsense_is_refused = refusals(
    *((lambda seed=seed: normal(seed, 0, 0, 0, (2,)), "seed") for seed in (-1, 2**64, 1.0, True, None)),
    (lambda: normal(0, torch.arange(3), torch.arange(2), 0, (2,)), ShapeError, "one per example"),
    (lambda: normal(0, torch.zeros(2, 2, dtype=torch.int64), 0, 0, (2,)), ShapeError, "one per example"),
    (lambda: normal(0, 0, 0, 0, (2,), stream=99), "unknown stream"),
    (lambda: uniform(0, 0, 0, 0, dtype=torch.float32), "float64"),
    (lambda: permutation(0, -1), "n -1"),
)


def z_score(values, expected):
    """How many of its standard errors the mean of `values` (n,) lies from `expected`."""
    return abs(float((values.mean() - expected) / (values.std() / math.sqrt(len(values)))))


def test_laws():
    z = normal(77, torch.arange(1000), 0, 3, (300,)).flatten()
    u = uniform(77, torch.arange(1000), 0, 3, (300,)).flatten()
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((z + 0.01).numpy(), "norm").pvalue < 1e-3
    assert u.min() > 0 and u.max() < 1
    assert z.max() > 4 and z.min() < -4 and z.abs().max() < 6.77


def correlation(a, b):
    """z-score of the mean product of two sets of normals, or of their squares less 1, whichever is larger."""
    a, b = a.flatten(), b.flatten()
    return max(z_score(a * b, 0), z_score((a**2 - 1) * (b**2 - 1), 0))


NAMES = ("seed", "example", "level", "draw", "stream", "position")


def sample(seed=10, example=20, level=30, draw=40, stream=Stream.FORWARD, position=0):
    return normal(seed, example, level, draw, (100_000 + position,), stream=stream)[0, position:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lag", [1, 2, 4])
def test_neighbouring_keys_are_uncorrelated(name, lag):
    here = {"seed": 10, "example": 20, "level": 30, "draw": 40, "stream": Stream.FORWARD, "position": 0}[name]
    assert correlation(sample(), sample(**{name: type(here)(here + lag)})) < 4


def test_too_few_rounds_are_caught(monkeypatch):
    """Two rounds instead of ten leave neighbouring draws correlated."""
    monkeypatch.setattr(philox, "ROUNDS", 2)
    assert max(correlation(sample(), sample(**{n: 41})) for n in ("example", "level", "draw")) > 4


@laws
@given(st.integers(0, 2**64 - 1), st.integers(0, 50), word, word)
def test_permutation_is_one(seed, n, level, draw):
    p = permutation(seed, n, level, draw)
    assert p.dtype == torch.int64 and p.sort().values.tolist() == list(range(n))


def test_permutations_are_uniform():
    """All 24 orders of 4, over 2,400 draws, by chi-squared; and they depend on each key."""
    counts = {}
    for draw in range(2400):
        order = tuple(permutation(1, 4, draw=draw).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3
    keys = ((2, 100), (1, 100, 1), (1, 100, 0, 1))
    others = [*(permutation(*key) for key in keys), permutation(1, 100, stream=Stream.BATCH)]
    assert not any(torch.equal(permutation(1, 100), other) for other in others)
