"""`benchmarks/gpu.py`: it computes rows of the record on the device, and reports a value that is not the CPU's."""

from __future__ import annotations

import json

import pytest
from benchmarks import gpu
from tools import record

from tests import standin

NAMES = ["evaluate.stratified.finite", "compare.results", "sample.encode"]


def test_rows_are_computed_on_the_device(capsys):
    """The stand-in gives the CPU's numbers; the same device without it holds none, so that the row fails."""
    for name in NAMES:
        here = record.compute(name)
        with standin.present() as there:
            found = record.compute(name, str(there))
        assert gpu.compared(name, here, found, None)[0], found
    assert gpu.repeated(NAMES[:1], str(standin.DEVICE), here=True) == NAMES[:1]
    assert "Error" in capsys.readouterr().out


def test_on_the_cpu_every_bit_is_equal(capsys):
    assert gpu.repeated(NAMES, "cpu", here=True) == []
    assert capsys.readouterr().out.count("| equal | ok |") == len(NAMES)


def test_a_value_beyond_its_tolerance_is_reported(tmp_path, monkeypatch, capsys):
    """Status 1, with the farthest value in the table; a difference within the tolerance is none."""
    name = NAMES[0]
    found, path = record.compute(name), tmp_path / "record.json"
    monkeypatch.setattr(record, "FILE", path)
    for factor, status in ((1 + 3e-3, 1), (1 + 3e-5, 0)):
        changed = found | {"bits_per_dim": (float.fromhex(found["bits_per_dim"]) * factor).hex()}
        path.write_text(json.dumps({"hardware": {}, "rows": {name: changed}}))
        given = ["--device", "cpu", "--only", "record", "--rows", name, "--out", str(tmp_path)]
        assert gpu.main(given) == status
        out = capsys.readouterr().out
        assert f"| {name} | bits_per_dim | " in out
        assert ("| differs |" in out) == bool(status)


def test_rounding_moves_a_network_and_stays_within_the_tolerance(capsys):
    name = "evaluate.batch-and-seed"
    here = record.compute(name)
    with gpu.Rounding():
        found = record.compute(name)
    assert 0 < record.distance("bits_per_dim", here, found) < 1e-6
    assert gpu.compared(name, here, found, gpu.allowed(name))[0]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("evaluate.exhaustive.2", 1e-4),
        ("evaluate.precision.bf16", 0.03),
        ("evaluate.auto.large", 0.05),
        ("train.default", 0.02),
        ("train.bf16", 0.03),
    ],
)
def test_tolerances(name, tolerance):
    assert gpu.allowed(name) == tolerance
