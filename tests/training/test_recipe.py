"""The recipe for images of many levels, and who gets it."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.bound.prepare import NelboWarning
from nelbo.model.decoder import NetworkCategorical
from nelbo.model.examples import Examples
from nelbo.model.mixture import NetworkMixture
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.recipe import IMAGES, with_recipe

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
        Examples(BYTES.float(), "real numbers"),
    ],
    ids=lambda e: e.name,
)
def test_others_get_the_defaults(examples):
    assert with_recipe({"lr": 0.1}, examples) == {"lr": 0.1}


def test_settings_stand_above_it():
    chosen = with_recipe({"lr": 0.1, "net": {"components": 2}, "schedule": {"logsnr_max": 8.0}}, IMAGE)
    settings = check_config(chosen)
    assert settings.lr == 0.1 and settings.net.components == 2 and settings.decoder == "mixture"
    assert settings.schedule.logsnr_max == 8.0 and settings.schedule.logsnr_min == -7.0
    assert IMAGES["net"]["components"] == 4, "the recipe itself was changed"
    sized = check_config(with_recipe({"net": {"size": "tiny"}}, IMAGE))
    assert sized.net.settings == {"size": "tiny", "patch": 1} and sized.net.predicts == "eps"
    assert check_config(with_recipe({"schedule": "cosine"}, IMAGE)).schedule.T == 1000


@pytest.mark.parametrize("net", ["mlp", {"name": "unet"}, {"head": "plain"}])
def test_a_network_of_its_own_gets_nothing(net):
    assert with_recipe({"net": net}, IMAGE) == {"net": net}
    same = check_config({"lr": 0.1})
    assert with_recipe(same, IMAGE) is same


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
