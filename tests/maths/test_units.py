"""Bits per dimension and back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.errors import UsageError
from nelbo.maths import units


def test_uniform_bytes_have_eight_bits():
    assert units.bits_per_dim(3072 * math.log(256), 3072) == pytest.approx(8.0, rel=1e-15)
    assert units.nats(8.0, 3072) == pytest.approx(3072 * math.log(256), rel=1e-15)


@settings(derandomize=True, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 10**7))
def test_round_trip(value, dimensions):
    assert units.nats(units.bits_per_dim(value, dimensions), dimensions) == pytest.approx(value, rel=1e-14)


def test_tensors_keep_shape_and_dtype():
    nats = torch.full((2, 3), 12 * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(units.bits_per_dim(nats, 4), torch.full((2, 3), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", [0, -3, 2.0, True])
@pytest.mark.parametrize("convert", [units.bits_per_dim, units.nats])
def test_refuses(convert, dimensions):
    with pytest.raises(UsageError, match="number of values of one example"):
        convert(1.0, dimensions)
