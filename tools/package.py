"""Build the sdist and, from it, the wheel; install the wheel in an empty environment; try it there, far from the clone.

    make package            what is tried, and the seconds of each part; exit status 1 where anything fails

The environment has first what the wheel needs by itself, and `nelbo demo` runs in it. Then it gets the packages of all
extras, and each extra is tried in a process of its own, which finds only the modules that this extra installs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

MODEL = """
import torch, nelbo
network = torch.nn.Conv2d(1, 1, 3, padding=1)
model = nelbo.from_callable(lambda z, t: network(z[:, None])[:, 0], schedule=nelbo.schedules.linear(T=20),
                            domain=nelbo.DataDomain((8, 8), bins=17), modules=[network])
digits = nelbo.data.read("digits:test").data[:64]
monitor = nelbo.Monitor(model, digits, budget=64)
"""
UNET = """
import torch, nelbo
from diffusers import DDPMScheduler, UNet2DModel
blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
network = UNet2DModel(8, 1, 1, norm_num_groups=2, **blocks)
model = nelbo.from_diffusers((network, DDPMScheduler(20)), bins=17)
print(nelbo.evaluate(model, nelbo.data.read("digits:test").data[:16, None], max_nfe=200))
"""
USES = {
    "train": "from nelbo.runtime import Processes, tracker; import accelerate, tensorboard",
    "diffusers": UNET,
    "codec": MODEL
    + """
nelbo.codec.compress(model, digits[:4], "digits.nelbo", few=True)
assert (torch.as_tensor(nelbo.codec.decompress(model, "digits.nelbo")) == digits[:4]).all()
""",
    "data": """
import pathlib, nelbo, datasets
from PIL import Image
pathlib.Path("pictures").mkdir()
Image.new("L", (8, 8), 3).save("pictures/a.png")
assert nelbo.data.read("pictures").data.shape == (1, 8, 8)
""",
    "lightning": MODEL + "import lightning\n"
    "assert isinstance(nelbo.monitoring.lightning_callback(monitor), lightning.Callback)",
    "torchmetrics": MODEL
    + """
metric = nelbo.monitoring.torchmetrics_metric(model)
metric.update(digits)
assert metric.compute() > 0
""",
    "transformers": MODEL + "import transformers\n"
    "assert isinstance(nelbo.monitoring.transformers_callback(monitor), transformers.TrainerCallback)",
    "text": """
import lm_eval, nelbo, tokenizers, torch, transformers
config = transformers.BertConfig(vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=8, max_position_embeddings=8)
model = nelbo.from_transformers(transformers.BertForMaskedLM(config), mask=3, length=6, around=False)
print(nelbo.evaluate(model, torch.randint(4, 12, (16, 6)), max_nfe=200))
""",
}
"""A use of each extra, from a folder of its own. `all` is the others that it names."""
BUNDLES = {"all", "docs", "dev"}


class Only:
    """The finder of modules and distributions on the path, but for distributions that are not in `allowed`."""

    def __init__(self, allowed: set[str]):
        owners = importlib.metadata.packages_distributions()
        self.allowed = allowed
        self.hidden = {name for name, of in owners.items() if not allowed & {normal(d) for d in of}}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        hidden = fullname.partition(".")[0] in self.hidden
        return None if hidden else PathFinder.find_spec(fullname, path, target)

    def find_distributions(self, *context: Any) -> Iterator[importlib.metadata.Distribution]:
        yield from (d for d in PathFinder.find_distributions(*context) if normal(d.metadata["Name"]) in self.allowed)

    def invalidate_caches(self) -> None:
        PathFinder.invalidate_caches()


def normal(name: str) -> str:
    """The name of a distribution as indices compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def closure(extra: str) -> set[str]:
    """The names of what `nelbo[extra]` installs, of that which is installed here."""
    from packaging.requirements import Requirement  # of the environment: matplotlib needs it

    seen: set[tuple[str, str]] = set()
    waiting = [("nelbo", extra), ("nelbo", "")]
    while waiting:
        name, asked = waiting.pop()
        if (name, asked) in seen:
            continue
        seen.add((name, asked))
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": asked}):
                waiting += [(normal(need.name), e) for e in (*need.extras, "")]
    return {name for name, _ in seen}


