"""Ten folders of pictures as people have them, with what is to be read of each: names in order, labels, the rest.

Every picture is 4×6 and says by its codes which one it is: `picture(k)`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image


def picture(k: int, colour: bool = False) -> np.ndarray:
    """Picture k: (4, 6), or (4, 6, 3) in colour."""
    codes = (np.arange(4 * 6 * (3 if colour else 1)) * 7 + 11 * k) % 256
    return codes.astype(np.uint8).reshape((4, 6, 3) if colour else (4, 6))


def save(path: Path, k: int, kind: str | None = None, colour: bool = False) -> None:
    """Picture k in a file, also under an ending that is not its kind's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(picture(k, colour)).save(file, kind or path.suffix[1:].upper())


@dataclass(frozen=True)
class Layout:
    """pictures: relative name → its number, in the order in which they are to be read; build: writes all else."""

    pictures: dict[str, int]
    labels: list[int] | None = None
    classes: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    build: Callable[[Path], None] = lambda root: None
    kinds: dict[str, str] = field(default_factory=dict)
    part: str = ""
    colour: bool = False

    def write(self, root: Path) -> str:
        """The layout below `root`; the DATA string that reads it."""
        (root / self.part).mkdir(parents=True)
        self.build(root)
        for name, k in self.pictures.items():
            place = root / self.part / name
            if not os.path.lexists(place):
                save(place, k, self.kinds.get(name), self.colour)
        return f"{root}:{self.part}" if self.part else str(root)


def _text(*names: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("text")

    return build


def _edm(root: Path) -> None:
    labels = [["00000/img00000000.png", 4], ["00000/img00000001.png", 5], ["00001/img00001000.png", 4]]
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def _imagefolder(root: Path) -> None:
    rows = [{"file_name": "train/b.png", "label": "dog"}, {"file_name": "train/a.png", "label": "cat"}]
    (root / "train" / "metadata.jsonl").write_text(
        "\n".join(json.dumps({**row, "file_name": row["file_name"][6:], "text": "a pet"}) for row in rows)
    )
    save(root / "test" / "c.png", 9)


def _links(root: Path) -> None:
    store = root.parent / f"{root.name}-store"
    save(store / "blob0", 0, "PNG")
    save(store / "dogs" / "x.png", 1)
    (root / "cat").mkdir()
    (root / "cat" / "a.png").symlink_to(store / "blob0")
    (root / "cat" / "gone.png").symlink_to(store / "nothing")
    (root / "cat" / "again").symlink_to(root)
    (root / "dog").symlink_to(store / "dogs")


def _camera(root: Path) -> None:
    _text("Thumbs.db", "DCIM/desktop.ini", "DCIM/.DS_Store", "DCIM/clip.mov")(root)
    np.save(root / "DCIM" / "latents.npy", np.zeros((2, 2)))
    (root / "DCIM" / "empty").mkdir()


def _csv(root: Path) -> None:
    (root / "metadata.csv").write_text("\ufefffile_name,Label,width\nimg/one.png,3,6\nimg/two.png,1,6\n", "utf-8")


LAYOUTS = {
    "flat, numbered without zeros": Layout({"1.png": 1, "2.png": 2, "10.png": 10}),
    "flat, mixed names": Layout({"1.png": 1, "10.png": 10, "2.png": 2, "cover.png": 3}),
    "torchvision's ImageFolder": Layout(
        {"n01440764/b.jpg": 0, "n01443537/a.jpg": 1, "n01443537/c.jpg": 2}, [0, 1, 1], ("n01440764", "n01443537"),
        ("README.md", "classes.txt"), _text("README.md", "classes.txt"), dict.fromkeys(("n01440764/b.jpg",), "JPEG")
        | {"n01443537/a.jpg": "JPEG", "n01443537/c.jpg": "JPEG"},
    ),
    "classes that are numbers": Layout(
        {"1/x.png": 0, "2/x.png": 1, "10/x.png": 2}, [0, 1, 2], ("1", "2", "10")
    ),
    "StyleGAN's and EDM's shards": Layout(
        {"00000/img00000000.png": 0, "00000/img00000001.png": 1, "00001/img00001000.png": 2}, [4, 5, 4],
        build=_edm, colour=True,
    ),
    "Hugging Face's image folder, a part of it": Layout(
        {"a.png": 0, "b.png": 1}, [0, 1], ("cat", "dog"), ("metadata.jsonl",), _imagefolder, part="train"
    ),
    "metadata.csv in a flat folder": Layout(
        {"img/one.png": 0, "img/two.png": 1}, [3, 1], (), ("metadata.csv",), _csv
    ),
    "links into a cache": Layout(
        {"cat/a.png": 0, "dog/x.png": 1}, [0, 1], ("cat", "dog"), ("cat/again", "cat/gone.png"), _links
    ),
    "a camera's, with whatever lies about": Layout(
        {"DCIM/IMG_1.JPG": 0, "DCIM/IMG_10.JPG": 1, "DCIM/IMG_2.jfif": 2, "DCIM/twitter.jpg_large": 3,
         "DCIM/without-ending": 4},
        [0] * 5, ("DCIM",),
        ("DCIM/.DS_Store", "DCIM/clip.mov", "DCIM/desktop.ini", "DCIM/empty/", "DCIM/latents.npy", "Thumbs.db"),
        _camera,
        {"DCIM/IMG_1.JPG": "PNG", "DCIM/IMG_10.JPG": "PNG", "DCIM/IMG_2.jfif": "JPEG", "DCIM/twitter.jpg_large": "PNG",
         "DCIM/without-ending": "PNG"},
    ),
    "names of every alphabet": Layout(
        {"Äpfel/a b.png": 0, "Äpfel/c#d:e.png": 1, "日本/'\"$(x).png": 2}, [0, 0, 1], ("Äpfel", "日本")
    ),
}  # fmt: skip
