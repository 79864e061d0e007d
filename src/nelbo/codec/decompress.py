"""`decompress`: the images of an archive, all of them or those that its damage has spared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from nelbo import runtime
from nelbo.adapters.load import load_data_model
from nelbo.ambient import neutral
from nelbo.arguments import checked_path, numbers
from nelbo.codec import archive, coders
from nelbo.codec.archive import Chunk, Survey
from nelbo.codec.coders import coder_of
from nelbo.codec.compress import decoded
from nelbo.codec.groups import AnyCoder
from nelbo.codec.header import MAX_GROUP, OF_FILE, Header
from nelbo.codec.source import parse_metadata, symbols_of
from nelbo.codec.stack import Damaged, kernels
from nelbo.codec.tally import Clock
from nelbo.codec.target import Target, target
from nelbo.errors import ArchiveError, NelboError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.tokens.model import TokenModel
from nelbo.progress import callback, shows_progress
from nelbo.typing import Json


@dataclass(frozen=True)
class Decompressed:
    """The result of a decompression. where: the path of the images, or their tensor. seconds: by kind of work."""

    images: int
    where: Any
    seconds: dict[str, float]
    header: Header

    def to_dict(self) -> Json:
        """As JSON, schema nelbo.decompressed/1."""
        return {
            "schema": "nelbo.decompressed/1",
            "out": str(self.where),
            "images": self.images,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "archive": self.header.describe(),
        }


@shows_progress("decompressing")
@numbers
@neutral()
def decompress(
    model: DiffusionModel | TokenModel | str | Path,
    path: str | Path,
    out: str | Path | None = None,
    *,
    batch_size: int | None = None,
    trust_code: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
) -> Tensor | bytes | Decompressed:
    """The images of an archive, exactly as they were compressed, in their own shape (N, …), order and integer type; of
    a text its bytes.

    model: the one that compressed them, or a MODEL string. path: of the file. out: None for a tensor; else a file whose
    name says its form (.npz, .npy, IDX), or a new folder of pictures, and the result is a `Decompressed`. batch_size:
    images per call of the network, which changes nothing else. trust_code: as of `nelbo.load`. progress: as of
    `evaluate`, of (images done, all).

    Errors: UsageError where `model` is not the one that wrote the file; ArchiveError where the file is damaged or
    altered: its `lost` lists the lost images as ranges (first, past the last), and is empty where all were decoded; its
    `recovered` is, or is the path of, all others, in their order.
    """
    if out is not None:
        runtime.check_first("codec.decompress")
    if batch_size is not None and not 1 <= batch_size <= MAX_GROUP:
        raise UsageError(f"batch_size={batch_size}", f"give 1 to {MAX_GROUP}")
    result = restore(model, path, out, batch_size=batch_size, trust_code=trust_code, progress=callback(progress))
    return result.where if out is None else result


def restore(
    model: DiffusionModel | TokenModel | str | Path,
    path: str | Path,
    out: str | Path | None,
    *,
    batch_size: int | None = None,
    trust_code: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
) -> Decompressed:
    """As `decompress`, and always with the header and the seconds."""
    kernels()
    path, out = checked_path("path", path), None if out is None else checked_path("out", out)
    with archive.opened(path) as file:
        header = archive.read_header(file, str(path))
        model = load_data_model(model, trust_code=trust_code)
        _check_model(model, header, str(path))
        seen = archive.survey(file, header)
        trained = symbols_of(model) if header.text.get("tokenizer") == OF_FILE else None
        images = target(header, out, getattr(model.domain, "bins", None) or 0, trained)
        clock = Clock()
        try:
            images.check(_names(file, header, seen))
            exact = model.in_precision(torch.float64, "cpu")
            with torch.inference_mode(), exact.denoiser.inference():
                batch = batch_size or header.group_size
                coder = coder_of(exact, header.bin_width, batch, header.widths, clock=clock)
                present, undecodable = _read(file, header, seen, coder, images, progress)
            lost = archive.missing(header, present)
            where = images.publish(bool(lost or seen.flaws))
        except BaseException:
            images.discard()
            raise
    if lost or seen.flaws:
        raise _damaged(path, header, lost, seen.flaws, undecodable, where)
    return Decompressed(header.images, where, {"network": clock.network, "coder": clock.coder}, header)


def _names(file: BinaryIO, header: Header, seen: Survey) -> Iterator[list[str]]:
    """The names of the images of every chunk in turn, where they can be read."""
    for index, frame in seen.frames.items():
        first, last = header.rows(index)
        with contextlib.suppress(Damaged):
            yield parse_metadata(Chunk.of(archive.body(file, frame)).metadata, last - first, header.conditions)[0]


def _read(
    file: BinaryIO, header: Header, seen: Survey, coder: AnyCoder, images: Target, progress
) -> tuple[set[int], int]:
    """The indices of the chunks that were decoded, in their order, and the number of intact ones that could not be."""
    present: set[int] = set()
    undecodable, done = 0, 0
    for index, frame in seen.frames.items():
        try:
            report = None if progress is None else lambda n, done=done: progress(done + n, header.images)
            codes, names = decoded(coder, header, index, archive.body(file, frame), report)
            if archive.checksum(codes) != frame.codes:
                raise Damaged("other images")
        except (Damaged, NelboError):
            undecodable += 1
            continue
        _check_type(header, int(codes.max()), str(getattr(file, "name", "the archive")))
        as_given = codes.reshape(len(codes), *header.shape).numpy().astype(header.dtype)
        images.add(as_given, names, header.rows(index)[0])
        present.add(index)
        done += len(codes)
    return present, undecodable


def _check_type(header: Header, largest: int, path: str) -> None:
    """Errors: ArchiveError where the header's type is too narrow for a code that was decoded."""
    if largest > np.iinfo(header.dtype).max:
        raise ArchiveError(
            f"{path} is altered: it says that its {header.noun} are {header.dtype}, and they have the code {largest}",
            "fetch the file again",
        )


