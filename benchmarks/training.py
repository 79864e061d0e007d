"""Training at equal time: nelbo's default against the recipes that people run, all scored by one engine.

    python benchmarks/training.py --pace                       # seconds a step of every arm, on an idle machine
    python benchmarks/training.py --tune --minutes 1 --tolerance 0.03     # which learning rate suits each arm
    python benchmarks/training.py --minutes 10 --arms nelbo --rates 2e-3 --seeds 0 1
    python benchmarks/training.py --ablate --minutes 5 --rates 2e-3          # one ingredient changed
    python benchmarks/training.py --table                      # what the finished runs say
    python benchmarks/training.py --quick                      # does it run: seconds an arm

Equal time is equal time on an idle machine: `--pace` times the steps of all arms taking turns, and a run of M minutes
does 60 M/pace steps, whenever and beside whatever it is run.

Data: Fashion-MNIST, 28 × 28, 256 levels. One run is one JSON under --out, written when it is done; what is there is not
run again, so that the whole may be cut off anywhere. Arms, of as many parameters within 10 %, in three scales:

    nelbo       what `nelbo train` does with such images by itself
    latent      the same loop with latent=conv: encoder, decoder and a chain over 4×7×7 latents for one bound; then
                "best" is with the likelihood that `nelbo tighten` fits
    diffusers   examples/unconditional_image_generation of diffusers, restated: UNet2DModel, ε, L_simple, linear
                T = 1000, AdamW (0.95, 0.999), weight decay 1e-6, 500 steps of warm-up, cosine decay, EMA up to
                0.9999 by a power law
    lucidrains  denoising_diffusion_pytorch: its Unet and GaussianDiffusion (v, sigmoid table, T = 1000), Adam
                (0.9, 0.99), EMA 0.995 every 10 steps
    hybrid      improved-diffusion restated in nelbo's loop, with AdamW and a plain U-Net: cosine T = 4000,
                L_simple + 0.001 L_vlb, learned range

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
import statistics
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
from nelbo.nets.diffusers import DiffusersNet
from nelbo.process import forward, grid
from nelbo.process import schedule as schedules
from nelbo.training import TrainConfig, check_config
from nelbo.training.build import build_model
from nelbo.training.loop import train
from nelbo.training.recipe import with_recipe
from nelbo.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "fashion_mnist"
DOMAIN = DataDomain((1, 28, 28), 256)
CLIP = Clip(DOMAIN.low, DOMAIN.high)
T = 1000
RATES = (1e-3, 2e-3, 4e-3)
BATCH = 32
FIRST = (9.0, 8.5, 8.0, 7.5, 7.0)
"""Log-SNRs at which a chain with a histogram decoder is tried to begin, besides its own."""
UNET = {"name": "unet", "head": "plain", "predicts": "eps", "width": 16, "multipliers": [1, 3, 6], "patch": 1}
ABLATIONS = {
    "default": {},
    "AdamW": {"optimizer": "adamw"},
    "no noise units": {"net": {"noise_units": False}},
    "no end gate": {"net": {"end_gate": False}},
    "nearest up": {"net": {"shuffle": False}},
    "attention": {"net": {"attention": True}},
    "16 channels at the finest scale": {"net": {"width": 16, "multipliers": [1, 3, 6]}},
    "space-to-depth stem": {"net": {"width": 64, "multipliers": [1, 1.5], "patch": 2}},
    "Fourier features": {"net": {"fourier": [1, 2, 4]}},
    "v": {"net": {"predicts": "v"}},
    "histogram decoder": {"decoder": "histogram"},
    "low-discrepancy t": {"objective": {"t": "low_discrepancy"}},
    "uniform t": {"objective": {"t": "uniform"}},
    "learned schedule": {"objective": {"t": "low_discrepancy"}, "schedule": {"name": "learned"}},
    "log-SNR to 13.3": {"schedule": {"logsnr_max": 13.3}},
}
"""The default with one ingredient changed."""


def images(quick: bool) -> tuple[Examples, Tensor, Tensor]:
    """Training examples, training images to fit variances on, and held-out images, (N, 1, 28, 28)."""
    train_set, test = (read(str(DATA / f"{n}-images-idx3-ubyte.gz")) for n in ("train", "t10k"))
    shaped = dataclasses.replace(train_set, data=train_set.data.reshape(-1, 1, 28, 28))
    few = 64 if quick else 1000
    return shaped, shaped.data[: 48 if quick else 200], test.data[:few].reshape(-1, 1, 28, 28)


# ---------------------------------------------------------------- the arms: something that does `steps` steps


class Nelbo:
    """nelbo's loop with the recipe for images and `changes` on top."""

    def __init__(self, changes: dict):
        self.changes = changes

    def settings(self, examples: Examples, steps: int, rate: float, seed: int) -> TrainConfig:
        given = {"lr": rate, "seed": seed, "batch_size": BATCH, **self.changes, "steps": steps}
        settings = with_recipe(given, examples)  # type: ignore[arg-type]
        if "name" in self.changes.get("net", {}):  # an own network gets nothing from the recipe but its optimiser
            settings = {**dict(with_recipe({}, examples)), **settings}  # type: ignore[arg-type]
        return check_config(settings)

    def start(self, examples: Examples, steps: int, rate: float, seed: int) -> Trainer:
        settings = self.settings(examples, steps, rate, seed)
        return Trainer.alone(build_model(examples, settings), examples, settings)

    def train(self, examples: Examples, steps: int, rate: float, seed: int, folder: Path) -> DiffusionModel:
        return train(examples, folder, self.settings(examples, steps, rate, seed), resume=True)


