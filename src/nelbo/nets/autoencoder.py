"""Small convolutional encoders and decoders of images, and the halves of diffusers' AutoencoderKL, from their recipes.

A recipe is a name and settings, as a model folder holds it; `build_half` makes the network of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from torch import Tensor, nn
from torch.nn import functional as F

from nelbo import fields
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.nets.diffusers import library
from nelbo.typing import Json


class _Residual(nn.Module):
    """h + conv SiLU(norm conv SiLU(norm h)), without a time."""

    def __init__(self, width: int):
        super().__init__()
        layers = [(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(2)]
        self.layers = nn.Sequential(*(part for layer in layers for part in layer))

    def forward(self, h: Tensor) -> Tensor:
        """The same shape."""
        return h + self.layers(h)


class ConvEncoder(nn.Module):
    """x (B, C, H, W) → (B, 2 latents, h, w): a mean and a log variance, h = H/(patch 2^halvings) and w likewise.

    channels: C, or None of images (B, H, W). width: channels inside, a multiple of 8; blocks: residual blocks at every
    scale. patch: so many pixels on a side are folded into channels first, which saves the finest scale. Errors of a
    call: ShapeError where the sides are not multiples of patch 2^halvings.
    """

    def __init__(
        self,
        channels: int | None,
        latents: int,
        width: int = 32,
        halvings: int = 2,
        blocks: int = 1,
        patch: int = 1,
    ):
        super().__init__()
        self.halvings, self.patch, self.planar = halvings, patch, channels is None
        layers: list[nn.Module] = [nn.Conv2d((channels or 1) * patch**2, width, 3, padding=1)]
        for _ in range(halvings):
            layers += [_Residual(width) for _ in range(blocks)]
            layers.append(nn.Conv2d(width, width, 4, stride=2, padding=1))
        layers += [_Residual(width), nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 2 * latents, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.hidden = tuple(f"layers.{i}" for i in range(1, len(layers) - 1))
        """Names of the inner modules: all but the first and the last layers."""

    def forward(self, x: Tensor) -> Tensor:
        side = self.patch * 2**self.halvings
        if x.shape[-1] % side or x.shape[-2] % side:
            folds = "" if self.patch == 1 else f" and folds patches of {self.patch} × {self.patch}"
            raise ShapeError(
                f"an encoder that halves {self.halvings} times{folds} for images of {x.shape[-2]} × {x.shape[-1]}",
                f"give sides that are multiples of {side}, or fewer halvings",
            )
        return self.layers(F.pixel_unshuffle(x[:, None] if self.planar else x, self.patch))


class ConvDecoder(nn.Module):
    """z (B, latents, h, w) → x̂ (B, C, H, W), H = h patch 2^doublings and W likewise; settings as of `ConvEncoder`."""

    hidden = ("first.1", "scales")
    """Names of the inner modules: all but the first and the last layers."""

    def __init__(
        self,
        channels: int | None,
        latents: int,
        width: int = 32,
        doublings: int = 2,
        blocks: int = 1,
        patch: int = 1,
    ):
        super().__init__()
        self.doublings, self.patch, self.planar = doublings, patch, channels is None
        self.first = nn.Sequential(nn.Conv2d(latents, width, 3, padding=1), _Residual(width))
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), *(_Residual(width) for _ in range(blocks)))
            for _ in range(doublings)
        )
        outer = (channels or 1) * patch**2
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, outer, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z)
        for scale in self.scales:
            h = scale(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        x = F.pixel_shuffle(self.last(h), self.patch)
        return x[:, 0] if self.planar else x


class KLEncoder(nn.Module):
    """The encoding half of an AutoencoderKL: x (B, C, H, W) → mean and log variance (B, 2 latents, h, w)."""

    def __init__(self, inner: Any):
        super().__init__()
        self.encoder, self.quant_conv = inner.encoder, inner.quant_conv
        self.recipe: Json = {"name": "kl_encoder", "settings": kl_settings(inner)}

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return h if self.quant_conv is None else self.quant_conv(h)


class KLDecoder(nn.Module):
    """The decoding half of an AutoencoderKL: z (B, latents, h, w) → x̂ (B, C, H, W)."""

    def __init__(self, inner: Any):
        super().__init__()
        self.post_quant_conv, self.decoder = inner.post_quant_conv, inner.decoder
        self.recipe: Json = {"name": "kl_decoder", "settings": kl_settings(inner)}

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))


def kl_settings(inner: Any) -> Json:
    """The configuration of an AutoencoderKL as JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in inner.config.items() if not k.startswith("_")}


def _kl(half: Callable[[Any], nn.Module], settings: Json) -> nn.Module:
    cls = library("an AutoencoderKL").AutoencoderKL
    known = inspect.signature(cls.__init__).parameters
    for name in settings:
        if name not in known or name == "self":
            raise UnknownNameError.of("setting of AutoencoderKL", name, [n for n in known if n != "self"])
    return half(cls(**settings))


HALVES: dict[str, Any] = {"conv_encoder": ConvEncoder, "conv_decoder": ConvDecoder}
KL: dict[str, Callable[[Any], nn.Module]] = {"kl_encoder": KLEncoder, "kl_decoder": KLDecoder}


def build_half(name: str, settings: Json) -> nn.Module:
    """The encoder or decoder `name` with `settings` and fresh weights. Errors: UnknownNameError for a name or setting
    that does not exist; UsageError for a value that does not work."""
    try:
        if name in KL:
            return _kl(KL[name], settings)
        if name not in HALVES:
            raise UnknownNameError.of("encoder or decoder", name, [*HALVES, *KL])
        hints = get_type_hints(HALVES[name].__init__)
        for key, value in settings.items():
            if key not in hints:
                raise UnknownNameError.of(f"setting of {name!r}", key, hints)
            if not fields.fits(value, hints[key]):
                raise UsageError(f"{name!r} has {key} = {fields.shown(value)}", f"it is {fields.described(hints[key])}")
        net = HALVES[name](**settings)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UsageError(f"the network {name!r} cannot be built with {settings}: {error}", "change them") from None
    net.recipe = {"name": name, "settings": settings}
    return net
