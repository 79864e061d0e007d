"""`nelbo sample`: draws of the model as a picture or as an array."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, shared_session
from nelbo.errors import UsageError
from nelbo.progress import shown

if TYPE_CHECKING:
    from torch import Tensor

    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.domain import DataDomain
    from nelbo.model.latent.model import LatentModel
    from nelbo.model.tokens.model import TokenModel


def sample(
    model: options.Model,
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.png|FILE.npz|FILE.txt", help="A picture, the codes as an array, a text."),
    ],
    *,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help="ancestral, ddim, euler, heun, dpmpp_2m, dpmpp_2m_sde, flow_euler, flow_midpoint; confidence.",
        ),
    ] = "ancestral",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="A grid of K steps instead of the model's own.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option("--grid", metavar="NAME", help="How the steps are spaced: even, quadratic, karras, logsnr."),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option("--condition", metavar="NAME=K", help="A keyword of the network, and the class to draw."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", metavar="W", help="The scale of classifier-free guidance.")
    ] = None,
    null_condition: Annotated[
        str | None,
        typer.Option("--null-condition", metavar="NAME=K", help="The class that stands for none, for guidance."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Of a text: how every sample begins.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="FILE.npz#KEY",
            help="What is to be there of samples of different size: bools, or lengths, a row a sample.",
        ),
    ] = None,
    running: options.Running,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Draw examples of a model, as a picture or an array. Under torchrun the processes share the examples."""
    from nelbo import runtime

    with shared_session(as_json) as output:
        check_target(out, "--out", (".png", ".npz", ".txt"))
        from nelbo import api
        from nelbo.adapters.load import load
        from nelbo.files import write_atomic

        started = time.perf_counter()
        overrides = choices.overrides()
        loaded = load(model, overrides=overrides, trust_code=trust_code)
        if mask is not None and out.suffix.lower() != ".npz":
            raise UsageError(
                f"samples of different size as {out.name}", "give --out FILE.npz, which holds the mask too"
            )
        if out.suffix.lower() == ".png":
            check_pictures(loaded)
        if out.suffix.lower() == ".txt":
            check_text(loaded)
        start = None if prompt is None else prompted(loaded, prompt)
        there = None if mask is None else masks(loaded, mask, n)
        none = None if null_condition is None else {k: v[0] for k, v in rows_of(null_condition, 1, "--null-").items()}
        with shown("sampling", silent=output.silent) as progress:
            drawn = api.sample(
                loaded,
                n,
                sampler=sampler,
                steps=steps,
                grid=grid,
                progress=progress,
                condition=None if condition is None else rows_of(condition, n),
                guidance=guidance,
                null_condition=none,
                start=start,
                mask=there,
                workers=runtime.workers(),
                **running.keywords(),
            )
        if not output.silent:
            write_atomic(out, npz(samples=drawn, mask=there) if there is not None else written(out, drawn, loaded))
        document = {
            "schema": "nelbo.sample/1",
            "file": str(out),
            "n": n,
            "shape": list(drawn.shape),
            "sampler": sampler,
            "steps": loaded.steps if steps is None else steps,
            "grid": grid,
            "seed": running.seed,
            "overrides": overrides.to_json(),
            "condition": condition,
            "guidance": guidance,
            "null_condition": null_condition,
            "prompt": prompt,
            **({} if there is None else {"mask": mask, "positions": there.flatten(1).sum(1).tolist()}),
            "model": {"fingerprint": loaded.fingerprint(), "parameters": loaded.parameters},
            "seconds": round(time.perf_counter() - started, 3),
        }
        output.document(document)
        output.text(str(out))


def rows_of(condition: str, n: int, prefix: str = "--") -> dict[str, Tensor]:
    """NAME=K as the keyword NAME with the class K for each of n samples. Errors: UsageError."""
    import torch

    name, _, value = condition.partition("=")
    if not name.isidentifier() or not value.lstrip("-").isdecimal():
        raise UsageError(
            f"{prefix}condition {condition}",
            f"give the name of the network's keyword and a class: {prefix}condition y=3",
        )
    return {name: torch.full((n,), int(value))}


def masks(model: DiffusionModel | TokenModel | LatentModel, text: str, n: int) -> Tensor:
    """The mask of n samples that an array of an npz file holds. Errors: DataError, UsageError."""
    from nelbo.data import ragged
    from nelbo.model.diffusion import DiffusionModel

    if not isinstance(model, DiffusionModel):
        raise UsageError("a mask of samples of a latent model or of symbols", "leave it out")
    return ragged.read_mask(text, n, model.domain.shape[0])


def check_pictures(model: DiffusionModel | TokenModel | LatentModel) -> None:
    """Refuse a PNG of examples that cannot be drawn: symbols, or too many axes. Errors: UsageError."""
    from nelbo.model.tokens.domain import TokenDomain

    domain = model.domain
    if isinstance(domain, TokenDomain):
        raise UsageError(f"a picture of sequences of {domain.length} symbols", "give --out FILE.npz")
    if len(domain.shape) > 3:
        raise UsageError(
            f"examples of shape {tuple(domain.shape)} cannot be shown as pictures",
            "give --out FILE.npz; a picture needs the shape (H, W), (C, H, W) or (D,)",
        )


def written(out: Path, drawn: Tensor, model: DiffusionModel | TokenModel | LatentModel) -> bytes:
    """The samples in the form that the file's name says."""
    if out.suffix.lower() == ".png":
        return picture(drawn, model.domain)  # type: ignore[arg-type]  # checked before
    if out.suffix.lower() == ".txt":
        from nelbo.adapters.tokens import text

        return b"".join(f"# sample {i}\n{row}\n\n".encode() for i, row in enumerate(text(model, drawn)))  # type: ignore
    return npz(samples=drawn)


def check_text(model: DiffusionModel | TokenModel | LatentModel) -> None:
    """Refuse a text of what is none, before the work. Errors: UsageError."""
    from nelbo.data.symbols import of_facts

    if of_facts(model.provenance.get("data", {})) is None:
        raise UsageError("a text of a model that was not trained on one", "give --out FILE.npz")


def prompted(model: DiffusionModel | TokenModel | LatentModel, prompt: str) -> Tensor:
    """The start of samples that begin with a text. Errors: UsageError, DataError."""
    import torch

    from nelbo.data.symbols import of_facts

    check_text(model)
    known = of_facts(model.provenance["data"])
    mask, L = getattr(getattr(model, "kernel", None), "mask", None), model.domain.shape[0]
    if known is None or mask is None:
        raise UsageError("a prompt of a model without masked places", "give --prompt for a model of masked text")
    symbols = torch.from_numpy(known.stream(prompt.encode(), "the prompt").symbols.astype("int64"))
    if len(symbols) >= L:
        raise UsageError(f"a prompt of {len(symbols)} symbols for sequences of {L}", "give a shorter one")
    return torch.cat([symbols, torch.full((L - len(symbols),), mask)])


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
