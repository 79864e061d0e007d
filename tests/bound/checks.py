"""Floor 3 against closed forms and quadrature, as functions that take nothing and assert (see also the mutations)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from nelbo import evaluate
from nelbo.bound.estimate import Estimate, TermEstimate
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified, diffusion_total
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.runner import Runner
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import CategoricalData, GaussianData
from nelbo.model.reverse import Beta, BetaTilde
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.schedule import LogSNRLinear
from nelbo.workers import Run
from tests.bound.oracles import (
    Chain,
    Expected,
    Line,
    expected_continuous,
    expected_terms,
    hermite,
    joint_gap,
    linear_model,
    path_gap,
    plane,
    trapezoid,
)
from tests.model.cases import CODES_1, GAUSSIAN_1, MIXTURE_1
from tests.process.checks import close

X = torch.tensor([[-1.7], [0.0], [0.4], [2.3]], dtype=torch.float64)
LINES = {"exact": Line(0.4, 0.8), "imperfect": Line(0.4, 0.8, 0.15), "wide": Line(-0.5, 3.0, 0.05)}
POLICIES = {"beta_tilde": BetaTilde(), "beta": Beta()}

# ---------------------------------------------------------------- the bound and the model's own log-likelihood


def chains(line: Line, variance: str, T: int) -> list[tuple[DiffusionModel, Chain]]:
    """A DDPM chain whose decoder calls the network, and a VDM chain whose decoder does not, of T evaluations each."""
    table, law = schedules.linear(T, 0.02 / max(1, T / 50), min(0.6, 20 / T)), schedules.logsnr_linear(4.0, -5.0)
    made = []
    for schedule, levels, decoder in ((table, grid.full(), 0.05), (law, grid.even(T), None)):
        model = linear_model(line, schedule, levels, POLICIES[variance], decoder)
        made.append((model, Chain.of(line, model.levels().logsnr.numpy(), variance == "beta_tilde", decoder)))
    return made


def check_gap(line: Line, variance: str, T: int, closed_form: bool = True) -> None:
    """Per example E_ε[bound] ≥ −log p_θ(x) by the linear-Gaussian recursion, where nothing is random; the excess is
    KL(q(z|x) ‖ p_θ(z|x)) of two Gaussian paths, to 1e-8."""
    for model, chain in chains(line, variance, T):
        assert model.steps == T
        excess = expected_terms(model, X, hermite(2)).total.numpy() - chain.nll(X[:, 0].numpy())
        assert np.all(excess >= -1e-9)
        if closed_form:
            close(excess, np.array([path_gap(chain, float(x)) for x in X]), 1e-8, 1e-8)


def check_entropy(line: Line, variance: str, T: int, closed_form: bool = True) -> None:
    """E_q[bound] ≥ H(q); the excess is KL(q(x, z) ‖ p_θ(x, z)), to 1e-8. The average over x is exact too: degree 2."""
    nodes, weights = hermite(2)
    x = line.m + math.sqrt(line.c) * nodes[:, None]
    entropy = 0.5 * math.log(2 * math.pi * math.e * line.c)
    for model, chain in chains(line, variance, T):
        excess = float(weights @ expected_terms(model, x, hermite(2)).total) - entropy
        assert excess >= -1e-9
        if closed_form:
            close(excess, joint_gap(chain, line), 1e-8, 1e-8)


# ---------------------------------------------------------------- the continuous bound and the data's log-likelihood


PLANE = GaussianData([0.3, -0.6], [[1.2, 0.5], [0.5, 0.4]])
CONTINUOUS = {
    "gaussian": (GAUSSIAN_1, X, hermite(3)),
    "plane": (PLANE, torch.tensor([[0.0, 0.0], [1.5, -1.0], [-2.0, 0.3]]).double(), plane(hermite(3))),
    "mixture": (MIXTURE_1, torch.tensor([[-1.2], [-0.4], [0.1], [0.8]]).double(), trapezoid()),
    "codes": (CODES_1, torch.arange(4)[:, None], trapezoid()),
}
"""Data, examples and nodes that are exact enough for its denoiser."""


def check_continuous(name: str, first: float, last: float, path: str = "vp", exact_ends: bool = True) -> None:
    """Per example the continuous bound of the exact model is −log p(x), for any ends where the prior and the decoder
    are exact, else in the limit λ = ±20 with N(0, I) and N(x; z/α, σ²/α²)."""
    data, x, nodes = CONTINUOUS[name]
    model = data.model(LogSNRLinear(first, last, path), grid.continuous(), exact_ends=exact_ends)
    close(expected_continuous(model, x, nodes, 24 if exact_ends else 80).total, -data.log_prob(x), 0, 1e-5)


# ---------------------------------------------------------------- estimators

LAW = schedules.logsnr_linear(4.0, -4.0)
POINTS = torch.tensor([[-1.0], [-0.3], [0.2], [1.1]], dtype=torch.float64)

ESTIMATORS: dict[str, tuple[Estimator, grid.Grid]] = {
    "exhaustive-2": (Exhaustive(2), grid.even(4)),
    "exhaustive-1-paired": (Exhaustive(1, 3), grid.even(4)),
    "stratified-finite": (Stratified(4, 2), grid.even(6)),
    "stratified-more-strata-than-levels": (Stratified(7, 2), grid.even(3)),
    "stratified-continuous": (Stratified(4, 2), grid.continuous()),
}
"""Each estimator on each kind of grid. A new estimator is added here and gets all laws for free."""


def mixture_model(levels: grid.Grid) -> DiffusionModel:
    """Mixture data with an exact denoiser and the ends of practice: every term is a sum of curved functions of ε."""
    return MIXTURE_1.model(LAW, levels, exact_ends=False)


def estimated(
    estimator: Estimator, model: DiffusionModel, data: Tensor, seed: int = 0, batch_size: int = 4096
) -> Estimate:
    """The estimate in float64, by the engine alone, whose cost is what the estimator says."""
    chain = GaussianChain(model, data, seed=seed)
    runner = Runner(Run(batch_size=batch_size), chain.dimensions)
    estimate = estimator.estimate(chain, runner)
    assert runner.nfe == estimator.cost(chain)
    return estimate


_EXACT: dict[str, Expected] = {}


def exact(name: str) -> Expected:
    """The quadrature-exact terms of `POINTS` for a case of ESTIMATORS."""
    if name not in _EXACT:
        model = mixture_model(ESTIMATORS[name][1])
        expected = expected_continuous if model.grid.continuous else expected_terms
        _EXACT[name] = expected(model, POINTS, trapezoid())
    return _EXACT[name]


def copies(name: str, n: int, seed: int = 0) -> Estimate:
    """The estimate of n copies of POINTS: every copy has noise of its own, so the copies are n repetitions at once."""
    estimator, levels = ESTIMATORS[name]
    if isinstance(estimator, Exhaustive) and estimator.draws == 1:
        estimator = Exhaustive(1, estimator.paired * n)
    return estimated(estimator, mixture_model(levels), POINTS.repeat(n, 1), seed)


def check_unbiased(name: str, n: int = 6000, shift: float = 0.15) -> None:
    """Every term of every example, and their mean, within 4 standard errors of the exact value; n repetitions at once.

    Power: a mean off by `shift` nats (5 % of the term) is z > 4 with probability above 0.99, which is asserted.
    """
    estimate, expected = copies(name, n).per_example, exact(name)
    close(estimate.prior.reshape(n, -1), expected.prior.expand(n, -1), 1e-12)
    close(estimate.nats, estimate.prior + estimate.diffusion + estimate.reconstruction, 1e-12)
    for values, truth in (
        (estimate.diffusion, expected.diffusion.sum(0)),
        (estimate.reconstruction, expected.reconstruction),
        (estimate.nats, expected.total),
    ):
        by_copy = values.reshape(n, -1)
        error = by_copy.std(0) / math.sqrt(n)
        z = (by_copy.mean(0) - truth) / error
        assert float(z.abs().max()) <= 4, f"{name}: z = {z.tolist()}"
        pooled = float(error.square().sum().sqrt()) / len(POINTS)
        assert abs(float((by_copy.mean(0) - truth).mean())) <= 4 * pooled
        assert stats.norm.sf(4 - shift / pooled) > 0.99, "too few repetitions to say so"


def check_levels_unbiased(name: str, n: int = 2000) -> None:
    """Each stratum's share of the exhaustive estimate is its level's KL, within 4 standard errors of its own."""
    strata, expected = copies(name, n).strata, exact(name).diffusion.mean(1)
    assert len(strata) == len(expected)
    for stratum, truth in zip(strata, expected, strict=True):
        assert abs(stratum.mean - float(truth)) <= 4 * math.sqrt(stratum.variance)


def check_predicted_error(name: str, n: int = 3000, within: float = 0.10) -> None:
    """The error that an estimate predicts of itself is the one that its repetitions show.

    The ratio of the two standard deviations over n = 3000 copies is itself known to about 2–3 %.
    """
    estimate = copies(name, n).per_example
    observed = estimate.nats.reshape(n, -1).var(0)
    predicted = estimate.standard_error.square().reshape(n, -1).mean(0)
    ratio = (predicted.sum() / observed.sum()).sqrt()
    assert abs(float(ratio) - 1) <= within, f"{name}: predicted/observed = {float(ratio)}"


def check_data_error() -> None:
    """The data error is the spread of the *exact* bounds over N, free of Monte Carlo noise as large as that spread.

    400 data sets of N = 50 with spread 1 and noise variance 1 an example: E[data_variance] = 1/50 within 4 standard
    errors; leaving the noise in doubles it, which is z > 40.
    """
    rng = np.random.default_rng(11)
    found = []
    for _ in range(400):
        truth, noise = rng.normal(2.0, 1.0, 50), rng.normal(0.0, 1.0, 50)
        e = TermEstimate.of(torch.from_numpy(truth + noise), torch.ones(50, dtype=torch.float64))
        close(e.variance, 1 / 50, 1e-12)
        found.append(e.data_variance)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - 1 / 50) <= 4 * error < 0.003


def check_units() -> None:
    """A uniform law over 256 codes costs 8 bits/dim: the continuous bound says so within 4 of its own errors."""
    data = CategoricalData(torch.ones(2, 256))
    model = data.model(schedules.logsnr_linear(14.0, -8.0), grid.continuous(), exact_ends=False)
    bound = evaluate(model, data.sample(40, seed=5), estimator=Stratified(256), precision="float64")
    error = bound.standard_error.total
    assert error < 0.12 and abs(bound.bits_per_dim - 8) <= 4 * error


def check_noise_keys() -> None:
    """Noise is a function of (seed, example, level key, draw), each of which changes it; order and batch do not."""
    model = mixture_model(grid.even(5))
    data = POINTS[:1].repeat(4, 1)  # equal examples: only the noise differs
    index, level, draw = torch.arange(4), torch.ones(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    u = torch.full((4,), 0.5, dtype=torch.float64)

    def total(index: Tensor, level: Tensor, draw: Tensor, seed: int = 0, batch_size: int = 4096) -> Tensor:
        chain, runner = GaussianChain(model, data, seed=seed), Runner(Run(batch_size=batch_size), 1)
        return diffusion_total(chain, runner, index, u, level, draw)

    base = total(index, level, draw)
    assert len(set(base.tolist())) == 4
    for other in (total(index, level + 1, draw), total(index, level, draw + 1), total(index, level, draw, seed=1)):
        assert not bool((other == base).any())
    close(total(index.flip(0), level, draw).flip(0), base, 1e-12)
    close(total(index, level, draw, batch_size=1), base, 1e-12)
