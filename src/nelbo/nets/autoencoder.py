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
    """x (B, C, H, W) → (B, 2 latents, H/2^halvings, W/2^halvings): a mean and a log variance.

    width: channels, a multiple of 8; blocks: residual blocks at every scale. Errors of a call: ShapeError where the
    sides are not multiples of 2^halvings.
    """

    def __init__(self, channels: int, latents: int, width: int = 32, halvings: int = 2, blocks: int = 1):
        super().__init__()
        self.halvings = halvings
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for _ in range(halvings):
            layers += [_Residual(width) for _ in range(blocks)]
            layers.append(nn.Conv2d(width, width, 4, stride=2, padding=1))
        layers += [_Residual(width), nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 2 * latents, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        side = 2**self.halvings
        if x.shape[-1] % side or x.shape[-2] % side:
            raise ShapeError(
                f"an encoder that halves {self.halvings} times for images of {x.shape[-2]} × {x.shape[-1]}",
                f"give sides that are multiples of {side}, or fewer halvings",
            )
        return self.layers(x)


class ConvDecoder(nn.Module):
    """z (B, latents, h, w) → x̂ (B, C, h 2^doublings, w 2^doublings); settings as of `ConvEncoder`."""

    def __init__(self, channels: int, latents: int, width: int = 32, doublings: int = 2, blocks: int = 1):
        super().__init__()
        self.doublings = doublings
        self.first = nn.Sequential(nn.Conv2d(latents, width, 3, padding=1), _Residual(width))
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), *(_Residual(width) for _ in range(blocks)))
            for _ in range(doublings)
        )
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z)
        for scale in self.scales:
            h = scale(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.last(h)


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
