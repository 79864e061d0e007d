"""Do the error bars of the tolerance mode tell the truth? Thousands of repetitions on models whose bound is known.

    PYTHONPATH=src python benchmarks/coverage.py [--reps 2000] [--case gaussian] [--n 30] [--tolerance …] [--out FILE]

Every repetition is a whole evaluation (pilot, plan, stages, stopping) at another seed of the same examples; the exact
value of those examples is known to many digits:

    gaussian   correlated Gaussian data of D = 12, an imperfect linear denoiser, Gaussian decoder: every term is
               quadratic in ε and in x, so that sums over sigma points are exact
    codes      D = 8 codes of 256 values of very unequal scale, a wavy denoiser, discretized Gaussian decoder:
               quadrature over ε for every code and level (every term is a sum over coordinates)
    outliers   the same with 3 % of the examples drawn from another, rougher law: a pilot of 24 often has none
    walls      the same denoiser with a narrow decoder at the first level: the reconstruction's tails are heavy
    rare       the Gaussian case with 1 % of the examples five times as far from the mean: their bound is some times as
               large, and most pilots have none of them
    few        D = 4 codes of 3 values, the exact denoiser, 16 steps: almost all of the bound comes from the rare draws
               in which a code is mistaken for another, at levels of which a pilot sees one or none
    short      the Gaussian case on 8 steps, for one to five examples: all of them are drawn, again and again

Prints one row a setting: coverage of |value − exact| ≤ 1.96 SE with its distance from 95 % in binomial standard errors,
mean bias in standard errors, mean SE / SD of the values, designs picked, stages, network evaluations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.passes import Passes
from nelbo.bound.runner import Runner
from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import CategoricalData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.testing import at_noise
from nelbo.workers import Run

LEVELS = 200


def table() -> schedules.Schedule:
    """A linear table of `LEVELS` betas with the ends of DDPM's thousand."""
    return schedules.linear(LEVELS, 1e-4, 0.1)


class Linear(Denoiser):
    """x̂ = μ + the posterior mean under N(μ, V diag(w) Vᵀ), with gain and offset errors that wander with λ."""

    def __init__(self, mean: Tensor, basis: Tensor, variances: Tensor, error: float):
        super().__init__()
        self.mean, self.basis, self.variances, self.error = mean, basis, variances, error

    def forward(self, z: Tensor, t: Levels, condition=None) -> Prediction:
        alpha, sigma = column(t.alpha, z), column(t.sigma, z)
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        gain = gain * (1 + self.error * torch.cos(t.logsnr)[:, None] * sigma)
        offset = self.error * sigma * torch.sin(t.logsnr)[:, None]
        return Prediction(self.mean + ((z - alpha * self.mean) @ self.basis * gain) @ self.basis.mT + offset)


class Wavy(Denoiser):
    """x̂ = the shrinkage of a unit-variance law plus a wave in z: a coordinate at a time, in no way linear."""

    def forward(self, z: Tensor, t: Levels, condition=None) -> Prediction:
        alpha, sigma = column(t.alpha, z), column(t.sigma, z)
        shrunk = alpha * 0.3 * z / (alpha**2 * 0.3 + sigma**2)
        return Prediction(shrunk + 0.5 * sigma * torch.sin(4 * z) * (1 + z.square()))


def _model(domain: DataDomain, denoiser: Denoiser, decoder) -> DiffusionModel:
    return DiffusionModel(domain, table(), grid.full(), denoiser, Reverse(BetaTilde()), decoder, GaussianPrior())


def _terms(model: DiffusionModel, x: Tensor, target: Tensor, eps: Tensor, j: Tensor) -> Tensor:
    """The term of level j (0: reconstruction) at given noise; one j for all rows."""
    levels = model.levels()
    with torch.no_grad():
        if int(j) == 0:
            return at_noise.reconstruction(model, x, target, eps, levels[:1].expand(len(x)))
        s, t = (levels[k].expand(len(x)) for k in (slice(j - 1, j), slice(j, j + 1)))
        return at_noise.diffusion(model, x, eps, s, t)


