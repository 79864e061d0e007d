"""Codes that were stored as floats are recognised, with the line that makes integers of them; real numbers are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from nelbo.errors import DomainError, UsageError
from nelbo.model import float_codes
from nelbo.model.domain import DataDomain

CODES = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4)).astype(np.uint8)
WAYS = {
    "x / 255 in float32": CODES.astype(np.float32) / 255,
    "x / 255 in float64": CODES / 255.0,
    "2 x / 255 - 1": CODES.astype(np.float32) / np.float32(127.5) - 1,
    "(x / 255 - 0.5) / 0.5": (CODES.astype(np.float32) / 255 - 0.5) / np.float32(0.5),
    "whole numbers": CODES.astype(np.float32),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_line_gives_the_codes_back(way):
    x = WAYS[way]
    line = float_codes.line(torch.from_numpy(x), 256)
    back = eval(line, {"x": x})  # what the error tells people to write
    assert back.dtype == np.uint8 and np.array_equal(back, CODES)


REAL = {
    "normal": np.random.default_rng(1).normal(size=(6, 16)),
    "uniform": np.random.default_rng(1).random((6, 16)),
    "other levels": CODES / 100.0,
    "ends alone": (CODES > 100) * 1.0,
    "signs": (CODES > 100) * 2.0 - 1,
    "zeros": np.zeros((6, 16)),
    "codes beyond": CODES * 3.0,
    "NaN": np.full((6, 16), np.nan),
    "16 levels of 255": (CODES // 16) / 15.0 + 1e-3,
}


@pytest.mark.parametrize("case", REAL)
def test_real_numbers_are_none(case):
    assert float_codes.line(torch.from_numpy(REAL[case]), 256) is None


def test_any_number_of_codes():
    x = torch.arange(64).reshape(2, 32).double() % 17
    assert float_codes.line(x / 16, 17) == "(x * 16).round().astype('uint8')"
    assert float_codes.line(x / 8 - 1, 17) == "((x + 1) * 8).round().astype('uint8')"
    assert float_codes.line(x, 1000) == "x.astype('int32')"
    assert float_codes.line(x, 17, whole=False) is None


def test_a_model_of_codes_tells_the_line():
    domain = DataDomain((1, 4, 4), bins=256)
    with pytest.raises(DomainError, match="these are 256 codes as floats") as caught:
        domain.checked(torch.from_numpy(WAYS["2 x / 255 - 1"]))
    assert caught.value.hint == "give x = ((x + 1) * 127.5).round().astype('uint8')"
    with pytest.raises(DomainError, match=r"where integer codes 0\.\.255 are expected") as caught:
        domain.checked(torch.randn(6, 1, 4, 4))
    assert "code k stands for" in caught.value.hint


def test_channels_in_the_wrong_place_are_named():
    domain = DataDomain((3, 8, 8), bins=256)
    with pytest.raises(nelbo.errors.ShapeError, match="shape") as caught:
        domain.checked(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    assert "channels come last: give x.transpose(0, 3, 1, 2)" in caught.value.hint
    with pytest.raises(nelbo.errors.ShapeError) as caught:
        DataDomain((8, 8, 3), bins=256).checked(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert "channels come first: give x.transpose(0, 2, 3, 1)" in caught.value.hint


@pytest.mark.parametrize("way", WAYS)
def test_training_on_them_is_refused(tmp_path, way):
    with pytest.raises(UsageError, match="are codes of 256 values") as caught:
        nelbo.train(WAYS[way], tmp_path / "run", {"steps": 1})
    assert "x = " in caught.value.hint
