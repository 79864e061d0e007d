"""`nelbo sample`: draws of the model as a picture or as an array."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, session
from nelbo.cli.progress import shown
from nelbo.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from nelbo.model.domain import DataDomain


def sample(
    model: options.Model,
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.png|FILE.npz", help="A picture, or the codes as an array.")
    ],
    sampler: Annotated[str, typer.Option("--sampler", metavar="NAME", help="The sampler.")] = "ancestral",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="An even grid of K steps, not the model's own.")
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Draw examples of a model, as a picture or an array."""
    with session(as_json) as output:
        check_target(out, "--out", (".png", ".npz"))
        device = options.check_device(device)
        from nelbo import api
        from nelbo.files import write_atomic

        started = time.perf_counter()
        loaded = api.load(model)
        if out.suffix.lower() == ".png":
            check_pictures(loaded.domain)
        with shown("sampling") as progress:
            drawn = api.sample(
                loaded,
                n,
                sampler=sampler,
                steps=steps,
                seed=seed,
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
        write_atomic(out, picture(drawn, loaded.domain) if out.suffix.lower() == ".png" else npz(samples=drawn))
        document = {
            "schema": "nelbo.sample/1",
            "file": str(out),
            "n": n,
            "shape": list(drawn.shape),
            "sampler": sampler,
            "steps": loaded.steps if steps is None else steps,
            "seed": seed,
            "model": {"fingerprint": loaded.fingerprint(), "parameters": loaded.parameters},
            "seconds": round(time.perf_counter() - started, 3),
        }
        output.document(document)
        output.text(str(out))


def check_pictures(domain: DataDomain) -> None:
    """Refuse a PNG of examples that have too many axes to be drawn. Errors: UsageError."""
    if len(domain.shape) > 3:
        raise UsageError(
            f"examples of shape {tuple(domain.shape)} cannot be shown as pictures",
            "give --out FILE.npz; a picture needs the shape (H, W), (C, H, W) or (D,)",
        )


def picture(drawn: Tensor, domain: DataDomain) -> bytes:
    """The examples as one PNG, in rows."""
    from nelbo.report import pictures

    low, high = (0, domain.bins - 1) if domain.bins is not None else (domain.low, domain.high)
    return pictures.grid(drawn.numpy(), low, high)


def npz(**arrays: Any) -> bytes:
    """Arrays or tensors as the bytes of an NPZ."""
    import numpy as np

    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()
