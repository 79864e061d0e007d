"""What the commands write: tables, pure JSON, files that are whole, and the same numbers in all of them."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import nelbo as library
from nelbo.cli import image_formats, info
from nelbo.cli.output import session
from nelbo.data import read

TWO = ("--data", "digits:test", "--limit", "5")


def test_evaluate_says_the_same_everywhere(nelbo, trained, tmp_path):
    file, rows = tmp_path / "new" / "bound.json", tmp_path / "rows.npz"
    result = nelbo("evaluate", trained, *TWO, "--seed", "3", "--out", file, "--per-example", rows, "--json")
    assert result.status == 0
    document = result.json
    written = json.loads(file.read_text())
    bound = library.evaluate(str(trained), "digits:test", limit=5, seed=3, per_example=True)
    expected = bound.to_dict()
    for one in (document, written, expected):
        del one["seconds"]
    assert document == written == json.loads(json.dumps(expected))
    assert document["schema"] == "nelbo.bound/1" and document["seed"] == 3 and document["examples"] == 5
    arrays = dict(np.load(rows))
    assert list(arrays) == ["index", "nats", "standard_error", "prior", "diffusion", "reconstruction"]
    assert arrays["index"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["nats"].tolist() == document["nats_per_example"]
    np.testing.assert_allclose(arrays["prior"] + arrays["diffusion"] + arrays["reconstruction"], arrays["nats"])
    assert arrays["nats"].mean() / 64 / np.log(2) == pytest.approx(document["bits_per_dim"], rel=1e-12)


def test_evaluate_prints_the_table(nelbo, trained):
    result = nelbo("evaluate", trained, *TWO)
    table = str(library.evaluate(str(trained), "digits:test", limit=5))
    named = table.replace("max_nfe=", "--max-nfe").replace("any_cost=True", "--any-cost")
    assert result.status == 0 and result.out == named + "\n" and named != table
    assert result.err.startswith("warning: the tolerance 0.01 was not reached with")


def test_grids_precision_and_batches_arrive(nelbo, trained):
    coarse = nelbo("evaluate", trained, *TWO, "--steps", "2", "--json").json
    limit = nelbo("evaluate", trained, *TWO, "--continuous", "--json").json
    assert (coarse["grid"]["kind"], coarse["grid"]["steps"]) == ("even", 2)
    assert (limit["grid"]["kind"], limit["grid"]["steps"]) == ("continuous", None)
    fine = nelbo("evaluate", trained, *TWO, "--json", "--steps", "2", "--batch-size", "2", "--precision", "float64")
    assert fine.json["precision"] == "float64"
    assert fine.json["bits_per_dim"] == pytest.approx(coarse["bits_per_dim"], rel=1e-5)


def test_json_is_pure_whatever_a_plugin_prints(nelbo, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("chatty.py").write_text(
        f"import nelbo\ndef make():\n    print('hello from the network')\n    return nelbo.load({str(trained)!r})\n"
    )
    result = nelbo("info", "chatty:make", "--json")
    assert result.json["fingerprint"] == library.load(str(trained)).fingerprint()
    assert "hello from the network" in result.err


EXTRAS = {"train", "diffusers", "codec", "data", "lightning", "torchmetrics", "transformers", "text"}


def test_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) - {"all", "docs", "dev"} == EXTRAS


def test_an_extra_that_is_missing(nelbo, monkeypatch):
    """Its packages are named with the remedy, and lines are as wide as the terminal."""
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(info, "find_spec", lambda module: None if module == "numba" else object())
    assert nelbo("info", "--json").json["extras"]["codec"]["missing"] == ["numba"]
    printed = nelbo("info").out
    assert "compress and decompress (missing: numba; pip install" in printed and "'nelbo[codec]')" in printed
    assert max(map(len, printed.splitlines())) <= 70


def test_a_report_finds_the_bound_beside_the_folder(nelbo, trained, tmp_path):
    """bound.json beside a model folder is shown if it is of that model; --bound names any other."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    how = ("--data", "digits:test", "--limit", "5", "--estimator", "exhaustive")
    evaluated = nelbo("evaluate", folder, *how, "--out", tmp_path / "bound.json")
    assert evaluated.status == 0
    value = f"{library.Bound.load(tmp_path / 'bound.json').bits_per_dim:.5f}"
    page = tmp_path / "report.html"
    assert nelbo("report", folder, "--out", page).status == 0 and value in page.read_text()
    other = json.loads((tmp_path / "bound.json").read_text())
    other["model"]["fingerprint"] = "0" * 64
    (tmp_path / "bound.json").write_text(json.dumps(other))
    assert nelbo("report", folder, "--out", page).status == 0 and "holds no bound" in page.read_text()
    assert nelbo("report", folder, "--bound", tmp_path / "bound.json", "--out", page).status == 0
    assert value in page.read_text()
    assert "no file" in nelbo("report", folder, "--bound", tmp_path / "none.json", "--out", page).refused()


