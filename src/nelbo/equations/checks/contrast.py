"""Group G: the difference of two conditions, its oddness, their posterior. Oracles: Gaussians, Bayes' rule."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.bound import terms
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Chains
from nelbo.bound.contrast.places import Places
from nelbo.bound.contrast.race import Goal, Race
from nelbo.bound.contrast.spread import Spread
from nelbo.bound.prepare import prepare
from nelbo.bound.runner import Runner
from nelbo.equations.check import Checks, check
from nelbo.model.exact.gaussian import GaussianData
from nelbo.process import forward, schedule
from nelbo.process.every_grid import even
from nelbo.workers import Run

COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.3]])
LAWS = [GaussianData(m, COVARIANCE) for m in ([0.4, -0.3], [-0.6, 0.8])]  # type: ignore[arg-type]
MODELS = [law.model(schedule.logsnr_linear(4.0, -4.0), even(4)) for law in LAWS]
X = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
OTHER_LESS = np.array([1.0, -1.0])


@check("contrast-difference")
def _(c: Checks) -> None:
    eps = torch.tensor([[0.3, -1.1], [1.7, 0.4], [-0.2, 0.9]], dtype=torch.float64)
    levels = MODELS[0].levels()
    s, t = levels[torch.tensor([0, 1, 2])], levels[torch.tensor([1, 2, 3])]
    x = X.expand(3, -1)
    z = forward.noised(x, eps, t)
    predictions = [model.predict(z, t) for model in MODELS]
    costs = [terms.diffusion(m, x, p, s, t).numpy() for m, p in zip(MODELS, predictions, strict=True)]
    one, other = (p.x0.numpy() for p in predictions)
    snr = np.exp(t.logsnr.numpy())
    weight = 0.5 * (np.exp(s.logsnr.numpy()) - snr)
    product = ((other - one) * (2 * x.numpy() - one - other)).sum(1)
    found = costs[0] - costs[1]
    c.holds("nelbo's costs of two conditions differ by the product", found - weight * product, 1e-12)
    c.must_fail("the squared distance of the predictions alone", found - weight * ((other - one) ** 2).sum(1), 0.1)
    c.must_fail("c' less c for c less c'", -found - weight * product, 0.1)
    c.must_fail("errors of the noise, without the bound's weights", found - snr * product, 0.1)


@check("contrast-odd")
def _(c: Checks) -> None:
    chains = tuple(prepare(model, X, Run(precision="float64")).chain for model in MODELS)
    runner, along, rows = Runner(Run(), 2), Places.even(Chains(chains)), torch.zeros(1, dtype=torch.long)
    both, left, cells = Chains(chains), torch.ones(1, 2, dtype=torch.bool), len(chains[0].cells)
    sums = [
        places.draw(both, runner, along, rows, left, start, cells).values.mean(1)[0].numpy() for start in (0, cells)
    ]
    # one stratum a cell: what is left is noise
    found = [values @ OTHER_LESS for values in sums]
    c.holds("nelbo's pairs at other noise: the same difference", found[0] - found[1], 1e-9)
    levels, x, total = chains[0].levels, X[0].numpy(), 0.0
    for j in range(1, len(levels)):
        alpha, sigma = float(levels.alpha[j]), float(levels.sigma[j])
        weight = 0.5 * (np.exp(float(levels.logsnr[j - 1])) - np.exp(float(levels.logsnr[j])))
        gain = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
        one, other = (m + gain @ (alpha * (x - m)) for m in (law.mean.numpy() for law in LAWS))
        total += weight * (other - one) @ (2 * x - one - other)
    c.holds("and it is the expectation, by matrices", found[0] - total, 1e-9)
    c.must_fail("pairs for a single cost", sums[0][0] - sums[1][0], 0.01)


@check("contrast-posterior")
def _(c: Checks) -> None:
    nll = np.array([-float(law.log_prob(X)[0]) for law in LAWS])
    prior, gaps = np.array([0.3, 0.7]), np.array([0.9, 0.2])

    def bayes(costs: np.ndarray) -> np.ndarray:
        weights = prior * np.exp(-costs)
        return weights / weights.sum()

    def found(bounds: np.ndarray) -> np.ndarray:
        race = Race(torch.from_numpy(prior).log(), 1, Goal(None, tolerance=1.0), Spread.flat(1.0, 4.0))
        race.look(torch.from_numpy(bounds).expand(1, 8, 2))
        return race.posterior()[0][0].numpy()

    c.holds("nelbo's posterior of bounds with one gap = Bayes' rule", found(nll + 5.0) - bayes(nll), 1e-12)
    unlike, right = found(nll + gaps), bayes(nll)
    odds = np.log(unlike[0] / unlike[1]) - np.log(right[0] / right[1])
    c.holds("its log-odds are off by the difference of the gaps", odds + (gaps[0] - gaps[1]), 1e-12)
    c.must_fail("the posterior itself, whatever the gaps", unlike - right, 0.02)
    c.must_fail("bits a dimension in the exponent", bayes(nll / (2 * np.log(2))) - right, 0.02)
    c.must_fail("the prior left out", np.exp(-nll) / np.exp(-nll).sum() - right, 0.02)
