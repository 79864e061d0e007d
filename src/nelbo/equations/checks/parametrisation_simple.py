"""L_simple as the library draws it, and the noise prediction that minimises it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.bumps import Bumps
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import GaussianData
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Output, from_x0
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import SimpleObjective

TABLE = Ddpm()
SCHEDULE = schedules.from_betas(TABLE.betas)


def sampled(model: DiffusionModel, x: Tensor, steps: int = 60, seed: int = 3) -> tuple[float, float]:
    """Mean of the library's L_simple over `steps` training steps on the batch x, and its standard error."""
    loss = Criterion(SimpleObjective())
    with torch.no_grad():
        losses = torch.stack([loss(model, Batch(x, seed, k))["loss"] for k in range(steps)]).double()
    return float(losses.mean()), nodes.standard_error(losses)


@check("loss-simple")
def _(c: Checks) -> None:
    chain = AffineChain()
    model = models.affine(chain)
    x = torch.linspace(-1.5, 2.0, 64, dtype=torch.float64)[:, None]
    alpha, sigma = TABLE.bar[1:].sqrt(), (1 - TABLE.bar[1:]).sqrt()
    k, shift = (torch.tensor(v, dtype=torch.float64) for v in (chain.scale, chain.shift))
    exact = (1 - k * sigma).square() + (k * alpha * x + shift).square()  # E over ε of (ε − k z − shift)², (64, T)
    estimate, error = sampled(model, x.repeat(16, 1))
    c.z("nelbo's L_simple = mean over t and x of E(ε − ε̂)²", estimate, exact.mean(), error)
    c.z_must_fail("the step t = 1 left out", estimate, exact[:, 1:].mean(), error)
    of = float(x[20])
    c.must_fail("read as a bound: Σ_t of the unweighted terms, in nats", exact[20].sum() - models.bound(model, of), 0.2)

    v = 0.5  # data N(0, v), ε̂ = c z: the mean of (ε − c z)² is 1 − 2 c σ + c² (α² v + σ²)
    optimum = [float(s / (a**2 * v + s**2)) for a, s in zip(alpha, sigma, strict=True)]

    def term(t: int, factor: float) -> float:
        net = models.affine(AffineChain(scale=tuple(factor * o for o in optimum), shift=(0.0,) * 4))
        points, w = nodes.normal(6)
        return sum(float(p) * models.diffusion(net, v**0.5 * float(u), t, 6) for u, p in zip(points, w, strict=True))

    slopes = torch.tensor([term(t, 1.01) - term(t, 0.99) for t in (2, 3, 4)])
    c.holds("a network free at each t: nelbo's weighted terms are least where the unweighted are", slopes, 1e-13)
    long = Ddpm.linear()
    bar, beta = long.bar[2:], long.beta[2:]
    weight = beta / (2 * long.alpha[2:] * (1 - bar))
    c.true("dropped weight, DDPM's linear table: t=2 over t=1000", weight[0] / weight[-1] > 20, weight[0] / weight[-1])
    a, b = (1 - bar).sqrt(), bar * v + 1 - bar
    shared = [float((u * a).sum() / (u * b).sum()) for u in (weight, torch.ones_like(weight))]
    c.must_fail("one parameter for all t: the minimum of L_simple for that of the bound", shared[0] - shared[1], 0.005)


@check("loss-simple-reparam")
def _(c: Checks) -> None:
    mixture, generator = Bumps(), torch.Generator().manual_seed(4)
    model = models.wavy(TABLE)
    x = mixture.draw(512, generator)[:, None]
    right, wrong = _expected(x, TABLE.bar), _expected(x, TABLE.alpha)
    estimate, error = sampled(model, x)
    c.z("nelbo's one-shot L_simple = Gauss-Hermite over ε", estimate, right.mean(), error)
    c.z_must_fail("α for ᾱ (002)", estimate, wrong.mean(), error)
    c.info("α for ᾱ: its loss over the right one at t = 3", wrong[2] / right[2])
    walkers = x.repeat(100, 1)
    z = walkers
    loss = torch.zeros(len(z), dtype=torch.float64)
    for t in range(1, TABLE.T + 1):
        noise = torch.randn(z.shape, dtype=torch.float64, generator=generator)
        z = TABLE.alpha[t].sqrt() * z + TABLE.beta[t].sqrt() * noise
        eps = (z - TABLE.bar[t].sqrt() * walkers) / (1 - TABLE.bar[t]).sqrt()
        at = SCHEDULE.at_index(torch.full((len(z),), t - 1))
        loss += (eps - models.wavy_eps(mixture.product(), z, at)).square()[:, 0] / TABLE.T
    both = math.hypot(error, nodes.standard_error(loss))
    c.z("= the mean over chains that take every step", estimate, loss.mean(), both)


