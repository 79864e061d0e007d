"""Mutations of data files and folders, each determined by its number, and what must hold when they are read.

A reader returns examples or raises an error of nelbo's own: no other exception, within `CPU` seconds of the processor
and `MEMORY` bytes more than before. Where a format has checksums, examples are those that were written. Where a folder
is read, every file of it is a picture, the listing, or passed over by name.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import signal
import struct
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from nelbo.data import read
from nelbo.errors import NelboError
from nelbo.model.examples import Examples

CPU = 20
MEMORY = 1_000_000_000
IMAGES = (np.arange(5 * 6 * 4, dtype=np.uint32) * 2654435761 >> 24).astype(np.uint8).reshape(5, 6, 4)
LABELS = np.array([3, 1, 4, 1, 5])
_LENGTHS = [0, 1, 2, 7, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


class Broken(AssertionError):
    """Something that must hold did not."""


# ---------------------------------------------------------------- bytes


def mutated(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to four of: bits flipped, bytes replaced, removed, repeated or moved, a number replaced, an end cut off."""
    data = bytearray(raw)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, max(1, len(data))))
        length = int(rng.integers(1, 17))
        match int(rng.integers(0, 8)):
            case 0 | 1 if data:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 2:
                data[at : at + length] = rng.bytes(length)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 5:
                order = "<" if rng.integers(0, 2) else ">"
                data[at : at + 4] = struct.pack(f"{order}I", _LENGTHS[int(rng.integers(0, len(_LENGTHS)))])
            case 6:
                del data[at:]
            case _:
                there = int(rng.integers(0, max(1, len(data))))
                data[at : at + length] = data[there : there + length]
    return bytes(data)


def _npz(compressed: bool) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, images=IMAGES, labels=LABELS)
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def picture(kind: str, **options) -> bytes:
    """The first image in a format of Pillow."""
    out = io.BytesIO()
    Image.fromarray(np.tile(IMAGES[0], (8, 8))).save(out, kind, **options)
    return out.getvalue()


_CSV = "x1,x2,label\n" + "".join(f"{k / 3},{-k}e-{k},{k % 3}\n" for k in range(12))


def _same(examples: Examples) -> None:
    """Of a format with checksums: the images that were written; a label is one of those, or there are none."""
    if not np.array_equal(examples.data, IMAGES):
        raise Broken("other images than were written")
    if examples.labels is not None and examples.labels.tolist() != LABELS.tolist():
        raise Broken("other labels than were written")


def _finite(examples: Examples) -> None:
    if examples.data.ndim < 2 or not np.isfinite(examples.data.double().numpy()).all():
        raise Broken("values that are no numbers")


def _anything(examples: Examples) -> None:
    if examples.data.ndim < 2 or examples.data.numel() == 0:
        raise Broken("no examples")


def _same_picture(examples: Examples) -> None:
    if not np.array_equal(examples.data[0], np.tile(IMAGES[0], (8, 8))):
        raise Broken("other pixels than were written")


FILES: dict[str, tuple[str, bytes, Callable[[Examples], None]]] = {
    "npz": ("x.npz", _npz(False), _same),
    "npz, compressed": ("x.npz", _npz(True), _same),
    "npy": ("x.npy", _npy(IMAGES), _anything),
    "npy of floats": ("x.npy", _npy(np.asfortranarray(IMAGES.astype(">f8"))), _anything),
    "idx": ("x-images-idx3-ubyte", _idx(IMAGES), _anything),
    "idx, packed": ("x-images-idx3-ubyte.gz", gzip.compress(_idx(IMAGES), mtime=0), _same),
    "csv": ("x.csv", _CSV.encode(), _finite),
    "csv, quoted": ("x.csv", ("\ufeff" + _CSV.replace(",", '","').replace("\n", '"\r\n"')).encode(), _finite),
    "png": ("pictures/a.png", picture("PNG"), _same_picture),
}
_LOSSY = ("JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "PCX", "SGI", "ICO", "DDS", "JPEG2000")
FILES |= {
    kind: (f"pictures/a.{kind.lower()}", picture(kind), _anything)
    for kind in _LOSSY
    if Image.init() is not None and kind in Image.SAVE
}

# ---------------------------------------------------------------- folders


def _folder(root: Path, rng: np.random.Generator) -> None:
    """Two classes of pictures, then a few changes of names, links, special files, contents and listings."""
    for k, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/10.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[k]).save(root / name)
    names = ["cat/1.png", "dog/10.png", "cat", "new", "train/1.png", "test/1.png", ".hidden", "dog/x.txt", "\udcff.png"]
    for _ in range(int(rng.integers(1, 5))):
        path = root / names[int(rng.integers(0, len(names)))]
        path.parent.mkdir(parents=True, exist_ok=True)
        free = not os.path.lexists(path)
        match int(rng.integers(0, 8)):
            case 0 if path.is_file() and not path.is_symlink():
                path.unlink()
            case 1 if free:
                os.mkfifo(path)
            case 2 if free:
                targets = ["/dev/zero", "..", "nowhere", str(root), str(root / "cat"), path.name]
                path.symlink_to(targets[int(rng.integers(0, len(targets)))])
            case 3 if free:
                path.mkdir()
            case 4 if free:
                shutil.copyfile(root / "dog" / "1.png", path)
            case 5 if free:
                path.write_bytes(rng.bytes(40))
            case _:
                _listing(root, rng)


