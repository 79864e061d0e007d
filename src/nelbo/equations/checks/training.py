"""What training minimises beside the bound: weights, the hybrid loss, drawn times, the gradient for a schedule's shape,
and the posterior of the mixture head."""

from __future__ import annotations

import math

import numpy as np
import torch

from nelbo.adapters.callable import from_callable
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import laws
from nelbo.model.domain import DataDomain
from nelbo.model.mixture import NetworkMixture
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.process.mixture import Mixture
from nelbo.process.prediction import Output, Prediction, from_x0
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.learned_schedule import TrainableSchedule
from nelbo.training.objective import HybridObjective, NoisedBatch, SimpleObjective
from nelbo.training.times import inverse_transform
from nelbo.training.weighting import EDMMonotone, MinSNR, Sigmoid

LOGSNR = torch.linspace(-9, 9, 181, dtype=torch.float64)


@check("weighting-monotone")
def _(c: Checks) -> None:
    lam = LOGSNR.numpy()
    c.holds("the sigmoid weight, b = 2", Sigmoid(2.0)(LOGSNR).numpy() - 1 / (1 + np.exp(lam - 2)), 1e-13)
    fine = np.linspace(-9, 9, 180_001)
    weight = _edm(fine)
    top = fine[weight.argmax()]
    expected = _edm(np.maximum(lam, top)) / weight.max()
    ours = EDMMonotone()(LOGSNR).numpy()
    c.holds("EDM's own loss as a weight of the noise error, held at its top", ours - expected, 1e-8)
    c.must_fail("EDM's weight as it is", ours - _edm(lam) / weight.max(), 0.5)
    for name, w in (("sigmoid", Sigmoid(2.0)), ("EDM", EDMMonotone())):
        c.true(f"{name}: falls", bool((w(LOGSNR).diff() <= 0).all()))


