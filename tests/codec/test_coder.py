"""The entropy coder against the reference, against itself undone, and against the entropy of what it codes."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from nelbo import codec
from nelbo.codec import tables
from nelbo.codec.stack import START, Damaged, Stack, kernels, key_of
from nelbo.codec.tables import HIGH, LOW
from nelbo.errors import UsageError
from tests.codec import reference


def stack(n: int = 0) -> Stack:
    return Stack(np.arange(n, dtype=np.uint32) * np.uint32(2654435761), START)


def test_tables_are_those_of_the_specification():
    assert tables.PHI.tolist() == reference.PHI and tables.EXP.tolist() == reference.EXP
    numbers = [LOW, -300, -1, 0, 1, 255, 256, 777, HIGH]
    assert [float(tables.WIDTH[n - LOW]) for n in numbers] == [reference.width_of(n) for n in numbers]


def test_tables_are_near_what_they_stand_for():
    x = np.arange(0, 2049) / 256
    phi = [0.5 * math.erfc(v / math.sqrt(2)) for v in x]
    assert np.abs(tables.PHI / 2**30 - phi).max() < 3e-9
    n = np.arange(LOW, HIGH + 1)
    assert np.abs(tables.WIDTH / 2.0 ** (n / 256) - 1).max() < 1e-14
    assert np.abs(tables.EXP / 2**26 - np.exp(-np.arange(1281) / 64)).max() < 2**-25
    y = np.linspace(-32, 0, 4097)
    assert np.abs(tables.exp(y) / np.exp(y) - 1).max() < 1e-11
    # what is made when the module is imported is what its functions make
    assert np.array_equal(tables._widths(), tables.WIDTH) and np.array_equal(tables._phi(), tables.PHI)


@pytest.mark.parametrize("key", [0, key_of(3, 8)])
def test_normals_are_the_reference_to_the_bit_and_undone(key):
    rng = np.random.default_rng(0)
    number = rng.integers(0, 1200, 300)
    mean = rng.integers(-(10**6), 10**6, 300)
    spread = rng.normal(size=300).clip(-5, 5) * tables.WIDTH[number - LOW]
    k = np.round(mean / 1024 + spread).astype(np.int64)
    if not key:  # escapes of every length
        k[::10] += rng.integers(-(2**40), 2**40, 30) >> rng.integers(0, 40, 30)
    ours, theirs = stack(), reference.Coder([], START)
    ours.push_normal(k, mean, number - LOW, key)
    theirs.normals(k, mean, number, key)
    assert ours.buf[: ours.height].tolist() == theirs.words and int(ours.state[0]) == theirs.state
    assert np.array_equal(ours.pop_normal(mean, number - LOW, key), k)
    assert ours.height == 0 and int(ours.state[0]) == START


def test_masses_and_gaussians_are_the_reference_to_the_bit_and_undone():
    rng = np.random.default_rng(1)
    cost, codes = rng.integers(0, 1281, (200, 17)), rng.integers(0, 17, 200)
    ours, theirs = stack(), reference.Coder([], START)
    ours.push_masses(codes, cost)
    theirs.masses(codes, cost)
    mean, number, pixels = rng.integers(-3000, 20 * 1024, 200), rng.integers(-1000, 1500, 200), rng.integers(0, 17, 200)
    ours.push_mixture(pixels, 17, mean, number - LOW)
    theirs.gaussians(pixels, 17, mean, number)
    assert ours.buf[: ours.height].tolist() == theirs.words and int(ours.state[0]) == theirs.state
    assert np.array_equal(ours.pop_mixture(17, mean, number - LOW), pixels)
    assert np.array_equal(ours.pop_masses(cost), codes) and ours.height == 0


def test_mixtures_are_undone():
    rng = np.random.default_rng(2)
    parts = rng.integers(1, 1000, (3, 6))
    parts[:, 3] += (1 << 20) - parts.sum(1)
    histogram = np.concatenate([[0], np.sort(rng.integers(0, 1 << 30, 255)), [1 << 30]])
    codes, part = rng.integers(0, 256, 500), rng.integers(0, 3, 500)
    mean, width = rng.integers(0, 256 << 10, 500), rng.integers(0, HIGH - LOW + 1, 500)
    ours = stack()
    ours.push_mixture(codes, 256, mean, width, parts, part, histogram)
    assert np.array_equal(ours.pop_mixture(256, mean, width, parts, part, histogram), codes)
    assert ours.height == 0 and int(ours.state[0]) == START


def test_an_empty_stack_and_impossible_symbols_are_refused():
    with pytest.raises(Damaged):
        stack().pop_normal(np.zeros(100, np.int64), np.full(100, 300 - LOW))
    for width in (-1, HIGH - LOW + 1):
        with pytest.raises(Damaged):
            stack().push_normal(np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, width))
    with pytest.raises(Damaged):
        stack().push_normal(np.full(1, 10**6), np.zeros(1, np.int64), np.full(1, -LOW), key_of(0, 0))
    with pytest.raises(Damaged):
        stack().push_masses(np.full(1, 4), np.zeros((1, 4), np.int64))
    with pytest.raises(Damaged):
        stack().push_normal(np.full(1, 2**50), np.zeros(1, np.int64), np.full(1, -LOW))


def test_without_numba_the_remedy_is_named(monkeypatch):
    monkeypatch.delattr(codec, "rans", raising=False)
    monkeypatch.delitem(sys.modules, "nelbo.codec.rans", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(UsageError, match="numba") as caught:
        kernels()
    assert caught.value.hint == 'pip install "nelbo[codec]"'
