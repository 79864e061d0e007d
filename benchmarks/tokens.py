"""Bits a byte of text after equal time: nelbo's default recipe beside those of MDLM and of score entropy.

    python benchmarks/tokens.py [--seconds 600] [--seeds 0 1] [--text kjv stdlib] [--out FILE.json]

All arms train the same network in the same loop, for so many processor seconds, and are evaluated by nelbo on the same
held-out text to 0.01 bits a byte. What differs is restated from the originals: MDLM (Sahoo et al. 2024) draws times of
low discrepancy, masks each place by itself and weighs the cross-entropy by 1/t, t ≥ 10⁻³, with AdamW at 3e-4; score
entropy (Lou et al. 2024) draws independent times, tells the network σ, and learns the ratios of masks by eq. 5, with
AdamW at 3e-4. Warm-up is 5 % of the steps and the average 0.998 in all. Then the first of the held-out text is
compressed under nelbo's model and by general compressors. The variance of the gradient of nelbo's loss, against
independent times with the weight 1/t, is measured on the trained network.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nelbo
from nelbo.model.examples import Examples
from nelbo.model.tokens.denoiser import TokenOutput
from nelbo.model.tokens.model import TokenModel, surprise
from nelbo.training.batches import Batch
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig, check_config
from nelbo.training.criterion import Criterion
from nelbo.training.objective import Losses
from nelbo.training.recipe import with_recipe
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.tokens.objective import NoisedTokens, TokenBound
from nelbo.training.trainer import Trainer

LENGTH, FIRST_T = 128, 1e-3
ADAMW = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "nelbo": {},
    "mdlm": ADAMW,
    "score entropy": {**ADAMW, "tokens": {"time": "sigma", "schedule": "linear"}},
}


def masked_independently(batch: NoisedTokens, model: TokenModel) -> tuple[Tensor, Tensor, Tensor]:
    """Times t in [10⁻³, 1), the places that are masked with probability t, and the sequences."""
    t = FIRST_T + (1 - FIRST_T) * batch.unit
    hidden = (batch.u[:, :-1, 0] < t[:, None]) & batch.scored
    return t, hidden, batch.x.masked_fill(hidden, model.kernel.mask)  # type: ignore[attr-defined]


class MDLM:
    """Σ of the masked places' cross-entropy, over t."""

    def losses(self, model: TokenModel, batch: NoisedTokens, law: object = None) -> Losses:
        t, hidden, z = masked_independently(batch, model)
        log_p = model.law_at(z, hidden, None, hidden, batch.condition)
        cost = surprise(log_p, batch.x[hidden])
        each = torch.zeros(len(t), dtype=log_p.dtype).index_add(0, hidden.nonzero()[:, 0], cost)
        return Losses("diffusion", batch.bits((1 - FIRST_T) * each / t), {})


class ScoreEntropy:
    """Of masked places, with s the ratios that the network says and r = e^{−σ}/(1 − e^{−σ}) = (1 − t)/t those of the
    truth: dσ/dt Σ_i (Σ_y s_y − r log s_x + r (log r − 1)), σ = −log(1 − t)."""

    def losses(self, model: TokenModel, batch: NoisedTokens, law: object = None) -> Losses:
        t, hidden, z = masked_independently(batch, model)
        t = t.clamp(max=1 - FIRST_T)
        assert model.schedule is not None
        at = model.schedule.at(model.schedule.time_of(t))
        logits = model.denoiser(z, hidden, at, batch.condition)[hidden].double()
        of = hidden.nonzero()[:, 0]
        r = ((1 - t) / t)[of]
        log_s = logits + r.log()[:, None]  # the scale of the ratios, as the original's network has it
        cost = log_s.exp().sum(-1) + r * surprise(log_s, batch.x[hidden]) + r * (r.log() - 1)
        rate = 1 / (1 - t)
        each = torch.zeros(len(t), dtype=torch.float64).index_add(0, of, cost)
        return Losses("diffusion", batch.bits((1 - FIRST_T) * rate * each), {})


OBJECTIVES = {
    "nelbo": lambda: Criterion(TokenBound(), TimeSampler(TimeSampling.LOW_DISCREPANCY)),
    "mdlm": lambda: Criterion(MDLM(), TimeSampler(TimeSampling.LOW_DISCREPANCY)),  # type: ignore[arg-type]
    "score entropy": lambda: Criterion(ScoreEntropy(), TimeSampler(TimeSampling.UNIFORM)),  # type: ignore[arg-type]
}


def text(name: str) -> bytes:
    """The King James Bible of the reference material, or the sources of the standard library."""
    if name == "kjv":
        path = Path(__file__).parents[2] / "shared" / "data" / "text" / "kjv.txt.gz"
        return gzip.decompress(path.read_bytes())
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))


