"""The data domain and the examples: values of codes, every refusal, and fingerprints."""

from __future__ import annotations

import math

import numpy as np
import torch

from nelbo.errors import DomainError, ShapeError
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from tests.tables import refusals

CODES = DataDomain((1, 2, 2), 17)
REAL = DataDomain((3,))


def test_codes_of_values():
    domain = DataDomain((1,), 5, 0.0, 1.0)
    assert domain.codes(torch.tensor([-3.0, 0.12, 0.13, 0.5, 9.0])).tolist() == [0, 0, 1, 2, 4]


def test_what_is_accepted():
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.int16):
        checked = CODES.checked(torch.full((2, 1, 2, 2), 16, dtype=dtype))
        assert not checked.is_floating_point() and checked.tolist() == [[[[16, 16]] * 2]] * 2
    assert CODES.checked(torch.full((2, 1, 2, 2), 16)).max() == 16
    assert CODES.checked(torch.arange(8).reshape(2, 2, 2)).shape == (2, 1, 2, 2)  # (N, H, W) is one channel
    assert DataDomain((2, 2), 17).checked(torch.zeros(3, 1, 2, 2, dtype=torch.long)).shape == (3, 2, 2)
    assert REAL.checked(torch.ones(2, 3, dtype=torch.float32)).dtype == torch.float32  # no copy of the whole
    assert REAL.checked(torch.ones(2, 3, dtype=torch.int32)).dtype == torch.float64
    assert REAL.checked(np.ones((2, 3))).dtype == torch.float64
    assert DataDomain((1,)).checked(torch.ones(5)).shape == (5, 1)
    assert REAL.dimensions == 3 and CODES.dimensions == 4 and CODES.discrete and not REAL.discrete


test_nonsense_is_refused = refusals(
    (
        lambda: CODES.checked(torch.zeros(2, 3, 2, 2).long()),
        ShapeError,
        r"\(2, 3, 2, 2\), but .*\(1, 2, 2\)\nhint: .*\(N, 1, 2, 2\)",
    ),
    (lambda: CODES.checked(torch.zeros(2, 4).long()), ShapeError, r"nothing is resized or cropped"),
    (lambda: CODES.checked(torch.tensor(3)), ShapeError, r"shape \(\)"),
    (lambda: DataDomain((1,)).checked(torch.tensor(3.0)), ShapeError, r"shape \(\)"),
    (lambda: CODES.checked(torch.zeros(0, 1, 2, 2).long()), ShapeError, r"no examples"),
    (lambda: CODES.checked(torch.zeros(2, 1, 2, 2)), DomainError, r"float32 values where integer codes 0\.\.16"),
    (lambda: CODES.checked(torch.zeros(2, 1, 2, 2).bool()), DomainError, r"bool values"),
    (lambda: CODES.checked(torch.zeros(2, 1, 2, 2).cfloat()), DomainError, r"complex64 values"),
    (
        lambda: CODES.checked(torch.full((2, 1, 2, 2), 17)),
        DomainError,
        r"codes from 17 to 17, but the model has 17 bins",
    ),
    (
        lambda: CODES.checked(torch.full((2, 1, 2, 2), -1), "test data"),
        DomainError,
        r"test data holds codes from -1 to -1",
    ),
    (
        lambda: REAL.checked(torch.tensor([[0, 0, 0], [0, math.nan, 0]])),
        DomainError,
        r"NaN or infinity, first in example 1",
    ),
    (lambda: REAL.checked(torch.tensor([[0, 0, math.inf]])), DomainError, r"first in example 0"),
    (lambda: REAL.codes(torch.tensor([1.0])), r"codes were asked of a domain of real numbers"),
    (lambda: DataDomain(()), r"shape \(\)\nhint: give whole numbers"),
    (lambda: DataDomain((3, 0)), r"shape \(3, 0\)"),
    (lambda: DataDomain((3,), 1), r"domain of 1 bins"),
    (lambda: DataDomain((3,), 2.5), r"bins=2\.5 is no whole number"),
    (lambda: DataDomain((3,), 4, 1.0, 1.0), r"from 1\.0 to 1\.0\nhint: give finite ends"),
    (lambda: DataDomain((3,), 4, -math.inf, 1.0), r"low=-inf is not finite"),
)


def test_fingerprints_follow_the_values_and_nothing_else():
    data = torch.arange(24).reshape(6, 2, 2)
    one = Examples(data, "a")
    assert one.fingerprint == Examples(data.int(), "b").fingerprint  # neither dtype nor name
    assert one.fingerprint != Examples(data.flip(0)).fingerprint  # order
    assert one.fingerprint != Examples(data.double()).fingerprint  # codes are no real values
    assert one.fingerprint != Examples(data.reshape(6, 4)).fingerprint
    changed = data.clone()
    changed[3, 1, 1] += 1
    assert int((one.hashes != Examples(changed).hashes).sum()) == 1
    assert torch.equal(one.hashes.flip(0), Examples(data.flip(0)).hashes)
    assert len(one.first(2)) == 2 and one.first(2).name == "a[:2]" and one.first(99) is one and one.first(None) is one
