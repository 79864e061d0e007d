"""The way back: nelbo trains diffusers' UNet2DModel, writes its folder and card, and diffusers samples from it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml

import nelbo
from nelbo.adapters.diffusers import save_pretrained, tables
from nelbo.adapters.diffusers.save import table_config
from nelbo.errors import ModelFolderError, UnknownNameError, UsageError
from nelbo.model.reverse import Beta, Clip, Reverse, Threshold
from tests.adapters.pipelines import pipeline, unet
from tests.expected import early_end, untrained

pytestmark = [untrained, early_end]

diffusers = pytest.importorskip("diffusers")
CONFIG = {
    "steps": 40, "batch_size": 32, "lr": 2e-3, "warmup": 5, "weight_decay": 0.0, "objective": "simple",
    "net": {"name": "unet2d", "head": "plain", "predicts": "v", "settings": {"block_out_channels": [16, 32]}},
    "schedule": {"name": "linear", "T": 20},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(nelbo's own folder, the model, its bound)."""
    out = tmp_path_factory.mktemp("run") / "model"
    model = nelbo.train("digits:train", out, CONFIG)
    return out, model, nelbo.evaluate(model, "digits:test", limit=20, estimator="stratified")


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "digits-ddpm"
    _, model, bound = trained
    assert nelbo.save_pretrained(model, folder, bound=bound, license="apache-2.0") == folder
    return folder


def test_trained_here_and_loaded_there(trained, saved):
    """DDPMPipeline.from_pretrained samples; nelbo.load gives the same p_θ to the bit, with bins and training hashes."""
    out, model, bound = trained
    assert nelbo.load(out).fingerprint() == model.fingerprint()
    pipe = diffusers.DDPMPipeline.from_pretrained(saved)
    images = pipe(batch_size=2, num_inference_steps=20, output_type="np").images
    assert images.shape == (2, 8, 8, 1) and bool(np.isfinite(images).all()) and images.std() > 0
    back = nelbo.load(saved)
    assert back.fingerprint() == model.fingerprint() and back.domain.shape == (8, 8)
    again = nelbo.evaluate(back, "digits:test", limit=20, estimator="stratified")
    assert again.bits_per_dim == bound.bits_per_dim
    assert back.provenance["trained_by"] == model.provenance["trained_by"]
    with pytest.warns(UserWarning, match="trained on"):
        nelbo.evaluate(back, "digits:train", limit=4, estimator="stratified")


def test_the_same_network_in_both_libraries(trained, saved):
    """diffusers' step from the saved folder has the mean of our reverse step."""
    _, model, _ = trained
    pipe = diffusers.DDPMPipeline.from_pretrained(saved)
    z = torch.randn(2, 8, 8)
    s, t = (model.levels()[i].expand(2) for i in (8, 9))
    with torch.no_grad():
        out = pipe.unet(z[:, None], 9).sample
        mean, v = model.reverse.step(z.double(), model.predict(z.double(), t), s, t)
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    drawn = pipe.scheduler.step(out, 9, z[:, None], generator=torch.Generator().manual_seed(4)).prev_sample
    torch.testing.assert_close(drawn[:, 0].double(), mean + v.sqrt() * noise[:, 0].double(), rtol=1e-4, atol=1e-4)


def test_files(saved):
    names = sorted(str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file())
    assert names == [
        "README.md", "model_index.json", "nelbo.json", "nelbo.safetensors", "scheduler/scheduler_config.json",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert not list(saved.parent.glob(".*"))  # nothing is left of writing it


def test_card(trained, saved):
    """The hub's own reader finds the figure, and the text says with what error, on what, and from what."""
    from huggingface_hub import ModelCard

    _, model, bound = trained
    card = ModelCard.load(saved / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(bound.bits_per_dim, abs=1e-6)
    assert result.metric_args["standard_error_estimator"] == pytest.approx(bound.standard_error.estimator, abs=1e-6)
    assert card.data.library_name == "diffusers" and card.data.license == "apache-2.0"
    meta = yaml.safe_load(card.content.split("---")[1])
    assert meta["model-index"][0]["name"] == "digits-ddpm" and "likelihood" in meta["tags"]
    for said in (
        str(bound),
        model.fingerprint(),
        bound.data["fingerprint"],
        "trained_by",
        "± ",
        "--estimator stratified",
    ):
        assert said in card.text
    assert "bits/dim" in card.text and f"({bound.examples} examples)" in card.text


@pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # nobody trained this network
def test_card_without_a_bound(trained, tmp_path):
    """No number is claimed where none was measured; a density is not called a code length."""
    _, model, _ = trained
    text = (model.save_pretrained(tmp_path / "plain") / "README.md").read_text()
    assert "model-index" not in text and "Likelihood" not in text and "license" not in text
    latent = nelbo.from_diffusers((unet(), diffusers.DDPMScheduler(10)), bins=None)
    bound = nelbo.evaluate(latent, torch.randn(2, 1, 8, 8), estimator="stratified")
    text = (nelbo.save_pretrained(latent, tmp_path / "density", bound=bound) / "README.md").read_text()
    assert "no code length" in text and "bits/dim (density)" in text
    assert "that of their sampling is not measurable" in text and "standard_error_data: null" in text
    assert yaml.safe_load(text.split("---")[1])["model-index"]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "learned_range"])
