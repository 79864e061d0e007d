"""`nelbo compress` and `nelbo decompress`: images to a file whose size is the bound, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, session
from nelbo.cli.progress import shown
from nelbo.errors import UsageError


def compress(
    model: options.Model,
    data: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Images: a folder, FILE.npz[#key], FILE.npy, an IDX file, digits[:test], hf:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.nelbo", help="The compressed file.")],
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Decode everything before the file gets its name.")
    ] = True,
    few: Annotated[
        bool, typer.Option("--few", help="Write few images too, whatever header and bits-back cost them.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="An even grid of K steps, not the model's own.")
    ] = None,
    chunk_size: Annotated[
        int, typer.Option("--chunk", min=1, metavar="N", help="Images that are lost together where a file is damaged.")
    ] = 1000,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    variance: options.Variance = None,
    decoder: options.Decoder = None,
    bins: options.Bins = None,
    range: options.Range = None,
    clip: options.Clip = None,
    condition: options.Condition = None,
    as_json: options.Json = False,
) -> None:
    """Compress images without loss, into about as many bits as the model's bound says.

    The file remembers --steps and the flags of a foreign model. It is published under its name once it was decoded.
    """
    with session(as_json) as output:
        check_target(out, "--out", (".nelbo",))
        chosen = options.overrides(variance, decoder, bins, range, clip)
        settings = {name: value for name, value in vars(chosen).items() if value is not None}
        settings |= {} if steps is None else {"steps": steps}
        from nelbo import codec

        with shown("compressing") as progress:
            written = codec.compress(
                loaded(model, settings),
                data,
                out,
                verify=verify,
                few=few,
                limit=limit,
                condition=condition,
                seed=seed,
                batch_size=batch_size,
                chunk_size=chunk_size,
                settings=settings,
                progress=progress,
            )
        output.document(written.to_dict())
        output.text(str(written))


def decompress(
    model: options.Model,
    file: Annotated[Path, typer.Argument(metavar="FILE.nelbo", help="What `nelbo compress` wrote.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="PATH", help="FILE.npz, FILE.npy, an IDX name, or a new folder.")
    ],
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
) -> None:
    """Give back the images of a compressed file, exactly as they were.

    Of a damaged file all images are recovered whose chunks are whole, beside PATH; the error names the others, and the
    status is 2.
    """
    with session(as_json) as output:
        from nelbo.codec import archive
        from nelbo.codec.decompress import restore

        with archive.opened(file) as opened:
            header = archive.read_header(opened, str(file))
        given = loaded(model, header.settings)
        with shown("decompressing") as progress:
            read = restore(given, file, out, batch_size=batch_size, progress=progress)
        output.document(read.to_dict())
        output.text(str(read.where))


def loaded(model: str, settings: dict):
    """The model that MODEL names, with the flags that a file remembers. Errors: UsageError for flags that are none."""
    from nelbo import api
    from nelbo.adapters.choices import Overrides
    from nelbo.process.grid import even

    said = dict(settings)
    steps = said.pop("steps", None)
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        chosen = Overrides(**values)
        given = api.load(model, overrides=chosen)
        return given if steps is None else given.with_grid(even(steps))
    except TypeError:
        raise UsageError(f"settings that are none: {settings}", "the file was altered; fetch it again") from None
