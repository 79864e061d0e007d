"""Bits a byte of text after equal time: nelbo's default recipe beside those of MDLM and of score entropy.

    python benchmarks/tokens.py FOLDER [--seconds 600] [--seeds 0 1] [--text kjv stdlib] [--arms nelbo …] [--file]

All arms train the same network on the same tokens (byte pairs, learned from the text that is trained on) in the same
loop, for so many processor seconds, and are evaluated by nelbo on the same held-out text, the last 8 % of it, to 0.01
bits a byte. What differs is restated from the originals: MDLM (Sahoo et al. 2024) draws times of low discrepancy, masks
each place by itself and weighs the cross-entropy by 1/t, t ≥ 10⁻³, with AdamW at 3e-4; score entropy (Lou et al. 2024)
draws independent times, tells the network σ, and learns the ratios of masks by eq. 5, with AdamW at 3e-4. "mdlm, tuned"
is MDLM's objective with nelbo's optimiser, so that the objectives alone differ. Warm-up is 5 % of the steps and the
average 0.998 in all.

--file: the held-out text is compressed under nelbo's model of the first seed and by general compressors, and the
variance of the gradient of nelbo's loss, against independent times with the weight 1/t, is measured on that model.

Every run is kept in FOLDER as it ends, and what is there is not run again.
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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nelbo
from nelbo.data import read
from nelbo.model.examples import Examples
from nelbo.model.folder import save
from nelbo.model.tokens.denoiser import TokenOutput
from nelbo.model.tokens.model import TokenModel, surprise
from nelbo.training import TrainConfig, check_config
from nelbo.training.batches import Batch
from nelbo.training.build import build_model
from nelbo.training.criterion import Criterion
from nelbo.training.objective import Losses
from nelbo.training.recipe import with_recipe
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.tokens.objective import NoisedTokens, TokenBound
from nelbo.training.trainer import Trainer
from nelbo.typing import Json

HELD_OUT, FIRST_T = 0.08, 1e-3
NET = {"name": "transformer", "width": 96, "blocks": 4}  # learns in minutes of a processor
ADAMW = {"optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "nelbo": {},
    "mdlm": ADAMW,
    "mdlm, tuned": {},
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
        log_p = model.law_at(z, hidden, None, hidden, batch.condition, torch.float32)
        cost = surprise(log_p, batch.x[hidden]).double()
        each = torch.zeros(len(t), dtype=torch.float64).index_add(0, hidden.nonzero()[:, 0], cost)
        return Losses("diffusion", batch.bits((1 - FIRST_T) * each / t), {})


class ScoreEntropy:
    """Of masked places, with s the ratios that the network says and r = e^{−σ}/(1 − e^{−σ}) = (1 − t)/t those of the
    truth: dσ/dt Σ_i (Σ_y s_y − r log s_x + r (log r − 1)), σ = −log(1 − t)."""

    def losses(self, model: TokenModel, batch: NoisedTokens, law: object = None) -> Losses:
        t, hidden, z = masked_independently(batch, model)
        t = t.clamp(max=1 - FIRST_T)
        assert model.schedule is not None
        at = model.schedule.at(model.schedule.time_of(t))
        logits = model.denoiser.at_places(z, hidden, at, hidden, batch.condition)
        of = hidden.nonzero()[:, 0]
        r = ((1 - t) / t)[of].float()
        log_s = logits + r.log()[:, None]  # the scale of the ratios, as the original's network has it
        cost = log_s.exp().sum(-1) + r * surprise(log_s, batch.x[hidden]) + r * (r.log() - 1)
        rate = 1 / (1 - t)
        each = torch.zeros(len(t), dtype=torch.float64).index_add(0, of, cost.double())
        return Losses("diffusion", batch.bits((1 - FIRST_T) * rate * each), {})


OBJECTIVES = {
    "nelbo": lambda: Criterion(TokenBound(), TimeSampler(TimeSampling.LOW_DISCREPANCY)),
    "mdlm": lambda: Criterion(MDLM(), TimeSampler(TimeSampling.LOW_DISCREPANCY)),  # type: ignore[arg-type]
    "mdlm, tuned": lambda: OBJECTIVES["mdlm"](),
    "score entropy": lambda: Criterion(ScoreEntropy(), TimeSampler(TimeSampling.UNIFORM)),  # type: ignore[arg-type]
}


def text(name: str) -> str:
    """The King James Bible of the reference material, or the sources of the standard library."""
    if name == "kjv":
        path = Path(__file__).parents[2] / "shared" / "data" / "text" / "kjv.txt.gz"
        return gzip.decompress(path.read_bytes()).decode()
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))).decode()


def read_text(name: str, folder: Path, vocabulary: int, length: int) -> tuple[Examples, Examples, Path]:
    """Sequences of tokens to train on, held-out ones, and the file of the held-out text."""
    whole = text(name)
    split = int(len(whole) * (1 - HELD_OUT))
    tokens = folder / f"{name}.{vocabulary}.json"
    parts = {"train": whole[:split], "held_out": whole[split:]}
    for part, of in parts.items():
        (folder / f"{name}.{part}.txt").write_bytes(of.encode())
    if not tokens.exists():
        byte_pairs(parts["train"], vocabulary).save(str(tokens))
    spec = f"#tokenizer={tokens}#length={length}"
    train, held_out = (read(f"text:{folder / f'{name}.{part}.txt'}{spec}") for part in parts)
    return train, held_out, folder / f"{name}.held_out.txt"


def byte_pairs(written: str, vocabulary: int) -> Any:
    """A tokenizer of byte pairs that are frequent in a text; it brings every text back."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, initial_alphabet=letters)
    made.train_from_iterator((written[i : i + 10_000] for i in range(0, len(written), 10_000)), trainer)
    return made


