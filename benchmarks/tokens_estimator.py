"""What a bound of a masked chain over symbols costs: the published protocols and nelbo's estimators, in one run.

    .venv/bin/python benchmarks/tokens_estimator.py [--only characters digits python subwords] [--runs FOLDER]
        [--seeds 20] [--sequences 500] [--per-sequence 100] [--text FILE.gz] [--timed] [--chains]

Models are those of `token_models.py`, trained once and kept under --runs. A first table gives evaluations a sequence
for a standard error of 0.01 bits a symbol, at a fixed number of passes over the sequences:

    i.i.d. times        t ~ U(ε, 1), every place hidden with probability t, weight 1/t, ε = 10⁻³ (MDLM, SEDD)
    i.i.d. counts       l ~ U{1..L}, a set of that size, weight L/l (LLaDA's likelihood)
    stratified counts   the same with counts on a lattice over all draws
    nelbo               `evaluate(tolerance=0.01, corpus=…)`: all it spent, pilot included, mean over seeds; the corpus
                        is a part of what the network was trained on

The first three are computed from the same recorded draws, weighted by how often each protocol draws a count; nelbo is
run. The limit n* is what its controls could do at best: no pilot, no rounding, the best allocation (`limit.py`). The
second table is of one sequence to 0.05 bits a symbol, with sets that are pieces of permutations and without.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import limit
import numpy as np
import torch
from token_models import RECIPES, TEXT, TokenCase, Transformer, case
from torch import Tensor

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.planned import pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.problem import Draws
from nelbo.bound.tokens.evaluate import PILOT, prepare
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.model.examples import Examples
from nelbo.workers import Run

EPS = 1e-3
"""Smallest time of i.i.d. times; without it their variance is infinite."""
POINTS = 4001
"""Times of the integral over t."""


@dataclass(frozen=True)
class Recorded:
    """Draws of uniform sets: counts l (n,), their probabilities (n,), and what their places cost together (n,)."""

    counts: np.ndarray
    chance: np.ndarray
    sums: np.ndarray


def recorded(chain: MaskedChain, runner, draws: int) -> Recorded:
    """`draws` of random sequences, counts on a lattice of the law ∝ l^{−1/2}."""
    L, N = chain.dimensions, chain.examples
    law = np.arange(1, L + 1) ** -0.5
    law /= law.sum()
    rng = np.random.default_rng(5)
    at = np.minimum(np.searchsorted(law.cumsum(), (np.arange(draws) + rng.random(draws)) / draws), L - 1)
    examples = torch.from_numpy(np.concatenate([rng.permutation(N) for _ in range(-(-draws // N))])[:draws])
    cells = torch.from_numpy(at)
    some = Draws(examples, cells + 1, torch.arange(draws), cells, torch.full((draws,), 0.5))
    return Recorded(at + 1, law[at], runner.nats(chain, some).numpy() * (at + 1))


def protocols(draws: Recorded, L: int, N: int, between: float, target: float) -> dict[str, float]:
    """Evaluations a sequence of each protocol for a standard error of `target` nats; between: the mean square of the
    bounds of the N sequences, which passes over all of them leave out."""
    t = np.exp(np.linspace(math.log(EPS), 0, POINTS))
    weight = np.gradient(t) / (1 - EPS)
    log_choose = np.array([math.lgamma(L + 1) - math.lgamma(k + 1) - math.lgamma(L - k + 1) for k in range(1, L + 1)])
    k = np.arange(1, L + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(k == L, 0.0, (L - k) * np.log1p(-np.minimum(t, 1 - 1e-12)))
    of_count = np.exp(log_choose[:, None] + k * np.log(t) + rest)  # P(l | t)
    squares = {
        "i.i.d. times": (of_count * weight / t**2).sum(1),
        "i.i.d. counts": L / np.arange(1, L + 1) ** 2,
    }
    found = {}
    for name, second in squares.items():
        found[name] = float((second[draws.counts - 1] / draws.chance * draws.sums**2).mean()) - between
    # within a stratum the count is fixed and the sequence random; the profile h(l)/l is smooth
    along = np.log(draws.counts)
    profile = np.polyval(np.polyfit(along, draws.sums / draws.counts, 5, w=np.sqrt(draws.counts)), along)
    inside = (L * (draws.sums / draws.counts - profile)) ** 2
    found["stratified counts"] = float((inside / draws.chance).mean() / L)
    return {name: variance / N / target**2 for name, variance in found.items()}


def limits(chain: MaskedChain, runner, target: float) -> dict[str, float]:
    """n* of nelbo's allocation without and with its controls, evaluations a sequence, at draws of 150 sequences."""
    some = torch.arange(min(150, chain.examples))
    short = replace(chain, data=chain.data[some], scored=chain.scored[some])
    learned = pilot.run(short, runner, PILOT)
    frozen = _Fitted(short, learned.controls)
    spread = limit.spreads(frozen, runner, 10, 2)  # type: ignore[arg-type]
    names = ("all", "between", "between, expected")
    return {name: spread.evaluations(name, target) / chain.examples for name in names}