def _listing(root: Path, rng: np.random.Generator) -> None:
    labels = [[f"{where}.png", int(rng.integers(0, 9))] for where in ("cat/1", "cat/2", "dog/1", "dog/10")]
    if rng.integers(0, 2):
        text = json.dumps({"labels": labels})
        name = "dataset.json"
    else:
        text = "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in labels)
        name = "metadata.csv"
    raw = text.encode()
    (root / name).write_bytes(mutated(raw, rng) if rng.integers(0, 2) else raw)


def _nothing_dropped(root: Path) -> Callable[[Examples], None]:
    def check(examples: Examples) -> None:
        passed = examples.facts.get("passed_over", {"entries": []})["entries"]
        known = {entry["name"].rstrip("/") for entry in passed}
        known |= {os.fsencode(name).decode("utf-8", "backslashreplace") for name in examples.names}
        for place, folders, files in os.walk(root):
            inside = [f for f in folders if not (Path(place) / f).is_symlink()]
            empty = [f for f in inside if not any((Path(place) / f).iterdir())]
            for name in [*files, *empty, *(f for f in folders if f.startswith("."))]:
                where = os.fsencode((Path(place) / name).relative_to(root)).decode("utf-8", "backslashreplace")
                hidden = any(part.startswith(".") for part in where.split("/")[:-1])
                if where not in known and not hidden and where not in ("dataset.json", "metadata.csv"):
                    raise Broken(f"{where} was dropped without a word")
        if examples.labels is not None and len(examples.labels) != len(examples.names):
            raise Broken("labels of another number")
        _listed(root, examples)

    return check


def _listed(root: Path, examples: Examples) -> None:
    """Labels of an intact listing are the listing's own."""
    try:
        table = {os.path.normpath(k): v for k, v in json.loads((root / "dataset.json").read_text())["labels"]}
    except (OSError, ValueError, KeyError, TypeError):
        return
    whole = all(isinstance(v, int) for v in table.values()) and examples.labels is not None
    if whole and examples.labels.tolist() != [table[name] for name in examples.names]:
        raise Broken("other labels than the listing's")


# ---------------------------------------------------------------- running


@contextmanager
def bounded():
    """Fail where the block takes more than CPU seconds of the processor or MEMORY bytes more than there are now."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)

    def late(*_):
        raise Broken(f"more than {CPU} seconds")

    handler = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


def trial(number: int, root: Path) -> str:
    """Mutation `number` in the empty folder `root`: "read" or "refused". Errors: Broken, and whatever escapes."""
    rng = np.random.default_rng([17, number])
    kinds = [*FILES, "folder", "folder", "folder"]
    kind = kinds[number % len(kinds)]
    if kind == "folder":
        _folder(root / "x", rng)
        spec, check = str(root / "x"), _nothing_dropped(root / "x")
        if rng.integers(0, 4) == 0:
            spec, check = f"{spec}:train", _anything
    else:
        name, raw, check = FILES[kind]
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(raw, rng))
        spec = str(path.parent if "/" in name else path)
    limit = None if rng.integers(0, 4) else 2
    try:
        with bounded():
            examples = read(spec, limit=limit)
            rows = examples.data[:]
            assert len(rows) == len(examples)
    except NelboError as error:
        if "memory" in error.message.lower() or not error.hint:
            raise Broken(str(error)) from error
        return "refused"
    except MemoryError as error:
        raise Broken(f"more than {MEMORY} bytes") from error
    if limit is None:
        check(examples)
    return "read"
