"""From a name and settings to a network. A saved model holds these, its recipe, instead of pickled code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from torch import nn

from nelbo import fields
from nelbo.errors import UnknownNameError, UsageError
from nelbo.nets.classes import ClassConditional
from nelbo.nets.diffusers import OTHERS, UNET2D, NetworkMaker
from nelbo.nets.mlp import ResidualMLP
from nelbo.nets.sets import SetNetwork
from nelbo.nets.transformer import Transformer
from nelbo.nets.unet import UNet
from nelbo.typing import Json, Shape

NETS: dict[str, Callable[..., nn.Module]] = {
    "mlp": ResidualMLP,
    "unet": UNet,
    "unet2d": UNET2D,
    "set": SetNetwork,
}
"""Networks by name. Each takes (shape, codes, logsnr_max, logsnr_min, **settings)."""

TOKEN_NETS: dict[str, Callable[..., nn.Module]] = {"transformer": Transformer}
"""Networks over symbols by name. Each takes (vocabulary, time, **settings)."""

SIZES: dict[str, dict[str, Json]] = {
    "transformer": {
        "tiny": {"width": 128, "blocks": 6, "heads": 4},
        "small": {"width": 256, "blocks": 8, "heads": 4},
        "base": {"width": 512, "blocks": 12, "heads": 8},
    },
    "mlp": {
        "tiny": {"width": 128, "blocks": 2},
        "small": {"width": 256, "blocks": 4},
        "base": {"width": 768, "blocks": 6},
    },
    "set": {
        "tiny": {"width": 64, "blocks": 3},
        "small": {"width": 128, "blocks": 4},
        "base": {"width": 256, "blocks": 6, "heads": 8},
    },
    "unet": {
        "tiny": {"width": 32, "multipliers": [1, 2, 2], "blocks": 1},
        "small": {"width": 64, "multipliers": [1, 2, 2], "blocks": 2},
        "base": {"width": 128, "multipliers": [1, 2, 2, 2], "blocks": 3},
    },
}
"""Settings that `net.size` stands for; other settings come on top."""

_GIVEN = {"self", "shape", "codes", "logsnr_max", "logsnr_min", "vocabulary", "time"}


def time_input(name: str) -> str:
    """The time that the network `name` takes: "logsnr", or "index" (DDPM's step − 1) for those of diffusers."""
    return getattr(NETS.get(name), "time", "logsnr")


def build(
    name: str, settings: Json, *, shape: Shape, codes: int | None, logsnr_max: float | None, logsnr_min: float | None
) -> nn.Module:
    """The network `name` with `settings`, for inputs (B, *shape); codes = None for plain heads, K for the categorical.

    Errors: UnknownNameError for a network or setting that does not exist, listing those that do; UsageError for a
    setting whose value does not work.
    """
    maker = {**NETS, **OTHERS}.get(name)
    if maker is None:
        raise UnknownNameError.of("network", name, NETS)
    settings = _sized(name, settings)
    _check_settings(name, maker, settings, {"classes": int | None, "keyword": str})
    classes, keyword = settings.get("classes"), settings.get("keyword", "y")
    own = {k: v for k, v in settings.items() if k not in ("classes", "keyword")}
    arguments: dict[str, Any] = {"shape": tuple(shape), "codes": codes, **own}
    net = _made(name, maker, settings, {"logsnr_max": logsnr_max, "logsnr_min": logsnr_min, **arguments})
    if classes is not None and not hasattr(net, "embedding"):
        raise UsageError(
            f"the network {name!r} does not take labels", f"use one of nelbo's own networks: {', '.join(NETS)}"
        )
    if classes is not None:
        net = ClassConditional(net, classes, keyword)
    if isinstance(maker, NetworkMaker):
        return net  # its recipe is the whole configuration, with the defaults of diffusers
    net.recipe = {"name": name, "settings": settings, "logsnr_max": logsnr_max, "logsnr_min": logsnr_min}  # type: ignore
    return net


def build_for_tokens(name: str, settings: Json, *, vocabulary: int, time: str = "none") -> nn.Module:
    """The network `name` with `settings`, for sequences of `vocabulary` symbols, which is told `time` as
    `nelbo.tokens.from_callable` names it. Errors: as of `build`."""
    maker = TOKEN_NETS.get(name)
    if maker is None:
        raise UnknownNameError.of("network over symbols", name, TOKEN_NETS)
    settings = _sized(name, settings)
    _check_settings(name, maker, settings, {})
    net = _made(name, maker, settings, {"vocabulary": vocabulary, "time": time, **settings})
    net.recipe = {"name": name, "settings": settings}  # type: ignore[assignment]
    return net


def _check_settings(name: str, maker: Callable[..., nn.Module], settings: Json, others: dict[str, Any]) -> None:
    """Errors: UnknownNameError for a setting that neither the network has nor `others`; UsageError for one of another
    type."""
    if isinstance(maker, NetworkMaker):
        hints = dict.fromkeys(maker.settings(), Any)
    else:
        types = get_type_hints(maker.__init__)
        hints = {p: types.get(p, Any) for p in inspect.signature(maker).parameters if p not in _GIVEN}
    for key, value in settings.items():
        hint = {**hints, **others}.get(key)
        if hint is None:
            raise UnknownNameError.of(f"setting of the network {name!r}", key, hints)
        if not fields.fits(value, hint):
            raise UsageError(
                f"the network {name!r} has {key} = {fields.shown(value)}", f"{key} is {fields.described(hint)}"
            )


def _made(name: str, maker: Callable[..., nn.Module], settings: Json, arguments: dict[str, Any]) -> nn.Module:
    try:
        return maker(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UsageError(
            f"the network {name!r} cannot be built with {settings}: {error}", "change net settings"
        ) from None


def _sized(name: str, settings: Json) -> Json:
    """The settings with their `size` replaced by what it stands for, so that a recipe holds the numbers themselves."""
    if "size" not in settings:
        return settings
    sizes = SIZES.get(name, {})
    if settings["size"] not in sizes:
        if not sizes:
            raise UsageError(
                f"the network {name!r} of size {settings['size']!r}", "give its own settings; it has no sizes"
            )
        raise UnknownNameError.of(f"size of the network {name!r}", settings["size"], sizes)
    return {**sizes[settings["size"]], **{k: v for k, v in settings.items() if k != "size"}}
