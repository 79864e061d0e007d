"""Where decompressed images go: a tensor, or a file or folder in the form that its name asks for."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from nelbo import files
from nelbo.codec import names as names_of
from nelbo.codec.header import OF_FILE, Header
from nelbo.codec.names import Restored
from nelbo.data import idx, pictures, symbols
from nelbo.data.symbols import Symbols
from nelbo.errors import ArchiveError, UsageError

FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Pillow's formats by the endings of `names.LOSSLESS`."""
MOST_NAMES = 1 << 21
"""Names that are looked at before anything is decoded; the others are checked as their pictures are written."""


class Target(ABC):
    """Takes images in order and publishes them at once when all are there."""

    def check(self, names: Iterable[list[str]]) -> None:  # noqa: B027  most forms have no names
        """Errors: ArchiveError where the names of the images do not allow it."""

    @abstractmethod
    def add(self, images: np.ndarray, names: list[str], first: int) -> None:
        """Add images (n, *shape) in their own type, the first of which is number `first`."""

    @abstractmethod
    def publish(self, partial: bool) -> object:
        """Make them appear under their name, or beside it if some are missing; returns the path or the tensor."""

    @abstractmethod
    def discard(self) -> None:
        """Delete everything."""


class TensorTarget(Target):
    """A tensor of all images."""

    def __init__(self):
        self.parts: list[Tensor] = []

    def add(self, images, names, first):
        self.parts.append(torch.from_numpy(np.ascontiguousarray(images)))

    def publish(self, partial):
        return torch.cat(self.parts) if self.parts else None

    def discard(self):
        self.parts = []


class ArrayTarget(Target):
    """An npy, npz or IDX file; its rows are collected in a temporary file in the same folder."""

    def __init__(self, header: Header, out: Path):
        self.header, self.out, self.count = header, out, 0
        out.parent.mkdir(parents=True, exist_ok=True)
        self.rows = cast(BinaryIO, tempfile.TemporaryFile(dir=out.parent))  # noqa: SIM115  closed when done
        self.indices: list[np.ndarray] = []

    def add(self, images, names, first):
        self.rows.write(np.ascontiguousarray(images).tobytes())
        self.indices.append(np.arange(first, first + len(images)))
        self.count += len(images)

    def publish(self, partial):
        if not self.count:
            return None
        path = recovered(self.out) if partial else self.out
        with files.writing(path) as file:
            self._write(file, path.suffix.lower(), partial)
        self.rows.close()
        return path

    def discard(self):
        self.rows.close()

    def _write(self, file: BinaryIO, suffix: str, partial: bool) -> None:
        if suffix == ".npy":
            self._npy(file)
        elif suffix == ".npz":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                name = member(self.header.key)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as inner:
                    self._npy(inner)
                if partial:
                    with archive.open("indices.npy" if name == "index" else "index.npy", "w") as inner:
                        np.lib.format.write_array(inner, np.concatenate(self.indices))
        elif suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as inner:
                self._idx(cast(IO[bytes], inner))
        else:
            self._idx(file)

    def _npy(self, file: IO[bytes]) -> None:
        shape = (self.count, *self.header.shape)
        descr = np.lib.format.dtype_to_descr(np.dtype(self.header.dtype))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        self.rows.seek(0)
        shutil.copyfileobj(self.rows, file)

    def _idx(self, file: IO[bytes]) -> None:
        dtype = np.dtype(self.header.dtype)
        kinds = {np.dtype(text).newbyteorder("="): (code, text) for code, text in idx.TYPES.items()}
        if dtype not in kinds:
            raise UsageError(f"IDX has no type for {dtype} codes", "choose out='FILE.npz'")
        code, text = kinds[dtype]
        shape = (self.count, *self.header.shape)
        file.write(struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape))
        self.rows.seek(0)
        while piece := self.rows.read(dtype.itemsize << 18):
            file.write(np.frombuffer(piece, dtype).astype(text).tobytes())


class TextTarget(Target):
    """A text, in a file of any name, or in memory."""

    def __init__(self, header: Header, out: Path | None, trained: Symbols | None):
        if out is not None and out.is_dir():
            raise UsageError(f"out={str(out)!r} is a folder", "give the name of a file: the archive holds a text")
        of_file = header.text["tokenizer"] == OF_FILE
        made = trained if of_file else symbols.of_facts(header.text)
        if made is None or (of_file and getattr(made, "digest", None) != header.text["fingerprint"]):
            raise UsageError(
                f"the archive's tokens are of the tokenizer {header.text['fingerprint'][:16]}…, and not of the model's",
                "give the model with the tokenizer's file that it was trained by",
            )
        self.header, self.out, self.symbols = header, out, made
        self.parts: list[np.ndarray] = []  # a character may be cut by the end of a part

    def add(self, images, names, first):
        rows = images.reshape(-1)
        if first + len(images) == self.header.images:
            rows = rows[: len(rows) - self.header.shape[0] + self.header.text["tail"]]
        self.parts.append(rows)

    def publish(self, partial):
        try:
            text = self.symbols.text(np.concatenate(self.parts)) if self.parts else b""
        except (IndexError, OverflowError):
            raise ArchiveError("the archive has symbols beyond its alphabet", "fetch the file again") from None
        if self.out is None:
            return text
        path = recovered(self.out) if partial else self.out
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, text)
        return path

    def discard(self):
        self.parts = []


