"""An image in units of its noise: features for the first layer of a network, and a gate after its last.

At high log-SNR the noise is a hundredth of the image, and ε̂ is this noise at unit scale; a convolution of z alone has
to learn that gain for every level. The process preserves variance: α² = sigmoid(λ), σ² = sigmoid(−λ).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import UsageError


def alpha_and_inverse_sigma(logsnr: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """α and 1/σ, (B, 1, 1, 1) for z (B, C, H, W), in float32 at least: bf16 would round 1/σ by more than the noise.

    Errors: UsageError for the index of a table in the place of λ.
    """
    if not logsnr.is_floating_point():
        raise UsageError(
            "a network whose input is in units of the noise was given a step and not the log-SNR",
            "give it the log-SNR (time='logsnr')",
        )
    wide = logsnr.to(torch.promote_types(z.dtype, torch.float32))[:, None, None, None]
    return wide.sigmoid().sqrt(), (-wide).sigmoid().rsqrt()


class NoiseUnits(nn.Module):
    """z (B, C, H, W), λ (B,) → (B, (len(ends) + 4) C, H, W):

        tanh((z − α v)/2σ) for every v of `ends`,   tanh((z − z')/3σ) for the four neighbours z' of every pixel

    Differences of many standard deviations saturate, so that edges do not dominate texture. The image is padded with
    copies of its border.
    """

    def __init__(self, ends: Sequence[float]):
        super().__init__()
        self.ends = tuple(ends)

    @property
    def maps(self) -> int:
        """Features a channel."""
        return len(self.ends) + 4

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        alpha, per_sigma = alpha_and_inverse_sigma(logsnr, z)
        padded = F.pad(z, (1, 1, 1, 1), mode="replicate")
        neighbours = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
        from_ends = [(z - alpha * v) * (per_sigma / 2) for v in self.ends]
        from_neighbours = [(z - neighbour) * (per_sigma / 3) for neighbour in neighbours]
        return torch.cat([*from_ends, *from_neighbours], 1).tanh().to(z.dtype)


class EndGate(nn.Module):
    """ε̂ for pixels that may be exactly at an end v of the data's range, as the background of many images is:

        ε̂ = w_0 ê + Σ_v w_v (z − α v)/σ,     w_v/w_0 = e^{a_v} N(z; α v, σ²) √2π,     w_0 + Σ_v w_v = 1

    This is E[ε | z] for a prior with mass at the ends and a density between them, where ê is E[ε | z, x between] and
    e^{a_v} is the ratio of the mass at v to the density of z under the rest of the prior, over √2π. ê (B, C, H, W) and
    a (B, len(ends) C, H, W) are outputs of the network; → (B, C, H, W).
    """

    def __init__(self, ends: Sequence[float]):
        super().__init__()
        self.ends = tuple(ends)

    def forward(self, between: Tensor, a: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
        alpha, per_sigma = alpha_and_inverse_sigma(logsnr, z)
        at_ends = torch.stack([(z - alpha * v) * per_sigma for v in self.ends], 1)
        log_w = a.reshape(at_ends.shape) + per_sigma[:, None].log() - 0.5 * at_ends.square()
        w = torch.cat([log_w, torch.zeros_like(log_w[:, :1])], 1).softmax(1)
        return (w * torch.cat([at_ends, between[:, None].to(at_ends)], 1)).sum(1).to(between.dtype)
