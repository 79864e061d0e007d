"""K network evaluations against bits/dim: even and best steps under β̃, β and one fitted variance, and tightened.

    .venv/bin/python benchmarks/tightening.py [--only digits cifar16 fashion28 cifar32] [--steps 10 25 50] [--quick]

Models that `nelbo.train` made (`runs/NAME`, made there where they are missing), on images they were not trained on: one
part to fit to, another that every bound in the table is of. One fit serves all rows of a model.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from evaluation_cost import SHARED, UNET

import nelbo
from nelbo import evaluate
from nelbo.bound.difference import compare_results
from nelbo.bound.result import Bound
from nelbo.data import read
from nelbo.maths.stable import expm1_difference
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.reverse import Beta, BetaTilde
from nelbo.process.levels import Levels
from nelbo.tightening.candidates import Candidates, interpolated_at
from nelbo.tightening.decoders import DecoderKind, suitable_kinds
from nelbo.tightening.families import Family
from nelbo.tightening.plan import DecoderCosts, Fitting, bits, prior_costs
from nelbo.tightening.shortest_path import fixed_end
from nelbo.tightening.split import split
from nelbo.tightening.tighten import estimator_of
from nelbo.workers import Run


def case(name: str, runs: Path, quick: bool) -> tuple[DiffusionModel, torch.Tensor]:
    """A trained model and images that it has not seen."""
    steps = 100 if quick else 3000
    if name == "digits":
        path, recipe = runs / "digits", {"steps": 50 if quick else 1500}
        train, other = (read(f"digits:{part}").data for part in ("train", "test"))
    elif name == "fashion28":
        path, recipe = runs / name, {**UNET, "steps": steps}
        files = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
        train, other = (read(str(SHARED / "data/fashion_mnist" / file)).data[:, None] for file in files)
    else:
        images = np.load(SHARED / "data/cifar10_first4000/images.npz")["images_nchw"]
        if name == "cifar16":
            images = images.astype(float).reshape(4000, 3, 16, 2, 16, 2).mean((3, 5)).round().astype(np.uint8)
        path, recipe = runs / {"cifar16": "c16"}.get(name, name), {**UNET, "steps": steps}
        train, other = torch.from_numpy(images[:3000]), torch.from_numpy(images[3000:])
    if not (path / "model.json").exists():
        nelbo.train(train, path, recipe)
    model = nelbo.load(path)
    return model, other.reshape(len(other), *model.domain.shape)


class Results:
    """Bounds of one model's chains on the same held-out examples."""

    def __init__(self, held_out: Examples):
        self.held_out = held_out
        self.bounds: dict[str, Bound] = {}

    def bound(self, model: DiffusionModel, examples: Examples | None = None) -> Bound:
        """The bound of a chain, every example by itself."""
        some = self.held_out if examples is None else examples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return evaluate(model, some, estimator=estimator_of(model, len(some)), per_example=True)

    def row(self, name: str, model: DiffusionModel, promised: float = math.nan, more: str = "") -> Bound:
        """Print a row and keep its bound."""
        bound = self.bounds[name] = self.bound(model)
        said = "" if math.isnan(promised) else f"{promised:.3f}"
        print(
            f"| {name} | {bound.bits_per_dim:.3f} ± {bound.standard_error.estimator:.3f} | {said} | {more} |",
            flush=True,
        )
        return bound

    def difference(self, a: str, b: str) -> str:
        """a − b with its paired error."""
        found = compare_results(self.bounds[a], self.bounds[b])
        return f"{a} − {b} = {found.difference:+.3f} ± {found.standard_error.total:.3f}"


