"""Group D, third part: what minimising the bound does, and the VAE that a diffusion with one step is."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.bound.gaussian_chain import cells_of
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.grid import GridChain
from nelbo.equations.oracles.linear import LinearChain
from nelbo.equations.oracles.quadrature import expectation, hermite, log_normal, trapezoid
from nelbo.equations.twins import MIXTURE, POINTS, grid_twin, linear_twin, misspecified
from nelbo.maths import gaussian
from nelbo.model.latent.encoder import negative_entropy, normal_cross_entropy


def _t(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


@check("joint-kl-chain-rule")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q, p = twin.chain.q, twin.chain.p
    joint = float(gaussian.kl_multivariate(*map(_t, (q.mean, q.covariance, p.mean, p.covariance))))
    first = [_t(v) for v in (q.mean[0], q.covariance[0, 0], p.mean[0], p.covariance[0, 0])]
    data = float(gaussian.kl(*first))
    gap = twin.chain.gap.mean(q)
    c.holds("KL of the joints = KL(q(x0) ‖ p(x0)) + E KL of the path posteriors", joint - data - gap, 1e-10)
    bound = twin.read("log_ratio").mean(q)
    c.holds("KL of the joints = L_VLB − H(q(x0))", joint - (bound - float(gaussian.entropy(first[1]))), 1e-10)
    c.holds(
        "the library's KLs = expected log ratios of the joint densities",
        [joint - q.kl(p, range(5)), data - q.kl(p, [0])],
        1e-10,
    )
    c.true("all three are non-negative: the smallest", min(joint, data, gap) >= 0, min(joint, data, gap))
    c.must_fail("KL of the joints = KL of the data laws alone", joint - data, 0.05)


class OneStep:
    """T = 1, ᾱ_1 = 1/2, data N(0, v): p(x_0 | x_1) = N(a x_1, s); every value is the mean over the data."""

    alpha_bar = 0.5

    def __init__(self, data_variance: float):
        self.v = data_variance
        law = LinearChain(np.array([0.5]), 0.0, self.v, np.zeros(1), np.zeros(1), "beta", 1.0).q
        best = law.regression([0], [1])
        self.reverse = np.array([best.gain[0, 0], np.log(best.covariance[0, 0])])
        """Argmin of the bound: the regression of x_0 on x_1 in the joint law, as (a, log s)."""

    def chain(self, a: float, log_s: float) -> LinearChain:
        return LinearChain(np.array([0.5]), 0.0, self.v, np.array([a]), np.zeros(1), "beta", float(np.exp(log_s)))

    def bound(self, theta: np.ndarray) -> float:
        """L of the library's model, exact."""
        twin = linear_twin(self.chain(*theta))
        return twin.read("three_terms").mean(twin.chain.q)

    def nll(self, theta: np.ndarray) -> float:
        """−E log p(x_0)."""
        return float(expectation(lambda x: -self.chain(*theta).log_evidence(x), 0.0, self.v, 8))

    def gap(self, theta: np.ndarray) -> float:
        """L + E log p(x_0) = E KL(q(x_1 | x_0) ‖ p(x_1 | x_0))."""
        return self.bound(theta) - self.nll(theta)

    def misfit(self, theta: np.ndarray) -> float:
        """KL(q(x_0) ‖ p(x_0))."""
        chain = self.chain(*theta)
        return chain.q.kl(chain.p, [0])


