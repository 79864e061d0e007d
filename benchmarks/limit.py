"""The least that an estimate of the bound can cost, with what nelbo has, beside what it spends.

    .venv/bin/python benchmarks/limit.py [--models gaussian digits cifar16] [--chains full continuous tightened]
        [--tolerance 0.01] [--seeds 20] [--per-example] [--against FOLDER] [--quick]

With s_j the standard deviation of a draw at level j, n draws that are allotted as s_j (Neyman) leave the mean over N
examples a standard error (Σ_j s_j)/√n, so that no fewer than

    n* = (Σ_j s_j)² / SE²

evaluations reach SE. What s_j is depends on what is taken out of a draw before: the controls, with the best
coefficients of every level; the differences between examples, by a regression on their features or, where every example
is drawn as often, altogether (per example). The first table shows what each ingredient takes away, in evaluations an
example. No pilot and no rounding is in it. The second shows what the designs spend: all, the pilot, the share of the
draws after it that were more than the tolerance asks; and the observed spread of the values.

--chains: the model's own chain, the continuous bound, and its chain of 25 steps tightened on half of the images and
scored on the others. --per-example: what every example takes for an error bar of its own, and n* for the same error.
--against: `compare` with another model; a draw of the difference asks both networks, and counts as two evaluations.

Models: `gaussian`, the exact ε-network of a Gaussian law fitted to 1,400 digits, scored on the other 397, T = 1000;
the others are those of evaluation_cost.py, trained once and kept under --runs.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import evaluation_cost
import numpy as np
import torch
from evaluation_cost import ModelCase
from torch import Tensor

import nelbo
from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.pilot import near_of
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.data import read


def gaussian(images: int) -> ModelCase:
    """The exact ε-network of a Gaussian law, and digits that it was not fitted to."""
    codes = read("digits").data
    domain = nelbo.DataDomain(tuple(codes.shape[1:]), bins=17)
    x = domain.values(codes[:1400]).flatten(1)
    centred = x - x.mean(0)
    law = nelbo.exact.GaussianData(x.mean(0), centred.mT @ centred / len(x) + 1e-3 * torch.eye(x.shape[1]))
    schedule = nelbo.schedules.linear(1000)
    levels, denoiser = nelbo.grids.full().levels(schedule, True), law.denoiser()

    def eps(z: Tensor, t: Tensor) -> Tensor:
        at = levels[t]
        x0 = denoiser(z.flatten(1).double(), at).x0.reshape(z.shape)
        alpha, sigma = (v.reshape(-1, *[1] * (z.ndim - 1)) for v in (at.alpha, at.sigma))
        return ((z - alpha * x0) / sigma).to(z.dtype)

    model = nelbo.from_callable(eps, schedule=schedule, domain=domain, predicts="eps", time="index")
    return ModelCase("digits (exactly Gaussian ε-network, D = 64)", model, codes[1400:][:images])


@dataclass
class Spread:
    """Standard deviations of a draw along the chain, by what is taken out of it: name → (levels,), nats."""

    of: dict[str, np.ndarray]

    def evaluations(self, name: str, target: float, *, uniform: bool = False) -> float:
        """n*, or with `uniform` the draws that an equal allocation takes."""
        s = self.of[name]
        return float(len(s) * (s**2).sum() if uniform else s.sum() ** 2) / target**2


def spreads(problem: Problem, runner: Runner, points: int, draws: int, other: Problem | None = None) -> Spread:
    """Measured at `points` levels of every example, `draws` times, and interpolated between them; of the difference
    from the terms of `other` at the same noise."""
    N, M = problem.examples, len(problem.cells)
    controls = problem.fit_controls(torch.arange(N), runner.workers)
    examples, numbers = torch.arange(N).repeat(draws), torch.arange(draws).repeat_interleave(N)
    F, expected = (v.double() for v in problem.features(torch.arange(N), controls))
    F = (F - F.mean(0)) / F.std(0).clamp_min(1e-12)
    near = near_of(problem.cells, expected.shape[1]).double()
    cells = sorted({round(v) for v in np.geomspace(1, M, points)})
    rows = []

    def columns(some: Draws) -> Tensor:
        found = runner.columns(problem, some, controls)
        if other is not None:
            found[:, 0] -= runner.nats(other, some)
        return found.reshape(draws, N, -1)

    for cell in cells:
        at = torch.full_like(examples, cell - 1)
        some = Draws(examples, at + 1, numbers, at, torch.full((len(at),), 0.5))
        rows.append(at_level(columns(some), F, expected @ near[cell - 1]))
    of = {
        name: np.exp(np.interp(np.log(np.arange(1, M + 1)), np.log(cells), [math.log(row[name]) for row in rows]))
        for name in rows[0]
    }
    if problem.first_cost:
        first = columns(Draws.first_level(examples, numbers))
        of = {name: np.concatenate([[s], of[name]]) for name, s in at_level(first, F, expected[:, 0]).items()}
    return Spread(of)


def at_level(columns: Tensor, F: Tensor, e: Tensor) -> dict[str, float]:
    """Standard deviations of the draws of one level, columns (R, N, 1 + C), by what is taken out.

    F (N, q): features of the examples; e (N,): their expected errors at this level.
    """
    R, N, width = columns.shape
    inside = (columns - columns.mean(0)) * math.sqrt(R / (R - 1))
    y, n = inside[..., 0].reshape(-1), inside[..., 1:].reshape(-1, width - 1)
    found = {
        "no control": y,
        **{f"control {c}": _less(y, n[:, [c]]) for c in range(width - 1)},
        "controls": _less(y, n),
    }
    found = {name: max(float(v.std()), 1e-12) for name, v in found.items()}
    coefficients = torch.linalg.lstsq(n, y[:, None]).solution[:, 0]
    means = (columns[..., 0] - columns[..., 1:] @ coefficients).mean(0)
    noise = found["controls"] ** 2
    means = means - means.mean()
    e = ((e - e.mean()) / e.std().clamp_min(1e-12))[:, None]
    for name, design in (("between", F[:, :0]), ("between, expected", e), ("between, regressed", torch.cat([e, F], 1))):
        v, freedom = _less(means, design) if design.shape[1] else means, 1 + design.shape[1]
        between = max(0.0, float(v.square().sum()) / max(1, N - freedom) - noise / R)
        found[name] = math.sqrt(noise + between)
    raw = columns[..., 0].mean(0).var() - found["no control"] ** 2 / R
    found["all"] = math.sqrt(found["no control"] ** 2 + max(0.0, float(raw)))
    return found


def _less(y: Tensor, n: Tensor) -> Tensor:
    """y less its regression on the columns of n."""
    scale = n.square().mean(0).sqrt().clamp_min(1e-300)
    n = n / scale
    return y - n @ torch.linalg.lstsq(n, y[:, None], driver="gelsd").solution[:, 0]


ROWS = [
    ("every level as often, no control, random examples", "all", True),
    ("Neyman allocation", "all", False),
    ("+ controls", "between", False),
    ("+ regression over examples on the expected error alone", "between, expected", False),
    ("+ regression over examples on all features (limit of the pooled design)", "between, regressed", False),
    ("every example as often, no control", "no control", False),
    ("+ first control alone (the surrogate's)", "control 0", False),
    ("+ second control alone (‖ε‖²)", "control 1", False),
    ("+ third control alone (of images: the local surrogate's)", "control 2", False),
    ("+ controls: **n\\***", "controls", False),
]


def table(spread: Spread, target: float, images: int) -> float:
    """Print what the ingredients take away for a standard error of `target` nats, and give n* an example."""
    print("| estimate, best coefficients and no pilot | evaluations an example |\n|-|-|")
    for label, name, uniform in ROWS:
        if name in spread.of:
            print(f"| {label} | {spread.evaluations(name, target, uniform=uniform) / images:.3g} |")
    return spread.evaluations("controls", target) / images


def measured(case: ModelCase, points: int, draws: int, against: nelbo.DiffusionModel | None = None) -> Spread:
    """The spreads of a model, or of its difference from another."""
    one = prepare(case.model, case.images, condition=case.condition)
    other = against and prepare(against, case.images, condition=case.condition, runner=one.runner).chain
    with one.chain.model.denoiser.inference():
        return spreads(one.chain, one.runner, points, draws, other)


def on_chain(case: ModelCase, chain: str) -> ModelCase:
    """On the model's own chain, the continuous one, or the tightened one of 25 steps; the last with the half of the
    images that it was not fitted to."""
    if chain == "full":
        return case
    if chain == "continuous":
        own = case.model.schedule
        schedule = getattr(own, "interpolated", lambda: own)()  # of a table of levels
        model = replace(case.model, schedule=schedule, grid=nelbo.grids.continuous())
        return replace(case, name=f"{case.name}, continuous", model=model)
    half = len(case.images) // 2
    rows = torch.arange(half, len(case.images))
    model, _ = nelbo.tighten(case.model, case.images[:half], 25, condition=case.condition_of(torch.arange(half)))
    assert isinstance(model, nelbo.DiffusionModel)
    return ModelCase(f"{case.name}, 25 steps, tightened", model, case.images[rows], case.condition_of(rows))


def of_every_example(case: ModelCase, spread: Spread) -> None:
    """Print what per-example mode spends for an error bar of one example, beside n* for that error."""
    print("\n| strata | evaluations an example | SE of one, bits/dim | n\\* for it | ratio |\n|-|-|-|-|-|")
    for strata in (1, 2, 3, 4, 6, 8, 16):
        estimator = Adaptive(design="per_example", strata=strata)
        bound = evaluate(case.model, case.images, estimator=estimator, condition=case.condition, per_example=True)
        assert bound.per_example is not None
        error = float(bound.per_example.standard_error.square().mean().sqrt())
        spent, least = bound.nfe_per_example, spread.evaluations("controls", error)
        one = error / bound.dimensions / math.log(2)
        print(f"| {strata} | {spent:.2f} | {one:.4f} | {least:.2f} | {spent / least:.1f} |", flush=True)


def compared(case: ModelCase, against: Path, tolerance: float, seeds: int, points: int, draws: int) -> None:
    """Print what a comparison spends, beside n* of the difference."""
    other = nelbo.load(against)
    spread, options = measured(case, points, draws, other), {"condition": case.condition, "any_cost": True}
    found = [
        nelbo.compare(case.model, other, case.images, tolerance=tolerance, seed=s, **options) for s in range(seeds)
    ]
    N, target = len(case.images), tolerance * case.model.domain.dimensions * math.log(2)
    pooled, least = (2 * spread.evaluations(name, target) / N for name in ("between, regressed", "controls"))
    nfe, error = (
        float(np.mean(v)) for v in zip(*((c.nfe_total, c.standard_error.estimator) for c in found), strict=True)
    )
    values = np.std([c.difference for c in found], ddof=1)
    print(f"\nCompared with {against}: SE {tolerance} of the difference takes n* = {least:.3g} evaluations an example")
    print(f"of both models together, of random examples {pooled:.3g}; `compare` spends {nfe / N:.2f} and comes to")
    print(f"{error:.5f} (SD of values {values:.5f}).")


def spent(case: ModelCase, tolerance: float, seeds: int, least: float, designs: list[str]) -> None:
    """Print what the designs spend."""
    N = len(case.images)
    print(
        "\n| design | evaluations an example | over n\\* | of it pilot | overshoot | stages | SE | SD of values | ms |"
    )
    print("|-|-|-|-|-|-|-|-|-|")
    for design in designs:
        began = time.process_time()
        estimator = Adaptive(tolerance, design=design, any_cost=True)
        bounds = [
            evaluate(case.model, case.images, estimator=estimator, condition=case.condition, seed=s)
            for s in range(seeds)
        ]
        took = (time.process_time() - began) / sum(b.nfe_total for b in bounds)
        pilot = float(np.mean([b.estimator["pilot"]["evaluations"] for b in bounds]))
        nfe = float(np.mean([b.nfe_total for b in bounds]))
        errors = np.array([b.standard_error.estimator for b in bounds])
        enough = np.mean((errors / tolerance) ** 2 * [b.nfe_total - pilot for b in bounds])
        over = 1 - float(enough) / (nfe - pilot)
        picked = "/".join(sorted({b.estimator["picked"] for b in bounds}))
        row = [
            f"{design} ({picked})" if design == "auto" else design,
            f"{nfe / N:.2f}", f"{nfe / N / least:.1f}", f"{pilot / N:.2f}", f"{100 * over:.0f} %",
            f"{np.mean([b.estimator['stages'] for b in bounds]):.1f}", f"{errors.mean():.5f}",
            f"{np.std([b.bits_per_dim for b in bounds], ddof=1):.5f}", f"{1000 * took:.2f}",
        ]  # fmt: skip
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Print both tables of every model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["gaussian", "digits", "cifar16"])
    parser.add_argument("--chains", nargs="*", default=["full"], choices=["full", "continuous", "tightened"])
    parser.add_argument("--per-example", action="store_true", help="what every example takes for its own error bar")
    parser.add_argument("--against", type=Path, help="folder of another model of the same data, to compare with")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.01])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--designs", nargs="*", default=["auto", "pooled", "per_example"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--points", type=int, default=14, help="levels at which the noise is measured")
    parser.add_argument("--draws", type=int, default=4, help="draws of every example there")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--quick", action="store_true", help="little training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NelboWarning)
    for name in options.models:
        found = [gaussian(options.images)] if name == "gaussian" else []
        for own in found or evaluation_cost.cases([name], options.runs, options.images, options.quick):
            for chain in options.chains:
                case = on_chain(own, chain)
                spread = measured(case, options.points, options.draws)
                for tolerance in options.tolerance:
                    print(f"\n### {case.name}: N = {len(case.images)}, SE {tolerance} bits/dim\n")
                    target = tolerance * case.model.domain.dimensions * math.log(2)
                    least = table(spread, target, len(case.images))
                    spent(case, tolerance, options.seeds, least, options.designs)
                if options.per_example:
                    of_every_example(case, spread)
            for tolerance in options.tolerance if options.against else []:
                compared(own, options.against, tolerance, options.seeds, options.points, options.draws)


if __name__ == "__main__":
    main()
