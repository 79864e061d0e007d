"""`nelbo compress` and `nelbo decompress`: images to a file whose size is the bound, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, session
from nelbo.errors import UsageError
from nelbo.progress import shown

if TYPE_CHECKING:
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.tokens.model import TokenModel
    from nelbo.typing import Json


def compress(
    model: options.Model,
    data: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder, FILE.npz[#key], FILE.npy, an IDX file, digits[:test], hf:NAME, text:FILE.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.nelbo", help="The compressed file.")],
    *,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Decode everything before the file gets its name.")
    ] = True,
    few: Annotated[
        bool,
        typer.Option(
            "--few", "--force", help="Accept few images, whose share of the header and of bits-back is large."
        ),
    ] = False,
    steps: options.Steps = None,
    chunk_size: Annotated[
        int,
        typer.Option("--chunk", min=1, metavar="N", help="Images in a chunk, which damage loses together."),
    ] = 1000,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
    condition: options.Condition = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Compress images without loss.

    The file has about as many bits as the bound of the model says. It keeps --steps and the choices for a model not
    trained by nelbo, and it gets its name once everything was decoded without an error.
    """
    with session(as_json, one_process=True) as output:
        check_target(out, "--out", (".nelbo",))
        settings = {name: value for name, value in vars(choices).items() if value is not None}
        settings |= {} if steps is None else {"steps": steps}
        from nelbo import codec

        with shown("compressing") as progress:
            written = codec.compress(
                loaded(model, settings, trust_code),
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
        Path,
        typer.Option("--out", metavar="PATH", help="FILE.npz, FILE.npy, an IDX name, a new folder; FILE of a text."),
    ],
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
) -> None:
    """Restore the images of a compressed file exactly.

    Of a damaged file all images in intact chunks are written, under a name beside PATH; the error names the others, and
    the exit status is 2.
    """
    with session(as_json, one_process=True) as output:
        from nelbo.codec import archive
        from nelbo.codec.decompress import restore
        from nelbo.codec.settings import check_settings

        with archive.opened(file) as opened:
            header = archive.read_header(opened, str(file))
        check_settings(header.settings, len(header.widths))
        given = loaded(model, header.settings, trust_code)
        with shown("decompressing") as progress:
            read = restore(given, file, out, batch_size=batch_size, progress=progress)
        output.document(read.to_dict())
        output.text(str(read.where))


def loaded(model: str, settings: Json, trust_code: bool) -> DiffusionModel | TokenModel:
    """The model that MODEL names, with the settings that a file keeps. Errors: UsageError for unknown settings."""
    from nelbo.adapters.choices import Overrides
    from nelbo.adapters.load import load_data_model
    from nelbo.process.grid import even

    values: Json = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    steps = values.pop("steps", None)
    try:
        given = load_data_model(model, overrides=Overrides(**values), trust_code=trust_code)
        return given if steps is None else given.with_grid(even(steps))
    except TypeError:
        raise UsageError(f"unknown settings in the file: {settings}", "it was altered; fetch it again") from None