def argmin(f, start: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Newton's method on central differences, a step kept below 1/2 in each coordinate."""
    x, unit = np.asarray(start, dtype=float), np.eye(2) * h
    for _ in range(12):
        slope = np.array([f(x + e) - f(x - e) for e in unit]) / (2 * h)
        bend = np.array([[f(x + e + d) - f(x + e - d) - f(x - e + d) + f(x - e - d) for d in unit] for e in unit])
        move = np.linalg.solve(bend / (4 * h * h), slope)
        x = x - move.clip(-0.5, 0.5)
        if np.abs(move).max() < 1e-8:
            break
    return x


@check("posterior-kl-not-the-objective")
def _(c: Checks) -> None:
    toy = OneStep(4.0)
    claimed = np.array([np.sqrt(0.5), np.log(0.5)])
    c.holds(
        "argmin of the path-posterior KL: a = √α, s = 1 − α", argmin(toy.gap, np.array([0.6, -0.5])) - claimed, 1e-4
    )
    c.holds("there it is zero", toy.gap(claimed), 1e-12)
    c.must_fail("003: that is where KL(q(x0) ‖ p(x0)) is least; nats left", toy.misfit(claimed), 0.3)
    variance = toy.chain(*claimed).p.covariance[0, 0]
    c.info("variance of the model there (the data's is 4)", variance)
    c.must_fail("003: the model there has the variance of the data", variance - toy.v, 1.0)


@check("argmin-bound-vs-mle")
def _(c: Checks) -> None:
    toy = OneStep(4.0)
    least = argmin(toy.bound, toy.reverse + np.array([0.2, 0.3]))
    c.holds("argmin of the library's bound = the reverse of q", least - toy.reverse, 1e-4)
    best = np.array([0.0, np.log(toy.v)])  # p(x_0) = N(0, v) exactly
    c.info(
        "variance of the model at the argmin of the bound (maximum likelihood has 4)",
        toy.chain(*toy.reverse).p.covariance[0, 0],
    )
    c.must_fail(
        "003: min bound ⇔ max likelihood; excess −log p there, nats", toy.nll(toy.reverse) - toy.nll(best), 0.05
    )
    unit = OneStep(1.0)
    c.holds(
        "data of variance 1, where the gap can vanish: excess", unit.nll(unit.reverse) - unit.nll(np.zeros(2)), 1e-12
    )


class Vae:
    """z ~ N(0, 1), x | z ~ N(w z, s), so that x ~ N(0, w² + s); encoder q(z | x) = N(k x + b, r)."""

    w, s, b, r = 1.2, 0.5, 0.2, 0.3

    def __init__(self, k: float):
        self.k = k
        self.v = self.w**2 + self.s

    def nll(self, x: float) -> float:
        """−log p(x) by quadrature over z."""
        z, weight = trapezoid(1000, -16.0, 16.0)
        return -float(np.log(weight @ np.exp(log_normal(x, self.w * z, self.s) + log_normal(z, 0.0, 1.0))))

    def encoder(self, x: float) -> tuple[torch.Tensor, torch.Tensor]:
        return _t(self.k * x + self.b), _t(self.r)

    def posterior_kl(self, x: float) -> float:
        """KL(q(z | x) ‖ p(z | x)) by the library."""
        return float(gaussian.kl(*self.encoder(x), _t(self.w * x / self.v), _t(self.s / self.v)))

    def rate(self, x: float) -> float:
        """KL(q(z | x) ‖ N(0, 1)) by the library's terms of a VAE in training."""
        mean, variance = (v.reshape(1, 1) for v in self.encoder(x))
        return float(normal_cross_entropy(mean, variance.sqrt()) + negative_entropy(variance.sqrt(), (1,)))

    def rate_to(self, x: float, mean: float, variance: float) -> float:
        """KL(q(z | x) ‖ N(mean, variance)) by the library."""
        return float(gaussian.kl(*self.encoder(x), _t(mean), _t(variance)))

    def distortion(self, x: float) -> float:
        """−E log p(x | z) under the encoder, the library's density at Gauss-Hermite nodes."""
        nodes, weights = hermite(60)
        mean, variance = self.encoder(x)
        density = gaussian.log_density(_t(x), self.w * (mean + variance.sqrt() * _t(nodes)), _t(self.s))
        return -float(_t(weights) @ density)


@check("vae-elbo")
def _(c: Checks) -> None:
    vae = Vae(0.4)
    loss = [vae.rate(x) + vae.distortion(x) for x in POINTS]
    nll = [vae.nll(x) for x in POINTS]
    for x, upper, exact in zip(POINTS, loss, nll, strict=True):
        c.true(f"x = {x}: −L_VAE ≤ log p(x), by nats", upper >= exact, upper - exact)
    rest = [nll[i] + vae.posterior_kl(x) - loss[i] for i, x in enumerate(POINTS)]
    c.holds("−L_VAE = log p(x) − KL(q(z | x) ‖ p(z | x))", rest, 1e-10)


@check("vae-loss-split")
def _(c: Checks) -> None:
    vae = Vae(0.7)
    nodes, weights = hermite(40)
    data = np.sqrt(vae.v) * nodes
    points = np.concatenate([POINTS, data])
    nll = np.array([vae.nll(x) for x in points])
    route = nll + np.array([vae.posterior_kl(x) for x in points])
    split = np.array([vae.rate(x) + vae.distortion(x) for x in points])
    c.holds("−log p + KL(q ‖ p(z | x)) = KL(q ‖ p(z)) − E log p(x | z)", route - split, 1e-10)
    mean, variance = vae.b, vae.k**2 * vae.v + vae.r  # q(z) averaged over the model's own data
    printed = np.array([vae.rate_to(x, mean, variance) + vae.distortion(x) for x in points])
    c.must_fail("002: q(z) for the prior p(z), at three x", (split - printed)[:3], 0.2)
    aggregate = float(gaussian.kl(*map(_t, (mean, variance, 0.0, 1.0))))
    c.holds(
        "averaged over the data the difference is KL(q(z) ‖ p(z))", weights @ (split - printed)[3:] - aggregate, 1e-8
    )
    near = np.abs(points) < 2.5
    c.must_fail("002: still an upper bound on −log p; worst violation for |x| < 2.5", (nll - printed)[near].max(), 0.02)


@check("vae-as-one-step-diffusion")
def _(c: Checks) -> None:
    wide = misspecified()
    chain = LinearChain(np.array([0.4]), 0.4, 0.7, wide.gains[:1], wide.offsets[:1], "beta", 0.3)
    twin = linear_twin(chain)
    vae = twin.read("prior_kl") + twin.read("reconstruction")
    for x0 in POINTS:
        given = chain.given(x0)
        rest = vae.mean(given) - chain.log_ratio.mean(given)
        c.holds(f"x0 = {x0}: KL(q(x1 | x0) ‖ p(x1)) − E log p(x0 | x1) = E log q/p", rest, 1e-12)
    bent = grid_twin(GridChain(np.array([0.3]), MIXTURE, 0.15, 0.3))
    rest = []
    for x0 in POINTS:
        x, w = bent.chain.paths(x0, 80)
        two = w @ (bent.paths.prior_kl(x) + bent.paths.reconstruction(x)).numpy()
        rest.append(two - w @ (bent.chain.log_q_path(x) - bent.chain.log_p_path(x)))
    c.holds("the same with a nonlinear decoder", rest, 1e-10)
    c.holds("line 13 with T = 1 is these two terms", (twin.read("three_terms") - vae).coefficients(), 1e-12)
    c.holds("the library cuts no denoising term for it", float(len(cells_of(twin.model))), 0.0)
