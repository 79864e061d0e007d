"""A model goes to the hub and comes back the same; a stand-in for the hub keeps its repositories in a folder."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from tests.expected import untrained
from tests.model.tokens.folders import make
from tests.training.cases import codes, small

hub = pytest.importorskip("huggingface_hub")
pytestmark = untrained


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Path:
    """Where the repositories are."""
    place = tmp_path / "hub"

    def create_repo(name, private, exist_ok):
        assert exist_ok
        (place / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)
        return f"hub:{repo_id}"

    def snapshot_download(name, allow_patterns, **options):
        copy = tmp_path / "cache" / name
        copy.mkdir(parents=True, exist_ok=True)
        for path in [p for p in (place / name).rglob("*") if p.is_file()]:
            inner = path.relative_to(place / name)
            if any(fnmatch.fnmatch(str(inner), pattern) for pattern in allow_patterns):
                (copy / inner).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy / inner)
        return str(copy)

    for replaced in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(hub, replaced.__name__, replaced)
    return place


def test_a_model_of_nelbo_goes_and_comes_back(stored, tmp_path):
    model = nelbo.train(codes(), tmp_path / "run", small())
    bound = nelbo.evaluate(model, codes(20, seed=2).data)
    assert nelbo.push_to_hub(model, "someone/codes", bound=bound, license="mit") == "hub:someone/codes"
    assert nelbo.load("someone/codes").fingerprint() == model.fingerprint()
    text = (stored / "someone" / "codes" / "README.md").read_text()
    assert 'library_name: "nelbo"' in text and 'license: "mit"' in text and "# codes" in text
    errors = bound.standard_error
    for error in (errors.estimator, errors.data):  # each by itself, beside the whole
        assert f"{error:.5f} of the" in text or f"{error:.5f} of these" in text


def test_a_model_of_symbols_goes_and_comes_back(stored, tmp_path):
    """With its bound in bits a symbol, since its networks have no bits/dim."""
    model = make("counts")
    bound = nelbo.evaluate(model, torch.tensor([[1, 2, 3], [0, 1, 1]]), estimator="exhaustive")
    assert nelbo.push_to_hub(model, "someone/symbols", bound=bound) == "hub:someone/symbols"
    assert nelbo.load("someone/symbols").fingerprint() == model.fingerprint()
    assert nelbo.load(nelbo.save_pretrained(model, tmp_path / "kept")).fingerprint() == model.fingerprint()
    text = (stored / "someone" / "symbols" / "README.md").read_text()
    assert "sequences of 3 symbols of 4" in text and f"{bound.bits_per_dim:.3f}" in text and "bits/token" in text
    assert 'type: "bits_per_token"' in text and "bits_per_dim" not in text and "pipeline_tag" not in text
    assert "pipeline_tag" not in (tmp_path / "kept" / "README.md").read_text()
    with pytest.raises(UsageError, match="a callable that a folder cannot hold"):
        network = nelbo.tokens.from_callable(
            lambda z: torch.zeros(*z.shape, 4), vocabulary=4, length=3, kernel=nelbo.tokens.absorbing(4)
        )
        nelbo.push_to_hub(network, "someone/none")


def test_a_model_of_diffusers_goes_as_its_folder(stored):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    net = diffusers.UNet2DModel(8, 1, 1, block_out_channels=(32, 32), **blocks)
    model = nelbo.from_diffusers((net, diffusers.DDPMScheduler(100)), bins=17)
    nelbo.push_to_hub(model, "someone/ddpm")
    assert (stored / "someone" / "ddpm" / "model_index.json").exists()
    assert nelbo.load("someone/ddpm").fingerprint() == model.fingerprint()


def test_refusals(stored, tmp_path, monkeypatch):
    model = nelbo.train(codes(), tmp_path / "run", small(steps=1))
    with pytest.raises(UsageError, match="the name 'codes' of a model on the hub"):
        nelbo.push_to_hub(model, "codes")

    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(hub, "create_repo", offline)
    with pytest.raises(UsageError, match="not uploaded to the hub: no connection\nhint: log in"):
        nelbo.push_to_hub(model, "someone/codes")
