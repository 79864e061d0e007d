"""The recipe for images of many codes: the defaults of `nelbo train` for them.

The defaults of `TrainConfig`, a residual MLP with a table of logits, suit digits of 17 codes. For images of 64 codes
and more the recipe is a U-Net at full resolution, whose input includes z in units of its noise, and which predicts ε̂
through a gate for the end codes and, for the decoder, a mixture for every pixel; Muon; log-SNR from 9 to −7, importance
sampling of times, and x̂ clipped to the range of the codes (benchmarks/training.py measures what each of them gives).
Real numbers have no codes for a table, and get a plain head.
"""

from __future__ import annotations

from nelbo.model.examples import Examples
from nelbo.nets.build import TOKEN_NETS
from nelbo.training.config import TrainConfig
from nelbo.typing import Json

MANY = 64
"""The recipe is for images of this many codes or more."""

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


LATENT: Json = {
    "steps": 4000,
    "batch_size": 32,
    "lr": 4e-3,
    "optimizer": "muon",
    "weight_decay": 0.01,
    "warmup": 100,
    "ema": 0.998,
    "levels": 1000,
    "net": {
        "name": "unet", "head": "plain", "predicts": "v",
        "width": 64, "multipliers": [1, 1], "patch": 1, "attention": False,
    },
    "objective": {"name": "bound", "t": "importance"},
    "schedule": {"name": "logsnr_linear", "logsnr_max": 9.0, "logsnr_min": -7.0},
}  # fmt: skip
"""For a latent model of images: a U-Net over the latents, which begins as the exact network of N(0, I)."""

SETS: Json = {"net": {"name": "set", "head": "plain"}}
"""For examples of different size."""

TEXT: Json = {
    "steps": 3000,
    "batch_size": 16,
    "lr": 1e-2,
    "optimizer": "muon",
    "weight_decay": 0.01,
    "warmup": 100,
    "ema": 0.998,
    "net": {"name": "transformer", "size": "tiny"},
}
"""For sequences of symbols: a network over masked places that is not told the time, and stratified counts."""


def with_recipe(config: Json | TrainConfig | None, examples: Examples) -> Json | TrainConfig:
    """The settings `config` on top of the recipe where it fits `examples`; else as they are.

    Tables are merged (`net.size` keeps the recipe's head). A config that names its network, by net.name or net.head,
    describes a model of its own and gets nothing from the recipe.
    """
    if isinstance(config, dict) and config.get("latent") is not None:
        return _for_latents(config)
    if examples.mask is not None and (examples.data.is_floating_point() or examples.data.ndim > 2):
        return _for_sets(config)
    if examples.data.is_floating_point():
        return _for_real_data(config)
    if isinstance(config, TrainConfig):
        return config
    given = config or {}
    net = given.get("net", {})
    name = net if isinstance(net, str) else net.get("name") if isinstance(net, dict) else None
    if name in TOKEN_NETS or (name is None and "tokenizer" in examples.facts):
        named = {**given, "net": {"name": net}} if isinstance(net, str) else given
        net = named.get("net", {})
        own_size = {"size": TEXT["net"]["size"]} if "size" not in net and "width" not in net else {}
        return {**TEXT, **named, "net": {"name": TEXT["net"]["name"], **own_size, **net}}
    own_network = isinstance(net, str) or (isinstance(net, dict) and ("name" in net or "head" in net))
    bins = given.get("bins") or examples.bins
    sides = examples.data.shape[-2:]
    image = examples.data.ndim in (3, 4) and all(n >= 8 and n % 2 == 0 for n in sides)
    many = isinstance(bins, int) and bins >= MANY and not examples.data.is_floating_point()
    if not image or not many or own_network:
        return given
    merged = _merged(IMAGES, given)
    if merged["net"]["predicts"] != "eps" and "end_gate" not in net:  # the gate gives ε̂
        merged["net"] = {**merged["net"], "end_gate": False}
    return merged


def _for_latents(given: Json) -> Json:
    """The settings on top of those of a latent model; another network than the recipe's keeps a plain head alone."""
    net = given.get("net", {})
    net = {"name": net} if isinstance(net, str) else net
    if isinstance(net, dict) and net.get("name", "unet") != LATENT["net"]["name"]:
        return {**_merged(LATENT, {k: v for k, v in given.items() if k != "net"}), "net": {"head": "plain", **net}}
    return _merged(LATENT, {**given, "net": net})


def _for_sets(config: Json | TrainConfig | None) -> Json | TrainConfig:
    """The settings with a network over sets and a plain head, unless they name another."""
    if isinstance(config, TrainConfig):
        return config
    given = config or {}
    net = given.get("net", {})
    net = {"name": net} if isinstance(net, str) else net
    return {**given, "net": {**SETS["net"], **net}} if isinstance(net, dict) else given


def _for_real_data(config: Json | TrainConfig | None) -> Json | TrainConfig:
    """The settings with a plain head, the only one for real numbers, unless they name a head themselves."""
    if isinstance(config, TrainConfig):
        if "head" in config.net.model_fields_set:
            return config
        return config.model_copy(update={"net": config.net.model_copy(update={"head": "plain"})})
    given = config or {}
    net = given.get("net", {})
    net = {"name": net} if isinstance(net, str) else net
    if not isinstance(net, dict) or "head" in net:
        return given
    return {**given, "net": {**net, "head": "plain"}}


def _merged(base: Json, given: Json) -> Json:
    """`given` on top of `base`: tables are merged, and a name alone replaces the table that it names."""
    merged = dict(base)
    for key, value in given.items():
        below = base.get(key)
        if key == "net" and isinstance(value, dict) and "size" in value:  # a size stands for widths of its own
            below = {k: v for k, v in base[key].items() if k not in ("width", "multipliers", "attention")}
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
