"""Bad input: exit status 2, `error:` and `hint:` on stderr, nothing on stdout, no traceback; it names the culprit.

The rooms of data, models and settings have tests of every damage; here are a few of each, on their way to the screen.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

CODES = np.arange(3 * 64, dtype=np.int64).reshape(3, 8, 8) % 17
REAL_MODEL = """
import nelbo
def make():
    return nelbo.from_callable(lambda z, t: 0 * z, schedule=nelbo.schedules.linear(T=4),
                               domain=nelbo.DataDomain((8, 8)))
def number():
    return 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _changed(value: float) -> np.ndarray:
    changed = CODES.astype(type(value))
    changed[1, 2, 3] = value
    return changed


def _cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


DATA = {
    "missing": (None, "data.npy"),
    "floats for codes": (CODES / 16, "float"),
    "pickled objects": (np.array([{"a": 1}, {"b": 2}], dtype=object), "data.npy"),
    "code too large": (_changed(5000), "5000"),
    "negative code": (_changed(-1), "-1"),
    "wrong shape": (np.zeros((3, 9, 9), np.int64), "9"),
    "no examples": (np.zeros((0, 8, 8), np.int64), ""),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data(nelbo, trained, case):
    array, word = DATA[case]
    if array is not None:
        np.save("data.npy", array, allow_pickle=True)
    assert word in nelbo("evaluate", trained, "--data", "data.npy").refused()


def test_a_truncated_file_and_an_unknown_key(nelbo, trained):
    np.savez("data.npz", images=CODES)
    assert "pictures" in nelbo("evaluate", trained, "--data", "data.npz#pictures").refused()
    _cut(Path("data.npz"))
    assert "data.npz" in nelbo("evaluate", trained, "--data", "data.npz").refused()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_real_data(nelbo, value):
    Path("real_model.py").write_text(REAL_MODEL)
    np.save("data.npy", _changed(value))
    assert "example 1" in nelbo("evaluate", "real_model:make", "--data", "data.npy").refused()


FOLDERS = {
    "no description": ("model.json", Path.unlink),
    "description of something else": ("model.json", lambda p: p.write_text('{"_class_name": "UNet2DModel"}')),
    "truncated weights": ("model.safetensors", _cut),
    "pickled weights": ("model.safetensors", lambda p: torch.save({"net": torch.zeros(3)}, p)),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_damaged_model_folder(nelbo, model, case):
    file, damage = FOLDERS[case]
    damage(model / file)
    assert file in nelbo("info", model).refused()


def test_an_unknown_part_of_a_model(nelbo, model):
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**description, "schedule": {"kind": "zigzag"}}))
    assert "zigzag" in nelbo("info", model).refused()


@pytest.mark.parametrize(
    "name, word",
    [("nowhere", "nowhere"), ("no_such_module:make", "no_such_module"), ("plugged:missing", "missing"),
     ("plugged:number", "int"), ("plugged.py", "plugged.py"), ("", "")],
)  # fmt: skip
def test_bad_model_name(nelbo, name, word):
    Path("plugged.py").write_text(REAL_MODEL)
    assert word in nelbo("info", name).refused()


CONFIG = {
    "unknown key": (["--set", "stepz=3"], "stepz"),
    "bad value": (["--set", "lr=fast"], "fast"),
    "no equals sign": (["--set", "steps"], "steps"),
    "too few bins": (["--set", "bins=5"], "5"),
    "broken file": (["--config", "broken.toml"], "broken.toml"),
    "unknown device": (["--device", "abacus"], "abacus"),
    "unknown data": (["--data", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_bad_configuration(nelbo, case):
    Path("broken.toml").write_text("lr = = 3")
    arguments, word = CONFIG[case]
    result = nelbo("train", "--data", "digits:train", "--out", "out", *arguments)
    assert word in result.refused()
    assert not Path("out/model.json").exists()


OPTIONS = {
    "two grids": (["--steps", "3", "--continuous"], "--continuous"),
    "no steps": (["--steps", "0"], "--steps"),
    "no tolerance": (["--tolerance", "0"], "--tolerance"),
    "NaN tolerance": (["--tolerance", "nan"], "--tolerance"),
    "negative seed": (["--seed", "-1"], "--seed"),
    "huge seed": (["--seed", str(2**64)], "--seed"),
    "no examples": (["--limit", "0"], "--limit"),
    "unknown precision": (["--precision", "float16"], "float16"),
    "unknown device": (["--device", "abacus"], "abacus"),
    "absent device": (["--device", "cuda:63"], "cuda:63"),
    "word for a number": (["--batch-size", "many"], "many"),
    "unknown option": (["--temperature", "2"], "--temperature"),
    "one file twice": (["--out", "x.npz", "--per-example", "x.npz"], "x.npz"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(nelbo, trained, case):
    arguments, word = OPTIONS[case]
    assert word in nelbo("evaluate", trained, "--data", "digits:test", "--limit", "2", *arguments).refused()


@pytest.mark.parametrize("command", ["evaluate", "sample", "report", "train", "demo"])
@pytest.mark.parametrize("place", ["/dev/full", "a_file/below.npz", "/proc/nowhere/x.npz", "a_folder.npz"])
def test_unwritable_out(nelbo, trained, command, place):
    Path("a_file").write_text("kept")
    Path("a_folder.npz").mkdir()
    (Path("a_folder.npz") / "model").mkdir()
    for kept in ("a_folder.npz/model.json", "a_folder.npz/model/model.json"):
        Path(kept).write_text("{}")
    arguments = {
        "evaluate": [trained, "--data", "digits:test", "--limit", "2"],
        "sample": [trained, "-n", "1"],
        "report": [trained],
        "train": ["--data", "digits:train", "--set", "steps=1"],
        "demo": [],
    }[command]
    nelbo(command, *arguments, "--out", place).refused()
    assert Path("a_file").read_text() == "kept"
    assert Path("a_folder.npz/model/model.json").read_text() == "{}"


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["sample", "MODEL", "-n", "1", "--out", "x.jpg"], "x.jpg"),
        (["sample", "MODEL", "-n", "1", "--out", "x.png", "--sampler", "magic"], "magic"),
        (["sample", "MODEL", "-n", "0", "--out", "x.png"], "-n"),
        (["sample", "MODEL", "--out", "x.png"], "-n"),
        (["train", "--data", "digits:train", "--out", "MODEL"], "already"),
        (["report", "nowhere", "--out", "x.html"], "nowhere"),
        (["report", ".", "--out", "x.html"], ""),
        (["info", "MODEL", "MODEL"], ""),
        (["compress", "MODEL"], "INPUT"),
        (["evaluat", "MODEL"], "evaluat"),
        (["--nonsense"], "--nonsense"),
        (["evaluate", "MODEL"], "--data"),
        (["evaluate"], ""),
        (["evaluate", "MODEL", "--data"], "--data"),
    ],
)
def test_bad_commands(nelbo, trained, arguments, word):
    assert word in nelbo(*[str(trained) if a == "MODEL" else a for a in arguments]).refused()


def test_hints_list_the_choices_and_the_nearest(nelbo, trained):
    assert "did you mean evaluate? choose one of: demo, train," in nelbo("evaluat").err
    assert "did you mean --tolerance?" in nelbo("evaluate", trained, "--tolerence", "1").err