def _check_model(model: DiffusionModel | TokenModel, header: Header, path: str) -> None:
    """Errors: UsageError unless this is the model that wrote the archive."""
    fingerprint = model.known_fingerprint("an archive, which only the model that wrote it can read")[:16]
    if fingerprint != header.fingerprint:
        raise UsageError(
            f"{path} was written by the model {header.fingerprint}…, and this one is {fingerprint}…: "
            "other weights, parts, steps or precision",
            "give the model that wrote it, with the flags that `nelbo info FILE.nelbo` shows under settings",
        )
    coders.check(model)
    if not _takes(model, header.shape) or len(header.widths) != coders.levels(model):
        raise ArchiveError(
            f"{path} is altered: its {header.noun} have the shape {header.shape} and {len(header.widths)} levels, and "
            f"those of its model {model.domain.shape} and {coders.levels(model)}",
            "fetch the file again",
        )


def _takes(model: DiffusionModel | TokenModel, shape: tuple[int, ...]) -> bool:
    return shape == model.domain.shape if isinstance(model, TokenModel) else model.domain.takes(shape)


def _damaged(
    path: Path, header: Header, lost: tuple[tuple[int, int], ...], flaws: tuple[str, ...], undecodable: int, where
) -> ArchiveError:
    """The error that names the lost images; or, where none is lost, how the file differs from what was written."""
    if lost:
        ranges = ", ".join(f"{a}" if b == a + 1 else f"{a}–{b - 1}" for a, b in lost[:20])
        more = f" and {len(lost) - 20} more ranges" if len(lost) > 20 else ""
        count = sum(b - a for a, b in lost)
        place = (
            "" if where is None or isinstance(where, Tensor) else f"; the other {header.images - count} are in {where}"
        )
        reason = "do not decode to what was compressed" if undecodable else "are damaged or missing in it"
        message = f"{path}: {header.noun} {ranges}{more} ({count} of {header.images}) {reason}{place}"
    else:
        place = "" if where is None or isinstance(where, Tensor) else f", and are in {where}"
        message = f"{path} is altered: {'; '.join(flaws[:3])}. All {header.images} {header.noun} were decoded{place}"
    hint = "fetch the file again, or keep what was recovered"
    if undecodable:
        hint = (
            f"the network's arithmetic here differs from the encoder's by more than the guard band, 2^-{header.tau} of "
            "a rounding unit: decompress with the versions, and on the kind of machine, that compressed it"
        )
    error = ArchiveError(message, hint)
    error.lost, error.recovered = lost, where
    return error