class Plain:
    """A recipe that is not nelbo's: `start` makes something with `advance()` and, at the end, `model()`."""

    def __init__(self, start: Callable[..., DiffusersLoop | LucidrainsLoop]):
        self.start = start

    def train(self, examples: Examples, steps: int, rate: float, seed: int, folder: Path) -> DiffusionModel:
        loop = self.start(examples, steps, rate, seed)
        for step in range(steps):
            loop.advance()
            if step % 100 == 99:
                print(f"{folder.name}: {step + 1} of {steps} steps", file=sys.stderr, flush=True)
        return loop.model()


class DiffusersLoop:
    """diffusers' unconditional training, restated: its UNet2DModel; L_simple on its table in float64."""

    def __init__(self, examples: Examples, steps: int, rate: float, seed: int):
        from diffusers import UNet2DModel
        from diffusers.training_utils import EMAModel

        torch.manual_seed(seed)
        self.net = UNet2DModel(
            sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 48, 88),
            norm_num_groups=8, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        self.ema = EMAModel(self.net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), rate, (0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        warmup = min(500, max(20, steps // 10))
        self.rates = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps)),
        )
        self.table = schedules.linear(T)
        levels = self.table.at_index(torch.arange(T))
        self.alpha, self.sigma = levels.alpha.float(), levels.sigma.float()
        self.data, self.step = examples.data, 0

    def advance(self) -> None:
        x = DOMAIN.values(self.data[torch.randint(len(self.data), (BATCH,))]).float()
        t, eps = torch.randint(T, (BATCH,)), torch.randn(x.shape)
        z = self.alpha[t][:, None, None, None] * x + self.sigma[t][:, None, None, None] * eps
        loss = (self.net(z, t, return_dict=False)[0] - eps).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        self.ema.step(self.net.parameters())
        self.step += 1

    def model(self) -> DiffusionModel:
        self.ema.copy_to(self.net.parameters())
        return _wrapped(DiffusersNet(self.net, "unet2d").eval(), self.table, "eps", self.step)


class LucidrainsLoop:
    """denoising_diffusion_pytorch's own Unet, GaussianDiffusion and optimiser, as its Trainer drives them."""

    def __init__(self, examples: Examples, steps: int, rate: float, seed: int):
        sys.path.insert(0, str(ROOT))
        from tests.parity.peers import peer

        module = peer("denoising_diffusion_pytorch", "denoising_diffusion_pytorch")
        torch.manual_seed(seed)
        self.net = module.Unet(dim=16, dim_mults=(1, 2, 6), channels=1, flash_attn=False)
        self.diffusion = module.GaussianDiffusion(self.net, image_size=28, timesteps=T)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), rate, betas=(0.9, 0.99))
        self.average = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.data, self.step = examples.data, 0

    def advance(self) -> None:
        x = self.data[torch.randint(len(self.data), (BATCH,))].float() / 255  # it maps [0, 1] to [−1, 1] itself
        loss = self.diffusion(x)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.step % 10 == 0:
            for k, v in self.net.state_dict().items():
                if v.is_floating_point() and self.step > 100:
                    self.average[k].lerp_(v, 1 - 0.995)
                else:
                    self.average[k].copy_(v)

    def model(self) -> DiffusionModel:
        self.net.load_state_dict(self.average)
        table = schedules.from_alphas_cumprod(self.diffusion.alphas_cumprod.double())
        return _wrapped(self.net.eval(), table, "v", self.step)


