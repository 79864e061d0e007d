"""What `ContextGaussian` knows of a pixel: features of the codes before it and of z_1 and x̂ all around it.

With e = z_1/α − x̂, residuals r = x − x̂ and innovations d = r − (m − x̂), m is linear in

    [r of the causal neighbours, r of the pixel's other channels, e and x̂ of all neighbours, 1]

and log s² in log mean squares of d at causal neighbours near by, at all of them and in the pixel's earlier channels, in
log mean squares of e and of the gradient of x̂ around it, and in x̂ itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.model.domain import DataDomain
from nelbo.process.levels import Levels, column

RADIUS = 2
CAUSAL = tuple((y, x) for y in range(-RADIUS, 1) for x in range(-RADIUS, RADIUS + 1) if (y, x) < (0, 0))
"""Places before (0, 0) in raster order, as steps (down, right)."""
AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
NEAR = tuple(CAUSAL.index(place) for place in ((0, -1), (-1, 0), (-1, -1), (-1, 1)))
"""Of CAUSAL the four that touch (0, 0)."""
ENERGIES = 9
"""Numbers that log s² is linear in."""


def planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of an example: a vector is one row, a matrix one channel, further axes are channels."""
    if len(shape) == 1:
        return 1, 1, shape[0]
    channels = 1
    for n in shape[:-2]:
        channels *= n
    return channels, shape[-2], shape[-1]


def mean_features(channels: int) -> int:
    """Numbers that m − x̂ is linear in: causal residuals, those of the pixel's other channels, e and x̂ around, 1."""
    return len(CAUSAL) * channels + channels + 2 * len(AROUND) * channels + 1


@dataclass(frozen=True, eq=False)
class Context:
    """What is known before the first code: x̂ and e (B, C, H, W), and the features that follow from them alone,
    (B, H, W, ·) for the mean and (B, C, H, W, ·) for the scale."""

    x0: Tensor
    of_mean: Tensor
    of_scale: Tensor

    @classmethod
    def of(cls, x0: Tensor, z: Tensor, t: Levels, domain: DataDomain) -> Context:
        """From x̂ and z_1 (B, *shape) at levels t (B,)."""
        B = len(x0)
        C, H, W = planes(domain.shape)
        e = (z / column(t.alpha, z) - x0).reshape(B, C, H, W)
        x0 = x0.reshape(B, C, H, W)
        one = x0.new_ones(B, H, W, 1)
        of_mean = torch.cat([shifted(e, AROUND), shifted(x0, AROUND), one], -1)
        quantum = quantum_of(domain)
        noise = box(e.square())
        features = [torch.log(noise + quantum), *of_image(x0, domain), torch.ones_like(x0)]
        return cls(x0, of_mean, torch.stack(features, -1))


IMAGE = 4
"""Numbers of `of_image`."""


def of_image(x0: Tensor, domain: DataDomain) -> list[Tensor]:
    """What x̂ (B, C, H, W) alone says of the size of x − x̂, each (B, C, H, W): the log mean square of its gradient
    around, itself in halves of the range, and the logs of its distances to both ends."""
    slope = box(F.pad(x0.diff(dim=-1), (0, 1)).square() + F.pad(x0.diff(dim=-2), (0, 0, 0, 1)).square())
    half = (domain.high - domain.low) / 2
    return [
        torch.log(slope + quantum_of(domain)),
        x0 / half,
        torch.log((x0 - domain.low).abs() / half + 0.01),
        torch.log((domain.high - x0).abs() / half + 0.01),
    ]


def shifted(a: Tensor, places: tuple[tuple[int, int], ...]) -> Tensor:
    """Neighbours of every pixel, 0 beyond the edges: (B, C, H, W) → (B, H, W, C·len(places)), places fastest."""
    H, W = a.shape[-2:]
    padded = F.pad(a, (RADIUS,) * 4)
    shifted = [padded[..., RADIUS + y : RADIUS + y + H, RADIUS + x : RADIUS + x + W] for y, x in places]
    return torch.stack(shifted, -1).permute(0, 2, 3, 1, 4).flatten(3)


def box(a: Tensor) -> Tensor:
    """Mean over 3 × 3 pixels that are inside and over all channels, (B, C, H, W) with the channels alike."""
    mean = F.avg_pool2d(a.mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    return mean.expand_as(a)


def mean_design(r: Tensor, context: Context) -> Tensor:
    """The numbers that m − x̂ is linear in, (B, H, W, ·), from all residuals r (B, C, H, W); weights of a channel's own
    and later residuals at the pixel itself are 0 by `allowed`."""
    return torch.cat([shifted(r, CAUSAL), r.permute(0, 2, 3, 1), context.of_mean], -1)


def allowed(channels: int) -> Tensor:
    """Which features of `mean_design` a channel may use, (C, ·) bool: of its own pixel only the channels before."""
    first = len(CAUSAL) * channels
    mask = torch.ones(channels, mean_features(channels), dtype=torch.bool)
    for c in range(channels):
        mask[c, first + c : first + channels] = False
    return mask


def energies(near: Tensor, wide: Tensor, same: Tensor, known: Tensor, quantum: float) -> Tensor:
    """The numbers that log s² is linear in, (…, ENERGIES): mean squares of r − m near by, farther and in the pixel's
    earlier channels, and what is known before (…, 6)."""
    logs = [torch.log(v + quantum) for v in (near, wide, same)]
    return torch.cat([torch.stack(logs, -1), known], -1)


def scale_design(d: Tensor, context: Context, domain: DataDomain) -> Tensor:
    """`energies` of every pixel and channel, (B, C, H, W, ENERGIES), from all d = r − (m − x̂), (B, C, H, W)."""
    B, C, H, W = d.shape
    square = d.square()
    patch = shifted(square, CAUSAL).reshape(B, H, W, C, len(CAUSAL)).permute(0, 3, 1, 2, 4)
    near = patch[..., NEAR].mean(-1)
    wide = patch.mean((1, 4), keepdim=True)[..., 0].expand_as(near)
    return energies(near, wide, earlier(square), context.of_scale, quantum_of(domain))


def earlier(square: Tensor) -> Tensor:
    """Mean over the channels before a pixel's own, 0 for the first, (B, C, …)."""
    count = torch.arange(square.shape[1], device=square.device, dtype=square.dtype)
    count = count.clamp_min(1).reshape(-1, *(1,) * (square.ndim - 2))
    return (square.cumsum(1) - square) / count


def quantum_of(domain: DataDomain) -> float:
    """The variance of a code's bin, below which no energy is told apart."""
    return ((domain.high - domain.low) / (domain._bins() - 1)) ** 2 / 12
