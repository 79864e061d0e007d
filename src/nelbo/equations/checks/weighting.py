"""Weighted diffusion losses: what a weight means, and which weights the common losses imply."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import affine, laws, models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Output, from_x0
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import SimpleObjective
from nelbo.training.weighting import Sigmoid, augmentation_level

HIGH, LOW, X = 6.0, -6.0, 0.8
STRAIGHT = schedules.logsnr_linear(HIGH, LOW)
VARIANCE = 0.7
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda logsnr: torch.sigmoid(2 - logsnr),
    "exponential": lambda logsnr: torch.exp(-logsnr / 2),
    "sech": lambda logsnr: 1 / torch.cosh(logsnr / 2),
}


def information(logsnr: Tensor) -> Tensor:
    """I(x; z_λ) of data N(0, VARIANCE): ½ log(1 + SNR · variance)."""
    return 0.5 * torch.log1p(VARIANCE * logsnr.exp())


def weighted(model: laws.DiffusionModel, x: float, weight: Callable[[Tensor], Tensor], pieces: int = 1) -> float:
    """∫ w(λ_t) (the library's rate at t) dt of one x."""
    total = 0.0
    for k in range(pieces):
        t, w = nodes.interval(k / pieces, (k + 1) / pieces, 60 if pieces == 1 else 8)
        total += float((w * weight(model.schedule.logsnr(t))) @ laws.rate(model, x, t))
    return total


@check("time-derivative-kl")
def _(c: Checks) -> None:
    model = laws.model(STRAIGHT, laws.poor)
    t, h = 0.45, 1e-3
    slope = (_divergence(model, t + h) - _divergence(model, t - h)) / (2 * h)
    logsnr = nodes.number(HIGH + (LOW - HIGH) * t)
    exact = 0.5 * (LOW - HIGH) * float(laws.noise_error(laws.poor, X**2, logsnr))
    ours = -float(laws.rate(model, X, torch.tensor([t], dtype=torch.float64)))
    c.holds("nelbo's rate at t = ½ λ'(t) E‖ε − ε̂‖² in closed form, relative", ours / exact - 1, 1e-12)
    c.holds("= the slope of the divergence of chains from t on, any denoiser, relative", slope / exact - 1, 1e-4)
    c.must_fail("the opposite sign: relative error", -slope / exact - 1, 1.0)
    best = laws.model(STRAIGHT, laws.optimal(VARIANCE))
    grid = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    at = (HIGH + (LOW - HIGH) * grid).requires_grad_()
    (derivative,) = torch.autograd.grad(information(at).sum(), at)
    rate = laws.rate(best, VARIANCE**0.5, grid) / (HIGH - LOW)
    c.holds("the best denoiser, averaged over x: nelbo's rate per λ = dI(x; z_λ)/dλ", rate - derivative, 1e-11)


def _divergence(model: laws.DiffusionModel, t: float) -> float:
    """KL of the path from t to 1, up to the prior: the library's chains of N, 2N, 4N, 8N steps, extrapolated."""
    row = []
    for n in (64, 128, 256, 512):
        times = t + (1 - t) * torch.arange(n + 1, dtype=torch.float64) / n
        row.append(float(laws.steps(model, X, model.schedule.at(times)).sum()))
    for order in (1, 2, 3):
        row = [(2**order * b - a) / (2**order - 1) for a, b in itertools.pairwise(row)]
    return row[0]


@check("weighted-loss")
def _(c: Checks) -> None:
    best = laws.optimal(VARIANCE)
    weight = SHAPES["sigmoid"]
    logsnr, w = nodes.interval(LOW, HIGH, 120)
    exact = 0.5 * float((w * weight(logsnr)) @ laws.noise_error(best, VARIANCE, logsnr))
    straight = laws.model(STRAIGHT, best)
    cubic = laws.model(laws.bent(lambda t: 3 * t**2 - 2 * t**3, HIGH, LOW), best)
    x = VARIANCE**0.5
    c.holds(
        "½ ∫ w(λ) E‖ε − ε̂‖² dλ by nelbo's rate on a straight schedule", weighted(straight, x, weight) - exact, 1e-10
    )
    c.holds("and on a cubic one", weighted(cubic, x, weight, 40) - exact, 1e-9)
    plain = weighted(straight, x, torch.ones_like)
    ends = information(torch.tensor([HIGH, LOW], dtype=torch.float64))
    c.holds("w = 1 is the diffusion term of the bound, I(x; z_0) − I(x; z_1)", plain - float(ends[0] - ends[1]), 1e-10)
    generator = torch.Generator().manual_seed(15)
    n = 40_000
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    eps = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    xs = x * torch.randn(n, 1, dtype=torch.float64, generator=generator)
    for name, law in (("uniform", _uniform), ("logistic", _logistic)):
        sampled, density = law(u)
        at = Levels(STRAIGHT.time_of(sampled), sampled, Path.VP)
        square = 2 * at_noise.diffusion_rate(straight, xs, eps, at, -torch.ones_like(sampled))
        values = 0.5 * weight(sampled) / density * square
        c.z(f"λ drawn from a {name} law, nelbo's terms times w/p", values.mean(), exact, nodes.standard_error(values))
        wrong = 0.5 * weight(sampled) * square
        c.z_must_fail(f"{name}: 1/p forgotten", wrong.mean(), exact, nodes.standard_error(wrong))


def _uniform(u: Tensor) -> tuple[Tensor, Tensor]:
    return LOW + (HIGH - LOW) * u, torch.full_like(u, 1 / (HIGH - LOW))


def _logistic(u: Tensor) -> tuple[Tensor, Tensor]:
    """The logistic law of mean 1 and scale 1.5, cut off at both ends of the range."""
    ends = torch.sigmoid((torch.tensor([LOW, HIGH], dtype=torch.float64) - 1) / 1.5)
    inside = ends[0] + (ends[1] - ends[0]) * u
    return 1 + 1.5 * torch.logit(inside), inside * (1 - inside) / 1.5 / (ends[1] - ends[0])


@check("weighted-loss-abel-discrete")
def _(c: Checks) -> None:
    chain, x = AffineChain(), 1.1
    model = models.affine(chain)
    kl = [models.diffusion(model, x, j) for j in (2, 3, 4)] + [models.prior(model, x)]  # K_1 … K_4
    tails = [sum(kl[i:]) for i in range(4)]
    weights = (0.2, 0.5, 0.9, 1.4)
    abel = sum((w - before) * tail for w, before, tail in zip(weights, (0.0, *weights), tails, strict=False))
    c.holds(
        "Σ w_i K_i = Σ (w_i − w_{i−1}) L_≥i of nelbo's terms",
        sum(w * k for w, k in zip(weights, kl, strict=True)) - abel,
        1e-13,
    )
    (q_mean, q_cov), (p_mean, p_cov) = chain.given(x), chain.backward()
    for i in range(1, 5):
        tail = slice(i - 1, None)
        q, p = (q_mean[tail], q_cov[tail, tail]), (p_mean[i:], p_cov[i:, i:])
        c.holds(f"L_≥{i} = KL of the joint laws of z_{i} … z_4", tails[i - 1] - float(affine.divergence(*q, *p)), 1e-11)
        # E −ELBO(z_i): cross entropy of (z_i, …) less the entropy of what follows z_i
        after = affine.entropy(q[1]) - affine.entropy(q[1][:1, :1])
        elbo = float(affine.cross_entropy(*q, *p) - after)
        noise = float(affine.entropy(q[1][:1, :1]))
        c.holds(f"L_≥{i} = E −ELBO(z_{i}) − H(q(z_{i}|x))", tails[i - 1] - (elbo - noise), 1e-11)
        if i == 2:
            c.must_fail("the entropy of the added noise forgotten", tails[1] - elbo, 0.3)
    c.must_fail("w_i for w_i − w_{i−1}", sum(w * v for w, v in zip(weights, tails, strict=True)) - abel, 0.1)


@check("weighted-loss-elbo-augmentation")
def _(c: Checks) -> None:
    best, x = laws.model(STRAIGHT, laws.optimal(VARIANCE)), VARIANCE**0.5
    t, w = nodes.interval(0.0, 1.0, 120)
    logsnr = HIGH + (LOW - HIGH) * t
    ends = torch.tensor([HIGH, LOW], dtype=torch.float64)
    for name, weight in SHAPES.items():
        leaf = logsnr.clone().requires_grad_()
        (slope,) = torch.autograd.grad(weight(leaf).sum(), leaf)
        at_ends, info = weight(ends), information(ends)
        boundary = at_ends[0] * info[0] - at_ends[1] * info[1]
        inner = (w * slope * (LOW - HIGH)) @ information(logsnr)
        ours = weighted(best, x, weight)
        c.holds(
            f"{name}: nelbo's weighted loss = w(λ_max) I_0 − w(λ_min) I_1 + ∫ dw/dt I dt",
            ours - float(boundary + inner),
            1e-8,
        )
        rising = (slope > 0).double().mean()
        if name == "sech":
            c.must_fail("sech, the ε-loss of a cosine schedule, as a mixture: share of negative mass", rising, 0.3)
        else:
            c.true(
                f"{name}: −dw/dλ ≥ 0 throughout, a mixture of bounds on noisy data",
                bool((slope <= 0).all()),
                slope.max(),
            )
        if name == "sigmoid":
            c.must_fail("the boundary terms dropped", ours - float(inner), 0.005)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    noise = augmentation_level(Sigmoid(2.0), u, HIGH, LOW)
    mixture = SHAPES["sigmoid"](ends)[1] * (information(noise) - info[1]).mean()
    ours = weighted(best, x, SHAPES["sigmoid"])
    c.holds("sigmoid: = w(λ_min) times the mean of L at nelbo's noise levels", ours - float(mixture), 1e-5)
    c.must_fail("the bound of clean data in their place", ours - float(info[0] - info[1]), 0.1)
    # one x and a denoiser that is not the best: L(t) = ∫ of nelbo's rate from t to 1, L(1) = 0
    poor, weight = laws.model(STRAIGHT, laws.poor), SHAPES["sigmoid"]
    s, v = nodes.interval(0.0, 1.0, 40)
    rates = torch.stack([(1 - a) * (v @ laws.rate(poor, X, a + (1 - a) * s)) for a in t])
    leaf = logsnr.clone().requires_grad_()
    (slope,) = torch.autograd.grad(weight(leaf).sum(), leaf)
    total = weight(ends)[0] * laws.whole(poor, X) + (w * slope * (LOW - HIGH)) @ rates
    c.holds("one x, a denoiser that is not the best", weighted(poor, X, weight) - float(total), 1e-8)


@check("implied-weight-cosine")
def _(c: Checks) -> None:
    T = 4000
    table = schedules.cosine(T, offset=0.0, beta_max=1 - 1e-12).table[:-1]  # t = 1 has no signal at all
    t = torch.arange(1, T, dtype=torch.float64) / T
    c.holds(
        "nelbo's cosine table without offset: λ = −2 log tan(π t/2)",
        table + 2 * torch.log(torch.tan(math.pi * t / 2)),
        1e-9,
    )
    inner = slice(400, -400)
    density = (2 / T / (table[:-2] - table[2:]))[inner]
    sech = 1 / torch.cosh(table[1:-1] / 2)[inner] / (2 * math.pi)
    c.holds("−dt/dλ of that table = sech(λ/2)/2π, relative", density / sech - 1, 1e-5)
    c.must_fail(
        "e^−λ/2 in its place: relative error",
        density / density[0] / torch.exp(-(table[1:-1][inner] - table[1:-1][inner][0]) / 2) - 1,
        0.5,
    )
    logsnr = torch.linspace(-5, 5, 41, dtype=torch.float64)
    at = Levels(0 * logsnr, logsnr, Path.VP)
    z, one = torch.zeros(41, 1, dtype=torch.float64), torch.ones(41, 1, dtype=torch.float64)
    errors = [(from_x0(o, one, z, at) - from_x0(o, 0 * one, z, at)).square()[:, 0] for o in (Output.V, Output.EPS)]
    v_weight = errors[0] / errors[1] / torch.cosh(logsnr / 2)
    c.holds(
        "nelbo's v: the same loss in v has weight 2 e^−λ/2, relative",
        v_weight / (2 * torch.exp(-logsnr / 2)) - 1,
        1e-12,
    )

    def cosine(u: Tensor) -> Tensor:
        return (4 + 2 * torch.log(torch.tan(math.pi / 2 * (edge + (1 - 2 * edge) * u)))) / 8

    edge = 2 / math.pi * math.atan(math.exp(-2))  # λ runs from 4 to −4

    def gain(logsnr: Tensor) -> Tensor:
        return 0.5 * laws.optimal(VARIANCE)(logsnr)

    model = laws.model(laws.bent(cosine, 4.0, -4.0, 400), gain)
    xs = VARIANCE**0.5 * torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(512)[:, None]
    loss = Criterion(SimpleObjective())
    losses = torch.stack([loss(model, Batch(xs, 16, k))["loss"] for k in range(40)]).double()
    logsnr, w = nodes.interval(-4.0, 4.0, 80)
    error = laws.noise_error(gain, VARIANCE, logsnr)
    implied = float((w / torch.cosh(logsnr / 2)) @ error) / (2 * math.pi) / (1 - 2 * edge)
    c.z(
        "nelbo's L_simple on a cosine law = the loss of weight sech(λ/2)",
        losses.mean(),
        implied,
        nodes.standard_error(losses),
    )
    even = float(w @ error) / 8
    c.z_must_fail("w = 1, the bound's own weight", losses.mean(), even, nodes.standard_error(losses))
    linear = schedules.linear(1000).table
    weight = 1 / -linear.diff()
    peak = int(weight.argmax())
    c.true("DDPM's linear table: the weight 1/|Δλ| of L_simple rises and falls again", 0 < peak < len(weight) - 1, peak)