def _wrapped(net: nn.Module, table, predicts: str, steps: int) -> DiffusionModel:
    model = nelbo.from_callable(net, schedule=table, domain=DOMAIN, predicts=predicts, time="index")
    return dataclasses.replace(
        model, provenance={"steps": steps, "parameters": sum(p.numel() for p in net.parameters())}
    )


HYBRID = {
    "net": UNET, "objective": {"name": "hybrid", "t": "uniform"}, "schedule": {"name": "cosine", "T": 4000},
    "variance": "learned_range", "levels": None, "ema": 0.999, "weight_decay": 0.0, "decoder": "plain", "clip": False,
    "optimizer": "adamw", "reconstruction_share": 0.125,
}  # fmt: skip
ARMS: dict[str, Nelbo | Plain] = {
    "nelbo": Nelbo({}), "latent": Nelbo({"latent": {"name": "conv"}}), "diffusers": Plain(DiffusersLoop),
    "lucidrains": Plain(LucidrainsLoop), "hybrid": Nelbo(HYBRID),
}  # fmt: skip


def paces(arms: dict[str, Nelbo | Plain], examples: Examples, rounds: int) -> dict[str, float]:
    """Seconds a step of every arm: medians of rounds in which the arms take turns, three steps each."""
    runs = {name: arm.start(examples, 1000, 1e-3, 0) for name, arm in arms.items()}
    seen: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            for _ in range(3):
                started = time.perf_counter()
                run.advance()
                if turn:  # the first turn warms up
                    seen[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seen.items()}


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
        # a network that was not trained (--quick) would never reach the tolerance
        bound = nelbo.evaluate(model, test, tolerance=tolerance, seed=1, max_nfe=max(1000, 20 * len(test)))
    return {"bits_per_dim": bound.bits_per_dim, "standard_error": bound.standard_error.estimator}


def ways_of(model: DiffusionModel, fit: Tensor) -> tuple[dict[str, DiffusionModel], dict[str, DiffusionModel]]:
    """A recipe's checkpoint as its users may score it, and with a better decoder and first level."""
    if isinstance(model, nelbo.LatentModel):
        fits = {"local scale": {"kind": "logistic", "local": True}, "reads the codes before": {"kind": "context"}}
        return {"own": model}, {name: nelbo.latent.fit_likelihood(model, fit, **how) for name, how in fits.items()}
    if model.schedule.table_length is None:
        ways = {"own": model}
        if model.reverse.clip is not None:
            ways["not clipped"] = dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, clip=None))
        return ways, {}
    ways, better = {}, {}
    model = dataclasses.replace(model, grid=grid.full())
    for name, clip in (("", None), (", clipped", CLIP)):
        base = dataclasses.replace(model, reverse=Reverse(parse_variance("beta_tilde"), clip))
        variance, of_decoder = fitted(base, fit)
        for policy in ("beta_tilde", "beta"):
            chosen = parse_variance(policy)
            ends = model.schedule.at_index(torch.tensor([0, 1]))
            decoder = DiscretizedGaussian(float(chosen.of_decoder(ends[0], ends[1])))  # type: ignore[arg-type]
            ways[policy + name] = dataclasses.replace(base, reverse=Reverse(chosen, clip), decoder=decoder)
        if model.reverse.variance.learned:
            own = Reverse(model.reverse.variance, clip)
            ways["learned" + name] = dataclasses.replace(base, reverse=own, decoder=model.decoder)
        analytic = dataclasses.replace(base, reverse=Reverse(variance, clip), decoder=DiscretizedGaussian(of_decoder))
        ways["analytic" + name] = analytic
        if clip is not None:
            histogram = Categorical.from_histogram(training_codes(), DOMAIN)
            logsnr = model.levels().logsnr
            for first in sorted({0} | {int((logsnr - v).abs().argmin()) for v in FIRST}):
                name = f"histogram decoder at step {first + 1}, log-SNR {float(logsnr[first]):.1f}"
                better[name] = dataclasses.replace(analytic, decoder=histogram, grid=grid.full(first))
    return ways, better


def score(model: DiffusionModel, fit: Tensor, test: Tensor, tolerance: float) -> dict:
    """Every way of scoring a checkpoint to five tolerances, and the lowest of each kind once more to one."""
    ways, better = ways_of(model, fit)
    rough = {name: scored(m, test, 5 * tolerance) for name, m in (ways | better).items()}

    def lowest(names) -> str:
        return min(names, key=lambda name: rough[name]["bits_per_dim"])

    as_scored = "own" if "own" in ways else lowest(ways)
    best = lowest(better) if better else as_scored
    final = {name: scored((ways | better)[name], test, tolerance) for name in {as_scored, best}}
    return {
        "ways": rough, "as_scored": {"way": as_scored, **final[as_scored]}, "best": {"way": best, **final[best]},
    }  # fmt: skip


