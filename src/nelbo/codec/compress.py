"""`compress`: images into a file whose size is the bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nelbo import runtime
from nelbo.adapters.load import load_data_model
from nelbo.ambient import neutral
from nelbo.arguments import checked_path, numbers
from nelbo.codec import archive, coders, groups
from nelbo.codec.archive import Chunk
from nelbo.codec.bitswap import rows_of
from nelbo.codec.coders import coder_of
from nelbo.codec.compressed import Compressed
from nelbo.codec.groups import AnyCoder
from nelbo.codec.header import MAX_CHUNK, MAX_GROUP, Header
from nelbo.codec.sequences import SequenceCoder
from nelbo.codec.settings import check_settings
from nelbo.codec.source import Source, parse_metadata, source
from nelbo.codec.stack import Damaged, kernels
from nelbo.codec.tally import Clock, Tally
from nelbo.errors import ArchiveError, UsageError
from nelbo.files import writing
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.tokens.model import TokenModel
from nelbo.progress import shows_progress, tell
from nelbo.typing import Condition, Json

MAX_OVERHEAD = 0.10
"""Share of the net bits; few images that cost more are refused unless the user insists."""


@shows_progress("compressing")
@numbers
@neutral()
def compress(
    model: DiffusionModel | TokenModel | str | Path,
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
    trust_code: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
) -> Compressed:
    """Write `images` to `path` without loss, in about as many bits as the bound of `model`.

    The model's chain is coded by bits-back with an entropy coder. The file contains the bound in bits, a header of some
    tens of bytes, and the bits that bits-back borrows for the first image, which is why few images are refused.

    Sequences of symbols under a model of masked places need no bits-back: each place is coded under the network's law,
    in the random order in which the model's chain reveals them, and one sequence costs its own bits. A text
    (`text:FILE`) comes back as it was, to the last byte.

    model: a finite chain over integer codes, a model of symbols, or a MODEL string. images: as the data of
    `nelbo.evaluate`. path: of the file, which appears only when it is complete.

    verify: decode every chunk before the file gets its name. few: write few images whatever the overhead. limit: only
    the first so many images. condition: as of `evaluate`, of integers, stored in the file; a name stands for the labels
    of the data. seed: of the latents that are drawn, 0 to 2⁶³ − 1. batch_size: images per group, and per call of the
    network, at most (64). chunk_size: images that are lost together if the file is damaged. bin_width: of the latents'
    lattices, in standard deviations, 1/64 to 2. settings: flags stored in the file, by which `nelbo decompress` finds
    the same model again. trust_code: as of `nelbo.load`. progress: as of
    `evaluate`, of (images done, all); one that awaits its verification counts one half.

    Errors: UsageError for what cannot be coded, with the remedy, and in all but the first of several processes, which
    do not share the work; DataError, DomainError, ShapeError as of `evaluate`;
    NumericalError where the network's numbers depend on the batch size or cannot be coded; ArchiveError where the
    verification failed; OSError. Source: Kingma, Abbeel & Ho 2019.

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
    runtime.check_first("codec.compress")
    kernels()
    if not (1 <= chunk_size <= MAX_CHUNK):
        raise UsageError(f"chunks of {chunk_size} images", f"give 1 to {MAX_CHUNK}")
    if not (math.isfinite(bin_width) and 1 / 64 <= bin_width <= 2):
        raise UsageError(f"bins of {bin_width} standard deviations", "give 1/64 to 2; 0.5 costs nothing")
    if batch_size is not None and not 1 <= batch_size <= MAX_GROUP:
        raise UsageError(f"groups of {batch_size} images", f"give 1 to {MAX_GROUP}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed}", "give an integer from 0 to 2^63 − 1")
    path = checked_path("path", path, file=True)
    model = load_data_model(model, trust_code=trust_code)
    coders.check(model)
    check_settings(settings or {}, coders.levels(model))
    fingerprint = model.known_fingerprint("an archive, which only the same model can read")
    data = source(images, model, limit, condition)
    exact = model.in_precision(torch.float64, "cpu")
    with torch.inference_mode(), exact.denoiser.inference():
        coder = coder_of(exact, round(bin_width * 64) / 64, batch_size or 64, seed=seed)
        first = data.codes(0, min(chunk_size, len(data.data)))
        header = Header(
            fingerprint=fingerprint[:16],
            images=len(data.data),
            shape=data.shape,
            widths=() if isinstance(coder, SequenceCoder) else tuple(coder.fine.widths),
            dtype=data.dtype,
            r=round(bin_width * 64),
            tau=coders.guard_band(coder, first, data.condition),
            seed=seed,
            chunk_size=chunk_size,
            group_size=coder.batch,
            form=data.form,
            key=data.key,
            settings=settings or {},
            conditions=tuple(sorted(data.condition or {})),
            identity=archive.checksum(first),
            text=data.text,
        )
        # another batch size than the encoder's, so that what depends on it shows
        checker = replace(coder, batch=max(1, (coder.batch + 1) // 2), clock=Clock()) if verify else None
        with writing(path) as file:
            result = _write(coder, checker, header, data, file, str(path), progress)
            if coder.borrows and result.overhead > MAX_OVERHEAD and not few:
                raise _too_few(result)
    facts = dict(data.facts)
    return replace(result, text_bytes=facts.pop("bytes", None) if data.text else None, facts=facts)


def _write(
    coder: AnyCoder, checker: AnyCoder | None, header: Header, data: Source, file: BinaryIO, path: str, progress
) -> Compressed:
    net_bits, borrowed, exceptions, metadata, tally = 0.0, 0, 0, 0, Tally()
    report = _Progress(progress, header, 1 if checker is None else 2)
    file.write(header.to_bytes())
    for index in range(header.chunks):
        first, last = header.rows(index)
        codes = data.codes(first, last)
        condition = rows_of(data.condition, slice(first, last))
        coder.start_chunk(header, index)
        report.start_chunk(first, net_bits)
        chunk = groups.encode(coder, header, codes, condition, data.metadata(first, last), report.encoded)
        body = chunk.to_bytes()
        if checker is not None:
            _verify(checker, header, index, body, codes, data.names[first:last], path, report.verified)
        file.write(archive.frame(header, index, body, archive.checksum(codes)))
        tally += coder.tally
        net_bits, metadata = net_bits + chunk.net_bits, metadata + len(chunk.metadata)
        borrowed, exceptions = borrowed + chunk.borrowed, exceptions + len(chunk.exceptions)
    length = file.tell()
    file.write(archive.checksum_of(file, length).to_bytes(4, "little"))
    seconds = {"network": coder.clock.network, "coder": coder.clock.coder}
    if checker is not None:
        seconds["verification"] = checker.clock.network + checker.clock.coder
        file.flush()
        if not archive.intact(file):
            raise ArchiveError(f"{path} does not read back as it was written", "check the disk, and run it again")
    return Compressed(
        path, length + 4, header.images, coder.model.domain.dimensions, net_bits, 4 * borrowed, metadata, exceptions,
        checker is not None, seconds, header, tally,
    )  # fmt: skip


class _Progress:
    """Reports images done, where one that awaits its verification counts one half, and the bits/dim so far."""

    def __init__(self, report: Callable[[int, int], None] | None, header: Header, passes: int):
        self.report, self.header, self.passes = report, header, passes
        self.first, self.bits, self.coded = 0, 0.0, 0

    def start_chunk(self, first: int, bits: float) -> None:
        """The next chunk begins with image `first`, after `bits` net bits of those before."""
        self.first, self.bits = first, bits

    def encoded(self, n: int, bits: float) -> None:
        """n images of the chunk are encoded, in `bits` net bits."""
        self.coded = n
        rate = (self.bits + bits) / ((self.first + n) * self.header.dimensions)
        tell(self.report, f"{rate:.4f} {self.header.unit}")
        self._passed(n)

    def verified(self, n: int) -> None:
        """n images of the chunk are verified."""
        self._passed(self.coded + n)

    def _passed(self, n: int) -> None:
        if self.report is not None:
            self.report(self.first + n // self.passes, self.header.images)


def _verify(
    checker: AnyCoder, header: Header, index: int, body: bytes, codes: Tensor, names: Sequence[str], path: str, progress
) -> None:
    try:
        back, its_names = decoded(checker, header, index, body, progress)
        equal = torch.equal(back, codes) and its_names == list(names)
    except Damaged:
        equal = False
    if not equal:
        raise ArchiveError(
            f"{path}: chunk {index} does not decode to the images it was made of, so nothing was written",
            "the network does not give the same output twice: look for randomness or float32 inside it, or for layers "
            "that mix the images of a batch",
        )


def decoded(
    coder: AnyCoder, header: Header, index: int, body: bytes, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, list[str]]:
    """Codes and names of the images of a chunk's body; `progress` as of `groups.decode`. Errors: `Damaged`."""
    first, last = header.rows(index)
    chunk = Chunk.of(body)
    names, condition = parse_metadata(chunk.metadata, last - first, header.conditions)
    coder.start_chunk(header, index)
    return groups.decode(coder, header, chunk, last - first, condition, progress), names


def _too_few(result: Compressed) -> UsageError:
    net = max(1, math.ceil(result.net_bits / 8))
    fixed = result.bytes - result.metadata - net
    enough = math.ceil(fixed * result.images / net / MAX_OVERHEAD)
    return UsageError(
        f"{result.images} image{'s' if result.images > 1 else ''} would take {result.bytes} bytes, of which "
        f"{fixed} are header, checksums and what bits-back borrows to begin with: {100 * result.overhead:.0f} % more "
        f"than the {net} bytes of the images themselves",
        f"give more images at once (about {enough} come within {100 * MAX_OVERHEAD:.0f} %), or write them all the same "
        "with few=True",
    )
