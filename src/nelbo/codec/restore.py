"""Where images go: an array in memory, or a file or folder of the form that they are asked for in."""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.header import Header
from nelbo.data import idx, picture
from nelbo.errors import UsageError
from nelbo.files import writing

LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
"""Endings of pictures that are written as they were named; others get .png behind their name."""


class Sink(ABC):
    """Takes images in order, and publishes them at once when all are there."""

    @abstractmethod
    def add(self, images: np.ndarray, names: list[str], first: int) -> None:
        """Images (n, *shape) in their own type, the first of which was number `first`."""

    @abstractmethod
    def publish(self, partly: bool) -> object:
        """Make them appear under their name, or beside it where some are missing; where they are."""

    @abstractmethod
    def drop(self) -> None:
        """Forget everything."""


class Memory(Sink):
    """A tensor of all images."""

    def __init__(self, header: Header):
        self.parts: list[Tensor] = []
        self.header = header

    def add(self, images, names, first):
        self.parts.append(torch.from_numpy(np.ascontiguousarray(images)))

    def publish(self, partly):
        return torch.cat(self.parts) if self.parts else None

    def drop(self):
        self.parts = []


class Array(Sink):
    """An npy, npz or IDX file, its rows collected in a temporary file beside."""

    def __init__(self, header: Header, out: Path):
        self.header, self.out = header, out
        self.rows = 0
        out.parent.mkdir(parents=True, exist_ok=True)
        self.spool = cast(BinaryIO, tempfile.TemporaryFile(dir=out.parent))  # noqa: SIM115  closed when done
        self.places: list[np.ndarray] = []

    def add(self, images, names, first):
        self.spool.write(np.ascontiguousarray(images).tobytes())
        self.places.append(np.arange(first, first + len(images)))
        self.rows += len(images)

    def publish(self, partly):
        if not self.rows:
            return None
        place = beside(self.out) if partly else self.out
        with writing(place) as file:
            self._write(file, place, partly)
        self.spool.close()
        return place

    def drop(self):
        self.spool.close()

    def _write(self, file: BinaryIO, place: Path, partly: bool) -> None:
        if place.suffix.lower() == ".npy":
            self._npy(file)
        elif place.suffix.lower() == ".npz":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                with archive.open(f"{self.header.key or 'images'}.npy", "w", force_zip64=True) as member:
                    self._npy(member)
                if partly:
                    with archive.open("index.npy", "w") as member:
                        np.lib.format.write_array(member, np.concatenate(self.places))
        elif place.suffix.lower() == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as inner:
                self._idx(cast(IO[bytes], inner))
        else:
            self._idx(file)

    def _npy(self, file: IO[bytes]) -> None:
        shape = (self.rows, *self.header.shape)
        descr = np.lib.format.dtype_to_descr(np.dtype(self.header.dtype))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, file)

    def _idx(self, file: IO[bytes]) -> None:
        dtype = np.dtype(self.header.dtype)
        kinds = {np.dtype(text).newbyteorder("="): (code, text) for code, text in idx.TYPES.items()}
        if dtype not in kinds:
            raise UsageError(f"IDX has no type for {dtype} codes", "choose --out FILE.npz")
        code, text = kinds[dtype]
        shape = (self.rows, *self.header.shape)
        file.write(struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape))
        self.spool.seek(0)
        while piece := self.spool.read(dtype.itemsize << 18):
            file.write(np.frombuffer(piece, dtype).astype(text).tobytes())


class Folder(Sink):
    """A folder of pictures, made beside and renamed."""

    def __init__(self, header: Header, out: Path, black_and_white: bool):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"--out {out} exists and is not an empty folder", "give the name of a new folder")
        self.header, self.out, self.rows = header, out, 0
        if len(header.shape) not in (2, 3) or (len(header.shape) == 3 and header.shape[0] not in (1, 3)):
            raise UsageError(
                f"images of shape {tuple(header.shape)} cannot be written as pictures", "choose --out FILE.npz"
            )
        self.mode = "1" if black_and_white else "L"
        self.image = picture.pillow("the pictures of an archive")
        out.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=".nelbo-", suffix=".tmp"))
        self.temporary.chmod(0o777 & ~_umask())

    def add(self, images, names, first):
        for i, codes in enumerate(images):
            name = names[i] if names else f"{first + i:0{len(str(self.header.images - 1))}d}.png"
            target = self.temporary / safe(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._picture(codes).save(target)
            self.rows += 1

    def publish(self, partly):
        if not self.rows:
            self.drop()
            return None
        place = beside(self.out) if partly else self.out
        if place.exists():
            if any(place.iterdir()):
                raise UsageError(f"{place} exists and is not an empty folder", "move it away")
            place.rmdir()
        self.temporary.rename(place)
        return place

    def drop(self):
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _picture(self, codes: np.ndarray):
        codes = codes.astype(np.uint8)
        if codes.ndim == 3:
            codes = codes[0] if len(codes) == 1 else codes.transpose(1, 2, 0)
        if self.mode == "1" and codes.ndim == 2:
            return self.image.fromarray(codes * np.uint8(255)).convert("1")
        return self.image.fromarray(np.ascontiguousarray(codes))


def safe(name: str) -> PurePosixPath:
    """A name from a file as a path that stays below its folder, with an ending that keeps pixels."""
    parts = [
        part for part in PurePosixPath(name.replace("\\", "/").replace("\0", "_")).parts if part not in ("/", "..", ".")
    ]
    path = PurePosixPath(*parts) if parts else PurePosixPath("image.png")
    return path if path.suffix.lower() in LOSSLESS else path.with_name(path.name + ".png")


def beside(out: Path) -> Path:
    """Where a part of the images goes: images.npz → images.recovered.npz."""
    return out.with_name(f"{out.stem}.recovered{out.suffix}" if out.suffix else f"{out.name}.recovered")


def sink(header: Header, out: Path | None, bins: int) -> Sink:
    """The sink for `out` by its name: .npz, .npy, an IDX name, else a folder; None: memory. Errors: UsageError."""
    if out is None:
        return Memory(header)
    if out.suffix.lower() in (".npz", ".npy") or idx.is_idx(out):
        if out.is_dir():
            raise UsageError(f"--out {out} is a folder", "give the name of a file, or of a new folder")
        return Array(header, out)
    if bins > 256:
        raise UsageError(f"codes of {bins} values are no pictures of 8 bits", "choose --out FILE.npz")
    return Folder(header, out, bins == 2 and len(header.shape) == 2)


def _umask() -> int:
    from nelbo import files

    return files._umask()
