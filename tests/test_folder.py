"""A model folder: everything comes back, everything that is wrong is refused by name, a crash loses nothing."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.bound.evaluate import evaluate
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import folder
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian, NetworkCategorical
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse
from nelbo.parts import kinds
from nelbo.process import grid, schedule

PLANE = GaussianData([0.4, -1.0], [[0.6, 0.25], [0.25, 0.3]])
LINE = MixtureData([0.4, 0.6], [[-1.0], [1.0]], [0.1, 0.2])
CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
LAW, TABLE = schedule.logsnr_linear(5.0, -6.0), schedule.linear(9, 0.01, 0.6)
LAST = LAW.at(torch.ones(1))
DISCRETE, PAIR, SINGLE = DataDomain((2,), 4, 0.0, 3.0), DataDomain((2,)), DataDomain((1,))

# Changes to the plain model below; every kind of part that a folder can hold appears.
CASES: dict[str, dict] = {
    "as it is": {},
    "cosine": {"schedule": schedule.cosine(7), "grid": grid.full()},
    "betas": {"schedule": schedule.from_betas([0.1, 0.2, 0.3]), "grid": grid.full(1)},
    "path": {"schedule": schedule.LogSNRLinear(5.0, -6.0, "flow")},
    "interpolated": {"schedule": TABLE.interpolated(), "grid": grid.times([0.0, 0.3, 1.0])},
    "continuous": {"grid": grid.continuous(0.1, 0.9)},
    "even on a table": {"schedule": TABLE, "grid": grid.even(4, first=2)},
    "subset": {"schedule": TABLE, "grid": grid.subset([0, 3, 8])},
    "beta, clipped": {"reverse": Reverse(Beta(), Clip(-0.5, 2.5))},
    "discretised": {"decoder": DiscretizedGaussian(0.02)},
    "code prior": {"decoder": Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log())},
    "code prior a pixel": {"decoder": Categorical(CODES.probabilities.log())},
    "categorical head": {"head": "categorical", "decoder": NetworkCategorical()},
    "density": {"domain": PAIR, "decoder": ContinuousGaussian()},
    "density, network": {"domain": PAIR, "decoder": ContinuousGaussian(0.3), "prior": GaussianPrior(0.1, 2.0)},
    "exact ends": {"domain": PAIR, "decoder": PLANE.decoder(), "prior": PLANE.prior(LAST)},
    "mixture ends": {"domain": SINGLE, **{k: getattr(LINE.model(LAW, grid.even(4)), k) for k in ("decoder", "prior")}},
    "code mixture": {"prior": dataclasses.replace(CODES.model(LAW, grid.even(4)).prior, low=0.0, high=3.0)},
    "x0, unit time": {"output": "x0", "time": "unit"},
    "eps, index time": {"output": "eps", "time": "index", "schedule": TABLE, "grid": grid.full()},
    "provenance": {"provenance": {"seed": 3, "text": "α ≤ β", "list": [1, None]}, "trained_on": torch.arange(5)},
}


def make(name: str, seed: int = 0, **settings) -> DiffusionModel:
    changes = dict(CASES[name])
    domain = changes.pop("domain", DISCRETE)
    recipe = {"name": "mlp", "settings": {"width": 8, "embedding": 4, "blocks": 1, **settings}}
    config = {
        "kind": "categorical" if changes.pop("head", None) else "network",
        "output": changes.pop("output", "v"),
        "time": changes.pop("time", "logsnr"),
        "net": {**recipe, "logsnr_max": 5.0, "logsnr_min": -6.0},
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        denoiser = folder.make_denoiser(config, domain).eval()
        for p in denoiser.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    parts = {
        "domain": domain,
        "schedule": LAW,
        "grid": grid.even(4),
        "denoiser": denoiser,
        "reverse": Reverse(BetaTilde()),
        "decoder": Categorical(),
        "prior": GaussianPrior(),
    }
    return DiffusionModel(**{**parts, **changes})


def data_for(model: DiffusionModel) -> torch.Tensor:
    D = model.domain.shape[0]
    return (
        torch.arange(3 * D).reshape(3, D) % 4 if model.domain.discrete else torch.linspace(-1, 1, 3 * D).reshape(3, D)
    )


def nats(model: DiffusionModel) -> torch.Tensor:
    bound = evaluate(model, data_for(model), estimator=Stratified(3, 2), per_example=True)
    assert bound.per_example is not None
    return bound.per_example.nats


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
    for family in ("domain", "schedule", "grid", "reverse", "variance", "clip", "decoder", "prior"):
        assert seen[family] == set(kinds(family)), family


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path, name):
    """The same fingerprint, the same bound to the last bit, the same provenance; and again from what was loaded."""
    model = make(name)
    assert folder.save(model, tmp_path / "new" / "model") == tmp_path / "new" / "model"
    back = folder.load(tmp_path / "new" / "model")
    assert back.fingerprint() == model.fingerprint()
    assert back.describe() == model.describe() and back.provenance == model.provenance
    assert (back.trained_on is None) == (model.trained_on is None)
    assert model.trained_on is None or torch.equal(back.trained_on, model.trained_on)  # type: ignore[arg-type]
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
        path.write_text(json.dumps(description))

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


@pytest.mark.parametrize("name", ["categorical head", "exact ends", "beta, clipped", "subset"])
def test_no_edit_of_the_description_escapes(tmp_path, name):
    """Any key of model.json dropped, or its value replaced: a ModelFolderError or a model, never another exception."""
    folder.save(make(name), tmp_path)
    original = (tmp_path / "model.json").read_text()
    refused = 0
    for path in list(paths_in(json.loads(original))):
        for value in ("drop", None, [], {}, "x", -1, 1e300, {"kind": "x"}, [[1]]):
            description = json.loads(original)
            inner = description
            for key in path[:-1]:
                inner = inner[key]
            if value == "drop":
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            (tmp_path / "model.json").write_text(json.dumps(description))
            try:
                folder.load(tmp_path)
            except ModelFolderError as error:
                assert str(tmp_path) in error.message and error.hint
                refused += 1
    assert refused > 100


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


def test_a_hostile_folder_runs_nothing(good, tmp_path):
    path = Path(shutil.copytree(good, tmp_path / "model"))

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("model.safetensors", folder.PENDING, "model.json"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ModelFolderError):
            folder.load(path)
    assert not (tmp_path / "ran").exists()
