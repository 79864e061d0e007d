"""Do the error bars of symbols tell the truth? Thousands of estimates of bounds that are known exactly.

    .venv/bin/python benchmarks/tokens_coverage.py [--case oracle sharpened letters] [--reps 2000] [--sequences 1000]
        [--evaluations 0.2 0.5 1 2] [--tolerance …] [--runs FOLDER] [--text FILE.gz] [--out FILE.json]

A repetition is a whole estimate (pilot, allocation, stages, error bar) of the same sequences at another seed, with so
many evaluations a sequence, pilot included, or to a tolerance in bits a symbol. The exact bound is the sum over all
2^L sets of hidden places; what the network answers to each of them is computed once and looked up, so that thousands of
repetitions ask no network.

    oracle      a joint law of 5 symbols out of 3 and its exact posteriors: every order of a sequence gives −log p(x)
    sharpened   the same, with the logits times 1.6: orders differ
    letters     a transformer trained for 30 processor seconds on English text in 27 symbols, sequences of 8

One row a setting: how often |value − exact| ≤ 1.96 SE, its distance from 95 % in binomial standard errors, and of the
values the bias in standard deviations, the root mean square of SE over the standard deviation, and evaluations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import coverage
import torch
from token_models import TEXT, Recipe, Transformer, cut, train
from torch import Tensor, nn

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.runner import Runner
from nelbo.bound.tokens.evaluate import PILOT, prepare
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.model.tokens.model import surprise
from nelbo.workers import Run

LETTERS = Recipe(length=8, width=48, blocks=3, batch=128, seconds=30)
SHARPNESS = 1.6


class LookedUp(nn.Module):
    """What a network answers to every z that sequences x (N, L) can become, M of them: logits (M, L, V)."""

    def __init__(self, net: Callable[[Tensor], Tensor], x: Tensor, vocabulary: int):
        super().__init__()
        L = x.shape[1]
        self.register_buffer("powers", (vocabulary + 1) ** torch.arange(L))
        found, keys = [], []
        for hidden in subsets(L):
            z = x.masked_fill(hidden, vocabulary).unique(dim=0)
            keys.append(self._key(z))
            with torch.no_grad():
                found.append(torch.cat([net(part).float() for part in z.split(4096)]))
        keys = torch.cat(keys)
        order = keys.argsort()
        self.register_buffer("keys", keys[order])
        self.register_buffer("logits", torch.cat(found)[order])

    def _key(self, z: Tensor) -> Tensor:
        return (z * self.powers).sum(1)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits[torch.searchsorted(self.keys, self._key(z))]


def subsets(L: int) -> Tensor:
    """All but the empty one, (2^L − 1, L) bools."""
    return torch.arange(1, 1 << L)[:, None] >> torch.arange(L) & 1 > 0


@dataclass(frozen=True)
class CoverageCase:
    """A chain over counts of hidden places, and the mean of its exact bounds in nats."""

    chain: MaskedChain
    exact: float


def prepared(net: Callable[[Tensor], Tensor], x: Tensor, vocabulary: int) -> CoverageCase:
    """Of a network z (B, L) → logits (B, L, V) and sequences x (N, L)."""
    L, looked_up = x.shape[1], LookedUp(net, x, vocabulary)
    model = nelbo.tokens.from_callable(
        looked_up, vocabulary=vocabulary, length=L, kernel=nelbo.tokens.absorbing(vocabulary)
    )
    exact = torch.zeros(len(x), dtype=torch.float64)
    for hidden in subsets(L):
        log_p = looked_up(x.masked_fill(hidden, vocabulary)).double().log_softmax(-1)
        count = int(hidden.sum())
        exact += surprise(log_p, x)[:, hidden].mean(1) / math.comb(L, count)
    chain = prepare(model, x, Run(seed=0)).chain
    assert isinstance(chain, MaskedChain)
    return CoverageCase(replace(chain, all_hidden=chain.ask_all_hidden()), float(exact.mean()))


def oracle(sequences: int, sharpness: float = 1.0) -> CoverageCase:
    """Of a joint law with a few likely sequences."""
    V, L = 3, 5
    joint = torch.randn((V,) * L, generator=torch.Generator().manual_seed(1)).double().mul(1.5).exp()
    data = nelbo.exact.TokenData(joint)
    posterior = data.model().denoiser
    return prepared(lambda z: sharpness * posterior(z, z == V, None)[..., :V], data.sample(sequences, seed=1), V)


def letters(sequences: int, runs: Path, text: Path) -> CoverageCase:
    """Of held-out text, whose network is trained where the folder does not hold it."""
    import gzip

    import numpy as np

    written = gzip.decompress(text.read_bytes()).decode("latin-1").lower()
    numbers = np.array([ord(c) - 96 if "a" <= c <= "z" else 0 for c in " ".join(written.split())], dtype=np.int64)
    numbers = numbers[np.append(True, np.diff(numbers) != 0) | (numbers > 0)]  # one space for several
    split, path = int(0.92 * len(numbers)), runs / "letters.pt"
    net = Transformer(27, LETTERS)
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        net.eval()
    else:
        net = train("letters", numbers[:split], 27, LETTERS)
        runs.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    return prepared(net, torch.from_numpy(cut(numbers[split:], LETTERS.length)[:sequences]), 27)


def repeat(case: CoverageCase, how: Adaptive, seeds: range) -> list[dict]:
    """One dictionary an estimate, as of `coverage.repeat`."""
    unit, found = 1 / (case.chain.dimensions * math.log(2)), []
    for seed in seeds:
        chain, runner = replace(case.chain, seed=seed, observations=[]), Runner(Run(batch_size=8192), 8)
        with chain.model.denoiser.inference():
            estimate = how.estimate(chain, runner)
        found.append(
            {
                "error": (estimate.total.mean - case.exact) * unit,
                "se": math.sqrt(estimate.total.variance) * unit,
                "design": estimate.estimator["picked"],
                "stages": estimate.estimator["stages"],
                "nfe": runner.nfe,
                "noted": estimate.note is not None,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("oracle", "sharpened", "letters")
    parser.add_argument("--case", nargs="+", default=names, choices=names)
    parser.add_argument("--reps", type=int, default=2000)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--evaluations", type=float, nargs="*", default=[0.2, 0.5, 1, 2])
    parser.add_argument("--tolerance", type=float, nargs="*", default=[])
    parser.add_argument("--runs", type=Path, default=Path(__file__).parent / "runs" / "tokens")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--out", type=Path, help="write every repetition here, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NelboWarning)
    N, kept = given.sequences, []
    cases = {
        "oracle": lambda: oracle(N),
        "sharpened": lambda: oracle(N, SHARPNESS),
        "letters": lambda: letters(N, given.runs, given.text),
    }
    budgets = [(f"{k:g} a sequence", Adaptive(1e-6, math.floor(k * N), pilot=PILOT)) for k in given.evaluations]
    budgets += [(f"to {t:g} bits", Adaptive(t, pilot=PILOT)) for t in given.tolerance]
    print("| case | how | repetitions | covered | z | bias/SD | z | SE/SD | SE | evaluations | designs | CPU s each |")
    print("|-|-|-|-|-|-|-|-|-|-|-|-|", flush=True)
    for name in given.case:
        case = cases[name]()
        for label, how in budgets:
            began, rows = time.process_time(), []
            for first, last in pairwise([*range(0, given.reps, 100), given.reps]):
                rows += repeat(case, how, range(first, last))
                kept += [{"case": name, "how": label, **r} for r in rows[first:]]
                if given.out:
                    given.out.write_text(json.dumps(kept))
            s, seconds = coverage.summary(rows), (time.process_time() - began) / len(rows)
            designs = ", ".join(f"{n} {design}" for design, n in s["designs"].items())
            print(
                f"| {name} | {label} | {s['reps']} | {100 * s['coverage']:.1f} % | {s['z']:+.1f} | {s['bias']:+.3f} "
                f"| {s['bias_z']:+.1f} | {s['rms_sd']:.3f} | {s['se']:.4f} | {s['nfe'] / N:.2f} | {designs} "
                f"| {seconds:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
