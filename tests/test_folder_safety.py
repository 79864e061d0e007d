"""A model folder: a crash while it is written loses nothing, and what is in it runs nothing."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import folder
from nelbo.process import grid
from tests.expected import early_end, untrained
from tests.folder_cases import DISCRETE, LAW, PLANE, TABLE, make, nats

pytestmark = [untrained, early_end]

# ---------------------------------------------------------------- crashes while overwriting


class Crash(BaseException):
    """The power goes."""


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_crash_between_the_writes(tmp_path, monkeypatch, moment):
    """Before the new weights, before model.json, before the rename: the old model, the old, the new; no mixture."""
    old, new, third = make("as it is", 1), make("discretised", 2), make("code prior", 3)
    folder.save(old, tmp_path)
    calls = 0
    write, rename = folder.write_atomic, Path.replace

    def crashing_write(path, content):
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Crash
        return write(path, content)

    def crashing_rename(self, target):
        if self.name == folder.PENDING and moment == 3:
            raise Crash
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_atomic", crashing_write)
        patch.setattr(Path, "replace", crashing_rename)
        with pytest.raises(Crash):
            folder.save(new, tmp_path)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["model.json", "model.safetensors"] + (["model.safetensors.new"] if moment > 1 else [])
    survivor = old if moment < 3 else new
    assert folder.load(tmp_path).fingerprint() == survivor.fingerprint()
    assert torch.equal(nats(folder.load(tmp_path)), nats(survivor))
    folder.save(third, tmp_path)
    assert folder.load(tmp_path).fingerprint() == third.fingerprint()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_crash_of_the_first_save(tmp_path, monkeypatch):
    """No model before, none after: the folder says what is missing."""
    monkeypatch.setattr(folder.json, "dumps", lambda *a, **k: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        folder.save(make("as it is"), tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ModelFolderError):
        folder.load(tmp_path / "model")


# ---------------------------------------------------------------- what cannot be saved, and what must not be loaded


def test_a_callable_is_refused_with_the_remedy(tmp_path):
    model = nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=DISCRETE)
    with pytest.raises(UsageError, match="callable") as caught:
        folder.save(model, tmp_path / "model")
    assert "package.module:function" in caught.value.hint
    with pytest.raises(UsageError):
        folder.save(PLANE.model(LAW, grid.even(4)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Calls that may run code from a file: pickle, torch.load without weights_only, numpy with allow_pickle."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "joblib", "shelve", "marshal"):
            found.append(f"line {node.lineno}: from {node.module} import")
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        bad = call.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal") or call in ("eval", "exec")
        bad |= call.endswith("torch.load") and keywords.get("weights_only") != "True"
        bad |= call.endswith(("np.load", "numpy.load")) and keywords.get("allow_pickle", "False") != "False"
        bad |= call.endswith(("yaml.load", "unsafe_load"))
        if bad:
            found.append(f"line {node.lineno}: {call}")
    return found


def test_nothing_is_unpickled():
    """In all of the source; and the search finds what it should find."""
    assert len(unsafe_calls(ast.parse("pickle.load(f); torch.load(f); np.load(f, allow_pickle=True); eval(x)"))) == 4
    assert not unsafe_calls(ast.parse("torch.load(f, weights_only=True); np.load(f); model.eval()"))
    source = Path(nelbo.__file__).parent
    files = sorted(source.rglob("*.py"))
    assert len(files) > 50
    assert {str(f.relative_to(source)): c for f in files if (c := unsafe_calls(ast.parse(f.read_text())))} == {}


def test_a_hostile_folder_runs_nothing(tmp_path):
    path = folder.save(make("categorical head"), tmp_path / "model")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("model.safetensors", folder.PENDING, "model.json"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ModelFolderError):
            folder.load(path)
    assert not (tmp_path / "ran").exists()
