"""Reverse steps p_θ(z_s | z_t): a Gaussian whose mean follows from x̂ and whose variance is a policy.

    p_θ(z_s | z_t) = N(α_{t|s} (σ_s²/σ_t²) z_t + α_s c x̂,  v_θ),     c = −expm1(λ_t − λ_s)

The mean is the posterior mean of q with x̂ in the place of x; the z_t part is the same in q and p_θ, so the KL needs
only α_s c (x − x̂) and the two variances, and never subtracts two large means. A policy may say its variances in an
orthonormal basis: q is isotropic, the same in every such basis, and the KL is a sum over coordinates in each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths import gaussian, tiles
from nelbo.maths.stable import log1mexp
from nelbo.model.clip import Clip as Clip
from nelbo.model.clip import Clipping as Clipping
from nelbo.model.clip import Threshold as Threshold
from nelbo.model.decoder import LogSpread, RangeSpread, Spread
from nelbo.parts import Part, kinds
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule
from nelbo.typing import Shape


class Variance(Part, family="variance"):
    """Policy for the variance of a reverse step, and for the variance of a Gaussian decoder at the first level."""

    learned: bool = False
    """Whether the network says it, as a second half of its output on axis 1."""
    named: bool = True
    """Whether its name alone says it all; else it is fitted, and comes from `nelbo.tightening`."""
    reads_state: bool = False
    """Whether it looks at z_t, which a prediction then has to carry (`Prediction.z`)."""

    @abstractmethod
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        """v_θ of p_θ(z_s | z_t), broadcastable to x̂: (B, 1, …) where it is one number an example.

        Of the coordinates (`coordinates`) where the policy has a basis of its own.
        """

    def coordinates(self, values: Tensor, t: Levels) -> Tensor:
        """`values` (B, …) in the orthonormal basis of steps from levels t (B,): the values themselves, for most."""
        return values

    def values(self, coordinates: Tensor, t: Levels) -> Tensor:
        """The inverse of `coordinates`."""
        return coordinates

    def typical(self, s: Levels, t: Levels) -> Tensor | None:
        """v_θ of steps (M,) as one number each, its mean over elements; None where only the network knows."""
        if self.learned:
            return None
        return self.of_step(s, t, Prediction(torch.zeros(len(t), 1, dtype=torch.float64)))[:, 0]

    @abstractmethod
    def of_decoder(self, first: Levels, second: Levels) -> float | Spread:
        """Variance of a Gaussian decoder at level `first` of the *full* table, next to `second`; in units of x²."""

    def check(self, levels: Levels, schedule: Schedule, continuous: bool) -> None:
        """Raise UsageError where the policy means nothing on the levels of a chain."""

    def check_shape(self, shape: Shape) -> None:
        """Raise ShapeError or UsageError where the policy is for examples of another shape."""


@dataclass(frozen=True, eq=False)
class BetaTilde(Variance, kind="beta_tilde"):
    """v = β̃ = σ_s² c, the variance of the posterior of q (Ho et al. 2020, eq. 7): right for data that is one point.

    The decoder gets β_2 (1 − ᾱ_1)/(1 − ᾱ_2), the first β̃ that is not zero.
    """

    @equation("posterior-variance")
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return column(forward.posterior(s, t).variance, prediction.x0)

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(forward.posterior(first, second).variance)


@dataclass(frozen=True, eq=False)
class Beta(Variance, kind="beta"):
    """v = β = σ²_{t|s} = σ_t² c, the variance of the forward kernel: right for data that is N(0, I).

    The decoder gets β_1 = 1 − ᾱ_1.
    """

    @equation("sigma-choices")
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return column(forward.transition(s, t).variance, prediction.x0)

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(first.sigma.square())


@dataclass(frozen=True, eq=False)
class LearnedRange(Variance, kind="learned_range"):
    """log v = (1 − f) log β̃ + f log β with f = (u + 1)/2, u the network's second half (Nichol & Dhariwal 2021, eq. 15).

    u is in [−1, 1] where the network was trained to it; nothing is clamped. β and β̃ are those of the step taken, so
    that a coarser grid has its own. The decoder interpolates between β_2 (1 − ᾱ_1)/(1 − ᾱ_2) and β_1 in the same way.
    """

    learned = True

    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        u = prediction.raw_variance()
        f = 0.5 * (u + 1)
        log_c = log1mexp(s.logsnr - t.logsnr)
        log_beta, log_beta_tilde = (column(2 * level.log_sigma + log_c, u) for level in (t, s))
        return ((1 - f) * log_beta_tilde + f * log_beta).exp()

    def of_decoder(self, first: Levels, second: Levels) -> Spread:
        return RangeSpread(BetaTilde().of_decoder(first, second), Beta().of_decoder(first, second))


@dataclass(frozen=True, eq=False)
class LearnedLog(Variance, kind="learned_log"):
    """log v is the network's second half, one number an element, in units of z_s² (of x² at the decoder)."""

    learned = True

    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return prediction.raw_variance().exp()

    def of_decoder(self, first: Levels, second: Levels) -> Spread:
        return LogSpread()

    def check(self, levels: Levels, schedule: Schedule, continuous: bool) -> None:
        if continuous:
            raise _no_limit("learned_log")