class FolderTarget(Target):
    """A folder of pictures, written under a temporary name and renamed."""

    def __init__(self, header: Header, out: Path, black_and_white: bool):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"out={str(out)!r} exists and is not an empty folder", "give the name of a new folder")
        out = out.resolve() if out.is_symlink() else out  # a link stays a link
        self.header, self.out, self.count = header, out, 0
        if len(header.shape) not in (2, 3) or (len(header.shape) == 3 and header.shape[0] not in (1, 3)):
            raise UsageError(
                f"images of shape {tuple(header.shape)} cannot be written as pictures", "choose out='FILE.npz'"
            )
        self.mode = "1" if black_and_white else "L"
        self.image = pictures.pillow("the pictures of an archive")
        out.parent.mkdir(parents=True, exist_ok=True)
        self.lock, self.temporary = files.temporary_folder(out.parent.resolve())
        self.places = Restored()

    def check(self, names):
        places, count = Restored(), 0
        for some in names:
            count += len(some)
            if count > MOST_NAMES:
                return
            for name in some:
                _place(places, name)

    def add(self, images, names, first):
        for i, codes in enumerate(images):
            name = names[i] if names else f"{first + i:0{len(str(self.header.images - 1))}d}.png"
            path = self.temporary / _place(self.places, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("xb") as file:  # two names may also be one to the file system
                    self._picture(codes).save(file, FORMATS[path.suffix.lower()])
            except FileExistsError:
                raise _unusable(f"{names_of.shown(name)} is the name of two of them on this file system") from None
            self.count += 1

    def publish(self, partial):
        if not self.count:
            self.discard()
            return None
        path = recovered(self.out) if partial else self.out
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path} exists and is not an empty folder", "move it away")
        files.replace_folder(self.temporary, path)
        self._unlock()
        return path

    def discard(self):
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _picture(self, codes: np.ndarray):
        codes = codes.astype(np.uint8)
        if codes.ndim == 3:
            codes = codes[0] if len(codes) == 1 else codes.transpose(1, 2, 0)
        if self.mode == "1" and codes.ndim == 2:
            return self.image.fromarray(codes * np.uint8(255)).convert("1")
        return self.image.fromarray(np.ascontiguousarray(codes))


def _place(places: Restored, name: str) -> PurePosixPath:
    """The path of a picture. Errors: ArchiveError where it has none of its own below the folder."""
    try:
        return places.enter(name)
    except names_of.Unusable as error:
        raise _unusable(str(error)) from None


def _unusable(reason: str) -> ArchiveError:
    return ArchiveError(
        f"the images of the archive cannot be written under their names: {reason}",
        "choose out=FILE.npz, which has all of them in their order",
    )


def member(key: str) -> str:
    """The name of the array in an npz file: its key, or "images" where the key could be a path out of a folder."""
    parts = key.split("/")
    unsafe = any(part in ("", ".", "..") for part in parts) or any(sign in "\\:" or sign < " " for sign in key)
    return "images" if unsafe or not key.isprintable() else key


def recovered(out: Path) -> Path:
    """Where the images go if some are lost: images.npz → images.recovered.npz."""
    return out.with_name(f"{out.stem}.recovered{out.suffix}" if out.suffix else f"{out.name}.recovered")


def target(header: Header, out: Path | None, bins: int, trained: Symbols | None = None) -> Target:
    """The target for `out` by its name: .npz, .npy, an IDX name, else a folder; None: a tensor. A text is a file of any
    name, or bytes; trained: the symbols of the text that its model was trained on. Errors: UsageError."""
    if header.text:
        return TextTarget(header, out, trained)
    if out is None:
        return TensorTarget()
    if out.suffix.lower() in (".npz", ".npy") or idx.is_idx(out):
        if out.is_dir():
            raise UsageError(f"out={str(out)!r} is a folder", "give the name of a file, or of a new folder")
        return ArrayTarget(header, out)
    if bins > 256:
        raise UsageError(f"codes of {bins} values do not fit into pictures of 8 bits", "choose out='FILE.npz'")
    return FolderTarget(header, out, bins == 2 and len(header.shape) == 2)
