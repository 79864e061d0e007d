"""The mixture head: a network that believes a mixture about every pixel, cheap for any number of codes.

The network says, for M Gaussians and the two end codes, what is to be expected of a pixel given all others; what z says
of the pixel itself comes in exactly, as N(z; α x, σ²):

    π_θ(x) = Σ_m w_m N(x; μ_m, s_m²) + w_low δ(x − low) + w_high δ(x − high),        p̂(x | z) ∝ π_θ(x) N(z; α x, σ²)

x̂ is the mean of p̂ over real x, in closed form, a few operations a pixel; the decoder at the first level is p̂ over the
codes, which is looked at only near z/α. For 256 codes this costs a fiftieth of a table of 256 logits a pixel. A network
may also say x̂ by itself, as ε̂, x̂ or v̂ on one map more, and keep the mixture for the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import ShapeError, UsageError
from nelbo.model.decoder import MassDecoder
from nelbo.model.denoiser import Denoiser, TimeInput
from nelbo.model.domain import DataDomain
from nelbo.model.opened import name_of, opened
from nelbo.process.levels import Levels, column
from nelbo.process.mixture import Mixture, Unread
from nelbo.process.prediction import Output, Prediction, x0_from
from nelbo.typing import Condition, Json


def outputs(components: int) -> int:
    """Numbers a pixel that a mixture of `components` Gaussians and two end points takes: 3 M + 2."""
    return 3 * components + 2


class MixtureDenoiser(Denoiser):
    """net(z, time, **condition) → (B, (3 M + 2)·C, …): for every element M + 2 log weights, M means, M log deviations.

    In units of half the codes' range, Gaussian m starts at a mean evenly spaced within and a deviation of 0.3; a
    deviation cannot fall below a quarter of the step between codes.

    output: what one map more, the first, says ("eps", "x0", "v"). x̂ follows from it, and the mixture is the decoder's
    alone; None: x̂ is the mixture's.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        domain: DataDomain,
        components: int,
        time: TimeInput | str = TimeInput.LOGSNR,
        output: Output | str | None = None,
    ):
        super().__init__()
        self.output = None if output is None else Output.parse(output)
        if self.output not in (None, Output.EPS, Output.X0, Output.V):
            raise UsageError(f"a mixture beside the output {self.output.value!r}", "give 'eps', 'x0' or 'v'")
        self.net, self.domain, self.components, self.time = opened(net), domain, components, TimeInput.parse(time)
        if not domain.discrete:
            raise UsageError("a mixture head on real-valued data", "use net.head=plain")

    def describe(self) -> Json:
        description = {**super().describe(), **name_of(self.net), "time": self.time.value}
        return {**description, **self.settings()}

    def settings(self) -> Json:
        """What the net and its time do not say."""
        settings: Json = {"components": self.components}
        return settings if self.output is None else {**settings, "output": self.output.value}

    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        raw = self._call(self.net, z, t, self.time, condition).to(z.dtype)
        maps = outputs(self.components) + (self.output is not None)
        if raw.shape != (len(z), maps * z.shape[1], *z.shape[2:]):
            beside = "" if self.output is None else f" beside its {self.output.value}"
            raise ShapeError(
                f"the network returned shape {tuple(raw.shape)} for an input of shape {tuple(z.shape)}",
                f"a mixture of {self.components} components{beside} takes {maps} numbers an element, on axis 1",
            )
        raw = raw.unflatten(1, (maps, z.shape[1]))
        if self.output is None:
            mixture = self._mixture(raw)
            return Prediction(mixture.posterior_mean(z, t), mixture=mixture)
        return Prediction(x0_from(self.output, raw[:, 0], z, t), mixture=Unread(raw[:, 1:], self._mixture))

    def _mixture(self, raw: Tensor) -> Mixture:
        M, low, high = self.components, self.domain.low, self.domain.high
        half, middle, step = 0.5 * (high - low), 0.5 * (high + low), _step(self.domain)
        log_weight, mean, log_std = raw.split([M + 2, M, M], 1)
        starts = torch.linspace(-0.8, 0.8, M, dtype=raw.dtype, device=raw.device) if M > 1 else raw.new_zeros(1)
        mean = middle + half * (starts.reshape(-1, *(1,) * (raw.ndim - 2)) + mean)
        variance = (half * (0.3 * log_std.clamp(max=5).exp())).square() + (0.25 * step) ** 2
        ends = torch.zeros_like(log_weight[:, :2])
        ends[:, 0], ends[:, 1] = low, high
        return Mixture(
            log_weight.log_softmax(1), torch.cat([mean, ends], 1), torch.cat([variance, torch.zeros_like(ends)], 1)
        )


