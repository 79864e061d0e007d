"""How often `nelbo.diagnose` finds a mistake in the declaration of a network over symbols, over five trained networks.

    python benchmarks/diagnose_tokens.py                # all: about five minutes on one core
    python benchmarks/diagnose_tokens.py --json FILE    # the rows as JSON, too

The networks are small transformers that `nelbo.train` makes in 200 steps on characters of the standard library's own
sources: of masks, told nothing, the share of hidden places, t or σ; and of uniform noise. A case declares one thing of
one of them wrongly. It is found if the first row is the right declaration, or a check names the mistake. The cost of
a mistake is the bound as declared less that of the right row, in bits a character.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

import nelbo

LENGTH, COSTLY, SEEDS = 48, 0.02, (0, 1)
FILES = ("argparse.py", "inspect.py", "typing.py", "tarfile.py")
"""Modules of the standard library whose sources are the text; the last is held out."""
TOKENS = {
    "masks": {},
    "share": {"time": "mask_fraction"},
    "t": {"time": "unit"},
    "σ": {"time": "sigma"},
    "noise": {"kernel": "uniform", "time": "unit"},
}


@functools.cache
def text() -> tuple[nelbo.Examples, Tensor]:
    """Sequences to train on and held out, of one alphabet."""
    folder = Path(argparse.__file__).parent
    points = [torch.tensor([ord(c) for c in (folder / name).read_text()]) for name in FILES]
    alphabet, symbols = torch.cat(points).unique(return_inverse=True)
    rows = [
        part[: len(part) // LENGTH * LENGTH].reshape(-1, LENGTH) for part in symbols.split([len(p) for p in points])
    ]
    training = nelbo.Examples(torch.cat(rows[:-1]), bins=len(alphabet), name="the standard library")
    return training, rows[-1]


@functools.cache
def right(name: str) -> nelbo.TokenModel:
    """A trained network with its right declaration."""
    settings = {
        "steps": 200, "batch_size": 32, "warmup": 50, "lr": 4e-3, "ema": 0.98, "log_every": 300, "tokens": TOKENS[name],
        "net": {"name": "transformer", "width": 64, "blocks": 3, "heads": 2},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nelbo.train(text()[0], Path(out) / "run", settings, progress=False, message=lambda line: None)
    assert isinstance(model, nelbo.TokenModel)
    return model


def of(name: str, wrap: Callable[..., Any] | None = None, **otherwise: Any) -> nelbo.TokenModel:
    """The network of `name`, wrapped, as somebody declares it."""
    model = right(name)
    net, V = model.denoiser.net, model.domain.vocabulary  # type: ignore[attr-defined]
    fn = net if wrap is None else functools.partial(wrap, net)
    time = None if name == "masks" else model.denoiser.time.value  # type: ignore[attr-defined]
    given = {
        "vocabulary": V, "length": LENGTH, "kernel": model.kernel, "schedule": model.schedule, "grid": model.grid,
        "time": time, **otherwise,
    }  # fmt: skip
    return nelbo.tokens.from_callable(fn, **given)


def masks(mask: int, size: int) -> dict[str, Any]:
    return {"kernel": nelbo.tokens.absorbing(mask), "vocabulary": size}


def first(net: Any, z: Tensor) -> Tensor:
    """Of a vocabulary whose symbol 0 is the mask, and the others one up."""
    V = right("masks").domain.vocabulary
    return pad(net((z - 1).clamp(max=V - 1).where(z > 0, V)), (1, 0), value=-9.0)


def last(net: Any, z: Tensor) -> Tensor:
    """Logits over one symbol more, the mask's; a larger number is taken for symbol 0."""
    return pad(net(z.where(z <= right("masks").domain.vocabulary, 0)), (0, 1), value=-9.0)


def one_more(net: Any, z: Tensor) -> Tensor:
    """With one symbol more, V, which the network takes for 0, and the mask V + 1."""
    V = right("masks").domain.vocabulary
    return pad(net(torch.where(z == V, 0, z.clamp(max=V + 1)) - (z == V + 1).long()), (0, 1), value=-9.0)


@dataclass(frozen=True)
class Case:
    """make: the model as declared; found: the right row, or the check that fails; None where nothing is wrong."""

    network: str
    mistake: str
    make: Callable[[], nelbo.TokenModel]
    found: str | None = None
    data: Callable[[Tensor], Tensor] = lambda x: x


