"""Settings: files, overrides, and refusals that name the key and what it may be."""

from __future__ import annotations

import json

import pytest

from nelbo.errors import UsageError
from nelbo.training.config import TrainConfig
from nelbo.training.settings import check_config, read_config, schema


def test_nothing_is_the_defaults():
    assert check_config(read_config()) == TrainConfig() == check_config(None)
    assert check_config(TrainConfig(steps=3)).steps == 3


def test_toml_and_json_say_the_same(tmp_path):
    toml, document = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text('steps = 7\nlr = 1e-3\nnet = "mlp"\n[schedule]\nname = "cosine"\nT = 50\n')
    document.write_text(json.dumps({"steps": 7, "lr": 1e-3, "net": "mlp", "schedule": {"name": "cosine", "T": 50}}))
    a, b = check_config(read_config(toml)), check_config(read_config(str(document)))
    assert a == b
    assert (a.steps, a.lr, a.net.name, a.schedule.name, a.schedule.T) == (7, 1e-3, "mlp", "cosine", 50)


def test_overrides_win_and_reach_inside(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('steps = 7\nnet = "unet"\n[schedule]\nlogsnr_max = 9.0\n')
    settings = check_config(
        read_config(
            file,
            ["steps=9", "lr = 0.5", "net.width=24", "net.head=plain", "schedule.logsnr_min=-3", "levels=none"],
        )
    )
    assert (settings.steps, settings.lr, settings.levels) == (9, 0.5, None)
    assert settings.net.name == "unet" and settings.net.head == "plain" and settings.net.settings == {"width": 24}
    assert (settings.schedule.logsnr_max, settings.schedule.logsnr_min) == (9.0, -3.0)


@pytest.mark.parametrize("order", [["net.width=8", "net=unet"], ["net=unet", "net.width=8"]])
def test_a_name_and_its_settings_in_either_order(order):
    net = check_config(read_config(None, order)).net
    assert (net.name, net.settings) == ("unet", {"width": 8})


def test_strings_name_the_net_and_the_schedule():
    settings = check_config({"net": "unet", "schedule": "linear"})
    assert (settings.net.name, settings.schedule.name) == ("unet", "linear")
    assert check_config({"net": {"settings": {"width": 8}, "rank": 2}}).net.settings == {"width": 8, "rank": 2}


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"stepz": 3}, "unknown configuration key 'stepz'", "steps, seed, batch_size"),
        ({"schedule": {"T": 5, "logsnr": 3}}, "'schedule.logsnr'", "logsnr_max, logsnr_min"),
        ({"steps": 0}, "steps = 0", "change"),
        ({"steps": "many"}, "steps = 'many'", "change"),
        ({"lr": -1}, "lr = -1", "change"),
        ({"batch_size": 1.5}, "batch_size = 1.5", "change"),
        ({"seed": -1}, "seed = -1", "change"),
        ({"seed": 2**63}, "seed = ", "change"),
        ({"bins": 1}, "bins = 1", "change"),
        ({"objective": "elbo"}, "'min_snr' or 'hybrid'", "change"),
        ({"schedule": "sigmoid"}, "'linear' or 'cosine'", "change"),
        ({"net": {"head": "softmax"}}, "'categorical', 'mixture' or 'plain'", "change"),
        ({"net": {"predicts": "score"}}, "'eps', 'x0' or 'v'", "change"),
        ({"ema": 1.0}, "ema = 1.0", "change"),
        ({"schedule": 3}, "schedule = 3", "change"),
        ({"net": 3}, "net = 3", "change"),
        ({"validation": {"every": 0}}, "validation.every = 0", "change"),
        ({"validation": {"evry": 3}}, "'validation.evry'", "every, data"),
        ({"augment": ["rotate"]}, "augment.0 = 'rotate'", "change"),
        ("steps=3", "steps=3", "change"),
    ],
)
def test_refusals(settings, message, hint):
    with pytest.raises(UsageError) as caught:
        check_config(settings)
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize("override", ["steps", "=3", "", "lr.x=3", "steps=3=4"])
def test_overrides_that_mean_nothing(override):
    with pytest.raises(UsageError):
        check_config(read_config(None, ["lr=0.1", override]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"steps = "),
        ("a.json", b"{"),
        ("a.json", b"[1, 2]"),
        ("a.toml", b"\xff\xfe\x00"),
        ("missing.toml", None),
        ("folder", None),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        read_config(tmp_path / name)


def test_the_schema_names_every_key():
    document = schema()
    assert document["$schema"].endswith("2020-12/schema") and document["additionalProperties"] is False
    assert set(document["properties"]) == set(check_config(None).model_dump())
    assert set(document["$defs"]["ValidationConfig"]["properties"]) == set(check_config(None).validation.model_dump())
    assert json.loads(json.dumps(document)) == document