@dataclass(frozen=True, eq=False)
class VarianceTable(Variance, kind="table"):
    """One number a level of the full table, (T,): v_i of the step from level i to the level before it, in units of
    z²; that of the chain's first level is the decoder's, in units of x². A coarser grid has other steps: refused.
    """

    table: Tensor

    def __post_init__(self):
        table = torch.as_tensor(self.table, dtype=torch.float64)
        if table.ndim != 1 or len(table) == 0 or not bool((torch.isfinite(table) & (table > 0)).all()):
            raise UsageError(
                f"a table of variances of shape {tuple(table.shape)}"
                + (f" from {float(table.min())} to {float(table.max())}" if table.numel() else ""),
                "give T finite numbers > 0, one a level of the schedule's table",
            )
        object.__setattr__(self, "table", table)

    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return column(self._at(t), prediction.x0)

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(self._at(first))

    def check(self, levels: Levels, schedule: Schedule, continuous: bool) -> None:
        if continuous:
            raise _no_limit("table")
        if schedule.table_length != len(self.table):
            raise UsageError(
                f"a table of {len(self.table)} variances on a schedule with "
                + (f"{schedule.table_length} levels" if schedule.table_length else "no table of levels"),
                "give one variance a level of the schedule's table",
            )
        if levels.index is not None and not bool((levels.index.diff() == 1).all()):
            raise UsageError(
                "a table of variances belongs to the steps of the full chain, and this grid leaves levels out",
                "evaluate the full grid, or use variance='beta_tilde' or 'beta', which follow the grid",
            )

    def _at(self, t: Levels) -> Tensor:
        if t.index is None:
            raise UsageError("a table of variances was asked of a level without a table position", "use a table")
        return self.table.to(t.logsnr.device)[t.index.long()].to(t.logsnr.dtype)


def _no_limit(kind: str) -> UsageError:
    return UsageError(
        f"the continuous bound was asked of a model with variance {kind!r}",
        "as steps grow fine the variance must go to that of the forward process; use 'beta_tilde', 'beta' or "
        "'learned_range', or a grid of finitely many steps",
    )


def parse_variance(name: str | Variance | Tensor | Sequence[float]) -> Variance:
    """The policy called `name`, or the `VarianceTable` of an array. Errors: UnknownNameError listing the policies."""
    if isinstance(name, Variance):
        return name
    if not isinstance(name, str):
        try:
            return VarianceTable(torch.as_tensor(name, dtype=torch.float64))
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"a variance of type {type(name).__name__}", "give the name of a policy, a Variance or an array (T,)"
            ) from None
    known = {k: kind for k, kind in kinds("variance").items() if kind.named}  # type: ignore[attr-defined]
    if name not in known:
        if name in kinds("variance"):
            raise UsageError(
                f"variance={name!r}, which is fitted and has numbers of its own",
                "it comes from nelbo.tighten, or nelbo.tightening.covariance.fit, and is kept in a model folder",
            )
        raise UnknownNameError.of("variance policy", name, known)
    if name == VarianceTable.kind:
        raise UsageError("variance='table' without the numbers", "give the table itself: variance=[v_1, …, v_T]")
    return known[name]()  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Reverse(Part, family="reverse", kind="gaussian"):
    """The Gaussian reverse step: a variance policy and a clipping policy (None: x̂ is used as predicted)."""

    variance: Variance
    clip: Clipping | None = None

    def clipped(self, prediction: Prediction) -> Prediction:
        """The prediction after the clipping policy."""
        return prediction if self.clip is None else self.clip.clipped(prediction)

    def prepared(self, prediction: Prediction, z: Tensor) -> Prediction:
        """The prediction of a network at z as the steps need it: clipped, with z where the variance policy reads it."""
        prediction = self.clipped(prediction)
        return replace(prediction, z=z) if self.variance.reads_state else prediction

    @equation("reverse-transition", "model-mean-eps")
    def step(self, z_t: Tensor, prediction: Prediction, s: Levels, t: Levels) -> tuple[Tensor, Tensor]:
        """Mean of p_θ(z_s | z_t), and variance of its coordinates, each broadcastable to (B, …)."""
        return forward.posterior_mean(prediction.x0, z_t, s, t), self.variance.of_step(s, t, prediction)

    def draw(self, z_t: Tensor, prediction: Prediction, s: Levels, t: Levels, noise: Tensor) -> Tensor:
        """A draw of p_θ(z_s | z_t) made from standard normals (B, …), the noise of the policy's coordinates."""
        mean, variance = self.step(z_t, prediction, s, t)
        return mean + self.variance.values(variance.sqrt() * noise, t.expand(len(z_t)))

    @equation("loss-term-denoise", "loss-mean-matching", "snr-discrete-loss", "snr-ddpm-equivalence")
    def kl(self, x: Tensor, prediction: Prediction, s: Levels, t: Levels) -> Tensor:
        """KL(q(z_s | z_t, x) ‖ p_θ(z_s | z_t)) per element, nats, (B, …); per coordinate where the policy has a basis.

        With v = β̃ the variances cancel and ½ (SNR(s) − SNR(t)) (x − x̂)² is left (Kingma et al. 2021, eq. 13–14).
        """
        q = forward.posterior(s, t)
        difference = column(q.x_coefficient, x) * self.variance.coordinates(x - prediction.x0, t)
        return gaussian.kl_from_difference(difference, column(q.variance, x), self.variance.of_step(s, t, prediction))

    @equation("loss-term-denoise", "snr-discrete-loss")
    def kl_sum(self, x: Tensor, prediction: Prediction, s: Levels, t: Levels) -> Tensor:
        """`kl` summed over the elements of an example, nats, (B,): from ‖x − x̂‖² where v_θ is one number an example."""
        variance = self.variance.of_step(s, t, prediction)
        if variance.shape != column(s.logsnr, x).shape:
            return self.kl(x, prediction, s, t).flatten(1).sum(1)
        q, v = forward.posterior(s, t), variance.flatten()
        of_variances = x.shape[1:].numel() * gaussian.kl_from_difference(torch.zeros_like(v), q.variance, v)
        return of_variances + 0.5 * q.x_coefficient.square() * tiles.squared_norm(x, prediction.x0) / v
