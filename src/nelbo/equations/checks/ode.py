"""The probability-flow ODE: the library's own, in the clock λ, against the printed one in the clock t.

On the variance-preserving path dz/dt = −½ β(t) (z + ∇ log q_t(z)), and σ² ∇ log q_t(z) = α E[x | z] − z. The clock runs
from t = 0.02, so that "the data" are the mixture with a trace of noise: at t = 0 the two terms cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import nodes
from nelbo.equations.oracles.bumps import Bumps
from nelbo.likelihood import RK4, ode
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import GaussianData
from nelbo.process import grid
from nelbo.process.law import LogSNRLinear
from nelbo.process.levels import Levels, Path

FIRST, LAST = 0.02, 1.0
BETA_0, BETA_1 = 0.1, 12.0
Field = Callable[[Tensor, float], Tensor]


def beta(t: float | Tensor) -> float | Tensor:
    """β(t), a straight line."""
    return BETA_0 + (BETA_1 - BETA_0) * t


def log_bar(t: float) -> float:
    """log α(t)² = −∫_0^t β."""
    return -(BETA_0 * t + 0.5 * (BETA_1 - BETA_0) * t * t)


def level(t: float, n: int) -> Levels:
    """The library's level at time t, for n examples."""
    log_alpha2 = log_bar(t)
    logsnr = log_alpha2 - math.log(-math.expm1(log_alpha2))
    return Levels(torch.full((n,), t), torch.full((n,), logsnr, dtype=torch.float64), Path.VP)


def drift(denoiser: Denoiser, share: float = 0.5) -> Field:
    """f − share · g² ∇ log q_t of z (n, D) at t: share ½ is the flow, 1 the drift of the reverse-time SDE."""

    def field(z: Tensor, t: float) -> Tensor:
        at = level(t, len(z))
        score = (at.alpha[:, None] * denoiser(z, at).x0 - z) / at.sigma.square()[:, None]
        return -beta(t) * (0.5 * z + share * score)

    return field


def printed_clock(denoiser: Denoiser) -> Field:
    """The library's dz/dλ times dλ/dt, where λ = log ᾱ − log(1 − ᾱ) and so dλ/dt = −β/(1 − ᾱ)."""

    def field(z: Tensor, t: float) -> Tensor:
        at = level(t, len(z))
        return ode.drift(denoiser(z, at).x0, z, at) * (beta(t) / math.expm1(log_bar(t)))

    return field


def between(data, path: str = "vp") -> DiffusionModel:
    """The exact model of data whose chain has the levels of FIRST and LAST as its ends."""
    first, last = (float(level(t, 1).logsnr) for t in (FIRST, LAST))
    return data.model(LogSNRLinear(first, last, path), grid.continuous())


def integrated(model: DiffusionModel, z: Tensor, steps: int = 64) -> tuple[Tensor, Tensor]:
    """The library's log q_T at the end of its flow, and the integral of the divergence."""
    end, integral = ode.log_density(model, z, solver=RK4(steps))
    return end, integral[0]


