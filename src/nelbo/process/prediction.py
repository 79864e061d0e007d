"""Predictions: what a network says about x, and the conversions between the ways of saying it.

At a level with α, σ and z = α x + σ ε, each of

    eps        ε̂                         x̂ = (z − σ ε̂)/α
    x0         x̂
    v          v̂ = α ε̂ − σ x̂             x̂ = (α z − σ v̂)/(α² + σ²),   ε̂ = (σ z + α v̂)/(α² + σ²)
    score      ŝ = −ε̂/σ                  x̂ = (z + σ² ŝ)/α
    velocity   û = α′ x̂ + σ′ ε̂           x̂ = (2/α) (û/λ′ − z d log σ/dλ)
    edm_D      x̂                         of the input z/α = x + (σ/α) ε
    edm_F      F̂                         x̂ = c_skip z/α + c_out F̂,   the input being c_in z/α

determines the others (α² + σ² = 1 on the VP path). The primes of the velocity are derivatives to the schedule's own
time, with data at its beginning: on `schedules.flow` û = ε̂ − x̂. EDM's networks live on the path z/α, whatever the path
of the chain. Source: Salimans & Ho 2022, app. D; Ho et al. 2020, eq. 15; Song et al. 2021, eq. 9; Lipman et al. 2023,
eq. 20; Karras et al. 2022, eq. 7 and table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.process.levels import Levels, Path, column
from nelbo.process.mixture import Mixture, Unread
from nelbo.typing import Choice


class Output(Choice, noun="network output"):
    """What a network's output means."""

    EPS = "eps"
    X0 = "x0"
    V = "v"
    SCORE = "score"
    VELOCITY = "velocity"
    EDM_F = "edm_F"
    EDM_D = "edm_D"

    @property
    def edm(self) -> bool:
        """Whether the network's input is z/α (times c_in for F) and its σ is σ/α."""
        return self in (Output.EDM_F, Output.EDM_D)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted at (z_t, t): x̂ (B, …), and where the network says so, more.

    log_probs: log p̂(code k | z_t) per pixel, (B, …, K), of a categorical posterior whose mean is x̂;
    variance: the network's raw variance output (B, …); z: the state z_t (B, …), where a variance policy reads it;
    mixture: what the network believes about every element beside z itself, whose posterior mean x̂ is.
    output: what the network returned (B, …), where x̂ was read from it.
    """

    x0: Tensor
    log_probs: Tensor | None = None
    variance: Tensor | None = None
    z: Tensor | None = None
    mixture: Mixture | Unread | None = None
    output: Tensor | None = None

    def clipped(self, low: float, high: float) -> Prediction:
        """x̂ clamped to [low, high]; a categorical posterior is inside already and stays."""
        return replace(self, x0=self.x0.clamp(low, high))

    def raw_variance(self) -> Tensor:
        """The network's raw variance output (B, …). Errors: UsageError where it has none."""
        if self.variance is None:
            raise UsageError(
                "a learned variance was asked of a network that predicts none",
                "declare variance='learned_range' or 'learned_log' with a network that returns twice the channels, or "
                "a fixed variance: 'beta_tilde', 'beta' or a table",
            )
        return self.variance

    def rows(self, indices: Tensor | slice) -> Prediction:
        """The predictions of the examples at `indices`."""
        return self._each(lambda values: values[indices])

    def to(self, dtype: torch.dtype) -> Prediction:
        """The same in another floating dtype."""
        return self._each(lambda values: values.to(dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Prediction:
        tensors = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, mixture=None if self.mixture is None else self.mixture.each(change))


class Preconditioning(NamedTuple):
    """EDM's coefficients, each (B,): D(y; σ) = c_skip y + c_out F(c_in y; c_noise), y = x + σ n."""

    skip: Tensor
    out: Tensor
    into: Tensor


def preconditioning(t: Levels, sigma_data: float) -> Preconditioning:
    """c_skip = σ_d²/(σ² + σ_d²), c_out = σ σ_d/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²), with σ = e^{−λ/2}.

    Source: Karras et al. 2022, table 1, column "Ours".
    """
    sigma = torch.exp(-0.5 * t.logsnr)
    total = sigma.square() + sigma_data**2
    return Preconditioning(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt())


def network_input(output: Output, z: Tensor, t: Levels, sigma_data: float | None = None) -> tuple[Tensor, Levels]:
    """What a network of this output is shown at z (B, …), and the levels whose time it is told.

    z and t themselves, except for EDM's networks: y = z/α for D, c_in y for F, and the same levels on the VE path.
    """
    if not output.edm:
        return z, t
    y = z / column(t.alpha, z)
    if output is Output.EDM_F:
        y = y * column(preconditioning(t, _given(sigma_data)).into, z)
    return y, t.on(Path.VE)


@equation("x0-from-eps", "param-v")
def x0_from(output: Output, value: Tensor, z: Tensor, t: Levels, sigma_data: float | None = None) -> Tensor:
    """x̂ from a network's output `value` at noisy input z and levels t (B,); shapes (B, …).

    sigma_data: standard deviation that EDM's F was built with. Errors: UsageError for a velocity on a table.
    """
    if output in (Output.X0, Output.EDM_D):
        return value
    alpha, sigma = column(t.alpha, z), column(t.sigma, z)
    if output is Output.EPS:
        return (z - sigma * value) / alpha
    if output is Output.SCORE:
        return (z + sigma.square() * value) / alpha
    if output is Output.VELOCITY:
        return 2 / alpha * (value / column(_slope(t), z) - column(t.path.dlog_sigma(t.logsnr), z) * z)
    if output is Output.EDM_F:
        c = preconditioning(t, _given(sigma_data))
        return column(c.skip, z) * z / alpha + column(c.out, z) * value
    return (alpha * z - sigma * value) / (alpha.square() + sigma.square())


@equation("param-v")
def from_x0(output: Output, x0: Tensor, z: Tensor, t: Levels, sigma_data: float | None = None) -> Tensor:
    """The inverse of `x0_from`: the output that says x̂ = x0 at z and levels t."""
    if output in (Output.X0, Output.EDM_D):
        return x0
    alpha, sigma = column(t.alpha, z), column(t.sigma, z)
    if output is Output.VELOCITY:
        return column(_slope(t), z) * (0.5 * alpha * x0 + column(t.path.dlog_sigma(t.logsnr), z) * z)
    if output is Output.EDM_F:
        c = preconditioning(t, _given(sigma_data))
        return (x0 - column(c.skip, z) * z / alpha) / column(c.out, z)
    eps = (z - alpha * x0) / sigma
    if output is Output.SCORE:
        return -eps / sigma
    return eps if output is Output.EPS else alpha * eps - sigma * x0


@equation("loss-conversions")
def convert(
    source: Output, target: Output, value: Tensor, z: Tensor, t: Levels, sigma_data: float | None = None
) -> Tensor:
    """`value`, meant as `source`, said as `target`, at z and levels t (B,). Shapes (B, …)."""
    return from_x0(target, x0_from(source, value, z, t, sigma_data), z, t, sigma_data)


def no_slope() -> UsageError:
    """The error of a velocity on levels that belong to no law."""
    return UsageError(
        "a velocity dz/dt was declared on a schedule that is a table of levels, which has no derivative",
        "for a network that says ε − x (flow matching, rectified flow) use schedules.flow() and choose the steps by "
        "a grid; else a schedule with a law, such as schedules.logsnr_linear() or table.interpolated()",
    )


def _slope(t: Levels) -> Tensor:
    if t.slope is None:
        raise no_slope()
    return t.slope


def _given(sigma_data: float | None) -> float:
    if sigma_data is None:
        raise UsageError(
            "a network that predicts 'edm_F' was declared without sigma_data",
            "give the standard deviation that its preconditioning was built with: sigma_data=0.5 in EDM's own models",
        )
    return sigma_data
