"""Parts are written as JSON and tensors and read back the same; tests/test_folder.py does the same to whole models."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from nelbo import parts
from nelbo.errors import ModelFolderError, UnknownNameError
from nelbo.model.decoder import ContinuousGaussian, Decoder, DiscretizedGaussian, LogSpread, RangeSpread
from nelbo.model.domain import DataDomain
from nelbo.model.prior import Prior
from nelbo.model.reverse import Beta, Clip, LearnedLog, LearnedRange, Reverse
from nelbo.parts import Part
from nelbo.process.every_grid import Grid
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
        r"lacks its field 'variance', which is a finite number or null",
    ),
    (
        lambda: Decoder.from_config({"kind": "categorical", "x": 1}, {}),
        ModelFolderError,
        r"has no field 'x'\nhint: its fields are log_prior",
    ),
    (
        lambda: Schedule.from_config({"kind": "table"}, {}),
        ModelFolderError,
        r"'table' lacks its field 'table', which is a tensor",
    ),
    (
        lambda: Schedule.from_config({"kind": "logsnr_linear", "logsnr_max": "a", "logsnr_min": 0}, {}),
        ModelFolderError,
        r"'logsnr_linear' has logsnr_max = 'a'\nhint: logsnr_max is a finite number",
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
    (lambda: Reverse.from_config({"kind": "gaussian", "variance": "beta"}, {}), ModelFolderError, r"variance = 'beta'"),
    (
        lambda: Reverse.from_config({**Reverse(Beta()).to_config(), "clip": True}, {}),
        ModelFolderError,
        r"the reverse 'gaussian' has clip = True\nhint: clip is a Clipping, an object with its kind or null",
    ),
    (lambda: Prior.from_config({"kind": ["gaussian"]}, {}), UnknownNameError, r"unknown prior \['gaussian'\]"),
    (lambda: Prior.from_config("gaussian", {}), UnknownNameError, r"unknown prior None"),
    (lambda: Grid.from_config({"kind": "even", "steps": True}, {}), ModelFolderError, r"steps is a whole number"),
    (lambda: Grid.from_config({"kind": "even", "steps": 10**8}, {}), ModelFolderError, r"at most 1048576"),
    (lambda: Grid.from_config({"kind": "even", "steps": 4.0}, {}), ModelFolderError, r"steps = 4.0"),
    (lambda: Grid.from_config({"kind": "times", "times": [0, "x"]}, {}), ModelFolderError, r"times = \[0, 'x'\]"),
    (lambda: Grid.from_config({"kind": "full"}, {"first": torch.ones(1)}), ModelFolderError, r"a tensor as its field"),
    (lambda: Grid.from_config({"kind": "full"}, {"x.y": torch.ones(1)}), ModelFolderError, r"no field 'x'"),
    (lambda: DataDomain.from_config({"kind": "domain", "shape": [10**5, 10**5]}, {}), ModelFolderError, r"at most"),
    (
        lambda: Decoder.from_config({"kind": "discretized_gaussian", "variance": 0.1}, {"spread.x": torch.ones(1)}),
        ModelFolderError,
        r"tensors of 'spread', and no such part",
    ),
)


def test_limits_are_of_fields():
    """And no example of the tests comes near one."""
    for family in parts._KINDS:
        for part in parts.kinds(family).values():
            known = {field.name for field in dataclasses.fields(part)} | {"steps", "first"}
            assert set(part.limits) <= known, part


def test_parts_are_frozen():
    with pytest.raises(AttributeError):
        DiscretizedGaussian(0.1).variance = 0.2