def gaussian(N: int, D: int = 12, far: float = 1.0) -> tuple[DiffusionModel, Tensor, float]:
    """Model, examples, and the exact mean of their bounds in nats."""
    rng = torch.Generator().manual_seed(7)
    basis, _ = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64))
    variances = 0.5 / torch.arange(1, D + 1, dtype=torch.float64) ** 1.5
    mean = 0.3 * torch.randn(D, generator=rng, dtype=torch.float64)
    rng.manual_seed(1000 + N)
    x = (torch.randn(N, D, generator=rng, dtype=torch.float64) * variances.sqrt()) @ basis.mT
    x[5::100] *= far
    x = x + mean
    model = _model(DataDomain((D,)), Linear(mean, basis, variances * 1.3, 0.3), ContinuousGaussian(2e-4))
    # sigma points: the mean of a quadratic over the sample, and over ε ~ N(0, I), each from 2D points
    root = torch.linalg.cholesky((x - x.mean(0)).mT @ (x - x.mean(0)) / N) * math.sqrt(D)
    points = x.mean(0) + torch.cat([root.mT, -root.mT])
    unit = torch.eye(D, dtype=torch.float64) * math.sqrt(D)
    eps = torch.cat([unit, -unit])
    xs, es = points.repeat_interleave(2 * D, 0), eps.repeat(2 * D, 1)
    total = sum(float(_terms(model, xs, xs, es, j).mean()) for j in range(LEVELS))
    return model, x, total + float(terms.prior(model, x, model.levels()[-1:]).mean())


@cache
def _of_codes(variance: float, bins: int = 256) -> Tensor:
    """E over ε of the whole bound of a single coordinate, for every code, nats (bins,)."""
    return _by_quadrature(_model(DataDomain((1,), bins), Wavy(), DiscretizedGaussian(variance)))


def _by_quadrature(model: DiffusionModel) -> Tensor:
    """E over ε of the whole bound of a model of one coordinate, for every code, nats (bins,)."""
    bins = model.domain.bins
    assert bins is not None and model.domain.shape == (1,)
    codes = torch.arange(bins)[:, None]
    x = model.domain.values(codes)
    nodes = torch.linspace(-9, 9, 721, dtype=torch.float64)
    weights = (-nodes.square() / 2).exp()
    weights = weights / weights.sum()
    xs, cs = x.repeat_interleave(len(nodes), 0), codes.repeat_interleave(len(nodes), 0)
    es = nodes.repeat(bins)[:, None]
    total = terms.prior(model, x, model.levels()[-1:])
    for j in range(len(model.levels())):
        total = total + _terms(model, xs, cs, es, j).reshape(bins, -1) @ weights
    return total


def codes(N: int, D: int = 8, variance: float = 1e-3, outliers: float = 0.0) -> tuple[DiffusionModel, Tensor, float]:
    """Model, examples, and the exact mean of their bounds in nats."""
    rng = torch.Generator().manual_seed(2000 + N)
    scale = 0.25 * (0.7 * torch.randn(N, 1, generator=rng, dtype=torch.float64)).exp()
    x = scale * torch.randn(N, D, generator=rng, dtype=torch.float64)
    if outliers:
        rough = torch.arange(N) % round(1 / outliers) == 5
        x[rough] = 2 * torch.rand(int(rough.sum()), D, generator=rng, dtype=torch.float64) - 1
        x[rough] = x[rough].sign() * (0.6 + 0.4 * x[rough].abs())
        x[~rough] = x[~rough] * 0.5
    model = _model(DataDomain((D,), 256), Wavy(), DiscretizedGaussian(variance))
    data = model.domain.codes(x.clamp(-1, 1))
    return model, data, float(_of_codes(variance)[data].sum(1).mean())


def few(N: int, D: int = 4) -> tuple[DiffusionModel, Tensor, float]:
    """Model, examples, and the exact mean of their bounds in nats."""
    law, schedule, levels = [0.7, 0.2, 0.1], schedules.logsnr_linear(8.0, -8.0), grid.even(16)
    data = CategoricalData(torch.tensor([law] * D))
    x = data.sample(N, seed=3000 + N)
    one = _by_quadrature(CategoricalData(torch.tensor([law])).model(schedule, levels))
    return data.model(schedule, levels), x, float(one[x].sum(1).mean())


def short(N: int, steps: int = 8) -> tuple[DiffusionModel, Tensor, float]:
    """Model, examples, and the exact mean of their bounds in nats: of each one, since they are few."""
    model, x, _ = gaussian(13)
    x, D = x[:N], x.shape[1]
    model = dataclasses.replace(model, schedule=schedules.logsnr_linear(7.0, -6.0), grid=grid.even(steps))
    unit = torch.eye(D, dtype=torch.float64) * math.sqrt(D)
    xs, eps = x.repeat_interleave(2 * D, 0), torch.cat([unit, -unit]).repeat(N, 1)
    levels = model.levels()
    total = sum(float(_terms(model, xs, xs, eps, j).mean()) for j in range(len(levels)))
    return model, x, total + float(terms.prior(model, x, levels[-1:]).mean())


CASES = {
    "few": few,
    "short": short,
    "gaussian": gaussian,
    "codes": codes,
    "outliers": lambda N: codes(N, outliers=0.03),
    "walls": lambda N: codes(N, variance=2e-5),
    "rare": lambda N: gaussian(N, far=5.0),
}


