"""`decompress`: the images of an archive, all of them or those that its damage has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.codec import archive, chunk, support
from nelbo.codec.compress import decoded, loaded
from nelbo.codec.groups import Clock, Coder
from nelbo.codec.header import Header
from nelbo.codec.restore import Sink, sink
from nelbo.codec.stack import Damaged, kernels
from nelbo.errors import ArchiveError, NelboError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.typing import Json


@dataclass(frozen=True)
class Decompressed:
    """What was read: how many images, where they are (a path, or the tensor itself), and the seconds of it."""

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


def decompress(
    model: DiffusionModel | str | Path,
    path: str | Path,
    out: str | Path | None = None,
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | Decompressed:
    """The images of an archive, exactly as they were compressed: a tensor of their own shape and type, or where `out`
    is given a file of the form that its name has (.npz, .npy, IDX), or a folder of pictures.

    batch_size: images that the network sees at once; the result does not depend on it.
    Errors: UsageError where `model` is not the one that wrote the file; ArchiveError where the file is damaged: its
    `lost` names the images that are lost, and `recovered` is, or is where, all others are.
    """
    result = restore(model, path, out, batch_size=batch_size, progress=progress)
    return result.where if out is None else result


def restore(
    model: DiffusionModel | str | Path,
    path: str | Path,
    out: str | Path | None,
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decompressed:
    """As `decompress`, with what is known of the work."""
    kernels()
    path = Path(path)
    with opened(path) as file:
        header = archive.read_header(file, str(path))
        given = loaded(model)
        check_model(given, header, str(path))
        target = sink(header, None if out is None else Path(out), given.domain.bins or 0)
        clock = Clock()
        try:
            exact = given.in_precision(torch.float64, "cpu")
            with torch.inference_mode(), exact.denoiser.inference():
                coder = Coder(exact, header.bin_width, batch_size or header.most, header.widths, clock=clock)
                found, strange = _read(file, header, coder, target, progress)
            lost = archive.missing(header, found)
            where = target.publish(bool(lost))
        except BaseException:
            target.drop()
            raise
    seconds = {"network": clock.network, "coder": clock.coder}
    if lost:
        raise damage(path, header, lost, strange, where)
    return Decompressed(header.images, where, seconds, header)


def _read(file, header: Header, coder: Coder, target: Sink, progress) -> tuple[set[int], int]:
    """The indices of the chunks that decoded, and how many were intact and did not."""
    found: set[int] = set()
    strange, done = 0, 0
    for frame in archive.frames(file, header):
        try:
            told = None if progress is None else lambda n, done=done: progress(done + n, header.images)
            codes, names = decoded(coder, header, frame.index, frame.body, told)
            if chunk.checksum(codes) != frame.codes:
                raise Damaged("other images")
        except (Damaged, NelboError):
            strange += 1
            continue
        first = header.rows(frame.index)[0]
        target.add(as_given(codes, header), names, first)
        found.add(frame.index)
        done += len(codes)
    return found, strange


def as_given(codes: Tensor, header: Header) -> np.ndarray:
    """Codes in the shape and the type that they were given in."""
    return codes.reshape(len(codes), *header.shape).numpy().astype(header.dtype)


def opened(path: Path):
    """The file. Errors: ArchiveError where there is none."""
    try:
        return path.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise ArchiveError(f"there is no file {path}", "check the path") from None


def check_model(model: DiffusionModel, header: Header, path: str) -> None:
    """Errors: UsageError unless this is the model that wrote the archive."""
    if model.fingerprint()[:16] != header.fingerprint:
        raise UsageError(
            f"{path} was written by the model {header.fingerprint}…, and this one is {model.fingerprint()[:16]}…: "
            "other weights, parts, steps or precision",
            "give the model that wrote it, with the flags that `nelbo info FILE.nelbo` shows under settings",
        )
    support.check(model)
    if header.dimensions != model.domain.dimensions or len(header.widths) != len(model.levels()):
        raise ArchiveError(f"{path} is altered: its images are not of this model's shape", "fetch the file again")


def damage(path: Path, header: Header, lost, strange: int, where: Any) -> ArchiveError:
    """The error that names what is missing."""
    ranges = ", ".join(f"{a}" if b == a + 1 else f"{a}–{b - 1}" for a, b in lost[:20])
    more = f" and {len(lost) - 20} more ranges" if len(lost) > 20 else ""
    count = sum(b - a for a, b in lost)
    place = "" if where is None or isinstance(where, Tensor) else f"; the other {header.images - count} are in {where}"
    if strange:
        reason = "decode to something else than was compressed"
        hint = (
            f"the network's arithmetic here differs from the encoder's by more than the guard band, 2^-{header.tau} of "
            "a rounding unit: decompress with the versions, and on the kind of machine, that compressed it"
        )
    else:
        reason, hint = "are damaged or missing in it", "fetch the file again, or keep what was recovered"
    error = ArchiveError(f"{path}: images {ranges}{more} ({count} of {header.images}) {reason}{place}", hint)
    error.lost, error.recovered = tuple(lost), where
    return error
