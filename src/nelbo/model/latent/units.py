"""The affine map from an encoder's z to the units z′ that a diffusion prior was trained in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import ShapeError, UsageError
from nelbo.parts import Part
from nelbo.typing import Shape


def broadcasts(shape: Sequence[int], over: Shape) -> bool:
    """Whether a tensor of this shape stands for one of the shape `over`."""
    aligned = zip(reversed(tuple(shape)), reversed(over), strict=False)
    return len(shape) <= len(over) and all(n in (1, m) for n, m in aligned)


@equation("latent-rescaling")
@numbers
@dataclass(frozen=True, eq=False)
class LatentUnits(Part, family="latent_units", kind="affine"):
    """z′ = s (z − b). scale: s > 0; shift: b; numbers or tensors that broadcast over z (C, …), such as (C, 1, 1).

    A density in the two units differs by the volume, −log p(z) = −log p′(z′) − Σ log s, and the entropy of q by as
    much, so that the bound of x is the same in both. `scaling_factor` of diffusers is s, and `shift_factor` is b; with
    `latents_mean` and `latents_std` s is scaling_factor/std, and b is the mean.
    """

    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def __post_init__(self):
        for name in ("scale", "shift"):
            try:
                value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                raise UsageError(f"a {name} of latents that is {getattr(self, name)!r}", "give a number") from None
            object.__setattr__(self, name, value)
            if not bool(torch.isfinite(value).all()) or (name == "scale" and bool((value <= 0).any())):
                raise UsageError(
                    f"a {name} of latents of {value.flatten()[:4].tolist()}", "give finite numbers, and a scale > 0"
                )

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.scale, Tensor) and isinstance(self.shift, Tensor)
        return self.scale, self.shift

    def check(self, shape: Shape) -> None:
        """Errors: ShapeError where scale or shift do not broadcast over latents of this shape."""
        for name, value in zip(("scale", "shift"), self._both, strict=True):
            if not broadcasts(value.shape, shape):
                raise ShapeError(
                    f"a {name} of shape {tuple(value.shape)} for latents of shape {tuple(shape)}",
                    "give one number, or one a channel of shape (C, 1, 1)",
                )

    def to_prior(self, z: Tensor) -> Tensor:
        """z′ = s (z − b), in the dtype of z."""
        scale, shift = (v.to(z) for v in self._both)
        return scale * (z - shift)

    def spread(self, std: Tensor) -> Tensor:
        """The standard deviation of z′ where that of z is `std`: s std."""
        return self._both[0].to(std) * std

    def from_prior(self, z: Tensor) -> Tensor:
        """z = z′/s + b, in the dtype of z′."""
        scale, shift = (v.to(z) for v in self._both)
        return z / scale + shift