def test_info(nelbo, trained):
    machine = nelbo("info", "--json").json
    assert machine["version"] == library.__version__
    assert {"torch", "device", "devices", "threads", "python"} <= set(machine)
    assert f"version         {library.__version__}" in nelbo("info").out
    assert set(machine["extras"]) == EXTRAS and all(about["for"] for about in machine["extras"].values())
    model = library.load(str(trained))
    document = nelbo("info", trained, "--json").json
    assert document["fingerprint"] == model.fingerprint()
    assert document["parameters"] == model.parameters
    assert document["steps"] == 4
    assert document["provenance"]["data"]["name"] == "digits:train"
    lines = nelbo("info", trained).out.splitlines()
    assert any(line.startswith("fingerprint") for line in lines) and "provenance" in lines


def test_sample(nelbo, trained, tmp_path):
    array, picture = tmp_path / "s.npz", tmp_path / "s.png"
    document = nelbo("sample", trained, "-n", "5", "--seed", "7", "--out", array, "--json").json
    samples = np.load(array)["samples"]
    assert samples.shape == (5, 8, 8) and samples.dtype.kind == "i" and document["shape"] == [5, 8, 8]
    assert (samples == library.sample(str(trained), 5, seed=7).numpy()).all()
    result = nelbo("sample", trained, "-n", "5", "--out", picture, "--steps", "2")
    assert (result.status, result.out) == (0, f"{picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sample_by_another_sampler_and_grid(nelbo, trained, tmp_path):
    file = tmp_path / "s.npz"
    result = ["--sampler", "heun", "--steps", "3", "--grid", "karras"]
    document = nelbo("sample", trained, "-n", "3", *result, "--out", file, "--json").json
    assert (document["sampler"], document["steps"], document["grid"]) == ("heun", 3, "karras")
    again = library.sample(str(trained), 3, sampler="heun", steps=3, grid="karras")
    assert (np.load(file)["samples"] == again.numpy()).all()
    lone = nelbo("sample", trained, "-n", "3", "--out", file, "--guidance", "2").refused()
    assert "guidance 2.0 with no condition" in lone


def test_train_speaks_json_and_takes_a_file_of_settings(nelbo, tmp_path):
    (tmp_path / "c.toml").write_text("steps = 9\nlr = 0.01\n[net]\nwidth = 8\n")
    arguments = ["--config", tmp_path / "c.toml", "--set", "steps=2", "--set", "levels=3"]
    document = nelbo("train", "--data", "digits:train", "--out", tmp_path / "m", *arguments, "--json").json
    config = document["provenance"]["config"]
    assert (config["steps"], config["lr"], config["net"]["settings"]["width"], config["levels"]) == (2, 0.01, 8, 3)
    assert document["fingerprint"] == library.load(str(tmp_path / "m")).fingerprint()
    assert document["last"]["step"] == 2


def test_report_of_a_model_folder(nelbo, trained, tmp_path):
    result = nelbo("report", trained, "--out", tmp_path / "r.html")
    assert (result.status, result.out) == (0, f"{tmp_path / 'r.html'}\n")
    assert "<html" in (tmp_path / "r.html").read_text()


def test_devices_are_written_to_and_not_replaced(nelbo, trained):
    assert nelbo("evaluate", trained, *TWO, "--out", "/dev/null").status == 0
    assert Path("/dev/null").is_char_device()


def test_a_process_of_its_own(run_nelbo, trained):
    done = run_nelbo("evaluate", trained, "--data", "digits:train", "--limit", "2", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["examples"] == 2
    assert "warning: 2 of 2 examples are among those" in done.stderr


def test_no_nan_gets_into_json(capsys):
    with pytest.raises(ValueError, match="JSON"), session(True) as output:
        output.document({"x": float("nan")})
    assert capsys.readouterr().out == ""


def test_image_formats_are_measured_on_exactly_these_codes():
    codes = read("digits:test").data
    sheet = image_formats.sheet(codes.numpy())
    assert sheet.shape == (18 * 8, 20 * 8)
    assert (sheet[8:16, 16:24] == codes[22].numpy()).all()
    rows = {row["name"]: row for row in image_formats.comparison(codes)["rows"]}
    assert (rows["JPEG XL"]["bits_per_dim"], rows["JPEG XL"]["measured"]) == (2.40, False)
    assert "measured elsewhere" in rows["JPEG XL"]["note"]
    pytest.importorskip("PIL")
    for name, reference in {"PNG": 3.31, "WebP": 3.08}.items():
        assert rows[name]["measured"] and rows[name]["bits_per_dim"] == pytest.approx(reference, abs=0.15)
        assert rows[name]["bits_per_dim"] == 8 * rows[name]["bytes"] / codes.numel()


def test_image_formats_without_pillow_are_references(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    rows = image_formats.comparison(np.zeros((4, 8, 8), np.int64))["rows"]
    assert [(r["name"], r["bits_per_dim"], r["measured"]) for r in rows] == [
        ("JPEG XL", 2.40, False),
        ("WebP", 3.08, False),
        ("PNG", 3.31, False),
    ]
