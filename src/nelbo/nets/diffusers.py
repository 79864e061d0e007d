"""Networks of the library diffusers, as net(z, time, **condition) → tensor.

diffusers is imported when one is made, not before. `NetworkMaker` builds a fresh one from settings (what a training
run or a model folder does), `DiffusersNet` wraps one that exists (what `nelbo.from_diffusers` does).
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import ShapeError, UsageError
from nelbo.typing import Json, Shape


def library(what: str) -> Any:
    """The module diffusers, which `what` needs. Errors: UsageError naming the extra where it is not installed."""
    try:
        import diffusers
    except ImportError:
        raise UsageError(
            f"{what} needs the library diffusers, which is not installed", "pip install 'nelbo[diffusers]'"
        ) from None
    return diffusers


@dataclass(frozen=True)
class Adaptation:
    """From the level to the network's time, and from its output to what it is declared to predict.

    The network's time is time_scale · t, and its output is multiplied by `output_scale`; outputs: "all" channels, only
    the "mean" half of them, or "raw_variance", where the second half is a variance and not its logarithm.
    """

    time_scale: float = 1.0
    output_scale: float = 1.0
    outputs: str = "all"

    def to_config(self) -> Json:
        """The fields that differ from their defaults."""
        plain = Adaptation()
        return {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(plain, k)}


class DiffusersNet(nn.Module):
    """z (B, C, H, W) or (B, H, W), time (B,) → the network's output as a tensor of the same form, C or 2C channels.

    A network of signals, UNet1DModel, takes (B, C, N) or (B, N).

    Conditions are the network's own keywords (`class_labels`, `encoder_hidden_states`), one row an example.
    """

    time_dtype = torch.float32
    """The dtype of diffusers' embeddings of time, whatever the precision of the network."""

    hidden = ("inner.down_blocks", "inner.mid_block", "inner.up_blocks")
    """Names of the inner modules of diffusers' U-Nets: all but the first and the last layers."""

    def __init__(self, inner: nn.Module, name: str, adaptation: Adaptation = Adaptation()):
        super().__init__()
        self.inner = inner
        self.adaptation = adaptation
        self.sides = SIDES.get(name, 2)
        config = {k: v for k, v in inner.config.items() if not k.startswith("_")}  # type: ignore[union-attr]
        self.required = conditions(config, name)
        settings: Json = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
        if adaptation.to_config():
            settings["adaptation"] = adaptation.to_config()
        self.recipe: Json = {"name": name, "settings": settings, "logsnr_max": None, "logsnr_min": None}

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        missing = [name for name in self.required if name not in condition]
        if missing:
            raise UsageError(
                f"the network {type(self.inner).__name__} is conditional and was not given {missing[0]!r}",
                f"give one row an example: condition={{{missing[0]!r}: values}}",
            )
        a = self.adaptation
        if a.time_scale != 1.0:
            time = a.time_scale * time
        planar = z.ndim == 1 + self.sides
        try:
            value = self.inner(z[:, None] if planar else z, timestep=time, return_dict=False, **condition)[0]
        except (IndexError, TypeError, ValueError) as error:
            raise UsageError(
                f"the network {type(self.inner).__name__} does not take this input: {_first_line(error)}",
                "check the names and values of `condition` (class labels count from 0) and the shape of the data",
            ) from None
        C = 1 if planar else z.shape[1]
        if a.output_scale != 1.0:
            value = torch.cat([a.output_scale * value[:, :C], value[:, C:]], 1)
        if a.outputs == "mean":
            value = value[:, :C]
        elif a.outputs == "raw_variance":
            value = torch.cat([value[:, :C], value[:, C:].log()], 1)  # NaN of a negative variance is refused later
        return value.squeeze(1) if planar and value.shape[1] == 1 else value


def conditions(config: Json, name: str) -> tuple[str, ...]:
    """Keywords without which a network of this configuration cannot be called."""
    labels = config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None
    always = {
        "dit": ("class_labels",),
        "unet2d_condition": ("encoder_hidden_states",),
        "sd3": ("encoder_hidden_states", "pooled_projections"),
    }.get(name, ())
    return (*always, *(("class_labels",) if labels and "class_labels" not in always else ()))


@dataclass(frozen=True)
class NetworkMaker:
    """Makes a network of diffusers' class `model` from settings and the shape of the data."""

    name: str
    model: str
    time: str = "index"

    def settings(self) -> list[str]:
        """Its settings: those of the class in diffusers."""
        known = inspect.signature(getattr(library(f"the network {self.name!r}"), self.model).__init__).parameters
        return [name for name in known if name != "self"] + ["adaptation"]

    def __call__(
        self, shape: Shape, codes: int | None, logsnr_max: float | None, logsnr_min: float | None, **settings: Any
    ) -> DiffusersNet:
        if codes is not None:
            raise UsageError(
                f"the network {self.name!r} has one output an element, and a categorical head was asked for",
                "use net.head=plain",
            )
        dimensions = SIDES.get(self.name, 2)
        C, *sides = (1, *shape) if len(shape) == dimensions else shape
        if len(sides) != dimensions:
            form = "images (H, W) or (C, H, W)" if dimensions == 2 else "signals (N,) or (C, N)"
            raise ShapeError(f"the network {self.name!r} for examples of shape {tuple(shape)}", f"give {form}")
        adaptation = Adaptation(**settings.pop("adaptation", {}))
        fresh = "in_channels" not in settings
        size = sides[0] if len(set(sides)) == 1 else tuple(sides)
        filled = {"sample_size": size, "in_channels": C, "out_channels": C, **settings}
        if self.model == "UNet2DModel":
            filled = _with_blocks(filled)
        inner = getattr(library(f"the network {self.name!r}"), self.model)(**filled)
        if fresh and hasattr(inner, "conv_out"):
            nn.init.zeros_(inner.conv_out.weight)  # the first prediction is 0, as of every network here
            nn.init.zeros_(inner.conv_out.bias)
        return DiffusersNet(inner, self.name, adaptation)


def _with_blocks(settings: Json) -> Json:
    """Small defaults, and a type for every block: plain ones, with attention at the coarsest scale."""
    settings = {"block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 8, **settings}
    scales = len(settings["block_out_channels"])
    down, up = ["DownBlock2D"] * scales, ["UpBlock2D"] * scales
    if scales > 1:
        down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
    settings = {"down_block_types": down, "up_block_types": up, **settings}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


UNET2D = NetworkMaker("unet2d", "UNet2DModel")
SIDES = {"unet1d": 1}
"""Numbers of dimensions of an example beside its channels, where it is not that of images, 2."""
OTHERS = {
    "unet1d": NetworkMaker("unet1d", "UNet1DModel"),
    "unet2d_condition": NetworkMaker("unet2d_condition", "UNet2DConditionModel"),
    "dit": NetworkMaker("dit", "DiTTransformer2DModel"),
    "sd3": NetworkMaker("sd3", "SD3Transformer2DModel"),
}
"""Networks that a model folder may hold and that are not trained here."""