class _Fitted:
    """A chain whose controls are fitted already."""

    def __init__(self, chain: MaskedChain, controls: object):
        self._chain, self._controls = chain, controls

    def __getattr__(self, name: str):
        return getattr(self._chain, name)

    def fit_controls(self, examples: Tensor, workers: object) -> object:
        return self._controls


@contextmanager
def watched() -> Iterator[list[float]]:
    """Processor seconds that the networks take inside."""
    forward, spent = Transformer.forward, [0.0]

    def measured(self: Transformer, z: Tensor) -> Tensor:
        began = time.process_time()
        logits = forward(self, z)
        spent[0] += time.process_time() - began
        return logits

    Transformer.forward = measured  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Transformer.forward = forward  # type: ignore[method-assign]


def pooled(one: TokenCase, seeds: int, **how) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], float]:
    """Values, standard errors, evaluations a sequence, designs, and the processor seconds of nelbo's default over those
    of the network in it."""
    rows, began = [], time.process_time()
    with watched() as network:
        for seed in range(seeds):
            bound = nelbo.evaluate(one.model, one.held_out, tolerance=0.01, seed=seed, corpus=one.corpus, **how)
            rows.append((bound.bits_per_dim, bound.standard_error.estimator, bound.nfe_total / len(one.held_out),
                         bound.estimator["picked"]))  # fmt: skip
    value, error, spent, picked = zip(*rows, strict=True)
    ratio = (time.process_time() - began) / network[0]
    return np.array(value), np.array(error), np.array(spent), list(picked), ratio