def with_divergence(field: Field) -> Field:
    """(z, running integral of ∇·field): state (n, D + 1). The trace of the Jacobian by automatic differentiation."""

    def together(state: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            z = state[:, :-1].detach().requires_grad_()
            velocity = field(z, t)
            trace = sum(
                torch.autograd.grad(velocity[:, d].sum(), z, retain_graph=True)[0][:, d] for d in range(z.shape[1])
            )
        return torch.cat([velocity.detach(), trace[:, None]], 1)  # type: ignore[index]

    return together


def flow(field: Field, state: Tensor, steps: int, first: float = FIRST, last: float = LAST) -> Tensor:
    """`state` carried from `first` to `last` by `steps` Runge-Kutta steps of order 4."""
    h = (last - first) / steps
    for k in range(steps):
        t = first + k * h
        a = field(state, t)
        b = field(state + 0.5 * h * a, t + 0.5 * h)
        c = field(state + 0.5 * h * b, t + 0.5 * h)
        state = state + h / 6 * (a + 2 * b + 2 * c + field(state + h * c, t + h))
    return state


def marginal(z: Tensor, t: float | Tensor) -> Tensor:
    """q_t of the mixture, elementwise."""
    alpha2 = (
        torch.exp(-(BETA_0 * t + 0.5 * (BETA_1 - BETA_0) * t * t)) if isinstance(t, Tensor) else math.exp(log_bar(t))
    )
    return Bumps().density(z, alpha2**0.5, 1 - alpha2)


def distribution(z: Tensor, t: float) -> Tensor:
    """The distribution function of q_t of the mixture."""
    mixture, alpha2 = Bumps(), math.exp(log_bar(t))
    total = torch.zeros_like(z)
    for w, m, v in zip(mixture.weights, mixture.means, mixture.variances, strict=True):
        total = total + w * torch.special.ndtr((z - alpha2**0.5 * m) / (alpha2 * v + 1 - alpha2) ** 0.5)
    return total


@check("pf-ode")
def _(c: Checks) -> None:
    denoiser = Bumps().product().denoiser()
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    library = printed_clock(denoiser)
    for t in (0.1, 0.35, 0.8):
        clock = torch.full((61,), t, dtype=torch.float64, requires_grad=True)
        (rate,) = torch.autograd.grad(marginal(z, clock).sum(), clock)

        def leaving(field: Field, t: float = t) -> Tensor:
            at = z.clone().requires_grad_()
            flux = field(at[:, None], t)[:, 0] * marginal(at, t)
            return torch.autograd.grad(flux.sum(), at)[0]

        c.holds(f"t={t}: ∂q/∂t = −∇·[v q] with nelbo's v", rate + leaving(library), 1e-10)
        c.must_fail(f"t={t}: g² for ½ g² (the drift of the reverse SDE)", rate + leaving(drift(denoiser, 1.0)), 0.1)
        c.holds(
            f"t={t}: nelbo's v = f − ½ g² score as printed",
            library(z[:, None], t) - drift(denoiser)(z[:, None], t),
            1e-12,
        )
    field = library
    some = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    ends = flow(field, some[:, None], 80)[:, 0]
    c.holds("P(z_t ≤ ·) is kept along 11 trajectories", distribution(ends, LAST) - distribution(some, FIRST), 1e-6)
    n, generator = 4000, torch.Generator().manual_seed(17)
    alpha2 = math.exp(log_bar(FIRST))
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    start = alpha2**0.5 * Bumps().draw(n, generator) + (1 - alpha2) ** 0.5 * noise
    points = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    exact = distribution(points, LAST)
    error = (exact * (1 - exact) / n).sqrt()
    carried = flow(field, start[:, None], 25)[:, 0]
    c.z("4,000 data points carried to t = 1 follow q_1", (carried[:, None] <= points).double().mean(0), exact, error)
    wrong = flow(drift(denoiser, 1.0), start[:, None], 25)[:, 0]
    c.z_must_fail("carried by the drift of the reverse SDE", (wrong[:, None] <= points).double().mean(0), exact, error)


@check("pf-ode-likelihood")
def _(c: Checks) -> None:
    last, bar = math.exp(log_bar(LAST)), math.exp(log_bar(FIRST))
    data = GaussianData(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    x = torch.linspace(-1.5, 2.0, 5, dtype=torch.float64)
    exact = nodes.log_normal(x, 0.3 * bar**0.5, 0.5 * bar + 1 - bar)
    model = between(data)
    end, integral = integrated(model, x[:, None])
    c.holds("Gaussian data: log q_1(z_1) + ∫ ∇·v dt = log q_0(x), both nelbo's", end + integral - exact, 1e-6)
    ends = ode.span(model)
    z = ode.solve(model, x[:, None], *ends, solver=RK4(64)).z[:, 0]
    c.holds("its log q_1", end - nodes.log_normal(z, 0.3 * last**0.5, 0.5 * last + 1 - last), 1e-10)
    c.must_fail("N(0, 1) for q_1", nodes.log_normal(z, 0.0, 1.0) + integral - exact, 1e-3)
    c.info("what that costs at most, in nats", (nodes.log_normal(z, 0.0, 1.0) + integral - exact).abs().max())
    c.info("ᾱ at t = 1", last)
    c.must_fail("minus the integral", end - integral - exact, 0.1)
    start = torch.stack([x, torch.zeros_like(x)], 1)
    state = flow(with_divergence(drift(data.denoiser())), start, 50)
    c.holds("the printed integral, in the clock t, is the same", state[:, 1] - integral, 1e-6)
    z, integral = flow(with_divergence(drift(data.denoiser(), 1.0)), start, 20).T
    end = nodes.log_normal(z, 0.3 * last**0.5, 0.5 * last + 1 - last)
    c.must_fail("g² for ½ g² in the drift", end + integral - exact, 0.1)
    x = torch.linspace(-2.2, 2.2, 12, dtype=torch.float64)
    end, integral = integrated(between(Bumps().product()), x[:, None], 96)
    c.holds("a mixture, 12 points: = log q_0", end + integral - marginal(x, FIRST).log(), 1e-5)
    mean, cov = (
        torch.tensor([0.2, -0.4], dtype=torch.float64),
        torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64),
    )
    points = torch.cartesian_prod(torch.linspace(-1, 1, 3).double(), torch.linspace(-1, 1, 3).double())
    for path in Path:
        model = between(GaussianData(mean, cov), path.value)
        first = model.levels()[0]
        alpha2, sigma2 = float(first.alpha) ** 2, float(first.sigma) ** 2
        q = torch.distributions.MultivariateNormal(alpha2**0.5 * mean, alpha2 * cov + sigma2 * torch.eye(2).double())
        log_p = sum(integrated(model, points))
        c.holds(f"two correlated dimensions, the trace, path {path.value}", log_p - q.log_prob(points), 1e-5)
