"""What a compressed file costs: bytes and bits/dim of whole files beside the model's bound and beside other formats.

    python benchmarks/compression.py MODEL DATA --out DIR [--only files,rivals,width,steps,images] [--images N]
                                     [--seeds N] [--steps K]

files    whole files over several seeds against the bound of the same images, and the time split
rivals   PNG, WebP, JPEG XL (cjxl), zstd, brotli and xz on the same images, as one sheet and one by one, where installed
width    overhead over the bound against the width of the latents' bins
steps    against the number of steps of an even grid (untightened models)
images   against how many images a file holds

Every measurement is kept in DIR/compression.json and not taken again, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

# numba asks for the package `coverage`, and must not find the script of that name beside this one
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nelbo  # noqa: E402
from nelbo.codec import compress, decompress  # noqa: E402
from nelbo.data import readers  # noqa: E402
from nelbo.files import write_atomic  # noqa: E402


class Results:
    """Measurements by name, kept in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def of(self, name: str, measure: Callable[[], dict]) -> dict:
        if name not in self.found:
            self.found[name] = measure()
            write_atomic(self.path, json.dumps(self.found, indent=1))
        print(f"{name:<36}", "  ".join(f"{k} {_shown(v)}" for k, v in self.found[name].items()), flush=True)
        return self.found[name]


def _shown(value) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def whole_file(model, images, seed: int, **options) -> dict:
    """One file, decoded again with another batch size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nelbo"
        made = compress(model, images, path, seed=seed, few=True, verify=False, **options)
        back = decompress(model, path, batch_size=23)
    assert torch.equal(back, images), "decoding is not exact"
    work = made.seconds["network"] + made.seconds["coder"]
    return {
        "bytes": made.bytes,
        "bits_per_dim": made.bits_per_dim,
        "net": made.net_bits_per_dim,
        "borrowed": made.borrowed,
        "exceptions": made.exceptions,
        "coder_share": made.seconds["coder"] / work,
        "seconds_an_image": work / made.images,
    }


def bound_of(model, images, tolerance: float) -> dict:
    bound = nelbo.evaluate(model, images, tolerance=tolerance, seed=0)
    return {"bits_per_dim": bound.bits_per_dim, "standard_error": bound.standard_error.estimator}


def summary(files: list[dict], bound: dict) -> dict:
    """Mean of whole files over the bound, with the standard error of the mean over seeds and of the bound."""
    ratios = [f["bits_per_dim"] / bound["bits_per_dim"] for f in files]
    spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    net = statistics.mean(f["net"] for f in files) / bound["bits_per_dim"]
    return {
        "file_over_bound": statistics.mean(ratios),
        "standard_error": math.hypot(spread, bound["standard_error"] / bound["bits_per_dim"]),
        "net_over_bound": net,
        "bound": bound["bits_per_dim"],
        "seeds": len(files),
    }


def sheet(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) as one picture, about as wide as high, the last row filled with zeros; (rows, columns[, 3])."""
    n, c, h, w = images.shape
    across = math.ceil(math.sqrt(n * h / w))
    down = math.ceil(n / across)
    padded = np.concatenate([images, np.zeros((across * down - n, c, h, w), images.dtype)])
    grid = padded.reshape(down, across, c, h, w).transpose(0, 3, 1, 4, 2).reshape(down * h, across * w, c)
    return grid[..., 0] if c == 1 else grid


def picture_bytes(picture: np.ndarray, form: str) -> int:
    """A lossless picture's size: png and webp by Pillow, jxl by cjxl at effort 9."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    if form == "jxl":
        with tempfile.TemporaryDirectory() as folder:
            image.save(Path(folder) / "x.png")
            subprocess.run(["cjxl", "x.png", "x.jxl", "-d", "0", "-e", "9", "--quiet"], cwd=folder, check=True)
            return (Path(folder) / "x.jxl").stat().st_size
    buffer = io.BytesIO()
    image.save(
        buffer, form, **({"optimize": True} if form == "png" else {"lossless": True, "quality": 100, "method": 6})
    )
    return buffer.tell()


def rivals(images: np.ndarray, results: Results) -> None:
    """Other formats on the same images; sizes of single images are those of at most 200, scaled."""
    n, dims = len(images), images[0].size
    whole, some = sheet(images), images[:: max(1, n // 200)][:200]

    def said(size: float) -> dict:
        return {"bytes": round(size), "bits_per_dim": 8 * size / (n * dims)}

    for form in ("png", "webp", "jxl"):
        if form == "jxl" and shutil.which("cjxl") is None:
            print("jxl                                  not installed (Debian: libjxl-tools)")
            continue
        results.of(f"{form}, sheet", lambda form=form: said(picture_bytes(whole, form)))
        results.of(
            f"{form}, one by one",
            lambda form=form: said(sum(picture_bytes(sheet(i[None]), form) for i in some) * n / len(some)),
        )
    raw = images.astype(np.uint8).tobytes()
    packers = {
        "zstd": ["zstd", "-19", "-c"],
        "brotli": ["brotli", "-q", "11", "-w", "24", "-c"],
        "xz": ["xz", "-9e", "-c"],
    }
    for name, command in packers.items():
        if shutil.which(command[0]) is None:
            print(f"{name:<36} not installed (Debian has it)")
            continue
        packed = subprocess.run(command, input=raw, capture_output=True, check=True).stdout
        results.of(f"{name}, raw codes", lambda packed=packed: said(len(packed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="files,rivals,width,steps,images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--skip", type=int, default=0, help="images of DATA to leave out at its beginning")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=None, help="an even grid in the place of the model's own")
    parser.add_argument(
        "--tolerance", type=float, default=0.001, help="bits/dim of the bound, for 1,000 images or more"
    )
    given = parser.parse_args()
    results = Results(given.out / "compression.json")
    model = nelbo.load(given.model)
    if given.steps:
        model = model.with_grid(nelbo.grids.even(given.steps))
    codes = readers.read(given.data).data[given.skip : given.skip + given.images]
    codes = codes.reshape(-1, *model.domain.shape)  # IDX files have no axis of channels
    tag = f"{len(codes)} images, {model.steps} steps"

    def measured(name: str, model, images, seeds: int, **options) -> None:
        key = f"{len(images)} images, {model.steps} steps"
        files = [
            results.of(f"{key}, {name}seed {s}", lambda s=s: whole_file(model, images, s, **options))
            for s in range(seeds)
        ]
        tolerance = given.tolerance * math.sqrt(max(1.0, 1000 / len(images)))
        bound = results.of(f"{key}, bound", lambda: bound_of(model, images, tolerance))
        results.of(f"{key}, {name}overhead of {seeds}", lambda: summary(files, bound))

    wanted = given.only.split(",")
    if "files" in wanted:
        measured("", model, codes, given.seeds)
    if "rivals" in wanted:
        rivals(codes.numpy().reshape(-1, *((1, 1, *model.domain.shape)[-3:])), results)
    if "width" in wanted:
        for r in (0.25, 1.0, 1.5):
            measured(f"r = {r}, ", model, codes, given.seeds, bin_width=r)
    if "images" in wanted:
        for n in (10, 100, 300, 1000):
            if n < len(codes):
                measured("", model, codes[:n], given.seeds)
    if "steps" in wanted:
        for K in (10, 50, 100):
            measured("", model.with_grid(nelbo.grids.even(K)), codes, given.seeds)
    print(f"{tag}: {results.path}")


if __name__ == "__main__":
    main()
