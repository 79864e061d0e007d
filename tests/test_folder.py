"""A model folder: everything comes back, and everything that is wrong is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nelbo.errors import ModelFolderError
from nelbo.model import folder
from nelbo.parts import kinds
from tests.expected import early_end, untrained
from tests.folder_cases import CASES, make, nats, rewrite

pytestmark = [untrained, early_end]


def test_every_kind_has_a_case():
    """A new kind of part must be given a case here, and with it all laws below."""
    seen: dict[str, set[str]] = {}

    def note(part) -> None:
        seen.setdefault(part.family, set()).add(part.kind)
        for field in dataclasses.fields(part):
            inner = getattr(part, field.name)
            if hasattr(inner, "family"):
                note(inner)

    for name in CASES:
        model = make(name)
        for part in (model.domain, model.schedule, model.grid, model.reverse, model.decoder, model.prior):
            note(part)
    learned = {"learned_range", "learned_log", "fitted_learned"}  # none of nelbo's own networks says a variance
    for family in ("domain", "schedule", "grid", "reverse", "variance", "basis", "clip", "decoder", "prior"):
        assert seen[family] == set(kinds(family)) - learned, family


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path, name):
    """The same fingerprint, the same bound to the last bit, the same provenance; and again from what was loaded."""
    model = make(name)
    assert folder.save(model, tmp_path / "new" / "model") == tmp_path / "new" / "model"
    back = folder.load(tmp_path / "new" / "model")
    assert back.fingerprint() == model.fingerprint()
    assert back.describe() == model.describe() and back.provenance == model.provenance
    assert (back.trained_on is None) == (model.trained_on is None)
    assert model.trained_on is None or torch.equal(back.trained_on, model.trained_on)
    assert torch.equal(nats(back), nats(model))
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == ["model.json", "model.safetensors"]
    folder.save(back, tmp_path / "again")
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "new" / "model" / file).read_bytes()


def test_fingerprints_tell_models_apart():
    prints = [make(name).fingerprint() for name in CASES if name != "provenance"] + [make("as it is", 1).fingerprint()]
    assert len(set(prints)) == len(prints)
    assert make("as it is").fingerprint() == make("provenance").fingerprint()  # the same p_θ


def test_overwriting(tmp_path):
    folder.save(make("as it is"), tmp_path)
    other = make("discretised", 1)
    folder.save(other, tmp_path)
    assert folder.load(tmp_path).fingerprint() == other.fingerprint()


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return folder.save(make("categorical head"), tmp_path_factory.mktemp("good"))


def nested(depth: int) -> dict:
    return {"x": nested(depth - 1)} if depth else {}


def other_weights(path: Path) -> None:
    """Tensors of the right names and shapes, from another model."""
    save_file({k: v + 1 for k, v in make("categorical head").tensors().items()}, path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def edited(change):
    def damage(path: Path) -> None:
        description = json.loads(path.read_text())
        change(description)
        rewrite(path, description)

    return damage


def flipped(position: float):
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 16
        path.write_bytes(content)

    return damage


ANY = {
    "missing": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "last byte lost": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "a picture": lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
    "a folder": as_folder,
}
DAMAGE = {
    **{("model.json", k): v for k, v in ANY.items()},
    **{("model.safetensors", k): v for k, v in ANY.items()},
    **{("model.safetensors", f"bit at {p}"): flipped(p) for p in (0.0, 0.01, 0.3, 0.999, 1.0)},
    ("model.safetensors", "other weights"): other_weights,
    ("model.safetensors", "a pickle"): lambda p: p.write_bytes(pickle.dumps({"net": 1})),
    ("model.safetensors", "a byte more"): lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    ("model.json", "of diffusers"): lambda p: p.write_text('{"_class_name": "UNet2DModel", "sample_size": 32}'),
    ("model.json", "of another version"): edited(lambda d: d.update(schema="nelbo.model/2")),
    ("model.json", "a list"): lambda p: p.write_text("[]"),
    ("model.json", "a number"): lambda p: p.write_text("3"),
    ("model.json", "not UTF-8"): lambda p: p.write_bytes(b'{"schema": "\xff"}'),
    ("model.json", "deep"): lambda p: p.write_text("[" * 100_000),
    ("model.json", "unknown schedule"): edited(lambda d: d["schedule"].update(kind="sigmoid")),
    ("model.json", "unknown field"): edited(lambda d: d["schedule"].update(extra=1)),
    ("model.json", "unknown network"): edited(lambda d: d["denoiser"]["net"].update(name="transformer")),
    ("model.json", "wider network"): edited(lambda d: d["denoiser"]["net"]["settings"].update(width=16)),
    ("model.json", "other bins"): edited(lambda d: d["domain"].update(bins=5)),
    ("model.json", "other shape"): edited(lambda d: d["domain"].update(shape=[3])),
    ("model.json", "impossible grid"): edited(lambda d: d["grid"].update(steps=0)),
    ("model.json", "an entry that is true"): edited(lambda d: d["reverse"].update(clip=True)),
    ("model.json", "a number that is text"): edited(lambda d: d["domain"].update(low="-1")),
    ("model.json", "a whole number that is true"): edited(lambda d: d["grid"].update(steps=True)),
    ("model.json", "1e8 steps"): edited(lambda d: d["grid"].update(steps=10**8)),
    ("model.json", "examples of 1e10 numbers"): edited(lambda d: d["domain"].update(shape=[10**5, 10**5])),
    ("model.json", "a huge network"): edited(lambda d: d["denoiser"]["net"]["settings"].update(width=10**7)),
    ("model.json", "a deep network"): edited(lambda d: d["denoiser"]["net"]["settings"].update(blocks=10**9)),
    ("model.json", "a width that is true"): edited(lambda d: d["denoiser"]["net"]["settings"].update(width=True)),
    ("model.json", "an entry that is unknown"): edited(lambda d: d.update(more=1)),
    ("model.json", "an entry of the denoiser"): edited(lambda d: d["denoiser"].update(more=1)),
    ("model.json", "an entry of the network"): edited(lambda d: d["denoiser"]["net"].update(more=1)),
    ("model.json", "deep provenance"): edited(lambda d: d.update(provenance=nested(40))),
    ("model.json", "provenance that is a list"): edited(lambda d: d.update(provenance=[])),
    ("model.json", "a kind that is a list"): edited(lambda d: d["schedule"].update(kind=["table"])),
    ("model.json", "a key twice"): lambda p: p.write_text(p.read_text().replace('"steps"', '"steps": 3, "steps"')),
    ("model.json", "NaN"): lambda p: p.write_text(p.read_text().replace('"low": 0.0', '"low": NaN')),
    ("model.json", "1e999"): lambda p: p.write_text(p.read_text().replace('"low": 0.0', '"low": -1e999')),
    ("model.json", "a value that was changed"): lambda p: p.write_text(
        p.read_text().replace('"low": 0.0', '"low": 0.5')
    ),
    ("model.json", "another provenance"): lambda p: p.write_text(p.read_text().replace("{}", '{"seed": 1}')),
    ("model.json", "decoder of another head"): edited(lambda d: d["denoiser"].update(kind="network", output="eps")),
}


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_damage_is_refused(good, tmp_path, file, damage):
    """ModelFolderError that names the file (or at least the folder) and has a remedy; nothing else, and no model."""
    path = Path(shutil.copytree(good, tmp_path / "model"))
    DAMAGE[file, damage](path / file)
    with pytest.raises(ModelFolderError) as caught:
        folder.load(path)
    assert str(path) in caught.value.message and caught.value.hint
    assert "Error" not in caught.value.message, "the reason is said in words, and not by the name of an exception"
    if file == "model.safetensors" or damage in ANY:
        assert str(path / file) in caught.value.message


def test_no_folder(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(ModelFolderError, match=str(path)):
            folder.load(path)
    with pytest.raises(ModelFolderError, match=r"model\.json is missing"):
        folder.load(tmp_path)


def paths_in(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from paths_in(inner, (*path, key))


def refused_edits(path: Path) -> int:
    """How many changes of one entry of a folder's model.json are refused: any key dropped, or its value replaced. Each
    gives a ModelFolderError or a model, never another exception."""
    original = (path / "model.json").read_text()
    refused = 0
    for keys in list(paths_in(json.loads(original))):
        for value in ("drop", None, [], {}, "x", -1, 1e300, {"kind": "x"}, [[1]]):
            description = json.loads(original)
            inner = description
            for key in keys[:-1]:
                inner = inner[key]
            if value == "drop":
                del inner[keys[-1]]
            else:
                inner[keys[-1]] = value
            rewrite(path / "model.json", description)
            try:
                folder.load(path)
            except ModelFolderError as error:
                assert str(path) in error.message and error.hint
                refused += 1
    return refused


@pytest.mark.parametrize("name", ["categorical head", "exact ends", "beta, clipped", "subset"])
def test_no_edit_of_the_description_escapes(tmp_path, name):
    folder.save(make(name), tmp_path)
    assert refused_edits(tmp_path) > 100


def test_every_tensor_has_a_role(tmp_path):
    """The hashes of the training examples under another name: noticed, although all checksums are made anew."""
    folder.save(make("provenance"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    description = json.loads((tmp_path / "model.json").read_text())

    def written(changed: dict) -> None:
        save_file(changed, tmp_path / "model.safetensors")
        content = (tmp_path / "model.safetensors").read_bytes()
        rewrite(tmp_path / "model.json", {**description, "sha256": hashlib.sha256(content).hexdigest()})

    written(tensors)
    assert len(folder.load(tmp_path).trained_on) == 5
    plain = {k: v for k, v in tensors.items() if k != "trained_on"}
    for changed, words in (
        ({**plain, "trained_by": tensors["trained_on"]}, "'trained_by' has no role"),
        ({**plain, "reverse.extra": tensors["trained_on"]}, "no field 'extra'"),
        ({**plain, "net.extra": tensors["trained_on"]}, "weights have a tensor of shape"),
        ({**plain, "trained_on": tensors["trained_on"].float()}, "int64"),
        ({**plain, "trained_on": tensors["trained_on"][None]}, "int64"),
    ):
        written(changed)
        with pytest.raises(ModelFolderError, match=words):
            folder.load(tmp_path)


def test_a_folder_of_an_earlier_version_is_read(tmp_path):
    """It has no digest."""
    model = make("exact ends")
    folder.save(model, tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    del description["digest"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert folder.load(tmp_path).fingerprint() == model.fingerprint()


def test_devices_and_pipes_are_no_model(tmp_path):
    folder.save(make("as it is"), tmp_path)
    for name in ("model.json", "model.safetensors"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelFolderError, match="a device or a pipe"):
            folder.load(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(ModelFolderError, match="a device or a pipe"):
            folder.load(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(kept)
    assert folder.load(tmp_path).steps
