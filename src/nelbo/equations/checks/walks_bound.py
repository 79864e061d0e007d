"""The numbers behind four derivations: to the bound, and from its sum over steps to L_T + Σ L_{t−1} + L_0."""

from __future__ import annotations

import numpy as np

from nelbo.equations.derivation import Walk, walk
from nelbo.equations.lines import Pieces, linear_setting
from nelbo.equations.oracles.linear import LinearChain, QuadraticForm
from nelbo.equations.oracles.quadrature import expectation, log_normal, trapezoid
from nelbo.equations.twins import POINTS, LinearTwin, linear_twin, misspecified


def given_each(twin: LinearTwin, form: QuadraticForm) -> np.ndarray:
    """E[form | x_0] at the three points."""
    return np.array([form.mean(twin.chain.given(x0)) for x0 in POINTS])


def over_data(chain: LinearChain, f) -> float:
    """E f(x_0) over the data; f elementwise and of degree below 16."""
    return float(expectation(f, chain.data_mean, chain.data_variance, 8))


def evidence_by_steps(chain: LinearChain, x0: np.ndarray) -> np.ndarray:
    """log p(x_0) by the recursion over steps on even nodes: no joint covariance."""
    y, w = trapezoid(600, -9.0, 9.0)
    p = np.exp(log_normal(y, chain.prior_mean, chain.prior_variance))
    for t in range(chain.T, 0, -1):
        a, b, s = chain.reverse[t - 1]
        onto = y if t > 1 else x0
        p = np.exp(log_normal(onto[:, None], a * y + b, s)) @ (p * w)
    return np.log(p)


@walk("five-lines")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified())
    chain = twin.chain
    nll = -chain.log_evidence(np.array(POINTS))
    q, p, ratio = twin.read("log_q_path"), twin.read("log_p_path"), twin.read("log_ratio")
    w.checks.holds("line 1 by a recursion over the steps", nll + evidence_by_steps(chain, np.array(POINTS)), 1e-10)
    w.start(nll)
    w.at_least(nll + given_each(twin, chain.gap))
    w.line(nll + [(q - (p + e)).mean(chain.given(x0)) for x0, e in zip(POINTS, nll, strict=True)])
    w.line(nll + [(ratio - e).mean(chain.given(x0)) for x0, e in zip(POINTS, nll, strict=True)])
    bound = given_each(twin, ratio)
    w.line(bound)
    mean = over_data(chain, lambda x0: np.array([ratio.mean(chain.given(x)) for x in x0]))
    w.line(ratio.mean(chain.q), before=mean, how="the mean over the data of")
    slack = ratio.mean(chain.q) + over_data(chain, chain.log_evidence)
    w.checks.true("line 6 ≥ −E log p(x0)", slack >= 0, slack)


@walk("likelihood-to-bound")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified())
    chain, law = twin.chain, twin.chain.q
    evidence = chain.p.log_density([0])
    q, p, ratio = twin.read("log_q_path"), twin.read("log_p_path"), twin.read("log_ratio")
    nll = -over_data(chain, chain.log_evidence)
    w.start(nll)
    w.line(-law.log_density([0]).mean(law) + law.kl(chain.p, [0]))
    gap = chain.gap.mean(law)
    w.start(gap)
    w.line((q + evidence - p).mean(law))
    w.line((ratio + evidence).mean(law))
    w.line(ratio.mean(law) + evidence.mean(law))
    w.line(gap - ratio.mean(law), before=-nll, how="what is solved for in")
    w.at_most(-ratio.mean(law))
    w.line((p - q).mean(law))
    w.line((q - p).mean(law), before=-(p - q).mean(law), how="minus")
    w.checks.true("E[−log p(x0)] ≤ line 10", nll <= ratio.mean(law), ratio.mean(law) - nll)
    x = law.sample(500, np.random.default_rng(3))
    product = -np.log(twin.paths.log_p_path(x).exp().numpy() / twin.paths.log_q_path(x).exp().numpy())
    w.line(product, before=chain.log_ratio(x), how="the integrand, on 500 paths, of")
    steps = [twin.paths.log_p_step(x, t) - twin.paths.log_q_step(x, t) for t in range(1, chain.T + 1)]
    prior = twin.paths.log_prior(x).numpy()
    w.line(-prior - np.log(np.prod([s.exp().numpy() for s in steps], 0)))
    w.line(-prior - np.sum([s.numpy() for s in steps], 0))


@walk("thirteen-lines")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified())
    x = twin.chain.q.sample(1000, np.random.default_rng(21))
    lines = Pieces.of(linear_setting(twin), x).lines()
    w.start(lines[1])
    for k in range(2, 13):
        w.line(lines[k])
    law, ratio = twin.chain.q, twin.read("log_ratio")
    kls = twin.read("prior_kl") - twin.read("log_p_step", 1)
    for t in range(2, 5):
        kls = kls + twin.read("step_kl", t)
    w.line(kls.mean(law), before=ratio.mean(law), how="the mean of")
    w.line(twin.read("three_terms").mean(law))


@walk("vae-to-diffusion")
def _(w: Walk) -> None:
    twin = linear_twin(misspecified())
    chain, path = twin.chain, twin.chain.path
    nll = -chain.log_evidence(np.array(POINTS))
    q, first = twin.read("log_q_path"), twin.read("log_p_step", 1)
    w.start(nll + given_each(twin, chain.gap))
    latent, decoder = chain.p.log_density(path), chain.p.log_density([0], path)
    encoder = chain.q.log_density(path, [0])
    w.line(given_each(twin, encoder - latent) - given_each(twin, decoder))
    w.line(given_each(twin, q - latent - decoder))
    p = twin.read("log_prior") + first
    for t in range(2, chain.T + 1):
        p = p + twin.read("log_p_step", t)
    w.line(given_each(twin, q - p))
    total = -twin.read("log_prior")
    for t in path:
        total = total + twin.read("log_q_step", t) - twin.read("log_p_step", t)
    w.line(given_each(twin, total))
    turned = twin.read("log_q_marginal", 1) - first - twin.read("log_prior")
    ratios = QuadraticForm.zero(chain.T + 1)
    for t in range(2, chain.T + 1):
        turned = turned + twin.read("log_q_marginal", t) - twin.read("log_q_marginal", t - 1)
        ratios = ratios + twin.read("step_ratio", t)
    w.line(given_each(twin, turned + ratios))
    ends = twin.read("log_q_marginal", chain.T) - twin.read("log_prior") - first
    w.line(given_each(twin, ends + ratios))
    w.line(given_each(twin, twin.read("three_terms")))
    one = linear_twin(LinearChain(np.array([0.4]), 0.4, 0.7, chain.gains[:1], chain.offsets[:1], "beta", 0.3))
    w.start(given_each(one, one.read("three_terms")))
    w.line(-one.chain.log_evidence(np.array(POINTS)) + given_each(one, one.chain.gap))
