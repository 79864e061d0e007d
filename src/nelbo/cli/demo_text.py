"""`nelbo demo --text`: the same on text that every installation has, the sources of Python's standard library."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sysconfig
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nelbo.cli.output import table
from nelbo.cli.train import run_training
from nelbo.errors import Interrupted, UsageError
from nelbo.progress import shown

if TYPE_CHECKING:
    from nelbo.cli.output import Console
    from nelbo.typing import Json

TRAIN_BYTES, TEST_BYTES, LENGTH = 400_000, 8_000, 64
SAMPLES, STEPS = 8, 16
SETTINGS: Json = {
    "steps": 800,
    "batch_size": 16,
    "checkpoint_every": 100,
    "net": {"name": "transformer", "width": 96, "blocks": 3, "heads": 4},
}
WRITTEN = ("train.txt", "test.txt", "samples.txt", "test.nelbo")


def run(out: Path, seed: int, resume: bool, output: Console) -> None:
    """Train on the sources, evaluate others in bits a byte, sample, compress them and report, all in `out`."""
    from nelbo import api, codec, report
    from nelbo.adapters.tokens import text
    from nelbo.files import write_atomic
    from nelbo.model.tokens.model import TokenModel
    from nelbo.process.every_grid import even

    for name, content in zip(("train.txt", "test.txt"), sources(), strict=True):
        write_atomic(out / name, content)
    train, test = (f"text:{out / name}#length={LENGTH}" for name in ("train.txt", "test.txt"))
    output.message("training on sources of the standard library")
    try:
        model, _ = run_training(train, out / "model", {**SETTINGS, "seed": seed}, output, resume=resume)
    except Interrupted as stopped:
        raise Interrupted(stopped.message, "the same command continues it") from None
    assert isinstance(model, TokenModel)  # as texts are
    output.message("evaluating the bound of other sources")
    with shown("evaluating") as progress:
        bound = api.evaluate(model, test, tolerance=0.02, seed=seed, progress=progress)
    write_atomic(out / "bound.json", json.dumps(bound.to_dict(), indent=2, allow_nan=False) + "\n")
    output.message("sampling")
    with shown("sampling") as progress:
        drawn = api.sample(model, SAMPLES, seed=seed, progress=progress)
    samples: Any = text(model, drawn)
    write_atomic(out / "samples.txt", "".join(f"# sample {i}\n{row}\n\n" for i, row in enumerate(samples)))
    output.message(f"compressing in a chain of {STEPS} steps")
    with shown("compressing") as progress:
        coarse = model.with_grid(even(STEPS))
        written = codec.compress(coarse, f"text:{out / 'test.txt'}", out / "test.nelbo", seed=seed, progress=progress)
    rows = comparison((out / "test.txt").read_bytes(), written.bytes)
    write_atomic(
        out / "comparison.json",
        json.dumps({"schema": "nelbo.demo_text/1", "rows": rows}, indent=2, allow_nan=False) + "\n",
    )
    output.message("writing the report")
    report.write(out, out / "report.html")
    output.document(
        {
            "schema": "nelbo.demo/1",
            "folder": str(out),
            "model": str(out / "model"),
            "report": str(out / "report.html"),
            "bound": bound.to_dict(),
            "comparison": rows,
        }
    )
    lines = [f"the same {TEST_BYTES} bytes as files (bits/byte)"]
    lines += [f"  {row['name']:<22} {row['bits_per_dim']:.2f}" for row in rows]
    output.text("\n".join([table(bound, output), "", *lines, "", samples[0], "", str(out)]))


def sources() -> tuple[bytes, bytes]:
    """Text to train on and text to test on, of different modules. Errors: UsageError where there are no sources."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(folder.glob("*.py")):
        parts[zlib.crc32(path.name.encode()) % 10 == 0].append(path.read_bytes())
    train, test = (b"".join(part) for part in parts)
    if len(train) < TRAIN_BYTES or len(test) < TEST_BYTES:
        raise UsageError(
            f"the standard library in {folder} has no sources to train on", "run nelbo demo, which has its own data"
        )
    return train[:TRAIN_BYTES], test[:TEST_BYTES]


def comparison(text: bytes, size: int) -> list[Json]:
    """Bits a byte of the model's file and of those of general compressors, which need no model."""
    sizes = {
        f"nelbo, {STEPS} steps": size,
        "gzip -9": len(gzip.compress(text, 9, mtime=0)),
        "bzip2 -9": len(bz2.compress(text, 9)),
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    note = f"measured in this run: {len(text)} bytes of text"
    rate = {name: 8 * n / len(text) for name, n in sizes.items()}
    return [{"name": k, "bits_per_dim": rate[k], "bytes": n, "measured": True, "note": note} for k, n in sizes.items()]
