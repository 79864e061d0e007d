"""Folders of models of symbols: everything comes back, and everything that is wrong is refused by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.cli.main import execute
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import folder
from nelbo.model.tokens.model import TokenModel
from nelbo.parts import kinds
from nelbo.process.grid import Continuous
from tests.expected import early_end, untrained
from tests.model.tokens.folders import CASES, L, V, make
from tests.test_folder import ANY, edited, flipped, nested, refused_edits

pytestmark = [untrained, early_end]


def nats(model: TokenModel) -> torch.Tensor:
    """Its bound, at counts or even times, of a few sequences."""
    x = torch.arange(2 * L).remainder(V - 1).add(1).reshape(2, L)
    estimator = Stratified(3, 2) if isinstance(model.grid, Continuous) else "exhaustive"
    bound = nelbo.evaluate(model, x, estimator=estimator, per_example=True)
    assert bound.per_example is not None
    return bound.per_example.nats


def test_every_kind_has_a_case():
    models = [make(name) for name in CASES]
    for part, family in {
        "kernel": "kernel",
        "schedule": "survival",
        "prior": "token_prior",
        "calibration": "calibration",
    }.items():
        assert {getattr(m, part).kind for m in models if getattr(m, part) is not None} == set(kinds(family)), family


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path, name):
    """The same fingerprint, description and bound to the last bit; and the same bytes from what was loaded."""
    model = make(name)
    folder.save(model, tmp_path / "one")
    back = nelbo.load(tmp_path / "one")
    assert isinstance(back, TokenModel) and back.fingerprint() == model.fingerprint()
    assert back.describe() == model.describe() and back.provenance == model.provenance
    assert (back.trained_on is None) == (model.trained_on is None)
    assert torch.equal(nats(back), nats(model))
    folder.save(back, tmp_path / "two")
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_fingerprints_tell_models_apart():
    prints = [make(name).fingerprint() for name in CASES if name != "provenance"] + [make("counts", 1).fingerprint()]
    assert len(set(prints)) == len(prints)
    assert make("counts").fingerprint() == make("provenance").fingerprint()


DAMAGE = {
    **{("model.json", k): v for k, v in ANY.items()},
    **{("model.safetensors", k): v for k, v in ANY.items()},
    **{("model.safetensors", f"bit at {p}"): flipped(p) for p in (0.0, 0.3, 1.0)},
    ("model.json", "of an image model"): edited(lambda d: d.update(schema="nelbo.model/1")),
    ("model.json", "a schema that is a list"): edited(lambda d: d.update(schema=["nelbo.token_model/1"])),
    ("model.json", "unknown kernel"): edited(lambda d: d["kernel"].update(kind="gauss")),
    ("model.json", "another mask"): edited(lambda d: d["kernel"].update(mask=9)),
    ("model.json", "a schedule that is none"): edited(lambda d: d.update(schedule=[])),
    ("model.json", "a schedule too much"): edited(lambda d: d.update(schedule={"kind": "cosine"})),
    ("model.json", "another vocabulary"): edited(lambda d: d["domain"].update(vocabulary=5)),
    ("model.json", "a huge vocabulary"): edited(lambda d: d["domain"].update(vocabulary=1 << 30)),
    ("model.json", "a network of images"): edited(lambda d: d["denoiser"]["net"].update(name="unet")),
    ("model.json", "a network that is told t"): edited(lambda d: d["denoiser"].update(time="unit")),
    ("model.json", "unknown law"): edited(lambda d: d["denoiser"].update(law="prior")),
    ("model.json", "a huge network"): edited(lambda d: d["denoiser"]["net"]["settings"].update(width=10**7)),
    ("model.json", "a deep network"): edited(lambda d: d["denoiser"]["net"]["settings"].update(blocks=10**9)),
    ("model.json", "deep provenance"): edited(lambda d: d.update(provenance=nested(40))),
    ("model.json", "a value that was changed"): lambda p: p.write_text(
        p.read_text().replace('"length": 3', '"length": 4')
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return folder.save(make("counts"), tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_damage_is_refused(good, tmp_path, file, damage):
    path = Path(shutil.copytree(good, tmp_path / "model"))
    DAMAGE[file, damage](path / file)
    with pytest.raises(ModelFolderError) as caught:
        nelbo.load(path)
    assert str(path) in caught.value.message and caught.value.hint
    assert "Error" not in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counts", "plug-in", "steps"])
def test_no_edit_of_the_description_escapes(tmp_path, name):
    """A ModelFolderError or a model, never another exception."""
    folder.save(make(name), tmp_path)
    assert refused_edits(tmp_path) > 80


def test_a_callable_cannot_be_kept(tmp_path):
    model = nelbo.tokens.from_callable(
        lambda z: torch.zeros(*z.shape, V), vocabulary=V, length=L, kernel=nelbo.tokens.absorbing(V)
    )
    with pytest.raises(UsageError, match="a callable that a folder cannot hold"):
        folder.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_code_asks_for_consent(tmp_path, monkeypatch):
    """A folder of a function's model refers to the function: it is called with consent, if it is what it was."""
    (tmp_path / "my_tokens.py").write_text(
        "import nelbo, torch\n"
        "def model():\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4))\n"
        "    return nelbo.tokens.from_callable(net, vocabulary=4, length=3, kernel=nelbo.tokens.absorbing(4))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = nelbo.load("my_tokens:model")
    folder.save(dataclasses.replace(model, grid=nelbo.grids.even(2)), "kept")
    with pytest.raises(ModelFolderError, match="refers to the function 'my_tokens:model'"):
        nelbo.load("kept")
    assert nelbo.load("kept", trust_code=True).steps == 2
    Path("my_tokens.py").write_text(Path("my_tokens.py").read_text() + "\n# changed\n")
    with pytest.raises(ModelFolderError, match="is not the one that the folder was written with"):
        nelbo.load("kept", trust_code=True)


def test_commands_take_a_folder(good, tmp_path, capsys):
    """`evaluate FOLDER --data text:…` gives the number of Python, and `info` its parts."""
    text = tmp_path / "some.txt"
    text.write_bytes(bytes([0, 1, 2, 3, 3, 2, 1, 1, 0]))
    assert execute(["evaluate", str(good), "--data", f"text:{text}#length=3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["units"] == nelbo.evaluate(good, f"text:{text}#length=3").to_dict()["units"]
    given = ["evaluate", str(good), "--data", f"text:{text}#length=3", "--corpus", f"text:{text}#length=5", "--json"]
    assert execute(given) == 0
    assert json.loads(capsys.readouterr().out)["data"] == printed["data"]
    assert execute([*given[:5], f"{tmp_path / 'nothing'}.npz"]) == 2 and "nothing.npz" in capsys.readouterr().err
    assert execute(["info", str(good)]) == 0
    out = capsys.readouterr().out
    assert "absorbing (mask 4)" in out and "transformer" not in out and f"{make('counts').fingerprint()}" in out