def use(extra: str) -> None:
    """Run the use of an extra with nothing else to be found. Called in the environment, as `package.py --use EXTRA`."""
    sys.meta_path[sys.meta_path.index(PathFinder)] = Only(closure(extra))  # type: ignore[call-overload]
    exec(compile(USES[extra], f"<use of {extra}>", "exec"), {})


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"  {what:<44} {time.monotonic() - start:5.0f} s", flush=True)


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command; where it fails, print what it said and leave with status 1."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NELBO"))}
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env={**clean, **environment})
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with status {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def build(work: Path, python: Path, pip: list[str | Path], dist: Path) -> Path:
    """Write sdist and wheel to `dist`, and return the wheel, which is built from the sdist."""
    call(*pip, "--target", work / "backend", "hatchling", cwd=work)
    hatchling = {"PYTHONPATH": str(work / "backend")}
    for old in dist.glob("nelbo-*"):
        old.unlink()
    call(python, "-m", "hatchling", "build", "-t", "sdist", "-d", dist, cwd=ROOT, **hatchling)
    (archive,) = dist.glob("nelbo-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work / "sdist", filter="data")
    (source,) = (work / "sdist").iterdir()
    call(python, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=source, **hatchling)
    (wheel,) = dist.glob("nelbo-*.whl")
    missing = tracked() - {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    if missing:
        sys.exit(f"the sdist lacks {', '.join(sorted(missing)[:8])} ({len(missing)} in all)")
    return wheel


def tracked() -> set[str]:
    """The files of the package in the clone."""
    names = call("git", "ls-files", "-z", "src", "tests", "README.md", "LICENSE", cwd=ROOT).split("\0")
    return {name for name in names if name}


def main(dist: Path) -> None:
    """See the module."""
    with tempfile.TemporaryDirectory(prefix="nelbo-package-") as folder:
        work = Path(folder)
        python = work / "environment" / "bin" / "python"
        pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
        pinned: list[str | Path] = [*pip, "-c", ROOT / "constraints.txt"]
        away = work / "elsewhere"
        away.mkdir()
        with timed("an empty environment"):
            venv.create(work / "environment", with_pip=True)
        with timed("sdist, and the wheel from it"):
            wheel = build(work, python, pip, dist)
        with timed("the wheel, with what it needs"):
            call(*pinned, wheel, cwd=away)
        with timed("nelbo demo"):
            said = call(python.with_name("nelbo"), "demo", "--out", "demo", "--json", cwd=away)
            print(f"  {wheel.name}: {json.loads(said)['bound']['bits_per_dim']:.5f} bits/dim")
        with timed("the packages of all extras"):
            call(*pinned, f"{wheel}[{','.join(USES)}]", cwd=away)
            call(python, "-m", "pip", "check", cwd=away)
            known = importlib_extras(python, away)
            if known - BUNDLES != set(USES):
                sys.exit(f"extras that are not tried: {sorted(known - BUNDLES ^ set(USES))}; add them to USES")
        for extra in USES:
            with timed(f"a use of nelbo[{extra}]"):
                call(python, Path(__file__).resolve(), "--use", extra, cwd=away, OMP_NUM_THREADS="1")


def importlib_extras(python: Path, cwd: Path) -> set[str]:
    """The extras that the installed wheel names."""
    code = "import importlib.metadata as m; print(*m.metadata('nelbo').get_all('Provides-Extra'))"
    return set(call(python, "-c", code, cwd=cwd).split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder for the sdist and the wheel")
    parser.add_argument("--use", choices=USES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.use:
        use(given.use)
    else:
        given.dist.mkdir(parents=True, exist_ok=True)
        main(given.dist.resolve())
