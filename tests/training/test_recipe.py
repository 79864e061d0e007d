"""The recipe for images of many levels, and who gets it."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.decoder import NetworkCategorical
from nelbo.model.examples import Examples
from nelbo.model.mixture import NetworkMixture
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig
from nelbo.training.objective import BoundObjective, NoisedBatch
from nelbo.training.recipe import IMAGES, with_recipe
from nelbo.training.settings import check_config

BYTES = torch.randint(0, 256, (6, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGE = Examples(BYTES, "bytes", bins=256)


def test_images_of_many_levels():
    model = build_model(IMAGE, check_config(with_recipe(None, IMAGE)))
    assert isinstance(model.decoder, NetworkMixture) and float(model.schedule.logsnr(torch.tensor(0.0))) == 9.0


@pytest.mark.parametrize(
    "examples",
    [
        Examples(BYTES % 17, "few levels", bins=17),
        Examples(BYTES[:, :7], "an odd side", bins=256),
        Examples(BYTES.flatten(1), "vectors", bins=256),
    ],
    ids=lambda e: e.name,
)
def test_others_get_the_defaults(examples):
    assert with_recipe({"lr": 0.1}, examples) == {"lr": 0.1}


@pytest.mark.parametrize("given", [{"lr": 0.1}, {"lr": 0.1, "net": "unet"}, TrainConfig(lr=0.1)])
def test_real_numbers_get_a_plain_head_unless_a_head_is_named(given):
    real = Examples(torch.randn(9, 3), "real numbers")
    settings = check_config(with_recipe(given, real))
    assert settings.net.head == "plain" and settings.lr == 0.1
    assert check_config(with_recipe(None, real)).net.head == "plain"
    for named in ({"net": {"head": "mixture"}}, check_config({"net": {"head": "mixture"}})):
        assert check_config(with_recipe(named, real)).net.head == "mixture"


def test_settings_stand_above_it():
    chosen = with_recipe({"lr": 0.1, "net": {"components": 2}, "schedule": {"logsnr_max": 8.0}}, IMAGE)
    settings = check_config(chosen)
    assert settings.lr == 0.1 and settings.net.components == 2 and settings.decoder == "mixture"
    assert settings.schedule.logsnr_max == 8.0 and settings.schedule.logsnr_min == -7.0
    assert IMAGES["net"]["components"] == 4, "the recipe itself was changed"
    sized = check_config(with_recipe({"net": {"size": "tiny"}}, IMAGE))
    others = {"patch": 1, "shuffle": True, "noise_units": True, "end_gate": True}
    assert sized.net.settings == {"size": "tiny", **others} and sized.net.predicts == "eps"
    assert check_config(with_recipe({"net": {"predicts": "v"}}, IMAGE)).net.settings["end_gate"] is False
    assert IMAGES["net"]["end_gate"] is True, "the recipe itself was changed"
    assert check_config(with_recipe({"schedule": "cosine"}, IMAGE)).schedule.T == 1000


@pytest.mark.parametrize("net", ["mlp", {"name": "unet"}, {"head": "plain"}])
def test_a_network_of_its_own_gets_nothing(net):
    assert with_recipe({"net": net}, IMAGE) == {"net": net}
    same = check_config({"lr": 0.1})
    assert with_recipe(same, IMAGE) is same


@pytest.mark.filterwarnings("ignore:the network is worse than none")
def test_a_run(tmp_path):
    """A few steps on bytes: a model folder with the mixture decoder, whose bound can be evaluated and is, after some,
    better than 8 bits."""
    flat = Examples((BYTES // 64 + 100).repeat(4, 1, 1), "low contrast", bins=256)
    settings = {"steps": 25, "batch_size": 8, "warmup": 2, "levels": 16, "net": {"width": 8, "multipliers": [1]}}
    nelbo.train(flat, tmp_path, settings)
    model = nelbo.load(tmp_path)
    assert isinstance(model.decoder, NetworkMixture) and not isinstance(model.decoder, NetworkCategorical)
    with pytest.warns(NelboWarning, match="trained on"):
        bound = nelbo.evaluate(model, flat, tolerance=0.1)
    assert 0 < bound.terms.reconstruction.bits_per_dim < 8


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"objective": "simple"}, "a decoder of mixtures is part of the network", "decoder=histogram"),
        ({"schedule": "linear", "variance": "learned_range"}, "and the decoder 'mixture'", "not decoder=mixture"),
    ],
)
def test_a_mixture_beside_eps_is_refused_where_it_learns_nothing(changes, message, remedy):
    with pytest.raises(UsageError, match=message) as refused:
        build_model(IMAGE, check_config(with_recipe(changes, IMAGE)))
    assert remedy in refused.value.hint


def test_a_mixture_of_real_numbers_is_refused():
    with pytest.raises(UsageError, match="real-valued"):
        build_model(Examples(BYTES + 0.3, "real"), check_config({"net": {"head": "plain"}, "decoder": "mixture"}))


def test_one_call_a_step(monkeypatch):
    """A decoder that is the network's own costs a step no call of its own, and its examples are those of the batch."""
    model = build_model(IMAGE, check_config(with_recipe({"net": {"size": "tiny"}}, IMAGE)))
    rows = []
    whole = type(model.denoiser).forward
    monkeypatch.setattr(type(model.denoiser), "forward", lambda *given: rows.append(len(given[1])) or whole(*given))
    batch = NoisedBatch.draw(model, Batch(BYTES, seed=0, step=0))
    with torch.no_grad():
        losses = BoundObjective(reconstruction_share=0.3).losses(model, batch)
    assert rows == [6 + 2]
    first = model.levels()[:1]
    eps = Purpose.FIRST_LEVEL_NOISE.normal(0, torch.arange(2), 0, shape=model.domain.shape)
    with torch.no_grad():
        alone = at_noise.reconstruction(model, batch.x[:2].double(), batch.target[:2], eps, first.expand(2)).mean()
    assert float(losses.terms["reconstruction"]) == pytest.approx(float(alone) / (64 * math.log(2)), rel=1e-5)


def test_labels_of_the_first_level(monkeypatch):
    """Examples that score the first level come behind the batch with their own labels, the first of it."""
    labels = torch.arange(6)
    examples = Examples(BYTES, "bytes", bins=256, labels=labels)
    model = build_model(examples, check_config(with_recipe({"net": {"size": "tiny"}, "condition": "y"}, examples)))
    seen = []
    whole = type(model.denoiser).forward
    monkeypatch.setattr(type(model.denoiser), "forward", lambda *given: seen.append(given[3]) or whole(*given))
    batch = NoisedBatch.draw(model, Batch(BYTES, seed=0, step=0, condition={"y": labels}))
    with torch.no_grad():
        BoundObjective(reconstruction_share=0.3).losses(model, batch)
    assert seen[0]["y"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