def test_there_and_back(tmp_path, kind):
    """A folder of diffusers, read and written again, is the same p_θ; with or without a clip."""
    folder = pipeline(tmp_path / "one", kind, steps=1)
    model = nelbo.from_diffusers(folder, bins=17)
    back = nelbo.load(save_pretrained(model, tmp_path / "two"))
    assert back.fingerprint() == model.fingerprint()
    ours, theirs = (json.loads((f / "scheduler/scheduler_config.json").read_text()) for f in (tmp_path / "two", folder))
    assert ours == theirs


def test_parts_that_a_scheduler_has(trained, tmp_path):
    """β, a symmetric clip, thresholding and other tables come back; a table without a name as its β."""
    _, model, _ = trained
    for part in (Reverse(Beta()), Reverse(Beta(), Clip(-1.5, 1.5)), Reverse(Beta(), Threshold(0.9, 2.0))):
        changed = dataclasses.replace(model, reverse=part)
        save_pretrained(changed, tmp_path / "part")
        assert nelbo.load(tmp_path / "part").fingerprint() == changed.fingerprint()
    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        config = {"num_train_timesteps": 30, "beta_schedule": name, "beta_start": 1e-3, "beta_end": 0.1}
        found = table_config(tables.table(config))
        assert found["beta_schedule"] == name
    odd = nelbo.schedules.from_betas([0.1, 0.3, 0.2])
    config = table_config(odd)
    assert config["trained_betas"] == pytest.approx([0.1, 0.3, 0.2], rel=1e-12)
    torch.testing.assert_close(tables.table(config).table, odd.table, rtol=1e-12, atol=1e-12)


def test_what_diffusers_cannot_express(trained, tmp_path):
    _, model, _ = trained
    pair = (unet(), diffusers.FlowMatchEulerDiscreteScheduler(10))
    twice = (unet(out_channels=2), diffusers.DDPMScheduler(10))
    refusals = {
        "clipped to": dataclasses.replace(model, reverse=Reverse(Beta(), Clip(0.0, 1.0))),
        "'flow' schedule": nelbo.from_diffusers(pair),
        "'learned_log'": nelbo.from_diffusers(twice, variance="learned_log"),
        "UNet2DModel": nelbo.exact.GaussianData([0.0], [[1.0]]).model(
            nelbo.schedules.logsnr_linear(5, -5), nelbo.grids.even(4)
        ),
    }
    for match, other in refusals.items():
        with pytest.raises(UsageError, match=match):
            other.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_damaged_extras(saved, tmp_path):
    for change in (
        lambda f: (f / "nelbo.json").write_text("{"),
        lambda f: (f / "nelbo.json").write_text('{"schema": "nelbo.diffusers/9"}'),
        lambda f: (f / "nelbo.safetensors").unlink(),
    ):
        shutil.copytree(saved, tmp_path / "copy")
        change(tmp_path / "copy")
        with pytest.raises(ModelFolderError, match=r"nelbo\.json"):
            nelbo.load(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"net": "unet2d"}, UsageError, "categorical head"),
        ({"net": {"name": "unet2d", "head": "plain"}, "schedule": "logsnr_linear"}, UsageError, "schedule=linear"),
        ({"net": {"name": "unet2d", "head": "plain", "width": 3}}, UnknownNameError, "block_out_channels"),
        ({"net": {"name": "unet2d", "head": "plain", "block_out_channels": [5]}}, UsageError, "unet2d"),
    ],
)
def test_refused_settings(tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        nelbo.train("digits:train", tmp_path / "run", {**CONFIG, **changes})
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.slow
def test_without_diffusers(tmp_path, run_nelbo):
    """Where diffusers is not installed, the error names the extra; the rest of nelbo works."""
    (tmp_path / "diffusers.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    (tmp_path / "pipe" / "scheduler").mkdir()
    (tmp_path / "pipe" / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "pipe" / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler"}')
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    out = tmp_path / "run"
    for arguments in (
        ("train", "--data", "digits:train", "--out", out, "--set", "net=unet2d", "--set", "net.head=plain",
         "--set", "schedule=linear"),
        ("info", tmp_path / "pipe"),
    ):  # fmt: skip
        told = run_nelbo(*arguments, env=env)
        assert told.returncode == 2 and "nelbo[diffusers]" in told.stderr, told.stderr
