"""Group B, second part: Bayes' rule along the forward process, and the posterior of a step given the data."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.equations.cases import chain, generator, level, mixture, tensor
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import quadrature, schur
from nelbo.equations.short_chain import ALPHA, BAR, BETA, JOINT, T, kernel, marginal, points, posterior
from nelbo.model.domain import DataDomain
from nelbo.model.exact.mixture import ExactMixtureDecoder
from nelbo.process import forward
from nelbo.process import schedule as schedules


@check("forward-bayes-marginal")
def _(c: Checks) -> None:
    x = points(40, 14)
    for t in range(1, T + 1):
        scale, variance = kernel(t)
        ours = quadrature.log_normal(x[:, t], scale * x[:, t - 1], variance)
        back = schur.log_conditional(x, JOINT, (t - 1,), (t,))
        marginals = [schur.log_density(x[:, [i]], JOINT[np.ix_([i], [i])]) for i in (t, t - 1)]
        c.holds(
            f"Gaussian data, t = {t}: nelbo's kernel = the reverse conditional × q(x_t)/q(x_t−1)",
            ours - (back + marginals[0] - marginals[1]),
            1e-10,
        )
    # Mixture data: x_1 plays the data, and one step of β is the VP level of log-SNR log((1 − β)/β).
    oracle, data = mixture()
    oracle, data = oracle.noised(np.sqrt(BAR[1]), 1 - BAR[1]), data.noised(chain()[1])
    before, after = x[:, 1], x[:, 2]
    back = oracle.log_reverse(before, after, np.sqrt(ALPHA[2]), BETA[2])
    scale, variance = kernel(2)
    ours = quadrature.log_normal(after, scale * before, variance)
    ratio = oracle.noised(np.sqrt(ALPHA[2]), BETA[2]).log_prob(after) - oracle.log_prob(before)
    c.holds("mixture data: nelbo's kernel = the reverse conditional × q(x_2)/q(x_1)", ours - back - ratio, 1e-10)
    decoder = ExactMixtureDecoder(data.weights, data.means, data.covariances)
    step = level(np.log(ALPHA[2] / BETA[2]), n=len(x))
    nll = decoder.nll(tensor(before)[:, None], tensor(after)[:, None], step, None, DataDomain((1,)))
    c.holds("nelbo's exact reverse conditional of a mixture", nll + tensor(back), 1e-10)
    c.must_fail("without the ratio of the marginals", ours - back, 0.5)


@check("markov-conditioning")
def _(c: Checks) -> None:
    for t in range(2, T + 1):
        for label, given in (("x_0", (0, t - 1)), ("the whole past", tuple(range(t)))):
            gain, rest = schur.conditional(JOINT, (t,), given)
            scale, variance = kernel(t)
            expected = np.zeros(len(given))
            expected[-1] = scale[0]
            c.holds(
                f"t = {t}: given {label} too, the step is nelbo's kernel",
                [*(gain[0] - expected), rest[0, 0] - variance[0]],
                1e-13,
            )
    change = [posterior(t)[2] - schur.conditional(JOINT, (t - 1,), (t,))[1][0, 0] for t in range(2, T + 1)]
    c.must_fail("002: x_0 helps to predict forward as it does backward", change, 0.1)


@check("forward-bayes-conditional")
def _(c: Checks) -> None:
    x = points(40, 15)
    for t in range(2, T + 1):
        scale, variance = kernel(t)
        on_x, on_z, spread = posterior(t)
        (m_t, v_t), (m_s, v_s) = marginal(t), marginal(t - 1)
        step = quadrature.log_normal(x[:, t], scale * x[:, t - 1], variance)
        back = quadrature.log_normal(x[:, t - 1], on_x * x[:, 0] + on_z * x[:, t], spread)
        here, before = (
            quadrature.log_normal(x[:, i], m * x[:, 0], v) for i, m, v in ((t, m_t, v_t), (t - 1, m_s, v_s))
        )
        c.holds(f"t = {t}: nelbo's kernel = its posterior × its marginals' ratio", step - (back + here - before), 1e-10)
        exact = schur.log_conditional(x, JOINT, (t - 1,), (0, t))
        c.holds(f"t = {t}: its posterior by Schur complement", back - exact, 1e-10)
        if t == T:
            c.must_fail("the ratio upside down", step - (back - here + before), 0.5)


@check("forward-posterior")
def _(c: Checks) -> None:
    x = points(40, 16)
    for t in range(2, T + 1):
        on_x, on_z, spread = posterior(t)
        ours = quadrature.log_normal(x[:, t - 1], on_x * x[:, 0] + on_z * x[:, t], spread)
        c.holds(
            f"t = {t}: density by Schur complement", ours - schur.log_conditional(x, JOINT, (t - 1,), (0, t)), 1e-10
        )
    u, weights = quadrature.legendre(400, -8, 8)
    product = quadrature.normal(u, np.sqrt(BAR[2]) * 0.7, 1 - BAR[2]) * quadrature.normal(
        -1.1, np.sqrt(ALPHA[3]) * u, BETA[3]
    )
    product /= weights @ product
    on_x, on_z, spread = posterior(3)
    c.holds(
        "marginal × kernel, normalised by quadrature",
        product - quadrature.normal(u, on_x * 0.7 - on_z * 1.1, spread),
        1e-12,
    )
    c.must_fail("its variance taken to be β_t", product - quadrature.normal(u, on_x * 0.7 - on_z * 1.1, BETA[3]), 0.05)
    later = schur.log_conditional(x, JOINT, (4,), (0, 3))
    ours = quadrature.log_normal(x[:, 4], on_x * x[:, 0] + on_z * x[:, 3], spread)
    c.must_fail("002: the law printed for x_{t+1}", later - ours, 0.5)
    rotation = np.linalg.qr(generator(17).normal(size=(2, 2)))[0]
    s, t = chain()[2:3], chain()[3:4]
    data, noisy = (tensor(generator(18 + i).normal(size=(1, 2))) for i in range(2))
    turned = forward.posterior_mean(data @ tensor(rotation), noisy @ tensor(rotation), s, t)
    c.holds(
        "in 2-D the mean turns with the space",
        turned - forward.posterior_mean(data, noisy, s, t) @ tensor(rotation),
        1e-14,
    )


@check("posterior-mean")
def _(c: Checks) -> None:
    for t in range(2, T + 1):
        gain, _ = schur.conditional(JOINT, (t - 1,), (0, t))
        c.holds(f"t = {t}: nelbo's coefficients of x_0 and x_t by Schur complement", posterior(t)[:2] - gain[0], 1e-14)
        weights = np.array([np.sqrt(BAR[t - 1]) / (1 - BAR[t - 1]), np.sqrt(ALPHA[t]) / BETA[t]])
        precision = ALPHA[t] / BETA[t] + 1 / (1 - BAR[t - 1])
        c.holds(f"t = {t}: as an average weighted by precisions", posterior(t)[:2] - weights / precision, 1e-14)
    s, t = chain()[2:3], chain()[3:4]
    x, z = tensor([[0.7, -0.2]]), tensor([[-1.1, 0.4]])
    printed = np.sqrt(BAR[2]) * BETA[3] / (1 - BAR[3]) * x + np.sqrt(ALPHA[3]) * (1 - BAR[2]) / (1 - BAR[3]) * z
    c.holds("posterior_mean = the printed formula", forward.posterior_mean(x, z, s, t) - printed, 1e-14)
    c.holds("t = 1: the mean is x_0", posterior(1)[:2] - [1, 0], 1e-14)
    bare = np.array([BAR[2] * BETA[3] / (1 - BAR[3]), ALPHA[3] * (1 - BAR[2]) / (1 - BAR[3])])
    c.must_fail("003, both radicals lost", posterior(3)[:2] - bare, 0.05)


@check("posterior-variance")
def _(c: Checks) -> None:
    ours = np.array([posterior(t)[2] for t in range(1, T + 1)])
    exact = [schur.conditional(JOINT, (t - 1,), (0, t))[1][0, 0] for t in range(2, T + 1)]
    c.holds("nelbo's β̃_t by Schur complement, t = 2 … 4", ours[1:] - exact, 1e-14)
    inverse = ALPHA[2:] / BETA[2:] + 1 / (1 - BAR[1:-1])
    c.holds("1/β̃ = α/β + 1/(1 − ᾱ_{t−1})", 1 / ours[1:] - inverse, 1e-12)
    c.holds("β̃_1 = 0", ours[0], 0.0)
    long = schedules.linear().at_index(torch.arange(1000))
    beta_tilde = forward.posterior(long[:-1], long[1:]).variance
    beta = np.linspace(1e-4, 0.02, 1000)[1:]
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    c.holds("DDPM's linear table, relative", beta_tilde / tensor((1 - bars[:-1]) / (1 - bars[1:]) * beta) - 1, 1e-10)
    c.true("0 < β̃_t < β_t", ((beta_tilde > 0) & (beta_tilde < tensor(beta))).all(), (beta_tilde / tensor(beta)).min())
    c.must_fail("β_t instead, relative error at t = 2", beta[0] / float(beta_tilde[0]) - 1, 0.5)


@check("reverse-gaussian-small-beta")
def _(c: Checks) -> None:
    oracle, data = mixture()
    oracle, data = oracle.noised(np.sqrt(0.6), 0.4), data.noised(level(np.log(0.6 / 0.4)))
    decoder, domain, n = ExactMixtureDecoder(data.weights, data.means, data.covariances), DataDomain((1,)), 161
    z, z_weights = quadrature.legendre(80, -4.5, 4.5)
    betas, distances = np.array([0.2, 0.1, 0.05, 0.025, 0.0125]), []
    for beta in betas:
        centre, width = (
            z[:, None] / np.sqrt(1 - beta),
            np.sqrt(beta / (1 - beta)),
        )  # q(x_t | x_{t−1}) as a law of x_{t−1}
        u = centre + np.linspace(-9, 9, n) * width
        step = level(np.log((1 - beta) / beta), n=u.size)
        nll = decoder.nll(tensor(u).reshape(-1, 1), tensor(np.repeat(z, n))[:, None], step, None, domain)
        log_q = -nll.numpy().reshape(u.shape)
        q = np.exp(log_q) * (u[0, 1] - u[0, 0])
        mean = (q * u).sum(1, keepdims=True)
        variance = (q * (u - mean) ** 2).sum(1, keepdims=True)
        kl = (q * (log_q - quadrature.log_normal(u, mean, variance))).sum(1)
        distances.append((z_weights * np.exp(oracle.noised(np.sqrt(1 - beta), beta).log_prob(z))) @ kl)
        c.info(f"β = {beta:g}: E KL(reverse kernel ‖ Gaussian of its moments), nats", distances[-1])
    slopes = np.diff(np.log(distances)) / np.diff(np.log(betas))
    c.true("the slope in logarithms tends to 3", abs(slopes[-1] - 3) < 0.35, slopes[-1])
    c.must_fail("at β = 0.2 the reverse kernel is Gaussian", distances[0], 1e-4)
    c.must_fail("the error falls with β² only", slopes[-1] - 2, 0.5)