def rough_score(model: DiffusionModel, fit: Tensor, test: Tensor, tolerance: float) -> dict:
    """What tells learning rates apart, in a tenth of the time: one way of scoring, on some of the images."""
    if not isinstance(model, nelbo.LatentModel) and model.schedule.table_length is not None:
        model = dataclasses.replace(model, grid=grid.full(), reverse=Reverse(parse_variance("beta_tilde"), CLIP))
        variance, of_decoder = fitted(model, fit[:64], points=12)
        model = dataclasses.replace(model, reverse=Reverse(variance, CLIP), decoder=DiscretizedGaussian(of_decoder))
    found = scored(model, test[:300], tolerance)
    return {"ways": {"rough": found}, "as_scored": found, "best": found}


def training_codes() -> Tensor:
    """Codes (N, 1, 28, 28) of the whole training set, for the histogram."""
    return read(str(DATA / "train-images-idx3-ubyte.gz")).data.reshape(-1, 1, 28, 28)


# ---------------------------------------------------------------- runs


def one(path: Path, name: str, arm: Nelbo | Plain, rate: float, seed: int, pace: float, options) -> None:
    """Train, score and write one run, unless `path` is there."""
    if path.exists():
        return
    examples, fit, test = images(options.quick)
    steps = 6 if options.quick else max(2, round(60 * options.minutes / pace))
    print(f"{path.stem}: {steps} steps of {pace:.3f} s", file=sys.stderr, flush=True)
    started, cpu = time.perf_counter(), time.process_time()
    model = arm.train(examples, steps, rate, seed, options.out / "models" / path.stem)
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    result = {
        "arm": name + (" (rough)" if options.tune else ""), "lr": rate, "seed": seed,
        "minutes": options.minutes, "steps": steps, "seconds_a_step": pace,
        "parameters": model.provenance.get("parameters") or model.parameters, "spent": spent, "images": len(test),
        "torch": torch.__version__, "nelbo": nelbo.__version__,
        **(rough_score if options.tune else score)(model, fit, test, 0.05 if options.quick else options.tolerance),
    }  # fmt: skip
    write_atomic(path, json.dumps(result, indent=1))
    print(f"{path.stem}: {result['as_scored']} best {result['best']}", file=sys.stderr, flush=True)


def table(out: Path) -> None:
    """Markdown of the finished runs: of every arm its best learning rate, over its seeds."""
    runs = [json.loads(p.read_text()) for p in sorted(out.glob("*.json")) if p.name != "pace.json"]
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
    parser.add_argument("--pace", action="store_true", help="time the steps; the machine must be idle")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training a run, on a machine of that pace")
    parser.add_argument("--arms", nargs="+", help=f"of {', '.join(ARMS)}; with --ablate, of {', '.join(ABLATIONS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="learning rates")
    parser.add_argument("--ablate", action="store_true", help="nelbo's default with one ingredient changed")
    parser.add_argument("--tune", action="store_true", help="score roughly: to tell learning rates apart")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of the scores, bits/dim")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    everything = ARMS | {f"ablate {name}": Nelbo(changes) for name, changes in ABLATIONS.items()}
    if options.quick:
        options.out, options.rates = options.out / "quick", options.rates[:1]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        table(options.out)
        return
    pace_file = options.out / "pace.json"
    if options.pace or options.quick or not pace_file.exists():
        examples, _, _ = images(options.quick)
        pace = paces(everything, examples, 1 if options.quick else 5)
        write_atomic(pace_file, json.dumps({"threads": options.threads, "seconds_a_step": pace}, indent=1))
        print(pace_file.read_text(), file=sys.stderr)
        if options.pace:
            return
    pace = json.loads(pace_file.read_text())["seconds_a_step"]
    names = [f"ablate {n}" for n in options.arms or ABLATIONS] if options.ablate else options.arms or list(ARMS)
    minutes = "quick" if options.quick else f"{options.minutes:g}m"
    minutes += "-tune" if options.tune else ""
    with contextlib.suppress(KeyboardInterrupt):
        for name in names:
            for rate in options.rates:
                for seed in options.seeds:
                    path = options.out / f"{name.replace(' ', '_')}-{minutes}-{rate:g}-{seed}.json"
                    one(path, name, everything[name], rate, seed, pace[name], options)
    table(options.out)


if __name__ == "__main__":
    main()