def _edm(logsnr: np.ndarray) -> np.ndarray:
    """Density of ln σ times dlnσ/dλ times EDM's weight of ‖D − x‖² times σ², at σ = e^(−λ/2)."""
    sigma = np.exp(-logsnr / 2)
    density = np.exp(-0.5 * ((np.log(sigma) + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    return density / 2 * (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * sigma**2


@check("loss-min-snr")
def _(c: Checks) -> None:
    at = Levels(0 * LOGSNR, LOGSNR, Path.VP)
    z = torch.zeros(len(LOGSNR), 1, dtype=torch.float64)
    eps_hat = from_x0(Output.EPS, z + 0.3, z, at) - from_x0(Output.EPS, z, z, at)
    ours = MinSNR(5.0)(LOGSNR) * eps_hat.square()[:, 0]
    expected = torch.minimum(LOGSNR.exp(), torch.tensor(5.0)) * 0.3**2
    c.holds("nelbo's weight of the noise error = min(SNR, 5) of the image error, relative", ours / expected - 1, 1e-12)
    c.must_fail("as a weight of the image error", MinSNR(5.0)(LOGSNR) * 0.3**2 / expected - 1, 0.9)


@check("loss-hybrid")
def _(c: Checks) -> None:
    T = 8
    weights = torch.tensor([0.7, 0.2], dtype=torch.float64, requires_grad=True)

    def net(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([weights[0] * z, weights[1] + 0 * z], 1).to(z)

    model = from_callable(
        net, schedule=schedules.linear(T, 0.02, 0.5), domain=DataDomain((2,), 8), predicts="eps",
        time="index", variance="learned_range",
    )  # fmt: skip
    batch = NoisedBatch.draw(model, Batch(torch.tensor([[0, 3], [7, 5]]).repeat(2 * T, 1), 3, 0))

    def slopes(objective) -> torch.Tensor:
        (slope,) = torch.autograd.grad(objective.losses(model, batch).per_example.double().mean(), weights)
        return slope

    simple, hybrid, strong = slopes(SimpleObjective()), slopes(HybridObjective(0.001)), slopes(HybridObjective(1.0))
    c.holds("the gradient of the mean is that of the noise loss", (hybrid - simple)[0], 1e-6)
    c.holds("whatever the bound's weight", (strong - simple)[0], 1e-6)
    c.holds(
        "that of the variance is the bound's alone, in proportion, relative", strong[1] / hybrid[1] / 1000 - 1, 1e-4
    )
    c.must_fail("the noise loss teaches the variance nothing", strong[1] - simple[1], 1e-3)
    simple, hybrid = (o.losses(model, batch).per_example for o in (SimpleObjective(), HybridObjective(1.0)))
    values = (hybrid - simple).detach()
    level = model.levels()
    index = (batch.unit * T).long()
    i = int((index > 0).nonzero()[0])
    x, eps = batch.x[i : i + 1].double(), batch.eps[i : i + 1].double()
    kl = at_noise.diffusion(model, x, eps, level[index[i] - 1 :][:1], level[index[i] :][:1])
    bits = float(kl.detach()) / 2 / math.log(2)
    c.holds("a step's value is T times nelbo's KL in bits, relative", float(values[i]) / (T * bits) - 1, 2e-4)
    first = int((index == 0).nonzero()[0])
    x, eps = batch.x[first : first + 1].double(), batch.eps[first : first + 1].double()
    nll = at_noise.reconstruction(model, x, batch.target[first : first + 1], eps, level[:1])
    c.holds("the first level's is T times the decoder's, relative",
            float(values[first]) / (T * float(nll.detach()) / 2 / math.log(2)) - 1, 2e-4)  # fmt: skip


@check("importance-sampled-t")
def _(c: Checks) -> None:
    root = torch.tensor([4.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    density = root / root.mean()
    n = 40_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t, weight = inverse_transform(u, density)
    loss = root[(t * 4).long()]
    c.holds("∫ ℓ/p p dt = ∫ ℓ dt for ℓ constant on the cells", (weight * loss).mean() - root.mean(), 1e-9)
    c.must_fail("1/p forgotten", loss.mean() - root.mean(), 0.5)
    c.holds("p ∝ ℓ leaves no noise", (weight * loss).var(), 1e-9)
    c.holds("any power of t", (weight * t**3).mean() - 0.25, 2e-5)
    for name, other in (("uniform", torch.ones(4, dtype=torch.float64)), ("ℓ²", root.square() / root.square().mean())):
        t, weight = inverse_transform(u, other)
        second = float((weight * root[(t * 4).long()]).square().mean())
        c.true(f"p {name}: more noise than p ∝ √E ℓ²", second > 1.2 * float(root.mean().square()), second)


@check("schedule-variance-gradient")
def _(c: Checks) -> None:
    law = TrainableSchedule(4.0, -3.0, segments=3)
    with torch.no_grad():
        law.shape.copy_(torch.tensor([0.4, -0.3, 0.1]))
    model = laws.model(schedules.logsnr_linear(4.0, -3.0), laws.poor)
    t = torch.tensor([0.1, 0.3, 0.45, 0.7, 0.9], dtype=torch.float64)
    x = torch.tensor([[0.8], [-0.5], [1.1], [0.2], [-1.4]], dtype=torch.float64)
    eps = x.flip(0) * 0.7

    def losses(of) -> torch.Tensor:
        return at_noise.diffusion_rate(model, x, eps, of.at(t), of.dlogsnr_dt(t))

    each = losses(law)
    each.mean().backward()
    law.backward(each)
    slopes, mean = [], []
    h = 1e-5
    for k in range(3):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                law.shape[k] += sign * h
            values.append(losses(law.frozen()))
            with torch.no_grad():
                law.shape[k] -= sign * h
        slopes.append(float((values[0].square() - values[1].square()).mean()) / (2 * h))
        mean.append(float((values[0] - values[1]).mean()) / (2 * h))
    assert law.shape.grad is not None
    ours, direct = law.shape.grad, torch.tensor(slopes, dtype=torch.float64)
    c.holds("one backward pass of the mean = the slope of the mean square by differences", ours - direct, 1e-6)
    c.must_fail("the gradient of the mean in its place", torch.tensor(mean) - direct, 0.05)


@check("mixture-posterior")
def _(c: Checks) -> None:
    w, mean, std = np.array([0.3, 0.5, 0.2]), np.array([-0.4, 0.5, -1.0]), np.array([0.2, 0.05, 0.0])
    params = (torch.tensor(np.log(w)), torch.tensor(mean), torch.tensor(std**2))
    mixture = Mixture(*(v.reshape(1, 3, 1) for v in params))
    x = np.linspace(-4, 4, 80_001)
    for logsnr, z in ((4.0, -0.7), (0.0, 0.3), (-3.0, 1.2)):
        t = Levels(torch.zeros(1), torch.tensor([logsnr], dtype=torch.float64), Path.VP)
        alpha, sigma = float(t.alpha), float(t.sigma)
        prior = sum(
            a * np.exp(-0.5 * ((x - m) / s) ** 2) / s / math.sqrt(2 * math.pi)
            for a, m, s in zip(w[:2], mean[:2], std[:2], strict=True)
        ) * (x[1] - x[0])
        prior[np.abs(x - mean[2]).argmin()] += w[2]
        joint = prior * np.exp(-0.5 * ((z - alpha * x) / sigma) ** 2)
        expected = float(joint @ x / joint.sum())
        ours = float(mixture.posterior_mean(torch.tensor([[z]], dtype=torch.float64), t))
        c.holds(f"λ = {logsnr}: E[x | z] by summing over a fine line", ours - expected, 1e-6)
        c.must_fail(f"λ = {logsnr}: the prior mean", float(w @ mean) - expected, 0.02)
    domain = DataDomain((1,), 5)
    t = Levels(torch.zeros(1), torch.tensor([3.0], dtype=torch.float64), Path.VP)
    z = torch.tensor([[0.2]], dtype=torch.float64)
    lattice = np.linspace(-1, 1, 5)
    mass = sum(a * np.exp(-0.5 * ((lattice - m) / s) ** 2) / s / math.sqrt(2 * math.pi) * 0.5
               for a, m, s in zip(w[:2], mean[:2], std[:2], strict=True)) + w[2] * (lattice == -1)  # fmt: skip
    joint = mass * np.exp(-0.5 * ((0.2 - float(t.alpha) * lattice) / float(t.sigma)) ** 2)
    p = (1 - 1e-6) * joint / joint.sum() + 1e-6 / 5
    log_pmf = NetworkMixture().log_pmf(z, t, Prediction(z, mixture=mixture), domain)
    c.holds("the decoder's masses of five codes, by Bayes", log_pmf.exp().numpy().ravel() - p, 1e-12)
