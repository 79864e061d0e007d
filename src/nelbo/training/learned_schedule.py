"""A schedule while it is trained: end points and shape are parameters; `frozen` gives the schedule of the model.

    λ(t) = λ_max − (λ_max − λ_min) c(t),    c(k/K) = Σ_{j≤k} softmax(a)_j,  linear in between

The continuous bound of one network as a function of (z, λ) does not depend on the shape c; the variance of its
estimate at one time does. So the end points λ_max, λ_min follow the gradient of the loss, and the shape a follows that
of the second moment E[ℓ²] of the losses ℓ_i = −½ λ′(t_i) ‖ε − ε̂‖². The backward pass of the mean loss has already
computed ∂/∂λ_i and ∂/∂λ′_i of (1/B) Σ ℓ for every example's own level, since ℓ_i depends on no other level, and

    ∂/∂a (1/B) Σ ℓ_i² = Σ_i 2 ℓ_i (∂λ_i/∂a · ∂/∂λ_i + ∂λ′_i/∂a · ∂/∂λ′_i) (1/B) Σ ℓ

needs no second pass (Kingma et al. 2021, app. I.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nelbo.equation import equation
from nelbo.process.law import Learned
from nelbo.process.levels import Levels, Path


class TrainableSchedule(nn.Module):
    """λ(t) with trained end points (unless `fixed_ends`) and shape; float64.

    `at` and `dlogsnr_dt` return leaf tensors; after a backward pass of the loss, `backward` turns their gradients into
    those of the parameters.
    """

    def __init__(
        self,
        logsnr_max: float,
        logsnr_min: float,
        segments: int = 32,
        fixed_ends: bool = False,
        path_name: str = "vp",
    ):
        super().__init__()
        self.shape = nn.Parameter(torch.zeros(segments, dtype=torch.float64))
        self.end_points = nn.Parameter(
            torch.tensor([logsnr_max, logsnr_min], dtype=torch.float64), requires_grad=not fixed_ends
        )
        self.path_name = path_name
        self._t: Tensor | None = None
        self._logsnr: Tensor | None = None
        self._slope: Tensor | None = None

    def frozen(self) -> Learned:
        """The schedule with its present parameters, as a part of a model."""
        with torch.no_grad():
            fall = torch.cat([self.shape.new_zeros(1), self.shape.softmax(0).cumsum(0)])
            fall = fall / fall[-1]
            high, low = self.end_points
            return Learned((high + (low - high) * fall).clone().cpu(), self.path_name)

    def at(self, t: Tensor) -> Levels:
        """The levels at unit times t (B,); their log-SNR is a leaf."""
        fall, _ = self._fall(t)
        high, low = self.end_points
        self._t, self._logsnr = t, (high + (low - high) * fall).detach().requires_grad_()
        return Levels(t, self._logsnr, Path(self.path_name))

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        """λ′(t) (B,), a leaf."""
        _, steepness = self._fall(t)
        high, low = self.end_points
        self._slope = ((low - high) * steepness).detach().requires_grad_()
        return self._slope

    def ends(self) -> Levels:
        """The first and the last level, (2,), through which the end points get a gradient directly."""
        t = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.end_points.device)
        return Levels(t, self.end_points * 1.0, Path(self.path_name))

    @equation("schedule-variance-gradient")
    def backward(self, losses: Tensor) -> None:
        """After the backward pass of the mean loss: add to the gradients of shape and end points.

        losses: ℓ (B,) of the examples whose levels `at` and `dlogsnr_dt` returned last. The end points already have the
        gradient by way of the first and the last level, and get that of the levels between; the shape gets that of
        E[ℓ²].
        """
        assert self._t is not None and self._logsnr is not None and self._slope is not None
        by_logsnr, by_slope = (torch.zeros_like(v) if v.grad is None else v.grad for v in (self._logsnr, self._slope))
        fall, steepness = self._fall(self._t)
        high, low = self.end_points.detach()
        twice = 2 * losses.detach().to(by_logsnr)
        surrogate = (low - high) * (twice * (by_logsnr * fall + by_slope * steepness)).sum()
        (shape,) = torch.autograd.grad(surrogate, self.shape)
        self.shape.grad = shape if self.shape.grad is None else self.shape.grad + shape
        if self.end_points.requires_grad:
            c, slope = fall.detach(), steepness.detach()
            ends = torch.stack(
                [(by_logsnr * (1 - c) - by_slope * slope).sum(), (by_logsnr * c + by_slope * slope).sum()]
            )
            self.end_points.grad = ends if self.end_points.grad is None else self.end_points.grad + ends
        self._t = self._logsnr = self._slope = None

    def _fall(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """c(t) and c′(t), with the graph to the shape."""
        p = self.shape.softmax(0)
        K = len(p)
        upper = p.cumsum(0)
        k = (t * K).detach().floor().clamp(0, K - 1).long()
        return upper[k] - p[k] + (t * K - k) * p[k], K * p[k]