def _expected(x: Tensor, scales: Tensor) -> Tensor:
    """E over ε of (ε − ε̂)² where ᾱ_t is read off `scales`, the mean over x, for t = 1 … T, (T,)."""
    data, (eps, w) = Bumps().product(), nodes.normal(60)
    out = []
    for t in range(1, TABLE.T + 1):
        z = scales[t].sqrt() * x + (1 - scales[t]).sqrt() * eps
        at = SCHEDULE.at_index(torch.full((z.numel(),), t - 1))
        eps_hat = models.wavy_eps(data, z.reshape(-1, 1), at).reshape(z.shape)
        out.append(((eps - eps_hat).square() @ w).mean())
    return torch.stack(out)


@check("eps-optimal-predictor")
def _(c: Checks) -> None:
    mixture, t = Bumps(), 2
    x, p = nodes.line(-4.0, 4.0, 401)
    eps, w = nodes.normal(60)
    weight = (p * mixture.density(x))[:, None] * w
    z = TABLE.bar[t].sqrt() * x[:, None] + (1 - TABLE.bar[t]).sqrt() * eps
    at = SCHEDULE.at_index(torch.full((z.numel(),), t - 1))
    x_hat = mixture.product().denoiser()(z.reshape(-1, 1), at).x0
    best = from_x0(Output.EPS, x_hat, z.reshape(-1, 1), at).reshape(z.shape)
    for name, h in {"1": z**0, "z": z, "sin 2z": torch.sin(2 * z), "z³": z**3}.items():
        c.holds(f"E[(ε − nelbo's exact ε̂) h(z)] = 0, h = {name}", (weight * (eps - best) * h).sum(), 1e-9)
    loss = (weight * (eps - best).square()).sum()
    moved = (weight * (eps - best - 0.3 * torch.cos(z)).square()).sum()
    c.holds("off by d h(z) costs d² E h²", moved - loss - 0.09 * (weight * torch.cos(z).square()).sum(), 1e-9)
    c.must_fail("a perfect ε̂ = ε, loss 0: what cannot be undone at t = 2", loss, 0.1)
    off = (weight * (eps - 0.9 * best) * z).sum()
    c.must_fail("another predictor (0.9 of it): its residual is not orthogonal to z", off, 0.01)
    covariance = torch.tensor([[1.3, 0.4], [0.4, 0.5]], dtype=torch.float64)
    data = GaussianData(torch.tensor([0.5, -0.25]), covariance)
    w_, V = torch.linalg.eigh(covariance)
    surrogate = GaussianSurrogate(data.mean.float(), V.float(), w_, 1.0)
    node, w = nodes.normal(12)
    sides, weights = torch.cartesian_prod(node, node), torch.cartesian_prod(w, w).prod(1)
    point = torch.tensor([[1.0, 0.75]], dtype=torch.float64).expand(len(sides), 2)
    level = SCHEDULE.at_index(torch.full((len(sides),), 2))
    noisy = forward.noised(point, sides, level)
    error = (sides - from_x0(Output.EPS, data.denoiser()(noisy, level).x0, noisy, level)).square().sum(1)
    mean = error @ weights
    known = surrogate.expected(point[:1], level.logsnr[:1])
    c.holds("Gaussian data: nelbo's control variate has the mean E‖ε − ε̂‖² of the exact predictor", known - mean, 1e-5)
    excess = surrogate.excess(point, sides, level.logsnr)
    c.holds("and follows it draw by draw, relative", (excess - (error - mean)) / (1 + error), 1e-5)
