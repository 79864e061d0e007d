"""What controls are worth on a model: the evaluations that a standard error takes, at equal cost, one by one.

    .venv/bin/python benchmarks/controls.py [--models cifar16 digits gaussian MODEL:DATA[:CONDITION] …] [--images 200]

n* = (Σ_j s_j √c_j)²/SE² of every example (see limit.py), with s_j the standard deviation of a draw at level j that the
best coefficients leave and c_j what a draw costs. Measured on draws in pairs of ε and −ε, two pairs of every image at a
few levels, and interpolated between them.

Beside those in use: the network's own gains in the Gaussian's principal directions, fitted to its x̂ at the draws of a
few of the images; the Gaussian scaled by the image's own energy in octaves of principal directions; pairs of ε and −ε;
the network at a neighbouring level with the same ε, and at half the resolution (a quarter of the cost), as controls
whose own means are estimated from further draws: with ρ the correlation of what the other controls leave and κ the
relative cost, the factor of s_j √c_j is

    min over β of |β| √κ + √((1 + κ) (1 − 2 β ρ + β²)),   at most 1: without

where equal standard deviations of both are assumed, which is the best that a coefficient can do.
"""

from __future__ import annotations

import argparse
import math
import warnings
from itertools import pairwise
from pathlib import Path

import evaluation_cost
import limit
import numpy as np
import torch
from evaluation_cost import ModelCase
from torch import Tensor
from torch.nn.functional import avg_pool2d

import nelbo
from nelbo.bound import terms
from nelbo.bound.checks import NelboWarning
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.gaussian_controls import Controls
from nelbo.bound.noised import Noised
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.process import forward
from nelbo.process.levels import column

LEARNT = 48
"""Images whose draws the network's gains are fitted to: more than a pilot has."""
SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0])


def cases(names: list[str], runs: Path) -> list[ModelCase]:
    """The models of limit.py, by name or as MODEL:DATA[:CONDITION]."""
    found = [limit.gaussian(1000) for name in names if name == "gaussian"]
    return found + evaluation_cost.cases(names, runs, 1000, False)


