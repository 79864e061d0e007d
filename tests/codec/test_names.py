"""Names of pictures: packed, restored each in a place of its own below the folder, or refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nelbo
from nelbo.codec import names
from nelbo.codec.archive import Chunk
from nelbo.codec.bytestream import ByteWriter
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.source import parse_metadata
from nelbo.codec.stack import Damaged
from nelbo.codec.target import member
from nelbo.data import readers
from nelbo.errors import ArchiveError, DataError
from nelbo.process import every_grid as grids
from tests.codec.forging import apart, together


@pytest.fixture(scope="module")
def model():
    """Pictures of 4 × 4 pixels of 256 grey values, by a chain of two steps."""
    import torch

    return nelbo.from_callable(
        lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.logsnr_linear(12.0, -6.0), predicts="x0",
        domain=nelbo.DataDomain((4, 4), 256), time="logsnr", decoder="categorical", grid=grids.even(2),
    )  # fmt: skip


def test_names_are_packed():
    counted = [f"img_{i:04d}.png" for i in range(95, 130)]
    assert names.unpacked(names.packed(counted), 35) == counted and len(names.packed(counted)) < 25
    assert names.packed(["a", "b"]) == b"a\nb" and names.packed([]) == b"" and names.unpacked(b"", 7) == []
    for some in (["a"], ["9.png", "10.png"], ["x1", "x3"], ["001", "2"], ["9" * 25 + ".png"], ["a\udcff.png", "ü"]):
        assert names.unpacked(names.packed(some), len(some)) == some


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (b"a\nb", 3),
        (b"a\nb", 1),
        (b"\na\n4\n0\nb\nc", 2),
        (b"\na\nx\n0\nb", 2),
        (b"\na\n-1\n0\nb", 2),
        (b"\n", 1),
        (b"\na\n256\n0\nb", 2),
        (b"\na\n4\n" + b"9" * 5000 + b"\nb", 2),
        (b"\n" + b"a" * 4000 + b"\n4\n0\nb", 2**20),
    ],
)
def test_texts_that_no_encoder_writes_are_damaged(text, n):
    with pytest.raises(Damaged):
        names.unpacked(text, n)


def test_names_that_count_up_take_no_memory_before_they_are_looked_at():
    """5 kB in the file, 6.4 GB as a list: the bound on all names of a chunk is checked first."""
    text = b"\n" + bytes(97 for _ in range(4 * 10**6)) + b"\n4\n0\n.png"
    metadata = bytes(ByteWriter().packed(text).data)
    assert len(metadata) < 5000
    with pytest.raises(Damaged):
        parse_metadata(metadata, 2000, ())
    with pytest.raises(names.Unusable, match="more than"):
        names.packed([f"{'a' * 4000}{i}.png" for i in range(20_000)])


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/x.png",
        "/abs.png",
        "a/../../x.png",
        "a/./b.png",
        "a//b.png",
        "",
        "..",
        ".",
        "a\0.png",
        "a\nb.png",
        "x" * 256 + ".png",
        "x" * 252 + ".jpg",
        "ü" * 126 + ".jpg",
        "d/" * 2100 + "x.png",
    ],
)
def test_names_without_a_place_are_unusable(name):
    with pytest.raises(names.Unusable):
        names.restored(name)


@pytest.mark.parametrize(
    "both",
    [
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a.png"),
        ("a.jpg.png", "a.jpg"),
        ("a.png/b.png", "a.png"),
        ("a.jpg", "a.jpg.png/b.png"),
    ],
)
def test_two_names_of_one_place_are_unusable(both):
    places = names.Restored()
    places.enter(both[0])
    with pytest.raises(names.Unusable):
        places.enter(both[1])


def test_a_backslash_is_a_sign_like_others_where_the_system_has_it_so():
    places = names.Restored()
    if os.sep == "/":
        assert {str(places.enter(name)) for name in ("a\\b.png", "a/b.png")} == {"a\\b.png", "a/b.png"}


@pytest.mark.parametrize("key", ["../../evil", "/evil", "a\\b", "c:evil", "", "a//b", "a/../b", "\n", "\u202e"])
def test_members_of_npz_files_are_safe(key):
    assert member(key) == "images"


def test_usual_members_keep_their_names():
    assert [member(k) for k in ("x_train", "arr_0", "split/images", "Ü 1")] == [
        "x_train",
        "arr_0",
        "split/images",
        "Ü 1",
    ]


# ---------------------------------------------------------------- folders

LAYOUTS: dict[str, list[str | bytes]] = {
    "flat": ["a.png", "b.png", "c.png"],
    "numbered, ten among them": [f"{i}.png" for i in range(8, 13)],
    "padded": [f"img_{i:05d}.png" for i in range(4)],
    "classes": ["cat/1.png", "cat/2.png", "dog/1.png"],
    "deep": ["north/2024-01/cam 1/x.png", "north/2024-02/cam 1/x.png", "south/x.png"],
    "formats": ["a.bmp", "a.png", "a.tif", "a.tiff"],
    "case": ["A.png", "a.png", "B.PNG"],
    "unicode": ["ü.png", "u\u0308.png", "猫.png", "emoji 🐈.png"],
    "awkward": ["a\\b.png", "-rf.png", "two  spaces.png", "100%.png", "a'b\"c.png", "star*.png"],
    "not UTF-8": [b"caf\xe9.png", b"caf\xe8.png"],
    "long": ["x" * 251 + ".png", "y" * 200 + "/" + "z" * 200 + ".png"],
}


def made(folder: Path, layout: list[str | bytes]) -> dict[str, np.ndarray]:
    pictures = {}
    for i, name in enumerate(layout):
        text = os.fsdecode(name)
        (folder / text).parent.mkdir(parents=True, exist_ok=True)
        pictures[text] = np.arange(16, dtype=np.uint8).reshape(4, 4) * 3 + 50 * i
        Image.fromarray(pictures[text]).save(folder / text)
    return pictures


@pytest.mark.parametrize("layout", LAYOUTS)
def test_somebodys_folder_comes_back(model, tmp_path, layout):
    """Names, order and pixels of every picture."""
    pictures = made(tmp_path / "in", LAYOUTS[layout])
    compress(model, str(tmp_path / "in"), tmp_path / "x.nelbo", few=True, chunk_size=2, verify=False)
    decompress(model, tmp_path / "x.nelbo", tmp_path / "out")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.relative_to(tmp_path / "out").as_posix() for p in files} == set(pictures)
    for name, codes in pictures.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), codes), name
    before, after = (readers.read(str(tmp_path / side)) for side in ("in", "out"))
    assert np.array_equal(before.data.numpy(), after.data.numpy())


def test_names_that_would_become_one_are_refused_before_anything_is_written(model, tmp_path):
    made(tmp_path / "in", ["a.jpg", "a.jpg.png"])
    with pytest.raises(DataError, match=r"'a.jpg' and 'a.jpg.png' would both be restored as 'a.jpg.png'"):
        compress(model, str(tmp_path / "in"), tmp_path / "x.nelbo", few=True)
    assert not (tmp_path / "x.nelbo").exists()


@pytest.mark.parametrize("text", [b"a.jpg\na.jpg.png", b"../../evil.png\nb.png", b"a.png\na.png"])
def test_crafted_names_are_refused_and_the_images_are_had_as_an_array(model, tmp_path, text):
    made(tmp_path / "in", ["a.png", "b.png"])
    compress(model, str(tmp_path / "in"), tmp_path / "x.nelbo", few=True)
    header, (piece,) = apart((tmp_path / "x.nelbo").read_bytes())
    chunk = dataclasses.replace(Chunk.of(piece.body), metadata=bytes(ByteWriter().packed(text).data))
    (tmp_path / "x.nelbo").write_bytes(together(header, [piece._replace(body=chunk.to_bytes())]))
    with pytest.raises(ArchiveError, match="cannot be written under their names") as caught:
        decompress(model, tmp_path / "x.nelbo", tmp_path / "below" / "out")
    assert ".npz" in caught.value.hint and not list((tmp_path / "below").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["below", "in", "x.nelbo"]
    decompress(model, tmp_path / "x.nelbo", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as back:
        assert np.array_equal(back["images"], readers.read(str(tmp_path / "in")).data.numpy())
