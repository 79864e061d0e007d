"""A latent model in a folder, in Python and at the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.cli.main import app
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import folder
from tests.bound.latent import linear
from tests.model.latent import nets

X = torch.arange(3 * 64).reshape(3, *nets.SHAPE) * 7 % 16


def nats(model):
    return nelbo.evaluate(model, X, estimator=Stratified(2, 2), per_example=True, progress=False).per_example.nats


@pytest.mark.parametrize("deterministic", [False, True], ids=["gaussian", "deterministic"])
def test_a_folder_holds_the_same_model(tmp_path, deterministic):
    model = nets.model(deterministic)
    folder.save(model, tmp_path)
    loaded = nelbo.load(tmp_path)
    assert isinstance(loaded, nelbo.LatentModel) and loaded.fingerprint() == model.fingerprint()
    assert torch.equal(nats(loaded), nats(model)) and loaded.provenance == {"seed": 0}
    assert torch.equal(loaded.trained_on, model.trained_on)
    assert nets.model(deterministic, seed=1).fingerprint() != model.fingerprint()


def test_tensors_that_share_memory_are_written(tmp_path):
    """As the tables of a tightened chain do: here one tensor of the encoder is one of the decoder, too."""
    model = nets.model()
    model.decoder.net.first[0].bias = model.encoder.net.layers[0].bias
    folder.save(model, tmp_path)
    assert nelbo.load(tmp_path).fingerprint() == model.fingerprint() != nets.model().fingerprint()


def test_what_a_folder_cannot_hold(tmp_path):
    with pytest.raises(UsageError, match="is a callable that a folder cannot hold"):
        folder.save(linear.model(), tmp_path / "other")
    folder.save(nets.model(), tmp_path)
    path = tmp_path / "model.json"
    entries = json.loads(path.read_text())
    for change, match in (
        (lambda e: e["denoiser"]["encoder"].update(kind="guess"), "encoder of the kind"),
        (lambda e: e["denoiser"]["encoder"]["net"]["settings"].update(width=16), "two models|larger"),
        (lambda e: e["denoiser"]["encoder"]["net"].update(name="resnet"), "resnet"),
        (lambda e: e["denoiser"]["decoder"]["net"]["settings"].update(depth=2), "depth"),
        (lambda e: e["denoiser"]["prior"].pop("schedule"), "lacks the entry 'schedule'"),
        (lambda e: e["units"].update(kind="cubic"), "cubic"),
    ):
        altered = json.loads(json.dumps(entries))
        change(altered)
        altered["digest"] = folder.digest(altered)
        path.write_text(json.dumps(altered))
        with pytest.raises(ModelFolderError, match=match):
            nelbo.load(tmp_path)


@pytest.mark.filterwarnings("ignore:the network is worse than none", "ignore:2 of 3 examples")
def test_info_and_evaluate_take_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.save(nets.model(), tmp_path / "latent")
    np.save("x.npy", X.numpy())
    told = CliRunner().invoke(app, ["info", "latent", "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["latent"]["shape"] == [2, 2, 2]
    options = ["--estimator", "stratified", "--per-example", "rows.npz", "--json"]
    told = CliRunner().invoke(app, ["evaluate", "latent", "--data", "x.npy", *options])
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["terms"].keys() == {"prior", "diffusion", "reconstruction", "pixels", "encoder"}
    with np.load("rows.npz") as rows:
        assert {"pixels", "encoder", "nats"} <= set(rows)
        assert np.allclose(
            sum(rows[t] for t in ("pixels", "encoder", "prior", "diffusion", "reconstruction")), rows["nats"]
        )
