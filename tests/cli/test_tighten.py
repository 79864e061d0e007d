"""`nelbo tighten` on the command line: a folder like any other, its certificate, a report, refusals, Ctrl-C."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:only 20 examples to fit to")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A tightened copy of the small model."""
    from nelbo.cli.main import execute

    out = tmp_path_factory.mktemp("tight") / "tight"
    data = ["--data", "digits:test", "--limit", "40", "--first-level", "gaussian"]
    assert execute(["tighten", str(trained), *data, "--steps", "2", "--out", str(out), "--json"]) == 0
    return out


def test_the_folder_evaluates_samples_and_reports(folder, nelbo, tmp_path):
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["schema"] == "nelbo.tightening/1" and certificate["steps"] == 2
    bound = nelbo("evaluate", folder, "--data", "digits:test", "--limit", "20", "--json").json
    assert bound["grid"]["steps"] == 2 and bound["model"]["fingerprint"] == certificate["model"]["after"]
    assert nelbo("sample", folder, "-n", "2", "--out", tmp_path / "s.npz").status == 0
    assert "tightened" in nelbo("info", folder, "--json").json["provenance"]
    page = tmp_path / "page.html"
    assert nelbo("report", folder, "--out", page).status == 0
    text = page.read_text()
    assert "Tightened" in text and "held out" in text and f"{certificate['bits_per_dim']['after']:.3f}" in text


def test_bad_input_is_refused_before_the_work(trained, nelbo, tmp_path):
    out = tmp_path / "out"
    data = ("--data", "digits:test")
    assert "the model in" in nelbo("tighten", trained, *data, "--out", trained).refused()
    assert "--target nan" in nelbo("tighten", trained, *data, "--out", out, "--target", "nan").refused()
    assert "training data" not in nelbo("tighten", trained, *data, "--out", trained / "model.json").refused()
    refused = nelbo("tighten", trained, "--data", "digits:train", "--out", out, "--steps", "2").refused()
    assert "none of which the model was trained on" in refused
    assert not out.exists()


def test_an_interrupt_leaves_nothing_behind(trained, nelbo, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nelbo.tightening.tighten.tighten", stop)
    out = tmp_path / "out"
    result = nelbo("tighten", trained, "--data", "digits:test", "--out", out)
    assert result.status == 130 and "error: interrupted" in result.err and not out.exists()
