"""Moments: against numpy, independent of how the values were split, and honest standard errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.maths.statistics import Moments

F64 = torch.float64
laws = settings(derandomize=True, deadline=None, max_examples=100)
values = st.lists(st.floats(-1e3, 1e3), max_size=20)


def of(xs):
    return Moments.of(torch.tensor(xs, dtype=F64))


def same(a, b, scale=1e3):
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=1e-13 * scale)
    torch.testing.assert_close(a.m2, b.m2, rtol=1e-12, atol=1e-12 * scale**2)


@laws
@given(values, values, values)
def test_merge_is_the_moments_of_all(a, b, c):
    same(of(a).merge(of(b)), of(a + b))
    same(of(b).merge(of(a)), of(a).merge(of(b)))
    same(of(a).merge(of(b)).merge(of(c)), of(a).merge(of(b).merge(of(c))))


@laws
@given(values)
def test_empty_is_the_identity(a):
    m = of(a)
    for merged in (m.merge(Moments.empty()), Moments.empty().merge(m), m.merge(of([])), of([]).merge(m)):
        assert (merged.count, merged.mean, merged.m2) == (m.count, m.mean, m.m2)  # to the bit


def test_against_numpy():
    x = np.random.default_rng(0).gamma(2.0, size=(50, 3, 4))
    m = Moments.of(torch.from_numpy(x))
    np.testing.assert_allclose(m.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(m.variance, x.var(0, ddof=1), rtol=1e-13)
    np.testing.assert_allclose(m.standard_error, x.std(0, ddof=1) / math.sqrt(50), rtol=1e-13)
    m = Moments.of(torch.from_numpy(x), axis=(0, 2))
    np.testing.assert_allclose(m.variance, x.var((0, 2), ddof=1), rtol=1e-13)
    assert m.count == 200 and m.mean.shape == (3,)


def test_large_mean_loses_nothing():
    x = torch.arange(1000, dtype=F64) % 2
    far = 1e9 + x
    chunks = [Moments.of(c) for c in far.split(7)]
    total = Moments.empty()
    for c in chunks:
        total = total.merge(c)
    assert abs(total.variance.item() / x.var().item() - 1) < 1e-6  # the mean itself has 16 digits
    naive = ((far**2).sum() - far.sum() ** 2 / 1000) / 999  # the textbook formula
    assert abs(naive.item() / x.var().item() - 1) > 1e-3


def test_counts_per_element():
    a = Moments(torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 5.0]), torch.tensor([0.0, 2.0, 0.0]))
    b = Moments(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4.0, 0.0, 7.0]), torch.tensor([6.0, 0.0, 0.0]))
    m = a.merge(b)
    assert m.count.tolist() == [3, 2, 2] and m.mean.tolist() == [4, 1, 6] and m.m2.tolist() == [6, 2, 2]
    assert m.variance.tolist() == [3, 2, 2]
    assert m.mean.dtype == F64


def test_unknown_variance_is_nan():
    for m in (Moments.empty(), of([]), of([3.0])):
        assert m.variance.isnan() and m.standard_error.isnan()
    assert of([3.0, 3.0]).variance == 0


def test_floats_and_float32_become_float64():
    assert Moments(2, 1.0, 2.0).variance == 2.0
    assert Moments.of(torch.tensor([0.1, 0.2])).mean.dtype == F64
    with pytest.raises(AttributeError):
        Moments.empty().count = 1  # frozen


def test_standard_error_covers():
    """z-scores of 4,000 means of 50 normals follow Student's t with 49 degrees of freedom."""
    x = torch.from_numpy(np.random.default_rng(1).normal(2.0, 3.0, size=(50, 4000)))
    m = Moments.of(x)
    z = (m.mean - 2.0) / m.standard_error
    over = Moments.of(z)
    assert abs(over.mean / over.standard_error) < 4
    expected = 49 / 47  # variance of Student's t with 49 degrees of freedom
    assert abs(over.variance.item() - expected) < 4 * expected * math.sqrt(2 / 4000) * 1.1
