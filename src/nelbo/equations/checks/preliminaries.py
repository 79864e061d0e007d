"""Group A: Bayes' rule, maximum likelihood, and the Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.equations.cases import alpha_bars, generator, level, mixture, tensor
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import quadrature, schur
from nelbo.equations.oracles.noisy_mixture import NoisyMixture
from nelbo.maths import gaussian
from nelbo.model.decoder import Categorical
from nelbo.model.domain import DataDomain
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.exact.mixture import MixtureData
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.sampling.draw import Trajectory, sample
from nelbo.workers import Run


@check("bayes-rule")
def _(c: Checks) -> None:
    joint = generator(1).random((4, 5))
    joint /= joint.sum()
    p_x, p_y = joint.sum(0), joint.sum(1)
    likelihood = joint / p_y[:, None]
    c.holds("a random 4 × 5 table", joint / p_x - likelihood * p_y[:, None] / p_x, 1e-14)
    c.must_fail("P(X) left out: columns sum to 1", (likelihood * p_y[:, None]).sum(0) - 1, 0.1)

    # The categorical decoder is Bayes' rule for codes: hypothesis k, observation z.
    prior, domain, t = np.array([0.4, 0.1, 0.3, 0.15, 0.05]), DataDomain((1,), 5), level(0.7)
    z = np.linspace(-2.5, 2.5, 11)
    values = domain.lattice().numpy()
    density = quadrature.normal(z[:, None], float(t.alpha) * values, float(t.sigma) ** 2)
    table = density * prior
    log_pmf = Categorical(tensor(np.log(prior))).log_pmf(tensor(z)[:, None], level(0.7, n=len(z)), None, domain)
    posterior = log_pmf[:, 0].exp().numpy()
    c.holds("nelbo's categorical decoder = Bayes' rule", posterior - table / table.sum(1, keepdims=True), 1e-14)
    c.must_fail("its prior over codes left out", posterior - density / density.sum(1, keepdims=True), 0.1)


@check("bayes-normaliser")
def _(c: Checks) -> None:
    # θ ~ N(0, 2) seen through x = α θ + σ ε.
    data, t, x = GaussianData(tensor([0.0]), tensor([[2.0]])), level(1.2), 0.8
    alpha, variance = float(t.alpha), float(t.sigma) ** 2
    theta, weights = quadrature.legendre(400, -14, 14)
    product = quadrature.normal(x, alpha * theta, variance) * quadrature.normal(theta, 0.0, 2.0)
    evidence = weights @ product
    n = len(theta)
    nll = data.decoder().nll(
        tensor(theta)[:, None], tensor(np.full((n, 1), x)), level(1.2, n=n), None, DataDomain((1,))
    )
    posterior = (-nll).exp().numpy()
    c.holds("nelbo's posterior = likelihood × prior / P(X)", posterior - product / evidence, 1e-12)
    exact = quadrature.log_normal(x, 0.0, 2 * alpha**2 + variance)
    c.holds("the constant is one over the evidence", 1 / evidence - np.exp(-exact), 1e-12)
    c.must_fail("the constant read as P(X) itself: total mass is 1", weights @ (product * evidence) - 1, 0.5)


@check("posterior-of-truth-is-not-one")
def _(c: Checks) -> None:
    domain, truth = DataDomain((1,), 3), 1
    z, weights = quadrature.legendre(400, -6, 6)
    t = level(-0.5, n=len(z))
    density = quadrature.normal(z, 0.0, float(t.sigma[0]) ** 2)  # of z given the middle code, whose value is 0
    posterior = Categorical().log_pmf(tensor(z)[:, None], t, None, domain)[:, 0].exp().numpy()
    table = quadrature.normal(z[:, None], float(t.alpha[0]) * domain.lattice().numpy(), float(t.sigma[0]) ** 2)
    c.holds("nelbo's posterior over three codes, by Bayes", posterior - table / table.sum(1, keepdims=True), 1e-13)
    expected = weights @ (density * posterior[:, truth])
    c.info("mean posterior of the true code, of three", expected)
    c.must_fail("claim: the posterior of the truth is 1", 1 - expected, 0.3)
    missed = weights @ (density * (posterior.argmax(1) != truth))
    c.must_fail("claim: the most probable code is the true one; chance that it is not", missed, 0.2)
    nll = (
        GaussianData(tensor([0.0]), tensor([[1.0]]))
        .decoder()
        .nll(
            torch.zeros(1, 1, dtype=torch.float64),
            torch.zeros(1, 1, dtype=torch.float64),
            level(5.0),
            None,
            DataDomain((1,)),
        )
    )
    c.must_fail("claim: a posterior density is at most 1; its peak − 1", float((-nll).exp()) - 1, 2.0)


@check("map-equals-mle-flat-prior")
def _(c: Checks) -> None:
    theta = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    x = tensor([0.3, 1.9, 0.8])
    log_likelihood = gaussian.log_density(x[:, None], theta, tensor(1.0)).sum(0)
    best = theta[log_likelihood.argmax()]
    flat = theta[(log_likelihood - np.log(8.0)).argmax()]
    normal = theta[(log_likelihood + gaussian.log_density(theta, tensor(0.0), tensor(1.0))).argmax()]
    c.holds("flat prior: both maximisers agree", flat - best, 0.0)
    c.holds("both lie at the sample mean", best - x.mean(), 1e-4)
    c.must_fail("a N(0, 1) prior moves the maximiser", normal - best, 0.2)
    domain, z = DataDomain((1,), 9), torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    t = level(0.0, n=len(z))
    code = Categorical().log_pmf(z, t, None, domain)[:, 0].argmax(1)
    nearest = (z - t.alpha[:, None] * domain.lattice()).abs().argmin(1)
    c.holds("nelbo's decoder, uniform over codes: its mode is the likeliest code", code - nearest, 0.0)
    steep = Categorical(torch.linspace(0, 8, 9, dtype=torch.float64)).log_pmf(z, t, None, domain)[:, 0].argmax(1)
    c.must_fail("codes of unequal prior: the mode moves", (steep - nearest).double(), 1.0)


@check("mle-objective")
def _(c: Checks) -> None:
    x = tensor(mixture()[0].sample(500, generator(3)))
    mean, variance = x.mean().requires_grad_(), x.var(correction=0).requires_grad_()
    mean_log_likelihood = gaussian.log_density(x, mean, variance).mean()
    slope = torch.stack(torch.autograd.grad(mean_log_likelihood, (mean, variance), create_graph=True))
    curvature = torch.stack(
        [torch.autograd.grad(s, p, retain_graph=True)[0] for s, p in zip(slope, (mean, variance), strict=True)]
    )
    c.holds("Gaussian family: no slope at the sample's mean and variance", slope, 1e-13)
    c.true("and a maximum: both curvatures are negative", (curvature < 0).all(), float(curvature.max()))
    shifted = (mean.detach() + 0.3).requires_grad_()
    away = torch.autograd.grad(gaussian.log_density(x, shifted, variance.detach()).mean(), shifted)[0]
    c.must_fail("elsewhere there is a slope", away, 0.1)
    means = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    logs = gaussian.log_density(x[:5, None], means, tensor(1.0))
    c.holds(
        "product and sum of logs peak together", means[logs.exp().prod(0).argmax()] - means[logs.sum(0).argmax()], 1e-9
    )
    many = gaussian.log_density(x.repeat(4), tensor(0.0), tensor(0.02))
    c.true("2000 densities: the product is 0, the sum of logs finite", many.exp().prod() == 0 and many.sum().isfinite())


@check("latent-marginal")
def _(c: Checks) -> None:
    # x ~ N(0.4, 0.7): every reverse mean is affine, so the latents' marginals are known and can be integrated too.
    data = GaussianData(tensor([0.4]), tensor([[0.7]]))
    model = data.model(schedules.from_betas((0.2, 0.4, 0.5)), grids.full(), exact_ends=False)
    levels = model.levels()
    z, weights = quadrature.legendre(300, -12, 12)
    density, mean, variance = quadrature.normal(z, 0.0, 1.0), 0.0, 1.0
    bars = alpha_bars((0.2, 0.4, 0.5))
    for j in (2, 1):
        s, t = levels[j - 1 : j].expand(len(z)), levels[j : j + 1].expand(len(z))
        centre, spread = model.reverse.step(tensor(z)[:, None], model.predict(tensor(z)[:, None], t), s, t)
        kernel = gaussian.log_density(tensor(z), centre, spread).exp().numpy()
        density = (weights * density) @ kernel
        a, a_s, beta = bars[j + 1], bars[j], 1 - bars[j + 1] / bars[j]  # in numpy's letters: ᾱ_t, ᾱ_{t−1}, β_t
        on_x, on_z = np.sqrt(a_s) * beta / (1 - a), np.sqrt(1 - beta) * (1 - a_s) / (1 - a)
        gain = np.sqrt(a) * 0.7 / (a * 0.7 + 1 - a)
        slope = on_z + on_x * gain
        mean = slope * mean + on_x * (0.4 - gain * np.sqrt(a) * 0.4)
        variance = slope**2 * variance + beta * (1 - a_s) / (1 - a)
    c.holds("p(z_1) by nested integrals of nelbo's kernels has mass 1", weights @ density - 1, 1e-10)
    c.holds("and is the Gaussian of the affine recursion", density - quadrature.normal(z, mean, variance), 1e-10)
    n = 20_000
    trail = sample(model, n, trajectory=True, run=Run(seed=4))
    assert isinstance(trail, Trajectory)
    draws = trail.z[-1, :, 0].numpy()
    c.z("nelbo's sampler: mean of z_1", draws.mean(), mean, np.sqrt(variance / n))
    c.z("nelbo's sampler: variance of z_1", draws.var(), variance, variance * np.sqrt(2 / n))
    c.z_must_fail("the prior is not the marginal: variance 1", draws.var(), 1.0, variance * np.sqrt(2 / n))
    # The log of the integral is not the integral of the log: ∫ p(z_2) log p(z_1 | z_2) at one z_1.
    s, t = levels[1:2].expand(len(z)), levels[2:3].expand(len(z))
    centre, spread = model.reverse.step(tensor(z)[:, None], model.predict(tensor(z)[:, None], t), s, t)
    logs = gaussian.log_density(tensor(0.2), centre, spread)[:, 0].numpy()
    outer = quadrature.normal(z, 0.0, 1.0) * weights
    c.must_fail(
        "the average of the log instead of the log of the average", np.log(outer @ np.exp(logs)) - outer @ logs, 0.1
    )


@check("kl-definition")
def _(c: Checks) -> None:
    q, p = (0.3, 0.8), (-0.5, 1.7)
    x, weights = quadrature.legendre(600, -14, 14)
    log_ratio = quadrature.log_normal(x, *q) - quadrature.log_normal(x, *p)
    integral = weights @ (quadrature.normal(x, *q) * log_ratio)
    given = [tensor(v) for v in (*q, *p)]
    kl, reverse = float(gaussian.kl(*given)), float(gaussian.kl(*given[2:], *given[:2]))
    c.holds("nelbo's Gaussian KL = ∫ q log(q/p)", kl - integral, 1e-12)
    c.holds("the same in the other direction", reverse + weights @ (quadrature.normal(x, *p) * log_ratio), 1e-12)
    draws = q[0] + np.sqrt(q[1]) * generator(5).standard_normal(200_000)
    ratios = quadrature.log_normal(draws, *q) - quadrature.log_normal(draws, *p)
    error = ratios.std() / np.sqrt(len(ratios))
    c.z("as the mean log-ratio of draws of q", ratios.mean(), kl, error)
    c.must_fail("symmetric? KL(p‖q) − KL(q‖p)", reverse - kl, 0.1)
    c.z_must_fail("the same draws against the KL with the roles swapped", ratios.mean(), reverse, error)


@check("kl-nonnegative")
def _(c: Checks) -> None:
    draws = generator(6)
    p, q = (draws.dirichlet(np.ones(6), 2000) for _ in range(2))
    divergence = (q * np.log(q / p)).sum(1)
    jensen = -np.log((q * (p / q)).sum(1))
    c.true("2000 random pairs of tables: the smallest KL is above 0", divergence.min() > 0, divergence.min())
    c.holds("the right side of Jensen's inequality is 0", jensen, 1e-12)
    c.true("KL ≥ −log E_q[p/q] for each pair", (divergence >= jensen).all(), (divergence - jensen).min())
    means, variances = (tensor(v) for v in (draws.normal(size=(2, 2000)), np.exp(draws.normal(size=(2, 2000)))))
    kl = gaussian.kl(means[0], variances[0], means[1], variances[1])
    c.true("2000 random pairs of Gaussians: nelbo's smallest KL is above 0", kl.min() > 0, kl.min())
    c.holds("nelbo's KL of a law with itself is 0", gaussian.kl(means[0], variances[0], means[0], variances[0]), 0.0)
    log_ratio = gaussian.log_density(means[0], means[0], variances[0]) - gaussian.log_density(
        means[0], means[1], variances[1]
    )
    c.must_fail("pointwise the log-ratio is negative at times", log_ratio.clamp(max=0), 0.1)


@check("mle-to-kl")
def _(c: Checks) -> None:
    weighing, centres, spreads = (0.55, 0.45), (-1.6, 1.6), (0.15, 0.25)  # far apart, so that the two KLs disagree
    oracle = NoisyMixture.of(weighing, centres, spreads)
    data = MixtureData(tensor(weighing), tensor(centres)[:, None], tensor(spreads)[:, None, None])
    x, weights = quadrature.legendre(800, -8, 8)
    q = np.exp(oracle.log_prob(x))
    means, variances = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(0.1, 4.1, 21), indexing="ij")
    log_p = gaussian.log_density(tensor(x), tensor(means)[..., None], tensor(variances)[..., None]).numpy()
    nll = -log_p @ (weights * q)
    kl = (data.log_prob(tensor(x)[:, None]).numpy() - log_p) @ (weights * q)
    c.holds("nelbo's entropy: NLL − KL = H(q) for 441 models", nll - kl - data.entropy(), 1e-9)
    c.true("one minimiser for both", nll.argmin() == kl.argmin())
    p = np.exp(log_p)
    backward = ((log_p - oracle.log_prob(x)) * p) @ weights
    gap = variances.flat[backward.argmin()] - variances.flat[kl.argmin()]
    c.must_fail("KL(p‖q) has another minimiser: its variance", gap, 0.5)


@check("latent-posterior-bayes")
def _(c: Checks) -> None:
    # A two-step model with affine means: its joint covariance is known, its densities are nelbo's.
    betas = (0.2, 0.4)
    model = GaussianData(tensor([0.0]), tensor([[0.7]])).model(
        schedules.from_betas(betas), grids.full(), exact_ends=False
    )
    first, second = model.levels()[:1], model.levels()[1:]
    paths = tensor(generator(7).normal(size=(50, 3)))
    n = len(paths)
    x, z_1, z_2 = paths.split(1, dim=1)
    centre, spread = model.reverse.step(z_2, model.predict(z_2, second.expand(n)), first.expand(n), second.expand(n))
    log_joint = (
        gaussian.log_density(z_2, tensor(0.0), tensor(1.0))
        + gaussian.log_density(z_1, centre, spread)
        - model.decoder.nll(x, z_1, first.expand(n), None, model.domain)[:, None]
    )[:, 0].numpy()
    bars = alpha_bars(betas)
    gain = np.sqrt(bars[2]) * 0.7 / (bars[2] * 0.7 + 1 - bars[2])
    slope = np.sqrt(1 - betas[1]) * (1 - bars[1]) / (1 - bars[2]) + np.sqrt(bars[1]) * betas[1] / (1 - bars[2]) * gain
    noise = betas[1] * (1 - bars[1]) / (1 - bars[2])
    down = np.array([[1 / np.sqrt(bars[1])], [1.0]]) * np.array([[slope]])  # (x, z_1) per unit of z_2
    covariance = np.eye(3)
    covariance[:2, 2:] = down
    covariance[2:, :2] = down.T
    z_variance = slope**2 + noise
    covariance[1, 1], covariance[0, 1] = z_variance, z_variance / np.sqrt(bars[1])
    covariance[1, 0] = covariance[0, 1]
    covariance[0, 0] = z_variance / bars[1] + (1 - bars[1]) / bars[1]
    points = paths.numpy()
    evidence = schur.log_density(points[:, :1], covariance[:1, :1])
    posterior = schur.log_conditional(points, covariance, (1, 2), (0,))
    likelihood = schur.log_conditional(points, covariance, (0,), (1, 2))
    prior = schur.log_density(points[:, 1:], covariance[1:, 1:])
    c.holds("nelbo's joint / evidence = the posterior by Schur complement", log_joint - evidence - posterior, 1e-10)
    c.holds("likelihood × prior / evidence = the posterior", likelihood + prior - evidence - posterior, 1e-10)
    nll = model.decoder.nll(x, z_1, first.expand(n), None, model.domain).numpy()
    c.holds("given z_1, nothing else tells of x: the likelihood is nelbo's decoder", likelihood + nll, 1e-10)
    c.must_fail("the posterior printed as a fraction of itself: 1", np.exp(posterior) - 1, 0.5)
    c.must_fail("continued as a KL, a number: its spread over paths", np.exp(posterior).std(), 1e-3)
