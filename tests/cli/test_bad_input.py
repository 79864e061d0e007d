"""Bad input: exit status 2, `error:` and `hint:` on stderr, nothing on stdout, no traceback; it names the culprit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

CODES = np.arange(3 * 64, dtype=np.int64).reshape(3, 8, 8) % 17


def _npy(array: np.ndarray) -> Callable[[], str]:
    def write() -> str:
        np.save("data.npy", array)
        return "data.npy"

    return write


def _file(name: str, content: bytes) -> Callable[[], str]:
    def write() -> str:
        Path(name).write_bytes(content)
        return name

    return write


def _truncated_npz() -> str:
    np.savez("cut.npz", images=CODES)
    whole = Path("cut.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    return "cut.npz"


def _pickled_npz() -> str:
    np.savez("objects.npz", images=np.array([{"a": 1}, {"b": 2}], dtype=object))
    return "objects.npz"


def _other_key() -> str:
    np.savez("keys.npz", images=CODES)
    return "keys.npz#pictures"


def _with(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[1, 2, 3] = value
    return changed


DATA = {
    "missing": (lambda: "nowhere.npz", "nowhere.npz"),
    "unknown form": (_file("data.xyz", b"1 2 3"), "data.xyz"),
    "no npz inside": (_file("noise.npz", b"\x00\x01garbage" * 40), "noise.npz"),
    "no npy inside": (_file("noise.npy", b"\x93NUMPY\x01\x00garbage"), "noise.npy"),
    "empty file": (_file("empty.npy", b""), "empty.npy"),
    "truncated": (_truncated_npz, "cut.npz"),
    "pickled objects": (_pickled_npz, "objects.npz"),
    "unknown key": (_other_key, "pictures"),
    "unknown split": (lambda: "digits:validation", "validation"),
    "floats for codes": (_npy(CODES / 16), "float"),
    "NaN": (_npy(_with(CODES / 16, np.nan)), ""),
    "code too large": (_npy(_with(CODES, 5000)), "5000"),
    "negative code": (_npy(_with(CODES, -1)), "-1"),
    "wrong shape": (_npy(np.zeros((3, 9, 9), np.int64)), "9"),
    "no examples": (_npy(np.zeros((0, 8, 8), np.int64)), ""),
    "no array": (_npy(np.int64(3)), ""),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data(nelbo, trained, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    write, word = DATA[case]
    assert word in nelbo("evaluate", trained, "--data", write()).refused()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_real_data(nelbo, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    Path("real_model.py").write_text(
        "import nelbo\n"
        "def make():\n"
        "    return nelbo.from_callable(lambda z, t: 0 * z, schedule=nelbo.schedules.linear(T=4),\n"
        "                               domain=nelbo.DataDomain((8, 8)))\n"
    )
    spec = _npy(_with(CODES / 16, value))()
    assert "example 1" in nelbo("evaluate", "real_model:make", "--data", spec).refused()


def _drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return cut


def _pickle(folder: Path) -> None:
    torch.save({"net": torch.zeros(3)}, folder / "model.safetensors")


def _describe(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        description = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**description, **changes}))

    return change


FOLDERS = {
    "no description": (_drop("model.json"), "model.json"),
    "no weights": (_drop("model.safetensors"), "model.safetensors"),
    "truncated description": (_cut("model.json"), "model.json"),
    "truncated weights": (_cut("model.safetensors"), "model.safetensors"),
    "pickled weights": (_pickle, "model.safetensors"),
    "foreign description": (lambda f: (f / "model.json").write_text('{"_class_name": "UNet2DModel"}'), "model.json"),
    "description is a list": (lambda f: (f / "model.json").write_text("[]"), "model.json"),
    "description is binary": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "model.json"),
    "unknown schedule": (_describe(schedule={"kind": "zigzag"}), "zigzag"),
    "unknown network": (_describe(denoiser={"kind": "categorical", "net": {"name": "resnet"}}), ""),
    "impossible domain": (_describe(domain={"kind": "domain", "shape": [8, 8], "bins": 1}), ""),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_damaged_model_folder(nelbo, model, case):
    damage, word = FOLDERS[case]
    damage(model)
    assert word in nelbo("info", model).refused()


@pytest.mark.parametrize(
    "name, word",
    [
        ("nowhere", "nowhere"),
        ("no_such_module:make", "no_such_module"),
        ("plugged:missing", "missing"),
        ("plugged:number", "int"),
        ("plugged.py", "plugged.py"),
        ("", ""),
    ],
)
def test_bad_model_name(nelbo, tmp_path, monkeypatch, name, word):
    monkeypatch.chdir(tmp_path)
    Path("plugged.py").write_text("def number():\n    return 3\n")
    assert word in nelbo("info", name).refused()


CONFIG = {
    "unknown schedule": (["--set", "schedule=zigzag"], "zigzag"),
    "unknown network": (["--set", "net=resnet"], "resnet"),
    "unknown network setting": (["--set", "net.colour=3"], "colour"),
    "unknown key": (["--set", "stepz=3"], "stepz"),
    "bad value": (["--set", "lr=fast"], "fast"),
    "no steps": (["--set", "steps=0"], "steps"),
    "no equals sign": (["--set", "steps"], "steps"),
    "too few bins": (["--set", "bins=5"], "5"),
    "missing file": (["--config", "nowhere.toml"], "nowhere.toml"),
    "broken TOML": (["--config", "broken.toml"], "broken.toml"),
    "broken JSON": (["--config", "broken.json"], "broken.json"),
    "a list": (["--config", "list.json"], "list.json"),
    "a folder": (["--config", "."], ""),
    "unknown device": (["--device", "abacus"], "abacus"),
    "unknown data": (["--data", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_bad_configuration(nelbo, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    for name, text in {"broken.toml": "lr = = 3", "broken.json": "{", "list.json": "[1]"}.items():
        Path(name).write_text(text)
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
def test_bad_options(nelbo, trained, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, word = OPTIONS[case]
    assert word in nelbo("evaluate", trained, "--data", "digits:test", "--limit", "2", *arguments).refused()


@pytest.mark.parametrize("command", ["evaluate", "sample", "report", "train", "demo"])
@pytest.mark.parametrize("place", ["/dev/full", "a_file/below.npz", "/proc/nowhere/x.npz", "a_folder.npz"])
def test_unwritable_out(nelbo, trained, tmp_path, monkeypatch, command, place):
    monkeypatch.chdir(tmp_path)
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
def test_bad_commands(nelbo, trained, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert word in nelbo(*[str(trained) if a == "MODEL" else a for a in arguments]).refused()


def test_hints_list_the_choices_and_the_nearest(nelbo, trained):
    assert "did you mean evaluate? choose one of: demo, train," in nelbo("evaluat").err
    assert "did you mean --tolerance?" in nelbo("evaluate", trained, "--tolerence", "1").err