def table(one: TokenCase, args: argparse.Namespace) -> None:
    """Both tables of one model."""
    L, N = one.held_out.shape[1], len(one.held_out)
    unit = L * math.log(2)
    prepared = prepare(one.model, one.held_out, Run(seed=1))
    chain, runner = prepared.chain, prepared.runner
    assert isinstance(chain, MaskedChain)
    with chain.model.denoiser.inference():
        began = time.process_time()
        draws = recorded(chain, runner, args.draws)
        bare = (time.process_time() - began) / args.draws
        corpus = None if one.corpus is None else Examples(one.corpus)
        shared = replace(chain, all_hidden=chain.ask_all_hidden(), corpus=corpus)
        n_star = limits(shared, runner, 0.01 * unit)
    few = one.held_out[: args.per_sequence]
    each = nelbo.evaluate(
        one.model, few, tolerance=0.05 / math.sqrt(len(few)), per_example=True, seed=100, corpus=one.corpus
    )
    assert each.per_example is not None
    value, error, spent, picked, ratio = pooled(one, args.seeds)
    alone = pooled(replace(one, corpus=None), max(2, args.seeds // 2))[2].mean()
    between = (value.mean() * unit) ** 2 + float(each.per_example.nats.var())
    others = protocols(draws, L, N, between, 0.01 * unit)
    print(f"\n## {one.name}: {N} sequences of {L}, {value.mean():.4f} bits a symbol, {1e3 * bare:.1f} ms an evaluation")
    print("| protocol | evaluations a sequence for 0.01 | over nelbo |\n|-|-|-|")
    ours = float(spent.mean())
    for name, n in others.items():
        print(f"| {name} | {n:.2f} | {n / ours:.1f} |")
    print(f"| nelbo, n-grams of the evaluated sequences alone | {alone:.2f} | {alone / ours:.2f} |")
    mean = f"{ours:.2f} ± {spent.std(ddof=1) / math.sqrt(len(spent)):.2f}"
    print(f"| nelbo, {args.seeds} seeds | {mean} ({spent.min():.2f} to {spent.max():.2f}) | 1 |")
    observed, said = value.std(ddof=1), math.sqrt((error**2).mean())
    designs = ", ".join(f"{picked.count(p)} {p}" for p in sorted({*picked}))
    print(
        f"\nspread of its values {observed:.4f}, standard error said {said:.4f}; {designs}; "
        f"{ratio:.2f} times the processor time of the network alone"
    )
    words = {"all": "no control", "between": "controls", "between, expected": "and expected errors"}
    print("n*: " + ", ".join(f"{words[name]} {n:.2f}" for name, n in n_star.items()), flush=True)
    per_sequence(one, few, each, unit)
    if args.chains:
        chains(one)


def per_sequence(one: TokenCase, few: Tensor, each: nelbo.Bound, unit: float) -> None:
    """Evaluations for 0.05 bits a symbol of one sequence: as run, of two runs the spread, and without streams."""

    def line(name: str, first: nelbo.Bound, second: nelbo.Bound) -> None:
        a, b = first.per_example, second.per_example
        assert a is not None and b is not None
        spread = float((a.nats - b.nats).square().mean() / 2) / unit**2
        said = float((a.standard_error.square() + b.standard_error.square()).mean() / 2) / unit**2
        n = (first.nfe_total + second.nfe_total) / 2 / len(few)
        print(f"| {name} | {n:.1f} | {math.sqrt(spread):.4f} | {math.sqrt(said):.4f} | {n * spread / 0.05**2:.1f} |")

    how = {"tolerance": 0.05 / math.sqrt(len(few)), "per_example": True, "corpus": one.corpus}
    print("\n| one sequence | evaluations | spread | said | for 0.05 |\n|-|-|-|-|-|")
    line("nelbo", each, nelbo.evaluate(one.model, few, seed=101, **how))
    usual = MaskedChain.strands
    MaskedChain.strands = property(lambda chain: False)  # type: ignore[assignment,method-assign]
    line("without streams", *(nelbo.evaluate(one.model, few, seed=s, **how) for s in (100, 101)))
    MaskedChain.strands = usual  # type: ignore[method-assign]
    plain = [nelbo.evaluate(one.model, few, seed=s, per_example=True, estimator=_stratified()) for s in (100, 101)]
    line("stratified counts", *plain)
    print(flush=True)


def _stratified() -> Adaptive:
    """Uniform counts in strata of every sequence, no control and no fit."""
    return Adaptive(design="per_example", controls=False, regression=False, allocation="uniform", strata=8)


def chains(one: TokenCase) -> None:
    """The bound of chains of K even steps."""
    print("| steps | bits a symbol | evaluations a sequence |\n|-|-|-|")
    for K in (4, 8, 16, 32, one.held_out.shape[1]):
        bound = nelbo.evaluate(one.model, one.held_out, tolerance=0.01, grid=nelbo.grids.even(K))
        print(f"| {K} | {bound.bits_per_dim:.4f} ± {bound.standard_error.estimator:.4f} "
              f"| {bound.nfe_total / len(one.held_out):.2f} |", flush=True)  # fmt: skip


def timed(one: TokenCase, seeds: int) -> None:
    """The same network as one that is told the time: the continuous bound, whose value must be that of counts."""
    net = one.model.denoiser
    told = nelbo.tokens.from_callable(
        lambda z, t: net(z, z == one.model.kernel.mask, None), vocabulary=one.model.domain.vocabulary,
        length=one.held_out.shape[1], kernel=one.model.kernel, time="unit", schedule=nelbo.tokens.cosine(),
        modules=[net],
    )  # fmt: skip
    value, error, spent, picked, _ = pooled(replace(one, model=told), seeds)
    said = math.sqrt((error**2).mean())
    print(f"\ntold the time, cosine: {value.mean():.4f} bits a symbol, {spent.mean():.2f} evaluations a sequence, "
          f"spread {value.std(ddof=1):.4f}, said {said:.4f}; {sorted({*picked})}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--runs", type=Path, default=Path(__file__).parent / "runs" / "tokens")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--per-sequence", type=int, default=100)
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--timed", action="store_true")
    parser.add_argument("--chains", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NelboWarning)
    for name in args.only:
        one = case(name, args.runs, args.text, args.sequences)
        table(one, args)
        if args.timed:
            timed(one, max(2, args.seeds // 4))


if __name__ == "__main__":
    main()