class Level:
    """Draws of one level: `y` (4, N) and columns of mean zero by name, (4, N), in the order of SIGNS."""

    def __init__(self, problem: GaussianChain, controls: Controls, cell: int, N: int):
        self.problem, self.N = problem, N
        examples, numbers = torch.arange(N).repeat(4), torch.arange(2).repeat_interleave(2 * N)
        signs, where = SIGNS.repeat_interleave(N), torch.full_like(examples, cell - 1)
        draws = Draws.first_level(examples, numbers) if cell == 0 else Draws(examples, where + 1, numbers, where)
        inner = None if cell == 0 else torch.full((len(where),), 0.5)
        draws = Draws(examples, draws.keys, numbers, draws.cells, inner, signs)
        parts, columns, others = [], [], []
        for rows in torch.arange(len(examples)).split(256):
            noised = problem.noised(draws, rows)
            nats, prediction = problem.term(noised, problem.condition_of(noised.examples))
            alpha, sigma = (column(v, noised.x) for v in (noised.at.alpha, noised.at.sigma))
            eps = (noised.z - alpha * noised.x) / sigma
            parts.append((noised.x, eps, noised.z, None if prediction is None else prediction.x0))
            columns.append(torch.cat([nats[:, None], controls.columns(noised.x, eps, noised.at.logsnr, None)], 1))
            others.append(torch.stack([_near(problem, noised, eps, cell), _half(problem, noised, eps)], 1))
        self.x, self.eps, self.z = (torch.cat([p[k] for p in parts]).flatten(1).double() for k in range(3))
        self.x0 = None if parts[0][3] is None else torch.cat([p[3] for p in parts]).flatten(1).double()
        self.logsnr, self.alpha = float(noised.at.logsnr[0]), float(noised.at.alpha[0])
        self.columns, self.others = torch.cat(columns), torch.cat(others)

    def spread(self, columns: Tensor) -> tuple[float, Tensor]:
        """The standard deviation of a draw that `columns` (4 N, C) leave, and the residuals (4, N), but for what is the
        example's."""
        y, n = self.columns[:, 0].reshape(4, self.N), columns.reshape(4, self.N, -1)
        n = n / n.square().mean((0, 1)).sqrt().clamp_min(1e-300)
        differences, of_columns = y[:2] - y[2:], (n[:2] - n[2:]).reshape(2 * self.N, -1)
        if columns.shape[1]:
            slopes = torch.linalg.lstsq(of_columns, differences.reshape(-1, 1), driver="gelsd").solution[:, 0]
            y = y - n @ slopes
        left = (y[:2] - y[2:]).square().sum() / 2
        return math.sqrt(float(left) / max(1, 2 * self.N - columns.shape[1])), y

    def gains(self, surrogate: GaussianSurrogate, learnt: Tensor) -> Tensor:
        """The excess of x̂ = a ⊙ z/α in the principal directions, a fitted to the draws of the images `learnt`."""
        if self.x0 is None:
            return torch.zeros(len(self.x), 0)
        mu, V = surrogate.mean.double(), surrogate.basis.double()
        found, seen = self.x0[learnt] - mu, self.z[learnt] / self.alpha - mu
        a = ((found @ V) * (seen @ V)).sum(0) / (seen @ V).square().sum(0)
        rest = float((found * seen).sum() - ((found @ V) * (seen @ V)).sum())
        rest /= max(1e-300, float(seen.square().sum() - (seen @ V).square().sum()))
        return _excess(self, surrogate, a.clamp(0, 1), torch.tensor(rest).clamp(0, 1))

    def own_energy(self, surrogate: GaussianSurrogate) -> Tensor:
        """The excess of the Gaussian whose variances are scaled by the image's energy in octaves of directions."""
        y2, w = ((self.x - surrogate.mean) @ surrogate.basis.double()).square(), surrogate.variances
        v, r = torch.empty_like(y2), len(w)
        edges = [0, *(2**k for k in range(2, 20) if 2**k < r), r]
        for a, b in pairwise(edges):
            v[:, a:b] = w[a:b] * (y2[:, a:b] / w[a:b]).mean(1, keepdim=True)
        gain = (v.clamp_min(1e-12).log() + self.logsnr).sigmoid()
        return _excess(self, surrogate, gain, torch.tensor(surrogate.rest).log().add(self.logsnr).sigmoid())


def _excess(level: Level, surrogate: GaussianSurrogate, a: Tensor, rest: Tensor) -> Tensor:
    """‖ε − ε̂‖² less its mean for x̂ = a z/α in the principal directions and `rest` z/α in the others, (n, 1)."""
    centred, V, root = level.x - surrogate.mean, surrogate.basis.double(), math.exp(level.logsnr / 2)
    y, e = centred @ V, level.eps @ V
    found = (a**2 * (e**2 - 1) - 2 * a * (1 - a) * root * e * y).sum(1)
    others = level.eps.square().sum(1) - e.square().sum(1) - (centred.shape[1] - V.shape[1])
    cross = (level.eps * centred).sum(1) - (e * y).sum(1)
    return (found + rest**2 * others - 2 * rest * (1 - rest) * root * cross)[:, None]


def _near(problem: GaussianChain, noised: Noised, eps: Tensor, cell: int) -> Tensor:
    """The term of a neighbouring level with the same ε."""
    other = min(max(cell + 1, round(1.15 * cell)), len(problem.cells) - 1)
    cells = torch.full_like(noised.examples, other)
    at = problem.levels[cells + 1]
    there = noised._replace(cells=cells, z=forward.noised(noised.x, eps, at), at=at)
    return problem.term(there, problem.condition_of(noised.examples))[0]


