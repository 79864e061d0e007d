"""Training at equal time: nelbo's default against the recipes that people run, all scored by one engine.

    python benchmarks/training.py --minutes 10 --seeds 0 1     # every arm, rate and seed not done yet
    python benchmarks/training.py --quick                      # does it run: seconds an arm
    python benchmarks/training.py --ablate --minutes 5         # the default with one ingredient changed
    python benchmarks/training.py --table                      # what the finished runs say

Data: Fashion-MNIST, 28 × 28, 256 levels. One run is one JSON under --out, written when it is done; what is there is not
run again, so that a session may be cut off anywhere. Arms (about as many parameters each, `PARAMETERS` ± 10 %):

    nelbo       what `nelbo train` does with such images by itself
    diffusers   examples/unconditional_image_generation of diffusers, restated: UNet2DModel, ε, L_simple, linear
                T = 1000, AdamW (0.95, 0.999), weight decay 1e-6, 500 steps of warm-up, cosine decay, EMA up to
                0.9999 by a power law
    lucidrains  denoising_diffusion_pytorch: its Unet and GaussianDiffusion (v, sigmoid table, T = 1000), Adam
                (0.9, 0.99), EMA 0.995 every 10 steps
    hybrid      improved-diffusion restated in nelbo's loop: cosine T = 4000, L_simple + 0.001 L_vlb, learned range

Two numbers a run, never mixed: (a) `as_scored`, the bound as the recipe's users would score it, at the best of the
variances β, β̃, one fitted a step (and the network's own), with x̂ clipped and not; (b) `best`, the same checkpoint with
the decoder N(z; αx, σ²) × training histogram, the first level where that is best, and the fitted variance.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import nelbo
from nelbo.data import read
from nelbo.files import write_atomic
from nelbo.maths import random
from nelbo.model.decoder import Categorical, DiscretizedGaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.reverse import Clip, Reverse, VarianceTable, parse_variance
from nelbo.process import forward, grid
from nelbo.process import schedule as schedules
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.loop import train
from nelbo.training.recipe import with_recipe
from nelbo.training.run import Run

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "fashion_mnist"
DOMAIN = DataDomain((1, 28, 28), 256)
T = 1000
PARAMETERS = 1_340_000
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
BATCH = 32
ABLATIONS = {
    "default": {},
    "low-discrepancy t": {"objective": {"t": "low_discrepancy"}},
    "uniform t": {"objective": {"t": "uniform"}},
    "learned schedule": {"objective": {"t": "low_discrepancy"}, "schedule": "learned"},
    "log-SNR to 13.3": {"schedule": {"logsnr_max": 13.3}},
    "Fourier features": {"net": {"fourier": [1, 2, 4]}},
    "full resolution": {"net": {"patch": 1, "width": 16, "multipliers": [1, 2, 6]}},
    "eps, histogram decoder": {
        "net": {"name": "unet", "head": "plain", "predicts": "eps", "width": 48, "multipliers": [1, 2]},
        "decoder": "histogram", "clip": True,
    },
    "sigmoid weighting": {"objective": {"name": "sigmoid", "t": "importance", "bias": 4.0}},
}  # fmt: skip


def images(quick: bool) -> tuple[Examples, Tensor, Tensor]:
    """Training examples, training images to fit variances on, and held-out images, (N, 1, 28, 28)."""
    train_set, test = (read(str(DATA / f"{n}-images-idx3-ubyte.gz")) for n in ("train", "t10k"))
    shaped = dataclasses.replace(train_set, data=train_set.data.reshape(-1, 1, 28, 28))
    few = 64 if quick else 1000
    return shaped, shaped.data[: 48 if quick else 200], test.data[:few].reshape(-1, 1, 28, 28)


# ---------------------------------------------------------------- the arms: a network trained for `seconds`


class Clock:
    """Time of training; the learning rate follows the share that is spent."""

    def __init__(self, seconds: float):
        self.seconds, self.started = seconds, time.perf_counter()

    @property
    def spent(self) -> float:
        return (time.perf_counter() - self.started) / self.seconds


def steps_in(seconds: float, settings: dict, examples: Examples) -> int:
    """Steps that nelbo's loop does in the time: its own first steps say how long one takes."""
    chosen = check_config({**settings, "steps": 1000})
    run = Run.of(build_model(examples, chosen), examples, chosen)
    for _ in range(3):
        run.advance()
    started = time.perf_counter()
    for _ in range(8):
        run.advance()
    return max(2, int(seconds * 8 / (time.perf_counter() - started)))


