"""`nelbo demo --text`, shortened: what it trains on, writes and says."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import nelbo
from nelbo.cli import demo_text
from nelbo.cli.main import app


def test_train_and_test_are_different_modules():
    train, test = demo_text.sources()
    assert len(train) == demo_text.TRAIN_BYTES and len(test) == demo_text.TEST_BYTES
    assert test[:500] not in train and b"import" in test


@pytest.mark.slow
def test_the_demo_on_text(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "TRAIN_BYTES", 20_000)
    monkeypatch.setattr(demo_text, "TEST_BYTES", 1_000)
    net = {**demo_text.SETTINGS["net"], "width": 16, "blocks": 1}
    monkeypatch.setattr(demo_text, "SETTINGS", {**demo_text.SETTINGS, "steps": 6, "net": net})
    out = tmp_path / "demo"
    done = CliRunner().invoke(app, ["demo", "--text", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["bound"]["units"]["bits_per_byte"]["value"] == pytest.approx(document["bound"]["bits_per_dim"])
    rows = {row["name"]: row for row in document["comparison"]}
    assert rows["nelbo, 16 steps"]["bytes"] == (out / "test.nelbo").stat().st_size
    model = nelbo.load(out / "model").with_grid(nelbo.grids.even(16))
    assert nelbo.codec.decompress(model, out / "test.nelbo") == (out / "test.txt").read_bytes()
    assert (out / "samples.txt").read_text().count("# sample ") == 8 and (out / "report.html").exists()
    assert CliRunner().invoke(app, ["demo", "--text", "--out", str(out)]).exit_code == 0  # done again