def _half(problem: GaussianChain, noised: Noised, eps: Tensor) -> Tensor:
    """‖ε − ε̂‖² of the network at half the resolution, at the noise that the mean of four has; nan where it cannot."""
    model, nowhere = problem.model, torch.full((len(eps),), math.nan, dtype=torch.float64)
    logsnr = noised.at.logsnr + math.log(4)
    if eps.ndim != 4 or min(eps.shape[-2:]) % 2 or float(logsnr.max()) > float(problem.levels.logsnr[0]):
        return nowhere
    x, noise = avg_pool2d(noised.x, 2), 2 * avg_pool2d(eps, 2)
    at = model.schedule.at(model.schedule.time_of(logsnr))
    try:
        found = model.predict(forward.noised(x, noise, at), at, problem.condition_of(noised.examples))
    except (RuntimeError, nelbo.NelboError):
        return nowhere
    return terms.diffusion_rate(x, found, at, torch.full_like(logsnr, -2.0))


def factor(rho: float, kappa: float) -> float:
    """Of s √c by another network evaluation of cost κ whose residuals are correlated by ρ, see above."""
    if math.isnan(rho):
        return 1.0
    beta = np.linspace(0, 1, 201)
    return min(1.0, float((beta * math.sqrt(kappa) + np.sqrt((1 + kappa) * (1 - 2 * beta * rho + beta**2))).min()))


def at_level(level: Level, surrogate: GaussianSurrogate) -> dict[str, float]:
    """s √c at one level by what is taken out."""
    C, none = level.columns[:, 1:], torch.zeros(len(level.x), 0, dtype=torch.float64)
    held = torch.arange(4 * level.N)[torch.arange(4 * level.N) % level.N < LEARNT]
    sets = {
        "no control": none,
        "‖ε‖² − D": C[:, 1:2],
        "and the excess of a Gaussian of all data": C[:, :2],
        "**and that of the image's own variances (in use)**": C,
        "these, and the network's own gains in principal directions": torch.cat([C, level.gains(surrogate, held)], 1),
        "these, and the Gaussian scaled by the image's energy": torch.cat([C, level.own_energy(surrogate)], 1),
    }
    found = {name: level.spread(columns)[0] for name, columns in sets.items()}
    s, r = level.spread(C)
    even = (r[0] + r[1] - r[2] - r[3]) / 2
    found["these, in pairs of ε and −ε where that is better"] = min(s, float(even.square().mean().sqrt()))
    for k, (name, kappa) in enumerate((("a neighbouring level", 1.0), ("half the resolution", 0.25))):
        other = level.others[:, k : k + 1]
        rho = float("nan")
        if bool(torch.isfinite(other).all()) and float(other.std()) > 0:
            whole, n = level.columns, level.N
            level.columns = torch.cat([other, C], 1)
            with_other = level.spread(C)[1]
            level.columns = whole
            a, b = ((v[:2] - v[2:]).reshape(2 * n) for v in (r, with_other))
            rho = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
        found[f"these, and the network at {name}"] = s * factor(rho, kappa)
    return found


def main() -> None:
    """Print a table for every model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cifar16", "digits", "gaussian"])
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--points", type=int, default=12, help="levels at which the noise is measured")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NelboWarning)
    for case in cases(options.models, options.runs):
        one = prepare(case.model, case.images, condition=case.condition)
        problem, M, N = one.chain, len(one.chain.cells), min(options.images, len(case.images))
        cells = sorted({round(v) for v in np.geomspace(1, M, options.points)})
        with problem.model.denoiser.inference(), torch.no_grad():
            controls = problem.fit_controls(torch.arange(problem.examples), one.runner.workers)
            rows = [at_level(Level(problem, controls, c, N), controls.surrogate) for c in [0, *cells]]
        target = options.tolerance * problem.dimensions * math.log(2)
        print(f"\n### {case.name}: SE {options.tolerance} bits/dim\n")
        print("| control | n\\* an image | of that in use |\n|-|-|-|")
        costs = {}
        for name in rows[0]:
            logs = np.interp(
                np.log(np.arange(1, M + 1)), np.log(cells), [math.log(max(r[name], 1e-12)) for r in rows[1:]]
            )
            costs[name] = (float(np.exp(logs).sum()) + rows[0][name]) ** 2 / target**2 / len(case.images)
        used = costs["**and that of the image's own variances (in use)**"]
        for name, cost in costs.items():
            print(f"| {name} | {cost:.3g} | {cost / used:.2f} |", flush=True)


if __name__ == "__main__":
    main()
