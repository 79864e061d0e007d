"""Data that lie on another lattice than they are declared to: named; every other data in silence."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.bound import lattices
from nelbo.data import read

DIGITS = read("digits:test").data.long()
BYTES = torch.randint(256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0))
NORMAL = torch.randn(200, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def note(data: torch.Tensor, bins: int | None) -> str | None:
    found = lattices.notes(nelbo.DataDomain(tuple(data.shape[1:]), bins), data)
    assert len(found) <= 1
    return found[0] if found else None


REAL = {
    "digits at k/8 − 1": (DIGITS.double() / 8 - 1, 17, "low=-1, high=1", "((x + 1) / 0.125).round()"),
    "digits at k/16": (DIGITS.float() / 16, 17, "low=0, high=1", "(x / 0.0625).round()"),
    "digits as they are": (DIGITS.double(), 17, "low=0, high=16", "(x / 1).round()"),
    "bytes in −1..1, float32": (BYTES.float() / 127.5 - 1, 256, "low=-1, high=1", "round()"),
    "bytes in 0..1, float32": (BYTES.float() / 255, 256, "low=0, high=1", "round()"),
    "bytes less a mean": (BYTES.double() - 117.25, 256, "low=-117.25, high=137.75", "((x + 117.25) / 1).round()"),
    "three values": ((DIGITS // 6).double() - 0.5, 3, "low=-0.5, high=1.5", "round()"),
    "black and white": ((DIGITS > 7).double(), 2, "low=0, high=1", "(x / 1).round()"),
}


@pytest.mark.parametrize("name", REAL)
def test_values_on_a_lattice(name):
    """The number of levels, the declaration and the codes to give are named; and these codes are a lattice's."""
    data, levels, ends, codes = REAL[name]
    told = note(data, None)
    assert told is not None and "the data are declared real" in told
    assert f"bins={levels}, {ends})" in told and codes in told
    lattice = lattices.of_values(data.flatten())
    assert lattice is not None and lattice.levels == levels
    found = lattice.codes(data)
    torch.testing.assert_close(lattice.low + lattice.step * found.double(), data.double(), rtol=0, atol=1e-6)


CODES = {
    "17 levels in 18 bins": (DIGITS, 18, 17, "no code is above 16"),
    "17 levels in 256 bins": (DIGITS, 256, 17, "no code is above 16"),
    "17 levels in 257 bins": (DIGITS, 257, 17, "no code is above 16"),
    "6 bits in 8": (BYTES // 4, 256, 64, "no code is above 63"),
    "7 bits in 8": (BYTES // 2, 256, 128, "no code is above 127"),
    "multiples of 4": (BYTES // 4 * 4, 256, 64, "multiples of 4:"),
    "even codes": (BYTES // 2 * 2, 256, 128, "multiples of 2:"),
    "odd codes": (BYTES // 2 * 2 + 1, 256, 128, "multiples of 2, counted from 1"),
    "digits times 15": (DIGITS * 15, 256, 17, "multiples of 15"),
    "digits in bytes, rounded": ((DIGITS * 255 / 16).round().long(), 256, 17, "17 levels stretched to 0..255"),
    "digits in bytes, cut": (DIGITS * 255 // 16, 256, 17, "17 levels stretched to 0..255"),
    "black and white in bytes": ((DIGITS > 7).long() * 255, 256, 2, "multiples of 255"),
    "black and white in 17": ((DIGITS > 7).long() * 16, 17, 2, "multiples of 16"),
    "32 levels in bytes": ((BYTES // 8 * 255 / 31).round().long(), 256, 32, "32 levels stretched"),
}


@pytest.mark.parametrize("name", CODES)
def test_codes_of_fewer_levels(name):
    data, bins, levels, what = CODES[name]
    told = note(data, bins)
    assert told is not None and f"{bins} bins are declared" in told
    assert what in told and f"declare bins={levels} and give" in told


def law(probabilities, n: int = 64) -> torch.Tensor:
    return nelbo.exact.CategoricalData(torch.tensor(probabilities)).sample(n)


RIGHT = {
    "digits": (DIGITS, 17),
    "the first two digits": (DIGITS[:2], 17),
    "one digit": (DIGITS[:1], 17),
    "bytes": (BYTES, 256),
    "dark bytes, whose tail tapers": ((NORMAL.abs() * 12).long().clamp(max=255), 256),
    "bright bytes": (255 - (NORMAL.abs() * 12).long().clamp(max=255), 256),
    "bytes without the last": (BYTES.clamp(max=254), 256),
    "four bytes": (BYTES[:4, :1, :2, :2], 256),
    "two levels in two bins": ((DIGITS > 7).long(), 2),
    "three levels of a law": (law([[0.7, 0.2, 0.1]] * 4), 3),
    "17 levels of a law": (law([[1 / 17] * 17] * 4), 17),
    "a rare last code": (law([[0.5, 0.3, 0.19, 0.01]] * 8), 4),
    "one value": (torch.full((20, 8, 8), 5), 17),
    "normal values": (NORMAL, None),
    "normal values in half precision": (NORMAL.half().float(), None),
    "normal values in bfloat16": (NORMAL.bfloat16().float(), None),
    "a few values": (torch.tensor([[-1.7], [0.0], [0.4], [2.3]], dtype=torch.float64), None),
    "zeros and normal values": (NORMAL.clamp(min=0), None),
    "one real value": (torch.full((20, 8, 8), 0.3), None),
    "values that fall short of their places": (
        torch.tensor([0.0, 1.0, 2.8, 3.8], dtype=torch.float64)[DIGITS // 5],
        None,
    ),
    "uneven values": (torch.tensor([0.0, 1.0, 2.5, 7.1], dtype=torch.float64)[DIGITS // 5], None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_declared_rightly_is_not_remarked_on(name):
    assert note(*RIGHT[name]) is None


def test_a_code_that_only_few_examples_have_is_seen():
    """The sample holds no code above 16, and all data do."""
    data = torch.cat([DIGITS.repeat(20, 1, 1), torch.full((1, 8, 8), 200)])
    assert len(lattices.sample(data)) < data.numel() and note(data[:-1], 256) is not None
    assert note(data, 256) is None


def test_memory_is_given_back():
    times = []
    lattices.notes(nelbo.DataDomain((8, 8), 18), DIGITS, lambda: times.append(1))
    assert times


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
def test_evaluate_tells():
    model = nelbo.exact.GaussianData(torch.zeros(64), torch.ones(64)).model(
        nelbo.schedules.logsnr_linear(5.0, -5.0), nelbo.grids.even(2)
    )
    bound = nelbo.evaluate(model, DIGITS[:40].flatten(1).double() / 8 - 1, max_nfe=200, tolerance=1.0)
    assert any("bins=17, low=-1, high=1" in warning for warning in bound.warnings)
