"""`compress`: images into a file whose size is the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.codec import archive, chunk, support
from nelbo.codec.groups import Clock, Coder
from nelbo.codec.header import MOST_CHUNK, MOST_GROUP, Header
from nelbo.codec.source import Source, parse_extra, source
from nelbo.codec.stack import Damaged, kernels
from nelbo.errors import ArchiveError, UsageError
from nelbo.files import writing
from nelbo.model.diffusion import DiffusionModel
from nelbo.typing import Condition, Json

TOO_MUCH = 0.10
"""Overhead above which few images are refused."""


@dataclass(frozen=True)
class Compressed:
    """What a compression gave.

    net_bits: what the images added to their stacks, the bound in expectation; borrowed: bytes that bits-back took on
    loan and that the file carries; beside: bytes of names and conditions; exceptions: rounded numbers written down;
    seconds: by kind of work.
    """

    path: str
    bytes: int
    images: int
    dimensions: int
    net_bits: float
    borrowed: int
    beside: int
    exceptions: int
    verified: bool
    seconds: dict[str, float]
    header: Header

    @property
    def bits_per_dim(self) -> float:
        """Of the whole file."""
        return 8 * self.bytes / (self.images * self.dimensions)

    @property
    def net_bits_per_dim(self) -> float:
        """Without header, checksums and loan."""
        return self.net_bits / (self.images * self.dimensions)

    @property
    def overhead(self) -> float:
        """What the file has beyond its net bits and what belongs to the images beside, as a share of the net bits."""
        return 8 * (self.bytes - self.beside) / max(self.net_bits, 1.0) - 1

    def to_dict(self) -> Json:
        """As JSON, schema nelbo.compressed/1."""
        return {
            "schema": "nelbo.compressed/1",
            "file": self.path,
            "bytes": self.bytes,
            "images": self.images,
            "dimensions": self.dimensions,
            "bits_per_dim": self.bits_per_dim,
            "net_bits_per_dim": self.net_bits_per_dim,
            "overhead": self.overhead,
            "borrowed_bytes": self.borrowed,
            "names_and_conditions_bytes": self.beside,
            "exceptions": self.exceptions,
            "verified": self.verified,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "archive": self.header.describe(),
        }

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.images} images in {self.bytes} bytes, {self.bits_per_dim:.4f} bits/dim "
            f"({self.net_bits_per_dim:.4f} net + {100 * self.overhead:.2f} %)"
        )


def compress(
    model: DiffusionModel | str | Path,
    images: Any,
    path: str | Path,
    *,
    verify: bool = True,
    few: bool = False,
    limit: int | None = None,
    condition: Condition | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    chunk_size: int = 1000,
    bin_width: float = 0.5,
    settings: Json | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Compressed:
    """Write `images` to `path` without loss, in about as many bits as the bound of `model` says.

    The model's chain is coded by bits-back with an entropy coder: the file holds the bound's nats over ln 2, a header
    of some tens of bytes, and what one image borrows to begin with, which is why few images are refused.

    images: whatever `nelbo.evaluate` takes. verify: decode every chunk before the file gets its name. few: write few
    images whatever the overhead. condition: as of `evaluate`, kept in the file. batch_size: images in a group, and for
    the network, at most (64). chunk_size: images that are lost together where the file is damaged. bin_width: of the
    latents' lattices, in standard deviations. settings: flags by which `decompress` finds the same model again.
    progress: called with (images done, all); one that awaits its verification counts one half.

    Errors: UsageError for what cannot be coded, with the remedy; DataError, DomainError, ShapeError as of `evaluate`;
    ArchiveError where verification failed; OSError. Source: Kingma, Abbeel & Ho 2019.

    >>> import nelbo, tempfile, torch
    >>> law = nelbo.schedules.logsnr_linear(6.0, -6.0)
    >>> model = nelbo.from_callable(
    ...     lambda z, t: torch.zeros_like(z), schedule=law, predicts="x0", domain=nelbo.DataDomain((8, 8), bins=17),
    ...     time="logsnr", decoder="categorical", grid=nelbo.grids.even(5),
    ... )
    >>> images, file = torch.arange(200 * 64).reshape(200, 8, 8) % 17, tempfile.mkdtemp() + "/images.nelbo"
    >>> written = nelbo.codec.compress(model, images, file)
    >>> bool((nelbo.codec.decompress(model, file) == images).all())
    True
    """
    kernels()
    if not (1 <= chunk_size <= MOST_CHUNK):
        raise UsageError(f"chunks of {chunk_size} images", f"give 1 to {MOST_CHUNK}")
    if not (math.isfinite(bin_width) and 1 / 64 <= bin_width <= 2):
        raise UsageError(f"bins of {bin_width} standard deviations", "give 1/64 to 2; 0.5 costs nothing")
    if batch_size is not None and not 1 <= batch_size <= MOST_GROUP:
        raise UsageError(f"groups of {batch_size} images", f"give 1 to {MOST_GROUP}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed}", "give a whole number from 0 to 2^63 − 1")
    given = loaded(model)
    support.check(given)
    what = source(images, given.domain, limit, condition)
    path = Path(path)
    exact = given.in_precision(torch.float64, "cpu")
    clocks = Clock(), Clock()
    with torch.inference_mode(), exact.denoiser.inference():
        coder = Coder(exact, round(bin_width * 64) / 64, batch_size or 64, seed=seed, clock=clocks[0])
        first = what.codes(0, min(chunk_size, len(what.data)))
        header = Header(
            fingerprint=given.fingerprint()[:16],
            images=len(what.data),
            shape=what.shape,
            widths=tuple(coder.fine.widths),
            dtype=what.dtype,
            r=round(bin_width * 64),
            tau=support.guard_band(coder, first, chunk.rows_of(what.condition, 0, len(first))),
            seed=seed,
            chunk=chunk_size,
            most=coder.batch,
            form=what.form,
            key=what.key,
            settings=settings or {},
            conditions=tuple(sorted(what.condition or {})),
            identity=chunk.checksum(first),
        )
        checker = replace(coder, batch=max(1, (coder.batch + 1) // 2), clock=clocks[1]) if verify else None
        with writing(path) as file:
            result = _written(coder, checker, header, what, file, str(path), progress)
            if result.overhead > TOO_MUCH and not few:
                raise _too_few(result)
    return result


def _written(coder: Coder, checker, header: Header, what: Source, file, path: str, progress) -> Compressed:
    net, borrowed, exceptions, beside = 0.0, 0, 0, 0
    told = _Told(progress, header, 1 if checker is None else 2)
    file.write(header.to_bytes())
    for index in range(header.chunks):
        first, last = header.rows(index)
        codes = what.codes(first, last)
        condition = chunk.rows_of(what.condition, first, last - first)
        coder.seed = header.seed + index
        told.first, told.before = first, net
        made = chunk.encode(coder, header, codes, condition, what.extra(first, last), told.encoded)
        frame = archive.frame(header, index, made, chunk.checksum(codes))
        if checker is not None:
            _verify(checker, header, index, made, codes, path, told.verified)
        file.write(frame)
        beside += len(made.extra)
        net, borrowed, exceptions = net + made.net_bits, borrowed + made.borrowed, exceptions + len(made.exceptions)
    length = file.tell()
    file.write(archive.checksum_of(file, length).to_bytes(4, "little"))
    seconds = {"network": coder.clock.network, "coder": coder.clock.coder}
    if checker is not None:
        seconds["verification"] = checker.clock.network + checker.clock.coder
        file.flush()
        if not archive.intact(file):
            raise ArchiveError(f"{path} does not read back as it was written", "check the disk, and run it again")
    return Compressed(
        path, length + 4, header.images, coder.model.domain.dimensions, net, 4 * borrowed, beside, exceptions,
        checker is not None, seconds, header,
    )  # fmt: skip


class _Told:
    """What is told of the work: images done, of which one that awaits its verification is a half, and bits/dim."""

    def __init__(self, progress: Callable[[int, int], None] | None, header: Header, passes: int):
        self.progress, self.header, self.passes = progress, header, passes
        self.first, self.before, self.coded = 0, 0.0, 0

    def encoded(self, n: int, bits: float) -> None:
        """Of the chunk that begins with image `first`, behind `before` bits."""
        self.coded = n
        if hasattr(self.progress, "note"):
            said = (self.before + bits) / ((self.first + n) * self.header.dimensions)
            self.progress.note = f"{said:.4f} bits/dim"  # type: ignore[union-attr]
        self._say(n)

    def verified(self, n: int) -> None:
        """Of the same chunk."""
        self._say(self.coded + n)

    def _say(self, passed: int) -> None:
        if self.progress is not None:
            self.progress(self.first + passed // self.passes, self.header.images)


def _verify(checker: Coder, header: Header, index: int, made: chunk.Chunk, codes: Tensor, path: str, told) -> None:
    try:
        found = decoded(checker, header, index, made.to_bytes(), told)[0]
        well = torch.equal(found, codes)
    except Damaged:
        well = False
    if not well:
        raise ArchiveError(
            f"{path}: chunk {index} does not decode to the images it was made of, so nothing was written",
            "the network does not say the same twice: look for randomness or float32 inside it, or for layers that "
            "mix the images of a batch",
        )


def decoded(coder: Coder, header: Header, index: int, body: bytes, told: Callable[[int], None] | None = None):
    """Codes and names of the images of a chunk's body; `told` as of `chunk.decode`. Errors: `Damaged`."""
    first, last = header.rows(index)
    parsed = chunk.Chunk.of(body)
    names, condition = parse_extra(parsed.extra, last - first, header.conditions)
    coder.seed = header.seed + index
    return chunk.decode(coder, header, parsed, last - first, condition, told), names


def _too_few(result: Compressed) -> UsageError:
    worth = max(1, math.ceil(result.net_bits / 8))
    fixed = result.bytes - result.beside - worth
    enough = math.ceil(fixed * result.images / worth / TOO_MUCH)
    return UsageError(
        f"{result.images} image{'s' if result.images > 1 else ''} would take {result.bytes} bytes, of which "
        f"{fixed} are header, checksums and what bits-back borrows to begin with: {100 * result.overhead:.0f} % more "
        f"than the {worth} bytes that the model says of them",
        f"give more images at once (about {enough} come within {100 * TOO_MUCH:.0f} %), or write them all the same "
        "with --few (few=True)",
    )


def loaded(model: DiffusionModel | str | Path) -> DiffusionModel:
    """A model, or the one that a MODEL string names."""
    if isinstance(model, DiffusionModel):
        return model
    import nelbo  # the public face, which loads the floors above this one when they are asked for

    return nelbo.load(model)
