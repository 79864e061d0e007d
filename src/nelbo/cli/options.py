"""Options that several commands share, and the checks that typer does not do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nelbo.errors import UsageError

if TYPE_CHECKING:
    from nelbo.adapters.choices import Overrides
    from nelbo.process.grid import Grid

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder written by `nelbo train` or by diffusers, package.module:function, or org/name of the hub.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="digits[:train|:test], FILE.npz[#key], FILE.npy, FILE.csv, an IDX file, a folder of images, "
        "or hf:NAME[:split].",
    ),
]


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed}", "give a whole number from 0 to 2^63 - 1")
    return seed


Seed = Annotated[
    int, typer.Option("--seed", metavar="N", callback=_check_seed, help="The same seed gives the same result.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Device = Annotated[str | None, typer.Option("--device", metavar="D", help="cpu, cuda, cuda:1, mps.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, metavar="N", help="Examples a network call.")]

Variance = Annotated[
    str | None,
    typer.Option("--variance", metavar="NAME", help="Of a foreign model: beta_tilde, beta, learned_range, …"),
]
Decoder = Annotated[
    str | None,
    typer.Option("--decoder", metavar="NAME", help="Of a foreign model: discretized_gaussian, categorical, …"),
]
Bins = Annotated[
    int | None, typer.Option("--bins", min=2, metavar="K", help="Of a foreign model: codes run from 0 to K - 1.")
]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option("--range", metavar="LOW HIGH", help="Of a foreign model: the values of the first and last code."),
]
Clip = Annotated[
    bool | None,
    typer.Option("--clip/--no-clip", help="Of a foreign model: clamp its prediction of x to the range, or do not."),
]
Condition = Annotated[
    str | None,
    typer.Option("--condition", metavar="NAME", help="The keyword of the network that takes the data's labels."),
]


def overrides(
    variance: str | None,
    decoder: str | None,
    bins: int | None,
    range: tuple[float, float] | None,
    clip: bool | None,
) -> Overrides:
    """What the flags choose in the place of a model's own."""
    from nelbo.adapters.choices import Overrides

    return Overrides(variance, decoder, bins, range, clip)


def check_device(name: str | None) -> str | None:
    """`name`, once it is sure that this machine has it. Errors: UsageError listing the devices that it has."""
    if name is None:
        return None
    import torch

    present = devices()
    hint = f"choose one of: {', '.join(present)}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} names no device", hint) from None
    plain = device.type if device.index is None else f"{device.type}:{device.index}"
    if plain not in present and plain != "cpu:0":
        raise UsageError(f"--device {name!r} is not on this machine", hint)
    return name


def devices() -> list[str]:
    """The devices of this machine that torch can use."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found += ["mps", "mps:0"]
    return found


def check_tolerance(tolerance: float | None) -> float | None:
    """`tolerance`, a finite number of bits/dim above 0, or None. Errors: UsageError."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"--tolerance {tolerance}", "give a standard error in bits/dim above 0, such as 0.01")
    return tolerance


def chosen_grid(steps: int | None, continuous: bool) -> Grid | None:
    """The grid that --steps or --continuous ask for; None: the model's own. Errors: UsageError for both at once."""
    if steps is not None and continuous:
        raise UsageError(f"--steps {steps} and --continuous were both given", "give one of them, or none")
    from nelbo.process import grid

    if continuous:
        return grid.continuous()
    return None if steps is None else grid.even(steps)


def distinct(**targets: Path | None) -> None:
    """Refuse two options that would write the same file. Errors: UsageError."""
    seen: dict[Path, str] = {}
    for name, path in targets.items():
        if path is None:
            continue
        place = path.resolve()
        if place in seen and not (path.exists() and not path.is_file()):
            raise UsageError(f"--{seen[place]} and --{name.replace('_', '-')} are both {path}", "give two names")
        seen[place] = name.replace("_", "-")
