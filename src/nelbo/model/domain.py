"""The data domain: what x is. Integer codes on an even lattice of real values, or real numbers.

Code k of K bins stands for x_k = low + (high − low) k/(K − 1), so that the ends are codes and half a bin is
(high − low)/(2(K − 1)): 1/255 for 256 bins on [−1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model import float_codes
from nelbo.parts import Part
from nelbo.typing import Json, Shape


@numbers
@dataclass(frozen=True, eq=False)
class DataDomain(Part, family="domain", kind="domain"):
    """Shape of one example, number of bins (None: real numbers), and the real values of the first and last code.

    mean, scale (*shape), of real data only: the model is one of u = (x − mean)/scale, and the density it gives is that
    of x: −log p(x) = −log p(u) + Σ log scale.
    """

    limits: ClassVar[dict[str, int]] = {"shape": 1 << 26, "bins": 1 << 24}
    shape: Shape
    bins: int | None = None
    low: float = -1.0
    high: float = 1.0
    mean: Tensor | None = None
    scale: Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.shape or not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise UsageError(f"a data domain of shape {self.shape}", "give whole numbers ≥ 1, such as (3, 32, 32)")
        if self.bins is not None and (not isinstance(self.bins, int) or self.bins < 2):
            raise UsageError(f"a data domain of {self.bins!r} bins", "give a whole number ≥ 2, or None for real data")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"a data domain from {self.low} to {self.high}", "give finite ends, the smaller first")
        if (self.mean is None) != (self.scale is None) or (self.mean is not None and self.discrete):
            raise UsageError(
                "a data domain with a mean or a scale that does not fit it",
                "give both, and for real data only: codes have their values from low and high",
            )
        if self.mean is not None and self.scale is not None:
            fits = tuple(self.mean.shape) == tuple(self.scale.shape) == self.shape
            if not fits or not bool(torch.isfinite(self.mean).all() and (self.scale > 0).all()):
                raise UsageError(
                    f"a mean and a scale of shapes {tuple(self.mean.shape)} and {tuple(self.scale.shape)}",
                    f"give finite means and scales > 0 of shape {self.shape}",
                )

    def to_config(self) -> Json:
        """As of every part; a domain without mean and scale does not speak of them."""
        return {k: v for k, v in super().to_config().items() if k not in ("mean", "scale")}

    @property
    def log_volume(self) -> float:
        """Σ log scale, in nats: what a density of u must be charged to be one of x = mean + scale · u."""
        return 0.0 if self.scale is None else float(self.scale.double().log().sum())

    def original(self, values: Tensor) -> Tensor:
        """x = mean + scale · u of values u (B, *shape) of real data."""
        if self.mean is None or self.scale is None:
            return values
        return self.mean.to(values) + self.scale.to(values) * values

    @property
    def dimensions(self) -> int:
        """D, the number of scalars an example has; bits/dim divide by it."""
        return math.prod(self.shape)

    @property
    def discrete(self) -> bool:
        """Whether examples are integer codes, so that bits/dim is a code length and not a density."""
        return self.bins is not None

    def lattice(self, *, device=None, dtype=torch.float64) -> Tensor:
        """The values x_0 … x_{K−1} of the codes, (K,)."""
        return self.values(torch.arange(self._bins(), device=device)).to(dtype)

    @equation("pixel-scaling")
    def values(self, codes: Tensor) -> Tensor:
        """x = low + (high − low) k/(K − 1), float64, for integer codes k of any shape.

        Of real data, which are values already, u = (x − mean)/scale, or x itself.
        """
        if not self.discrete:
            values = codes.to(torch.float64)
            if self.mean is None or self.scale is None:
                return values
            return (values - self.mean.to(values)) / self.scale.to(values)
        # the same operations in place: this is done for every draw
        return codes.to(torch.float64).mul(self.high - self.low).div_(self._bins() - 1).add_(self.low)

    def codes(self, values: Tensor) -> Tensor:
        """The code whose value is nearest, int64; values beyond the ends belong to the end codes."""
        unit = (values - self.low) / (self.high - self.low)
        return (unit * (self._bins() - 1)).round().clamp(0, self._bins() - 1).long()

    def checked(self, data: Tensor, what: str = "data", release: Callable[[], None] | None = None) -> Tensor:
        """`data` (N, *shape) after every check: codes or values in the type they came in (integers as values: float64).

        (N, H, W) stands for one channel. release: called after each piece that was looked at. Errors: ShapeError;
        DomainError for NaN or infinity, for floats where codes are expected and for codes outside 0..K−1.
        """
        lazy = not isinstance(data, Tensor) and hasattr(data, "split")  # rows that are decoded when they are asked for
        data = self._shaped(data if lazy else torch.as_tensor(data), what)
        if not self.discrete:
            return self._checked_values(data, what, release)
        K = self._bins()
        if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            line = float_codes.line(data, K) if data.is_floating_point() else None
            raise DomainError(
                f"{what} holds {str(data.dtype).removeprefix('torch.')} values where integer codes 0..{K - 1} "
                "are expected" + (f"; these are {K} codes as floats" if line else ""),
                f"give x = {line}"
                if line
                else f"give the codes themselves; code k stands for {self.low} + {self.high - self.low}·k/{K - 1}",
            )
        smallest = largest = int(data[0].flatten()[0])
        for piece in data.split(1024):
            low, high = piece.aminmax()
            smallest, largest = min(smallest, int(low)), max(largest, int(high))
            if release is not None:
                release()
        if smallest < 0 or largest >= K:
            raise DomainError(
                f"{what} holds codes from {smallest} to {largest}, but the model has {K} bins (codes 0..{K - 1})",
                "check that the data and the model have the same number of levels a pixel; nothing is rescaled",
            )
        return data

    def takes(self, shape: Shape) -> bool:
        """Whether examples of `shape` are of this domain: of its shape, or of it but for an axis of one channel."""
        return shape == self.shape or (1, *shape) == self.shape or shape == (1, *self.shape)

    def _shaped(self, data: Tensor, what: str) -> Tensor:
        if data.ndim and len(data) == 0:
            raise ShapeError(f"{what} has no examples: shape {tuple(data.shape)}", "give at least one example")
        inner = tuple(data.shape[1:])
        if inner == self.shape:
            return data
        if data.ndim and self.takes(inner):
            return data.reshape(len(data), *self.shape)
        remedy = f"give an array of shape (N, {', '.join(map(str, self.shape))}); nothing is resized or cropped"
        for axes, where in (((0, 3, 1, 2), "last"), ((0, 2, 3, 1), "first")):
            if len(inner) == 3 and tuple(data.shape[axis] for axis in axes[1:]) == self.shape:
                file = "; of a file, write #layout=nhwc behind its name" if where == "last" else ""
                remedy = (
                    f"its channels come {where}: give x.transpose{axes} of an array, x.permute{axes} of a tensor{file}"
                )
        raise ShapeError(
            f"{what} has shape {tuple(data.shape)}, but the model scores examples of shape {self.shape}", remedy
        )

    def _checked_values(self, data: Tensor, what: str, release: Callable[[], None] | None) -> Tensor:
        if not data.is_floating_point():
            data = data.to(torch.float64)
        for first in range(0, len(data), 1024):
            broken = ~torch.isfinite(data[first : first + 1024])
            if bool(broken.any()):
                row = first + int(broken.flatten(1).any(1).nonzero()[0])
                raise DomainError(
                    f"{what} holds NaN or infinity, first in example {row}", "remove or repair that example"
                )
            if release is not None:
                release()
        return data

    def _bins(self) -> int:
        if self.bins is None:
            raise UsageError("codes were asked of a domain of real numbers", "declare DataDomain(shape, bins=K)")
        return self.bins