def by_nelbo(changes: dict) -> Callable[..., DiffusionModel]:
    """nelbo's loop with the recipe for images and `changes` on top."""

    def run(examples: Examples, seconds: float, rate: float, seed: int, folder: Path) -> DiffusionModel:
        given = {"lr": rate, "seed": seed, "batch_size": BATCH, **changes}
        settings = dict(with_recipe(given, examples))  # type: ignore[arg-type]
        if "name" in changes.get("net", {}):  # an own network gets nothing from the recipe but its optimiser
            settings = {**dict(with_recipe({}, examples)), **settings}  # type: ignore[arg-type]
        settings["steps"] = steps_in(seconds, settings, examples)
        return train(examples, folder, settings, resume=True)

    return run


HYBRID = by_nelbo({
    "net": {"name": "unet", "head": "plain", "predicts": "eps", "width": 48, "multipliers": [1, 2], "patch": 2},
    "objective": {"name": "hybrid", "t": "uniform"}, "schedule": {"name": "cosine", "T": 4000},
    "variance": "learned_range", "levels": None, "ema": 0.999, "weight_decay": 0.0,
})  # fmt: skip


def by_diffusers(examples: Examples, seconds: float, rate: float, seed: int, folder: Path) -> DiffusionModel:
    """diffusers' unconditional training, restated: its UNet2DModel; L_simple on its table in float64."""
    from diffusers import UNet2DModel
    from diffusers.training_utils import EMAModel

    from nelbo.nets.diffusers import DiffusersNet

    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(40, 80),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(net.parameters(), rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    table = schedules.linear(T)
    alpha, sigma = (v.float() for v in (table.at_index(torch.arange(T)).alpha, table.at_index(torch.arange(T)).sigma))
    clock = Clock(seconds)
    step = 0
    while clock.spent < 1:
        warm = min(1.0, (step + 1) / min(500, 20 + step / max(clock.spent, 1e-3) / 10))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, clock.spent)))
        x = DOMAIN.values(examples.data[torch.randint(len(examples.data), (BATCH,))]).float()
        t, eps = torch.randint(T, (BATCH,)), torch.randn(x.shape)
        z = alpha[t][:, None, None, None] * x + sigma[t][:, None, None, None] * eps
        loss = (net(z, t, return_dict=False)[0] - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        ema.step(net.parameters())
        step += 1
    ema.copy_to(net.parameters())
    return _wrapped(DiffusersNet(net, "unet2d").eval(), table, "eps", step)


def by_lucidrains(examples: Examples, seconds: float, rate: float, seed: int, folder: Path) -> DiffusionModel:
    """denoising_diffusion_pytorch's own Unet, GaussianDiffusion and optimiser, as its Trainer drives them."""
    sys.path.insert(0, str(ROOT))
    from tests.parity.peers import peer

    module = peer("denoising_diffusion_pytorch", "denoising_diffusion_pytorch")
    torch.manual_seed(seed)
    net = module.Unet(dim=24, dim_mults=(1, 2, 3), channels=1, flash_attn=False)
    diffusion = module.GaussianDiffusion(net, image_size=28, timesteps=T)
    optimizer = torch.optim.Adam(diffusion.parameters(), rate, betas=(0.9, 0.99))
    average = {k: v.clone() for k, v in net.state_dict().items()}
    clock = Clock(seconds)
    step = 0
    while clock.spent < 1:
        x = examples.data[torch.randint(len(examples.data), (BATCH,))].float() / 255  # it maps [0, 1] to [−1, 1] itself
        loss = diffusion(x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 10 == 0:
            for k, v in net.state_dict().items():
                average[k].lerp_(v, 1 - 0.995) if v.is_floating_point() and step > 100 else average[k].copy_(v)
    net.load_state_dict(average)
    table = schedules.from_alphas_cumprod(diffusion.alphas_cumprod.double())
    return _wrapped(net.eval(), table, "v", step)


def _wrapped(net: nn.Module, table, predicts: str, steps: int) -> DiffusionModel:
    model = nelbo.from_callable(net, schedule=table, domain=DOMAIN, predicts=predicts, time="index")
    return dataclasses.replace(
        model, provenance={"steps": steps, "parameters": sum(p.numel() for p in net.parameters())}
    )


ARMS = {"nelbo": by_nelbo({}), "diffusers": by_diffusers, "lucidrains": by_lucidrains, "hybrid": HYBRID}


# ---------------------------------------------------------------- scores


def fitted(model: DiffusionModel, fit: Tensor, points: int = 24) -> tuple[VarianceTable, float]:
    """The variance of every step that is best for `fit`, a number a step, and of a Gaussian decoder at the first level.

    v_i = β̃_i + k_i² E(x − x̂)² with k_i the weight of x in the posterior mean (Bao et al. 2022, eq. 13), E measured at
    `points` levels and joined up in log-log between them; all from training images.
    """
    levels = model.levels()
    last = len(levels) - 1
    at = torch.unique(torch.logspace(0, math.log10(last + 1), points).round().long() - 1)
    x = DOMAIN.values(fit)
    errors = []
    for i in at.tolist():
        t = levels[i : i + 1].expand(len(x))
        eps = random.normal(5, torch.arange(len(x)), i, 0, DOMAIN.shape)
        with torch.no_grad():
            errors.append(float((x - model.predict(forward.noised(x, eps, t), t).x0).square().mean()))
    position = torch.log(torch.arange(last + 1).double() + 1)
    known, value = torch.log(at.double() + 1), torch.tensor(errors).double().clamp(min=1e-12).log()
    k = torch.searchsorted(known, position).clamp(1, len(known) - 1)
    part = (position - known[k - 1]) / (known[k] - known[k - 1])
    error = (value[k - 1] + part * (value[k] - value[k - 1])).exp()
    posterior = forward.posterior(levels[:-1], levels[1:])
    table = torch.cat([error[:1], posterior.variance + posterior.x_coefficient.square() * error[1:]])
    return VarianceTable(table), float(error[0])


def scored(model: DiffusionModel, test: Tensor, tolerance: float) -> dict:
    """Bits/dim of `test` with its error bar, as `nelbo.evaluate` says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound = nelbo.evaluate(model, test, tolerance=tolerance, seed=1)
    return {"bits_per_dim": bound.bits_per_dim, "standard_error": bound.standard_error.estimator}


def score(model: DiffusionModel, fit: Tensor, test: Tensor, tolerance: float) -> dict:
    """Every way that a checkpoint may be scored; `as_scored` and `best` are the lowest of theirs."""
    if model.schedule.table_length is None:
        own = {"own": scored(model, test, tolerance)}
        return {"ways": own, "as_scored": own["own"], "best": own["own"]}
    ways, best = {}, {}
    model = dataclasses.replace(model, grid=grid.full())
    for name, clip in (("", None), (", clipped", Clip(DOMAIN.low, DOMAIN.high))):
        base = dataclasses.replace(model, reverse=Reverse(parse_variance("beta_tilde"), clip))
        variance, of_decoder = fitted(base, fit)
        for policy in ("beta_tilde", "beta"):
            chosen = parse_variance(policy)
            ends = model.schedule.at_index(torch.tensor([0, 1]))
            decoder = DiscretizedGaussian(float(chosen.of_decoder(ends[0], ends[1])))  # type: ignore[arg-type]
            ways[policy + name] = scored(
                dataclasses.replace(base, reverse=Reverse(chosen, clip), decoder=decoder), test, tolerance
            )
        if model.reverse.variance.learned:
            own = dataclasses.replace(base, reverse=Reverse(model.reverse.variance, clip), decoder=model.decoder)
            ways["learned" + name] = scored(own, test, tolerance)
        analytic = dataclasses.replace(base, reverse=Reverse(variance, clip), decoder=DiscretizedGaussian(of_decoder))
        ways["analytic" + name] = scored(analytic, test, tolerance)
        if clip is not None:
            histogram = Categorical.from_histogram(training_codes(), DOMAIN)
            for first in (0, 1, 2, 4, 7, 11):
                cut = dataclasses.replace(analytic, decoder=histogram, grid=grid.full(first))
                best[f"histogram decoder at step {first + 1}"] = scored(cut, test, tolerance)
    lowest = min(ways.values(), key=lambda w: w["bits_per_dim"])
    return {
        "ways": ways | best, "as_scored": lowest,
        "best": min([*ways.values(), *best.values()], key=lambda w: w["bits_per_dim"]),
    }  # fmt: skip


def training_codes() -> Tensor:
    """Codes (N, 1, 28, 28) of the whole training set, for the histogram."""
    return read(str(DATA / "train-images-idx3-ubyte.gz")).data.reshape(-1, 1, 28, 28)


# ---------------------------------------------------------------- runs


def one(path: Path, arm: str, make: Callable[..., DiffusionModel], rate: float, seed: int, options) -> None:
    """Train, score and write one run, unless `path` is there."""
    if path.exists():
        return
    examples, fit, test = images(options.quick)
    seconds = 6.0 if options.quick else 60 * options.minutes
    print(f"{path.stem}: training for {seconds:.0f} s", file=sys.stderr, flush=True)
    started, cpu = time.perf_counter(), time.process_time()
    model = make(examples, seconds, rate, seed, options.out / "models" / path.stem)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    parameters = model.provenance.get("parameters") or model.parameters
    steps = model.provenance.get("steps") or model.provenance.get("config", {}).get("steps")
    result = {
        "arm": arm, "lr": rate, "seed": seed, "minutes": seconds / 60, "parameters": parameters, "steps": steps,
        **spent,
        "images": len(test), "load": os.getloadavg()[0], "torch": torch.__version__, "nelbo": nelbo.__version__,
        **score(model, fit, test, 0.05 if options.quick else 0.005),
    }  # fmt: skip
    write_atomic(path, json.dumps(result, indent=1))
    print(f"{path.stem}: {result['as_scored']} best {result['best']}", file=sys.stderr, flush=True)


def table(out: Path) -> None:
    """Markdown of the finished runs: of every arm its best learning rate, over its seeds."""
    runs = [json.loads(p.read_text()) for p in sorted(out.glob("*.json"))]
    print("| arm | minutes | lr | seeds | parameters | steps | as its users score it | at its best decoder and end |")
    print("|-|-|-|-|-|-|-|-|")
    for arm, minutes in sorted({(r["arm"], r["minutes"]) for r in runs}):
        of = [r for r in runs if (r["arm"], r["minutes"]) == (arm, minutes)]

        def mean(rate: float, key: str, of=of) -> float:
            values = [r[key]["bits_per_dim"] for r in of if r["lr"] == rate]
            return sum(values) / len(values)

        rate = min({r["lr"] for r in of}, key=lambda v: mean(v, "best"))
        those = [r for r in of if r["lr"] == rate]
        spread = [max(r[k]["bits_per_dim"] for r in those) - min(r[k]["bits_per_dim"] for r in those)
                  for k in ("as_scored", "best")]  # fmt: skip
        print(
            f"| {arm} | {minutes:g} | {rate:g} | {len(those)} | {those[0]['parameters']} | {those[0]['steps']} "
            f"| {mean(rate, 'as_scored'):.3f} (range {spread[0]:.3f}) "
            f"| {mean(rate, 'best'):.3f} (range {spread[1]:.3f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training a run, wall time")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--rates", nargs="+", type=float, default=list(RATES), help="learning rates, for every arm alike"
    )
    parser.add_argument("--ablate", action="store_true", help="nelbo's default with one ingredient changed, seed 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.out, options.rates, options.seeds = options.out / "quick", options.rates[:1], [0]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        table(options.out)
        return
    minutes = "quick" if options.quick else f"{options.minutes:g}m"
    with contextlib.suppress(KeyboardInterrupt):
        if options.ablate:
            for name, changes in ABLATIONS.items():
                label = f"ablate {name}"
                one(
                    options.out / f"{label.replace(' ', '_')}-{minutes}.json",
                    label,
                    by_nelbo(changes),
                    2e-3,
                    0,
                    options,
                )
        else:
            # the first seed tunes the learning rate of every arm; the others run at the best
            for arm in options.arms:
                found = {}
                for rate in options.rates:
                    path = options.out / f"{arm}-{minutes}-{rate:g}-{options.seeds[0]}.json"
                    one(path, arm, ARMS[arm], rate, options.seeds[0], options)
                    found[rate] = json.loads(path.read_text())["best"]["bits_per_dim"]
                rate = min(found, key=found.__getitem__)
                for seed in options.seeds[1:]:
                    one(options.out / f"{arm}-{minutes}-{rate:g}-{seed}.json", arm, ARMS[arm], rate, seed, options)
    table(options.out)


if __name__ == "__main__":
    main()
