"""The record of exact results: every row is as it is in tools/record.json, and a changed value is noticed."""

from __future__ import annotations

import json
import math

import pytest
from tools import record


@pytest.mark.slow
def test_every_row_is_as_recorded(capsys):
    assert record.main([]) == 0, capsys.readouterr().out


def test_the_record_can_fail(tmp_path, capsys):
    """One bit of a number, a hash, a count, a missing value: each is noticed; to tolerance only the last two are."""
    name = "evaluate.exhaustive.2"
    recorded = json.loads(record.FILE.read_text())
    file, found = tmp_path / "record.json", record.compute(name)
    changes = {
        "bits_per_dim": math.nextafter(float.fromhex(found["bits_per_dim"]), math.inf).hex(),
        "nats": "sha256:" + "0" * 16,
        "nfe": found["nfe"] + 1,
        "another": 1,
    }
    for key, value in changes.items():
        row = {**found, key: value}
        file.write_text(json.dumps({"hardware": record.hardware(), "rows": {**recorded["rows"], name: row}}))
        assert record.main(["--only", name, "--file", str(file)]) == 1
        assert key in capsys.readouterr().out
        elsewhere = {d.key for d in record.differences(name, row, found, rel=1e-5)}
        assert elsewhere == ({key} if key in ("nfe", "another") else set())
    file.write_text(json.dumps({"hardware": record.hardware(), "rows": {**recorded["rows"], name: found}}))
    assert record.main(["--only", name, "--file", str(file)]) == 0


def test_every_row_is_in_the_file():
    assert list(json.loads(record.FILE.read_text())["rows"]) == list(record.ROWS)
