"""The recipe for images of many levels: what `nelbo train` does with them unless it is told otherwise.

Digits of 17 levels are well served by the defaults of `TrainConfig`: a residual MLP with a table of logits. Images of
64 levels and more get a U-Net at full resolution that sees z in units of its noise and says ε̂ behind a gate for the end
codes, and, for the decoder alone, a mixture a pixel; Muon; log-SNR from 9 to −7, times drawn by importance, and x̂
clipped to the codes' range (what each is worth: benchmarks/training.py).
"""

from __future__ import annotations

from nelbo.model.examples import Examples
from nelbo.training.config import TrainConfig
from nelbo.typing import Json

MANY = 64
"""Codes from which on the recipe is used."""

IMAGES: Json = {
    "steps": 5000,
    "batch_size": 32,
    "lr": 4e-3,
    "optimizer": "muon",
    "weight_decay": 0.01,
    "warmup": 100,
    "ema": 0.998,
    "levels": 1000,
    "reconstruction_share": 0.0625,
    "net": {
        "name": "unet", "head": "plain", "predicts": "eps", "components": 4,
        "width": 32, "multipliers": [1, 1.5, 2.75], "patch": 1, "attention": False,
        "shuffle": True, "noise_units": True, "end_gate": True,
    },
    "decoder": "mixture",
    "clip": True,
    "channels_last": True,
    "objective": {"name": "bound", "t": "importance"},
    "schedule": {"name": "logsnr_linear", "logsnr_max": 9.0, "logsnr_min": -7.0},
}  # fmt: skip


def with_recipe(config: Json | TrainConfig | None, examples: Examples) -> Json | TrainConfig:
    """The settings `config` on top of the recipe that fits `examples`; as they are where none does.

    Settings reach inside (`net.size` keeps the recipe's head). A config that names its own network, by net.name or
    net.head, describes a model of its own and gets nothing from the recipe.
    """
    if isinstance(config, TrainConfig):
        return config
    given = config or {}
    net = given.get("net", {})
    own = isinstance(net, str) or (isinstance(net, dict) and ("name" in net or "head" in net))
    bins = given.get("bins") or examples.bins
    sides = examples.data.shape[-2:]
    image = examples.data.ndim in (3, 4) and all(n >= 8 and n % 2 == 0 for n in sides)
    many = isinstance(bins, int) and bins >= MANY and not examples.data.is_floating_point()
    if not image or not many or own:
        return given
    joined = _over(IMAGES, given)
    if joined["net"]["predicts"] != "eps" and "end_gate" not in net:  # the gate makes ε̂
        joined["net"] = {**joined["net"], "end_gate": False}
    return joined


def _over(base: Json, given: Json) -> Json:
    """`given` on top of `base`: tables join, and a name alone replaces the table that it names."""
    joined = dict(base)
    for key, value in given.items():
        below = base.get(key)
        if key == "net" and isinstance(value, dict) and "size" in value:  # a size brings its own widths
            below = {k: v for k, v in IMAGES["net"].items() if k not in ("width", "multipliers", "attention")}
        joined[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return joined