@dataclass(frozen=True, eq=False)
class KnownPriors(GaussianChain):
    """A chain whose exact terms (N,) are computed once for all repetitions: they do not depend on the seed."""

    known: Tensor = field(default_factory=lambda: torch.empty(0))

    def priors(self) -> Tensor:
        return self.known


def repeat(case: str, N: int, tolerance: float, seeds: range, settings: dict) -> list[dict]:
    """One dictionary an evaluation: error and SE in bits/dim, design, stages, evaluations."""
    torch.set_num_threads(1)
    model, data, exact = CASES[case](N)
    D = model.domain.dimensions
    found, known = [], GaussianChain(model, data).priors()
    for seed in seeds:
        chain = KnownPriors(model, data, seed=seed, known=known)
        runner = Runner(Run(batch_size=8192), D)
        adaptive = Adaptive(tolerance=tolerance, **settings)
        estimate = (Passes(adaptive) if case == "short" else adaptive).estimate(chain, runner)
        unit = 1 / (D * math.log(2))
        found.append(
            {
                "error": (estimate.total.mean - exact) * unit,
                "se": math.sqrt(estimate.total.variance) * unit,
                "error_r": estimate.reconstruction.mean * unit,
                "se_r": math.sqrt(estimate.reconstruction.variance) * unit,
                "design": estimate.estimator.get("picked", "exhaustive"),
                "stages": estimate.estimator.get("stages", 0),
                "nfe": runner.nfe,
                "noted": estimate.note is not None,
            }
        )
    return found


def summary(rows: list[dict]) -> dict:
    """Coverage and its z, bias in SE, SE / SD, and the rest, of a list of repetitions."""
    error, se = (np.array([r[k] for r in rows]) for k in ("error", "se"))
    n = len(rows)
    covered = float((abs(error) <= 1.96 * se).mean())
    ratio = error / se
    return {
        "reps": n,
        "coverage": covered,
        "z": (covered - 0.95) / math.sqrt(0.95 * 0.05 / n),
        "below": float((ratio < -1.96).mean()),
        "above": float((ratio > 1.96).mean()),
        "bias": float(error.mean() / error.std()) * 1.0,
        "bias_z": float(error.mean() / error.std() * math.sqrt(n)),
        "se_sd": float(se.mean() / error.std()),
        "rms_sd": float(np.sqrt((se**2).mean()) / error.std()),
        "se": float(se.mean()),
        "cv": float(se.std() / se.mean()),
        "sd": float(error.std()),
        "correlation": float(np.corrcoef(error, se)[0, 1]),
        "designs": dict(Counter(r["design"] for r in rows)),
        "stages": float(np.mean([r["stages"] for r in rows])),
        "nfe": float(np.mean([r["nfe"] for r in rows])),
        "unreached": float(np.mean([r["noted"] for r in rows])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reps", type=int, default=2000)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--n", type=int, nargs="+", default=[30, 300, 3000])
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.05, 0.02, 0.005])
    parser.add_argument("--design", default="auto")
    parser.add_argument("--pilot", type=int, default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write every repetition here, as JSON")
    given = parser.parse_args()
    settings = {"design": given.design} | ({"pilot": given.pilot} if given.pilot else {})
    print(
        "| case | N | tolerance | design | reps | coverage | z | below | above | bias/SD | z | SE/SD | SE | SE's CV |"
        " corr | stages | NFE | unreached | s |"
    )
    print("|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|", flush=True)
    kept = []
    with multiprocessing.Pool(given.workers) as pool:
        for case in given.case:
            for N in given.n:
                for tolerance in given.tolerance:
                    started = time.perf_counter()
                    size = math.ceil(given.reps / given.workers)
                    parts = [
                        (case, N, tolerance, range(k, min(k + size, given.reps)), settings)
                        for k in range(0, given.reps, size)
                    ]
                    rows = [row for part in pool.starmap(repeat, parts) for row in part]
                    kept += [{"case": case, "N": N, "tolerance": tolerance, **r} for r in rows]
                    for design in sorted({r["design"] for r in rows}):
                        s = summary([r for r in rows if r["design"] == design])
                        print(
                            f"| {case} | {N} | {tolerance} | {design} | {s['reps']} | {100 * s['coverage']:.1f} "
                            f"| {s['z']:+.1f} | {100 * s['below']:.1f} | {100 * s['above']:.1f} | {s['bias']:+.3f} "
                            f"| {s['bias_z']:+.1f} | {s['se_sd']:.3f} | {s['se']:.4f} | {s['cv']:.2f} "
                            f"| {s['correlation']:+.2f} | {s['stages']:.2f} | {s['nfe']:.0f} "
                            f"| {100 * s['unreached']:.0f} % | {time.perf_counter() - started:.0f} |",
                            flush=True,
                        )
    if given.out:
        given.out.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
