"""Bad input: exit status 2, `error:` and `hint:` on stderr, nothing on stdout, no traceback; it names the culprit.

The rooms of data, models and settings test every damage; here is one error of each kind on its way to the screen, and
whatever the command line itself refuses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

CODES = np.arange(3 * 64, dtype=np.int64).reshape(3, 8, 8) % 17


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


ERRORS = {
    "data": (["evaluate", "MODEL", "--data", "missing.npy"], "missing.npy"),
    "domain": (["evaluate", "MODEL", "--data", "large.npy"], "5000"),
    "shape": (["evaluate", "MODEL", "--data", "wide.npy"], "9"),
    "model": (["info", "damaged"], "model.json"),
    "name of a model": (["info", ""], ""),
    "settings": (["train", "--data", "digits:train", "--out", "out", "--set", "stepz=3"], "stepz"),
    "file of settings": (["train", "--data", "digits:train", "--out", "out", "--config", "no.toml"], "no.toml"),
    "device": (["train", "--data", "digits:train", "--out", "out", "--device", "abacus"], "abacus"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_the_library(nelbo, trained, kind):
    np.save("large.npy", np.where(CODES == 3, 5000, CODES))
    np.save("wide.npy", np.zeros((3, 9, 9), np.int64))
    Path("damaged").mkdir()
    Path("damaged/model.json").write_text("{}")
    arguments, word = ERRORS[kind]
    assert word in nelbo(*[str(trained) if a == "MODEL" else a for a in arguments]).refused()
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
        (["sample", "MODEL", "-n", "0", "--out", "x.png"], "-n"),
        (["sample", "MODEL", "--out", "x.png"], "-n"),
        (["train", "--data", "digits:train", "--out", "MODEL"], "already"),
        (["report", "nowhere", "--out", "x.html"], "nowhere"),
        (["info", "MODEL", "MODEL"], ""),
        (["compress", "MODEL"], "INPUT"),
        (["evaluat", "MODEL"], "evaluat"),
        (["--nonsense"], "--nonsense"),
        (["evaluate", "MODEL"], "--data"),
        (["evaluate", "MODEL", "--data"], "--data"),
    ],
)
def test_bad_commands(nelbo, trained, arguments, word):
    assert word in nelbo(*[str(trained) if a == "MODEL" else a for a in arguments]).refused()


def test_hints_list_the_choices_and_the_nearest(nelbo, trained):
    assert "did you mean evaluate? choose one of: demo, train," in nelbo("evaluat").err
    assert "did you mean --tolerance?" in nelbo("evaluate", trained, "--tolerence", "1").err