def start_weights(codes: Tensor, domain: DataDomain, components: int, beside: bool = False) -> Tensor:
    """What the 3 M + 2 outputs should start as, so that the end codes have the weights that they have in `codes`.

    beside: whether another map stands before them, which starts at 0.
    """
    K = domain.lattice().numel()
    share = [max(float((codes == k).double().mean()), 1e-6) for k in (0, K - 1)]
    rest = max(1 - sum(share), 1e-6) / components
    start = torch.zeros(outputs(components))
    start[:components] = math.log(rest)
    start[components], start[components + 1] = math.log(share[0]), math.log(share[1])
    return torch.cat([torch.zeros(int(beside)), start])


@dataclass(frozen=True, eq=False)
class NetworkMixture(MassDecoder, kind="network_mixture"):
    """The posterior of a mixture head over the codes near z, with a little of everything:

        p(k | z_1) = (1 − η) softmax_{|k − c| ≤ W} [log π_θ(x_k) − ½ ((z − α x_k)/σ)²] + η/K,

    c the code nearest to z/α and W = ⌈reach · σ/(α · step)⌉ + 1. The masses sum to one; beyond the window, which noise
    leaves with probability 1e−15 at a reach of 8, every code keeps η/K.
    """

    reach: float = 8.0
    uniform: float = 1e-6
    calls_network = True

    def __post_init__(self):
        if not (self.reach > 0 and math.isfinite(self.reach) and 0 < self.uniform < 1):
            raise UsageError(
                f"a window of {self.reach} deviations with a uniform share of {self.uniform}",
                "give reach > 0 and 0 < uniform < 1",
            )

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_probs, codes = self._near(z, t, prediction, domain)
        hit = codes == target[:, None]
        log_p = log_probs.masked_fill(~hit, -math.inf).amax(1)
        return -torch.logaddexp(log_p, torch.full_like(log_p, self._floor(domain))).flatten(1).sum(1)

    @equation("mixture-posterior")
    def log_pmf(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_probs, codes = self._near(z, t, prediction, domain)
        K = domain.lattice().numel()
        # codes outside 0..K−1 have mass 0 and are parked in a column of their own
        table = torch.full((*z.shape, K + 1), -math.inf, dtype=z.dtype, device=z.device)
        outside = (codes < 0) | (codes >= K)
        table.scatter_(-1, codes.masked_fill(outside, K).movedim(1, -1), log_probs.movedim(1, -1))
        return torch.logaddexp(table[..., :K], torch.full_like(table[..., :K], self._floor(domain)))

    def _floor(self, domain: DataDomain) -> float:
        return math.log(self.uniform / domain.lattice().numel())

    @equation("mixture-posterior")
    def _near(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> tuple[Tensor, Tensor]:
        """log of (1 − η) softmax over the window and the codes in it, each (B, 2 W + 1, …)."""
        if prediction is None or prediction.mixture is None:
            raise UsageError(
                "the decoder 'network_mixture' needs a network with a mixture head, and this one has none",
                "use decoder='discretized_gaussian' or 'categorical', or train with net.head='mixture'",
            )
        K, step = domain.lattice().numel(), _step(domain)
        alpha, sigma = column(t.alpha, z), column(t.sigma, z)
        center = domain.codes(z / alpha)[:, None]
        width = (self.reach * sigma / (alpha * step)).ceil().clamp(max=K - 2).long()[:, None] + 1
        W = int(width.max())
        offset = torch.arange(-W, W + 1, device=z.device).reshape(-1, *(1,) * (z.ndim - 1))
        codes = center + offset
        outside = (codes < 0) | (codes >= K) | (offset.abs() > width)
        values = domain.values(codes.clamp(0, K - 1)).to(z.dtype)
        of_z = -0.5 * ((z[:, None] - alpha[:, None] * values) / sigma[:, None]).square()
        logits = prediction.mixture.read().log_mass(values, step) + of_z
        logits = logits.masked_fill(outside, -math.inf)
        return logits.log_softmax(1) + math.log1p(-self.uniform), codes


def _step(domain: DataDomain) -> float:
    return (domain.high - domain.low) / (domain.lattice().numel() - 1)