def sequences(raw: bytes) -> Tensor:
    data = torch.frombuffer(bytearray(raw[: len(raw) // LENGTH * LENGTH]), dtype=torch.uint8)
    return data.reshape(-1, LENGTH)


def settings_of(arm: str, examples: Examples, steps: int, seed: int) -> TrainConfig:
    given = {**ARMS[arm], "steps": steps, "seed": seed, "warmup": max(1, steps // 20), "log_every": steps}
    return check_config(with_recipe(given, examples))


def trained(arm: str, examples: Examples, seconds: float, seed: int) -> tuple[TokenModel, int]:
    """The model after so many processor seconds, and the steps that it took: five are timed first."""

    def trainer(steps: int) -> Trainer:
        settings = settings_of(arm, examples, steps, seed)
        made = Trainer.alone(build_model(examples, settings), examples, settings)
        made.criterion = OBJECTIVES[arm]()
        made.loss._criterion = (made.criterion,)  # type: ignore[union-attr]
        return made

    probe = trainer(10)
    probe.advance()
    start = time.process_time()
    for _ in range(5):
        probe.advance()
    steps = max(10, int(seconds / ((time.process_time() - start) / 5)))
    run = trainer(steps)
    while run.step < steps:
        run.advance()
    model: Any = run.averaged
    model.denoiser.eval()
    if arm == "score entropy":  # its ratios, normalised, are the law of a masked place
        model.denoiser.predicts = TokenOutput.LOG_RATIOS
        model = replace(model)
    return model, steps


def gradient_variance(model: TokenModel, data: Tensor, draws: int) -> dict[str, float]:
    """Σ of the variances of the gradient's elements, of a batch of 32 sequences, relative to nelbo's own loss."""
    parts = {
        "counts, stratified (nelbo)": OBJECTIVES["nelbo"](),
        "counts, independent": Criterion(TokenBound(), TimeSampler(TimeSampling.UNIFORM)),
        "t of low discrepancy, 1/t (MDLM)": OBJECTIVES["mdlm"](),
        "t independent, 1/t": Criterion(MDLM(), TimeSampler(TimeSampling.UNIFORM)),  # type: ignore[arg-type]
    }
    found = {}
    for name, criterion in parts.items():
        rows = []
        for step in range(draws):
            model.denoiser.zero_grad()
            criterion(model, Batch(data[:32], 0, step))["loss"].backward()
            rows.append(torch.cat([p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]))
        found[name] = float(torch.stack(rows).double().var(0).sum())
    own = found["counts, stratified (nelbo)"]
    return {name: value / own for name, value in found.items()}


def compressors(raw: bytes) -> dict[str, int]:
    """Bytes of the file that every compressor at hand makes."""
    sizes = {
        "gzip -9": len(gzip.compress(raw, 9, mtime=0)),
        "bzip2 -9": len(bz2.compress(raw, 9)),
        "xz -9e": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "text"
        path.write_bytes(raw)
        commands = {"zstd -19": ["zstd", "-19", "--quiet", "-c"], "brotli -q 11": ["brotli", "-q", "11", "-c"]}
        for name, command in commands.items():
            if shutil.which(command[0]):
                done = subprocess.run([*command, str(path)], capture_output=True, check=True)
                sizes[name] = len(done.stdout)
        if (seven := shutil.which("7z") or shutil.which("7zz")) is not None:
            target = Path(place) / "text.7z"
            subprocess.run([seven, "a", "-m0=PPMd", str(target), str(path)], capture_output=True, check=True)
            sizes["ppmd (7z)"] = target.stat().st_size
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--text", nargs="+", default=["kjv", "stdlib"], choices=["kjv", "stdlib"])
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    parser.add_argument("--examples", type=int, default=300, help="held-out sequences of the bound")
    parser.add_argument("--bytes", type=int, default=16_384, help="of held-out text that is compressed")
    parser.add_argument("--steps", type=int, default=LENGTH, help="of the chain that compresses")
    parser.add_argument("--draws", type=int, default=24, help="gradients whose variance is measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    print("| text | recipe | seed | steps | bits/byte | ± |\n|-|-|-|-|-|-|", flush=True)
    for name in options.text:
        raw = text(name)
        split = int(len(raw) * 0.92)
        examples = Examples(sequences(raw[:split]), name, facts={"tokenizer": "bytes"})
        held_out = sequences(raw[split:])
        rows = torch.from_numpy(np.linspace(0, len(held_out) - 1, options.examples).astype(np.int64))
        for seed in options.seeds:
            for arm in options.arms:
                model, steps = trained(arm, examples, options.seconds, seed)
                bound = nelbo.evaluate(model, held_out[rows], tolerance=0.01)
                row = {"text": name, "arm": arm, "seed": seed, "steps": steps, "bits": bound.bits_per_dim,
                       "error": bound.standard_error.estimator}  # fmt: skip
                results.append(row)
                print(f"| {name} | {arm} | {seed} | {steps} | {row['bits']:.4f} | {row['error']:.4f} |", flush=True)
                if arm == "nelbo" and seed == options.seeds[0]:
                    results.append({"text": name, "gradient": gradient_variance(model, examples.data, options.draws)})
                    results.append(compressed(model, name, raw[split : split + options.bytes], options.steps))
                    print("\n".join(f"{k}: {v}" for row in results[-2:] for k, v in row.items()), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1))


def compressed(model: TokenModel, name: str, raw: bytes, steps: int) -> dict[str, Any]:
    """Sizes of one piece of text, and what the model itself would add if it had to be sent, in 16 bits a weight."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "text.txt"
        path.write_bytes(raw)
        chain = model.with_grid(nelbo.grids.even(steps))
        written = nelbo.codec.compress(chain, f"text:{path}", Path(place) / "x.nelbo", verify=False)
    sizes = {f"nelbo, {steps} steps": written.bytes, **compressors(raw)}
    rates = {k: round(8 * v / len(raw), 4) for k, v in sizes.items()}
    return {"text": name, "bytes": len(raw), "bits_per_byte": rates, "model_bytes": 2 * model.parameters,
            "net_bits": round(written.net_bits)}  # fmt: skip


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # its coverage.py is not the package that numba looks for
    main()