def settings_of(arm: str, examples: Examples, steps: int, seed: int) -> TrainConfig:
    given = {"net": NET, **ARMS[arm], "steps": steps, "seed": seed, "warmup": max(1, steps // 20), "log_every": steps}
    return check_config(with_recipe(given, examples))


def trained(arm: str, examples: Examples, seconds: float, seed: int) -> tuple[TokenModel, int, float]:
    """The model after about so many processor seconds, for whose number of steps ten are timed first; the steps that it
    took, and the seconds."""

    def trainer(steps: int) -> Trainer:
        settings = settings_of(arm, examples, steps, seed)
        made = Trainer.alone(build_model(examples, settings), examples, settings)
        made.criterion = OBJECTIVES[arm]()
        made.loss._criterion = (made.criterion,)  # type: ignore[union-attr]
        return made

    probe = trainer(12)
    probe.advance()
    start = time.process_time()
    while probe.step < 11:
        probe.advance()
    steps = max(10, int(seconds / ((time.process_time() - start) / 10)))
    run, start = trainer(steps), time.process_time()
    while run.step < steps:
        run.advance()
    spent = time.process_time() - start
    model: Any = run.averaged
    model.denoiser.eval()
    if arm == "score entropy":  # its ratios, normalised, are the law of a masked place
        model.denoiser.predicts = TokenOutput.LOG_RATIOS
        model = replace(model)
    return model, steps, spent


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


def kept(path: Path, make: Callable[..., Json], *arguments: Any) -> Json:
    """What `make` returns of the arguments, from the file where it is kept."""
    if not path.exists():
        path.write_text(json.dumps(make(*arguments), indent=1))
    return json.loads(path.read_text())


def run(arm: str, examples: Examples, held_out: Examples, seconds: float, seed: int, count: int, out: Path) -> Json:
    """Train, keep the model in the folder `out`, evaluate."""
    model, steps, spent = trained(arm, examples, seconds, seed)
    model = replace(model, provenance={"data": examples.facts})
    save(model, out)
    rows = torch.from_numpy(np.linspace(0, len(held_out) - 1, count).astype(np.int64))
    some = replace(held_out, data=held_out.data[rows], place_bytes=held_out.place_bytes[rows])  # type: ignore[index]
    tokens_a_byte = held_out.data.numel() / held_out.facts["bytes"]
    bits = nelbo.evaluate(model, some, tolerance=0.01 / tokens_a_byte).units["bits_per_byte"]
    spent = {"steps": steps, "seconds": round(spent, 1), "parameters": model.parameters}
    return {**spent, "bits": bits["value"], **bits["standard_error"]}


def compressed(model: TokenModel, path: Path, steps: int, out: Path) -> Json:
    """Sizes of a text, and what the model itself would add if it had to be sent, in 16 bits a weight."""
    raw = path.read_bytes()
    chain = model.with_grid(nelbo.grids.even(steps))
    written = nelbo.codec.compress(chain, f"text:{path}", out, verify=False)
    sizes = {f"nelbo, {steps} steps": written.bytes, **compressors(raw)}
    rates = {k: round(8 * v / len(raw), 4) for k, v in sizes.items()}
    return {"bytes": len(raw), "sizes": sizes, "bits_per_byte": rates, "model_bytes": 2 * model.parameters,
            "net_bits": round(written.net_bits)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--text", nargs="+", default=["kjv", "stdlib"], choices=["kjv", "stdlib"])
    parser.add_argument("--arms", nargs="+", default=["nelbo", "mdlm", "score entropy"], choices=[*ARMS])
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")
    parser.add_argument("--examples", type=int, default=300, help="held-out sequences of the bound")
    parser.add_argument("--file", action="store_true", help="also compress, and measure gradients")
    parser.add_argument("--bytes", type=int, help="of held-out text that is compressed; all where not given")
    parser.add_argument("--steps", type=int, default=32, help="of the chain that compresses")
    parser.add_argument("--draws", type=int, default=24, help="gradients whose variance is measured")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| text | recipe | seed | steps | bits/byte | ± |\n|-|-|-|-|-|-|", flush=True)
    for name in options.text:
        examples, held_out, path = read_text(name, options.folder, options.vocabulary, options.length)
        for seed in options.seeds:
            for arm in options.arms:
                out = options.folder / f"{name}.{arm.replace(' ', '_')}.{seed}.{options.seconds:g}"
                given = (arm, examples, held_out, options.seconds, seed, options.examples, out)
                row = kept(out.with_name(f"{out.name}.json"), run, *given)
                numbers = f"{row['steps']} | {row['bits']:.4f} | {row['estimator']:.4f}"
                print(f"| {name} | {arm} | {seed} | {numbers} |", flush=True)
        if options.file:
            place = options.folder / f"{name}.nelbo.{options.seeds[0]}.{options.seconds:g}"
            model: Any = nelbo.load(place)
            if options.bytes is not None:
                path.with_suffix(".part.txt").write_bytes(path.read_bytes()[: options.bytes])
                path = path.with_suffix(".part.txt")
            of_file = place.with_name(f"{place.name}.{options.bytes or 'all'}.{options.steps}.file.json")
            of_gradient = place.with_name(f"{place.name}.gradient.json")
            found = kept(of_file, compressed, model, path, options.steps, of_file.with_suffix(".nelbo"))
            variances = kept(of_gradient, gradient_variance, model, examples.data, options.draws)
            print(json.dumps({"file": found, "gradient": variances}, indent=1), flush=True)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # its coverage.py is not the package that numba looks for
    main()
