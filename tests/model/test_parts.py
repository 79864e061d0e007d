"""Parts are written as JSON and tensors and read back the same; tests/test_folder.py does the same to whole models."""

from __future__ import annotations

import json

import pytest
import torch

from nelbo import parts
from nelbo.errors import ModelFolderError, UnknownNameError
from nelbo.model.decoder import ContinuousGaussian, Decoder, DiscretizedGaussian, LogSpread, RangeSpread
from nelbo.model.prior import Prior
from nelbo.model.reverse import Beta, Clip, LearnedLog, LearnedRange, Reverse
from nelbo.parts import Part
from nelbo.process.schedule import Schedule
from tests.model.cases import CALIBRATED
from tests.tables import refusals

PARTS = (
    LearnedRange(),
    LearnedLog(),
    CALIBRATED,
    DiscretizedGaussian(None, RangeSpread(0.01, 0.03)),
    ContinuousGaussian(None, LogSpread()),
)
"""Parts that no folder of tests/folder_cases.py holds: none of nelbo's own networks predicts a variance."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
def test_round_trip(part):
    config = json.loads(json.dumps(part.to_config(), allow_nan=False))
    family = next(c for c in type(part).__mro__ if c.__dict__.get("family") or Part in c.__bases__)
    again = family.from_config(config, part.to_tensors())
    assert type(again) is type(part)
    assert again.to_config() == part.to_config()
    before, after = part.to_tensors(), again.to_tensors()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_every_spread_has_an_example():
    examples = {type(part.spread) for part in PARTS if isinstance(part, DiscretizedGaussian | ContinuousGaussian)}
    assert examples == set(parts.kinds("spread").values())


def test_nested_parts_come_back():
    again = Reverse.from_config(Reverse(Beta(), Clip(0.0, 2.0)).to_config(), {})
    assert again.variance.kind == "beta" and again.clip is not None and (again.clip.low, again.clip.high) == (0.0, 2.0)


test_a_foreign_description_is_refused = refusals(
    (
        lambda: Decoder.from_config({"kind": "gauss"}, {}),
        UnknownNameError,
        r"unknown decoder 'gauss'\nhint: .*categorical",
    ),
    (lambda: Prior.from_config({}, {}), UnknownNameError, r"unknown prior None"),
    (
        lambda: Decoder.from_config({"kind": "discretized_gaussian"}, {}),
        ModelFolderError,
        r"cannot be built from .*variance",
    ),
    (lambda: Decoder.from_config({"kind": "categorical", "x": 1}, {}), ModelFolderError, r"fields \['x'\]"),
    (lambda: Schedule.from_config({"kind": "table"}, {}), ModelFolderError, r"'table' cannot be built"),
    (
        lambda: Schedule.from_config({"kind": "logsnr_linear", "logsnr_max": "a", "logsnr_min": 0}, {}),
        Exception,
        r"logsnr_max=.a. is no number",
    ),
    (
        lambda: Reverse.from_config({"kind": "gaussian", "variance": {"kind": "gamma"}}, {}),
        UnknownNameError,
        r"'gamma'",
    ),
    (
        lambda: Reverse.from_config({"kind": "gaussian", "variance": {"kind": "categorical"}}, {}),
        UnknownNameError,
        r"variance",
    ),
)


def test_parts_are_frozen():
    with pytest.raises(AttributeError):
        DiscretizedGaussian(0.1).variance = 0.2
