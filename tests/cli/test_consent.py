"""A folder that names a function is data like any other: nothing runs unless its user agrees, and then only what was
there when the folder was written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import nelbo as library
from nelbo import testing
from nelbo.errors import ModelFolderError
from nelbo.model import folder, plugin
from tests.folder_cases import rewrite

MODULE = """
from pathlib import Path
Path("ran").touch()
import nelbo

def model():
    Path("called").touch()
    return nelbo.from_callable(lambda z, t: 0.5 * z, schedule=nelbo.schedules.linear(6, 1e-3, 0.4),
                               domain=nelbo.DataDomain((3,), bins=4))
"""


@pytest.fixture
def fitted(tmp_path, monkeypatch) -> Path:
    """A folder that refers to `pack.inner:model` in the current directory, of a module that leaves traces."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (tmp_path / "pack" / "inner.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget(monkeypatch)
    model = library.load("pack.inner:model")
    folder.save(dataclasses.replace(model, provenance={"tightened": True}), tmp_path / "kept")
    np.save("codes.npy", np.arange(30).reshape(10, 3) % 4)
    library.codec.compress(model, "codes.npy", "codes.nelbo", few=True)
    forget(monkeypatch)
    for name in ("ran", "called"):
        Path(name).unlink()
    return tmp_path / "kept"


def forget(monkeypatch) -> None:
    """Let the next import run the modules again, as in a fresh process."""
    for name in ("pack", "pack.inner"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    __import__("importlib").invalidate_caches()


VERBS = {
    "evaluate": ("evaluate", "kept", "--data", "codes.npy", "--estimator", "stratified"),
    "compare": ("compare", "pack.inner:model", "kept", "--data", "codes.npy", "--tolerance", "5"),
    "contrast": ("contrast", "kept", "--data", "codes.npy", "--condition", "y", "--values", "0,1"),
    "diagnose": ("diagnose", "kept", "--data", "codes.npy"),
    "ode": ("ode", "kept", "--data", "codes.npy", "--steps", "2"),
    "tighten": ("tighten", "kept", "--data", "codes.npy", "--steps", "3", "--out", "new"),
    "sample": ("sample", "kept", "-n", "2", "--out", "x.npz"),
    "compress": ("compress", "kept", "codes.npy", "--few", "--out", "x.nelbo"),
    "decompress": ("decompress", "kept", "codes.nelbo", "--out", "x.npy"),
    "info": ("info", "kept"),
}


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "compare"])
def test_no_command_runs_what_a_folder_names(nelbo, fitted, verb):
    result = nelbo(*VERBS[verb])
    assert (
        "refers to the function 'pack.inner:model', which opening the model would import and call" in result.refused()
    )
    assert "--trust-code" in result.err.splitlines()[-1]
    assert not Path("ran").exists() and not Path("called").exists()


@pytest.mark.parametrize("verb", ["compare", "compress", "decompress", "info", "sample"])
def test_with_consent_it_is_a_model_like_others(nelbo, fitted, verb):
    """`compare` is given the function itself as well, which needs no consent; its folder does."""
    if verb == "compare":
        assert "pack.inner:model" in nelbo(*VERBS[verb]).refused()
    result = nelbo(*VERBS[verb], "--trust-code")
    assert result.status == 0, result.err
    assert Path("called").exists()


def test_python_asks_too(fitted):
    codes = np.arange(30).reshape(10, 3) % 4
    for call in (
        lambda: library.load("kept"),
        lambda: library.evaluate("kept", codes),
        lambda: library.contrast("kept", codes, "y", [0, 1]),
        lambda: library.likelihood_profile("kept", codes, "y", range(9)),
        lambda: library.score("kept", codes, "y", 0.5),
        lambda: library.log_ratio("kept", "kept", codes),
        lambda: library.surprisal("kept", codes),
        lambda: library.diagnose("kept", codes),
        lambda: library.ode_likelihood("kept", codes),
        lambda: library.compare("kept", "kept", codes),
        lambda: library.tighten("kept", codes, 3),
        lambda: library.sample("kept", 2),
        lambda: library.samplers.encode("kept", codes),
        lambda: library.save_pretrained("kept", "other"),
        lambda: library.codec.compress("kept", codes, "y.nelbo"),
        lambda: library.codec.decompress("kept", "codes.nelbo"),
        lambda: testing.check_model("kept", codes),
    ):
        with pytest.raises(ModelFolderError, match="refers to the function"):
            call()
    assert not Path("ran").exists()
    assert library.load("kept", trust_code=True).provenance == {"tightened": True}


@pytest.mark.parametrize("changed", ["pack/inner.py", "pack/__init__.py"])
def test_another_module_than_that_of_the_folder_is_not_imported(fitted, changed):
    Path(changed).write_text(Path(changed).read_text() + "\n")
    with pytest.raises(ModelFolderError, match="not the one that the folder was written with") as caught:
        library.load("kept", trust_code=True)
    assert str(Path(changed)) in caught.value.message and not Path("ran").exists()


@pytest.mark.parametrize("reference", ["os:abort", "sys:exit", "pack.none:model", "pack.inner:", "../x:y", "", "os"])
def test_a_reference_to_anything_is_not_followed(fitted, reference):
    """Without consent; and with it only where the hash of the module's file is right."""
    description = json.loads((fitted / "model.json").read_text())
    description["denoiser"]["reference"] = reference
    rewrite(fitted / "model.json", description)
    for trust in (False, True):
        with pytest.raises(ModelFolderError):
            library.load("kept", trust_code=trust)
    assert not Path("called").exists()


def test_a_folder_of_an_earlier_version_has_no_hash_and_needs_consent(fitted):
    description = json.loads((fitted / "model.json").read_text())
    assert description["denoiser"].pop("code") == plugin.code("pack.inner:model")
    rewrite(fitted / "model.json", description)
    with pytest.raises(ModelFolderError, match="refers to the function"):
        library.load("kept")
    assert library.load("kept", trust_code=True).steps == 6