def cases() -> list[Case]:
    V = right("masks").domain.vocabulary
    after = lambda x: pad(x, (1, 0), value=V)[:, :LENGTH]  # noqa: E731
    ends = lambda x: torch.cat([x[::2], pad(x[1::2, :-7], (0, 7), value=V)])  # noqa: E731
    linear, cosine = nelbo.tokens.linear(), nelbo.tokens.cosine()
    planted = [
        Case("masks", "logits of the next place", lambda: of("masks", lambda net, z: net(z).roll(-1, 1)), "shift=True"),
        Case("masks", "a shift that is none", lambda: of("masks", shift=True), "shift=False"),
        Case("masks", "another symbol is the mask", lambda: of("masks", first, **masks(V + 1, V + 1)), "mask=0",
             lambda x: x + 1),
        Case("masks", "the mask counted as a symbol", lambda: of("masks", last, **masks(V + 1, V + 1)), f"mask={V}"),
        Case("masks", "probabilities", lambda: of("masks", lambda net, z: net(z).softmax(-1)), "output"),
        Case("masks", "logits in bf16", lambda: of("masks", lambda net, z: net(z).bfloat16().float()),
             "precision of the logits"),
        Case("masks", "a special symbol scored", lambda: of("masks", one_more, **masks(V + 1, V + 1)),
             "special symbols", after),
        Case("masks", "padding scored", lambda: of("masks", one_more, **masks(V + 1, V + 1)), "padding", ends),
        Case("share", "the count for the share", lambda: of("share", time="count"), "time='mask_fraction'"),
        Case("share", "told nothing", lambda: of("share", lambda net, z, f=None: net(z, f), time=None),
             "time='mask_fraction'"),
        Case("share", "σ for the share", lambda: of("share", time="sigma", schedule=linear, grid=None),
             "time='mask_fraction'"),
        Case("t", "σ for t", lambda: of("t", time="sigma"), "time='unit'"),
        Case("t", "cosine for linear", lambda: of("t", schedule=cosine), "schedule linear()"),
        Case("t", "logits of the next place", lambda: of("t", lambda net, z, t: net(z, t).roll(-1, 1)), "shift=True"),
        Case("t", "probabilities", lambda: of("t", lambda net, z, t: net(z, t).softmax(-1)), "output"),
        Case("σ", "t for σ", lambda: of("σ", time="unit"), "time='sigma'"),
        Case("noise", "leave-one-out for the posterior", lambda: of("noise", law="leave_one_out"), "law='posterior'"),
        Case("noise", "σ for t", lambda: of("noise", time="sigma"), "time='unit'"),
        Case("noise", "log-ratios for logits", lambda: of("noise", predicts="log_ratios"), "predicts='logits'"),
        Case("noise", "probabilities", lambda: of("noise", lambda net, z, t: net(z, t).softmax(-1)), "output"),
    ]  # fmt: skip
    return [*planted, *(Case(name, "none", functools.partial(of, name)) for name in TOKENS)]


def row(case: Case, seed: int) -> dict[str, Any]:
    data = case.data(text()[1])
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diagnosis = nelbo.diagnose(case.make(), data, seed=seed, max_nfe=1000, progress=False)
    failed = [check.name for check in diagnosis.checks if not check.ok]
    ok = diagnosis.verdict.ok if case.found is None else case.found in (diagnosis.best.name, *failed)
    true = next((r for r in diagnosis.rows if r.name == case.found), None)
    return {
        "network": case.network,
        "mistake": case.mistake,
        "seed": seed,
        "found": ok,
        "cost": None if true is None else -true.difference,
        "first": diagnosis.best.name,
        "checks": failed,
        "nfe": diagnosis.nfe_total,
        "seconds": time.process_time() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for case in cases():
        of_case = [row(case, seed) for seed in SEEDS]
        rows += of_case
        hits, cost = sum(r["found"] for r in of_case), of_case[0]["cost"]
        shown = "" if cost is None else f"{cost:8.3f} bits"
        print(f"{case.network:6} {case.mistake:34} {hits} of {len(SEEDS)} {shown:14} {of_case[0]['first']}", flush=True)
    planted = [r for r in rows if r["mistake"] != "none"]
    costly = [r for r in planted if r["cost"] is None or r["cost"] > COSTLY]
    print(f"found {sum(r['found'] for r in costly)} of {len(costly)} that cost more than {COSTLY} bits or are checks")
    unplanted = [r for r in rows if r["mistake"] == "none"]
    print(f"right declarations that stand: {sum(r['found'] for r in unplanted)} of {len(unplanted)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