def report(name: str, options: argparse.Namespace) -> None:
    """The table of one model."""
    model, images = case(name, options.runs, options.quick)
    parts = split(model, Examples(images[: 2 * options.images], name), None, 0)
    fit_examples = parts.fit_examples
    candidates = Candidates.of(model)
    D, levels = model.domain.dimensions, candidates.levels
    table = Results(parts.held_out_examples)
    started = time.process_time()
    fitting = Fitting(candidates, fit_examples, {}, Run())
    measured, priced = fitting.covariances()
    cheapest = min(priced.values(), key=lambda one: np.diagonal(one.edges, 1).sum())
    sources, predictions = fitting.decoder_costs(cheapest.remaining(), suitable_kinds(model.domain))
    prior = prior_costs(predictions, levels)
    last = fixed_end(len(levels), len(levels) - 1, prior[-1])
    seconds = time.process_time() - started
    print(f"\n### {name}: D = {D}, {len(fit_examples)} images to fit, {len(parts.held_out)} held out\n")
    print(f"Fit: {fitting.nfe / len(fit_examples):.0f} evaluations an image, {seconds:.0f} s of processor time.\n")
    print("| chain | held-out bits/dim | by the fit | |\n|-|-|-|-|")
    table.row("as it was", model)
    rich = min((f for f in priced), key=lambda f: np.diagonal(priced[f].edges, 1).sum())
    if model.steps is not None and model.steps <= len(levels):
        table.row("as it was, β", candidates.with_parts(model.grid, Beta()))
        table.row("as it was, scalar", candidates.with_parts(model.grid, priced[Family.SCALAR].fit.policy))
        table.row(f"as it was, {rich.value}", candidates.with_parts(model.grid, priced[rich].fit.policy))
        for family, kind in ((Family.SCALAR, DecoderKind.GAUSSIAN), (rich, DecoderKind.CONTEXT)):
            if kind in sources.nats and model.grid.to_config().get("first", 0) == 0:
                name = f"as it was, {family.value}, {kind.value} decoder"
                table.row(name, candidates.with_parts(model.grid, priced[family].fit.policy, fitting.decoder(kind, 0)))
    mean_square = (measured.error.mean(1) / D).log()[:, None]
    curve = interpolated_at(levels, _at(levels, measured.logsnr), mean_square).exp()[:, 0]
    own = sources.at_first(DecoderKind.OWN)
    scalar = priced[Family.SCALAR]
    for K in (k for k in options.steps if k <= candidates.max_steps):
        fixed = {
            "β̃": (BetaTilde(), fixed_edges(levels, curve, D, 0.0)),
            "β": (Beta(), fixed_edges(levels, curve, D, 1.0)),
        }
        ways = {**({} if options.brief else fixed), "scalar": (scalar.fit.policy, scalar.edges)}
        for said, (policy, edges) in ways.items():
            if not options.brief:
                table.row(f"{K} even, {said}", candidates.with_parts(candidates.even(K), policy))
            paths = own.paths(edges, last, K)
            table.row(
                f"{K} best, {said}",
                candidates.with_parts(candidates.grid(paths.chain(K)[0]), policy),
                bits(model, paths.cost[K]),
            )
        for said, among, families in (
            ("own decoder", own, priced),
            ("scalar, gaussian", only_kinds(sources, [DecoderKind.GAUSSIAN]), {Family.SCALAR: scalar}),
            ("gaussian", only_kinds(sources, [DecoderKind.GAUSSIAN]), priced),
            ("context", only_kinds(sources, [DecoderKind.CONTEXT]), priced),
            ("histograms", only_kinds(sources, [DecoderKind.HISTOGRAM, DecoderKind.PIXEL]), priced),
            ("all decoders", sources, priced),
        ):
            found = fitting.plans(measured, families, among, prior, K, lambda paths, K=K: K if paths.has(K) else None)
            if not found:
                continue
            plan = min(found.values(), key=lambda p: p.nats)
            tight = candidates.with_parts(
                candidates.grid(plan.chain), plan.fit.policy, fitting.decoder(plan.decoder, plan.chain[0])
            )
            start = float(levels.logsnr[plan.chain[0]])
            what = f"{plan.family.value}, {plan.decoder.value} at λ = {start:.1f}"
            fitted = table.bound(tight, fit_examples.first(100)).bits_per_dim if said == "all decoders" else math.nan
            what += "" if math.isnan(fitted) else f"; on fit images {fitted:.3f}"
            table.row(f"{K} tight, {said}", tight, bits(model, plan.nats), what)
    if candidates.max_steps >= 50 and "50 even, scalar" not in table.bounds and not options.brief:
        table.row("50 even, scalar", candidates.with_parts(candidates.even(50), scalar.fit.policy))
    print()
    for a, b in (
        ("as it was", "25 tight, all decoders"),
        ("as it was", "25 tight, gaussian"),
        ("50 even, scalar", "10 tight, all decoders"),
        ("50 even, scalar", "10 tight, gaussian"),
        *((f"{K} best, scalar", f"{K} tight, own decoder") for K in options.steps),
        ("as it was, scalar", f"as it was, {rich.value}"),
        ("as it was, scalar, gaussian decoder", f"as it was, {rich.value}, context decoder"),
        *((f"{K} tight, scalar, gaussian", f"{K} tight, gaussian") for K in options.steps),
        *((f"{K} tight, scalar, gaussian", f"{K} tight, context") for K in options.steps),
    ):
        if a in table.bounds and b in table.bounds:
            print(f"- {table.difference(a, b)}", flush=True)


def only_kinds(sources: DecoderCosts, kinds: list[DecoderKind]) -> DecoderCosts:
    """Of the decoders only some kinds."""
    return DecoderCosts({kind: v for kind, v in sources.nats.items() if kind in kinds}, sources.calls)


def fixed_edges(levels: Levels, error: torch.Tensor, dimensions: int, f: float) -> np.ndarray:
    """F (M, M) in nats an example of steps whose variance is fixed: log v = log β̃ + f log(β/β̃); f = 0: β̃, f = 1: β.

    error (M,): E(x − x̂)² an element at every candidate, e_j. With δ_ij = SNR_i − SNR_j, β/β̃ = σ_j²/σ_i²,

        F_ij = ½ D [(1 + δ_ij e_j) (β̃/β)^f − 1 + f log(β/β̃)].
    """
    delta = expm1_difference(levels.logsnr[:, None], levels.logsnr[None]).clamp_min(0.0)
    ratio = (2 * f * (levels.log_sigma[None] - levels.log_sigma[:, None])).clamp_min(0.0)
    return (0.5 * dimensions * (torch.expm1(-ratio) + delta * error * torch.exp(-ratio) + ratio)).numpy()


def _at(levels, logsnr: torch.Tensor):
    """The candidates at these log-SNRs."""
    return levels[(levels.logsnr[:, None] - logsnr).abs().argmin(0)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["digits", "cifar16", "fashion28", "cifar32"])
    parser.add_argument("--steps", nargs="*", type=int, default=[10, 25, 50])
    parser.add_argument("--images", type=int, default=300, help="to fit to, and as many held out")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--brief", action="store_true", help="without even steps, and without steps under β and β̃")
    parser.add_argument("--quick", action="store_true", help="small models and few images, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.images, options.runs, options.steps = 48, Path("runs/quick"), options.steps[:1]
    print(f"nelbo {nelbo.__version__}, torch {torch.__version__}, one thread")
    for name in options.only:
        report(name, options)


if __name__ == "__main__":
    main()
