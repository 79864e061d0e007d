"""What a folder may hold besides pictures of classes: links, parts of a data set, listings, special files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import nelbo
from nelbo.data import read, walk
from nelbo.errors import DataError, UnknownNameError

Image = pytest.importorskip("PIL.Image")
GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)


def save(path, array=GRAY, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(array).save(file, kind)


def passed(examples):
    return {e["name"]: e["reason"] for e in examples.facts.get("passed_over", {"entries": []})["entries"]}


# ---------------------------------------------------------------- what is a picture


KINDS = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".dib": "DIB", ".pcx": "PCX", ".sgi": "SGI",
         ".jpg_large": "PNG", "": "PNG", ".tga": "TGA", ".pgm": "PPM", ".bin": "TIFF", ".PNG": "PNG"}  # fmt: skip


@pytest.mark.parametrize("ending", KINDS)
def test_what_pillow_opens_is_a_picture(tmp_path, ending):
    array = np.zeros((4, 6, 3), np.uint8) if ending == ".dib" else GRAY
    save(tmp_path / f"x{ending}", array, KINDS[ending])
    assert len(read(str(tmp_path))) == 1


@pytest.mark.parametrize("ending", [".heif", ".heic", ".jxl", ".svg", ".CR2"])
def test_pictures_that_pillow_does_not_open_are_no_reason_to_go_on(tmp_path, ending):
    save(tmp_path / "a.png")
    (tmp_path / f"b{ending}").write_bytes(b"\0\0\0\x18ftyp")
    with pytest.raises(DataError, match=rf"format that is not read: b\{ending}"):
        read(str(tmp_path))


def test_other_files_are_counted_and_named(tmp_path):
    save(tmp_path / "a.png")
    np.save(tmp_path / "x.npy", GRAY)
    for i in range(150):
        (tmp_path / f"note{i}.txt").write_text("text")
    facts = read(str(tmp_path)).facts["passed_over"]
    assert facts["count"] == 151 and len(facts["entries"]) == 100
    assert facts["entries"][0] == {"name": "note0.txt", "reason": "no picture"}


def test_postscript_is_never_run(tmp_path):
    """Pillow hands it to another program, so that it is no picture here, whatever its name."""
    save(tmp_path / "a.png")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n(x) run\n"
    (tmp_path / "b.eps").write_bytes(text)
    assert passed(read(str(tmp_path))) == {"b.eps": "no picture"}
    (tmp_path / "b.png").write_bytes(text)
    with pytest.raises(DataError, match=r"b\.png is not a readable picture"):
        read(str(tmp_path))


def test_declared_sizes_are_looked_at_before_pixels(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"a\.png"):
        read(str(tmp_path))
    Image.new("1", (10_000, 8_000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="declares 10000×8000 pixels"):
        read(str(tmp_path))


# ---------------------------------------------------------------- links and special files


def test_links_are_followed_and_cycles_are_not(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    save(root / "cat" / "a.png")
    save(store / "b.png", GRAY + 1)
    (root / "dog").symlink_to(store)
    (root / "dog2").symlink_to(store)
    (store / "up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    examples = read(str(root))
    assert examples.classes == ("cat", "dog", "dog2") and examples.labels.tolist() == [0, 1, 2]
    assert passed(examples) == {
        "dog/up": "a link to a folder above it",
        "dog2/up": "a link to a folder above it",
        "itself": "a link that leads nowhere",
    }


def test_links_that_multiply_are_refused(tmp_path):
    """Of n folders that each lead twice to the next there are 2ⁿ paths."""
    for i in range(30):
        (tmp_path / "store" / str(i)).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "store" / str(i) / name).symlink_to(tmp_path / "store" / str(i + 1))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x").symlink_to(tmp_path / "store" / "0")
    with pytest.raises(DataError, match="more than 64 times"):
        read(str(tmp_path / "root"))


def test_special_files_are_passed_over_and_never_opened(tmp_path):
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "d.png"))
    assert passed(read(str(tmp_path))) == {"b.png": "a FIFO", "c.png": "a device", "d.png": "a socket"}


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x-ubyte", "x-ubyte.gz", "x.txt"])
def test_data_are_regular_files(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(DataError, match="a FIFO and not a regular file"):
        read(str(path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="a device and not a regular file"):
        read(str(path))


@pytest.mark.parametrize("spec", ["~nobodyhere/x.npy", "a\0b.npy", "x" * 300 + ".npy", "y" * 5000])
def test_paths_that_cannot_be(spec):
    with pytest.raises(DataError):
        read(spec)


@pytest.fixture
def open_to_all():
    """A folder that an ordinary user reaches, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_unreadable_files_as_an_ordinary_user(open_to_all):
    """A file and a folder without rights are one error each, and a folder in a folder is not passed over."""
    save(open_to_all / "a" / "x.png")
    save(open_to_all / "shut" / "x.png")
    np.save(open_to_all / "x.npy", GRAY)
    script = """
import os, sys
sys.path[:0] = sys.argv[2:]
import nelbo.data
from nelbo.data import folder, numpy_files, pictures, idx, table
from PIL import Image; Image.init()
from nelbo.errors import DataError
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
os.chdir(sys.argv[1])
for spec in (".", "shut", "x.npy", "secret", "a"):
    try:
        print(spec, len(nelbo.data.read(spec)))
    except DataError as error:
        print(spec, error.message)
"""
    save(open_to_all / "secret" / "y.png")
    for part, mode in (("shut", 0), ("x.npy", 0), ("secret/y.png", 0)):
        (open_to_all / part).chmod(mode)
    source = str(Path(nelbo.__file__).parents[1])
    out = subprocess.run([sys.executable, "-c", script, str(open_to_all), source], capture_output=True, text=True)
    for name in ("shut", "x.npy", "secret/y.png"):
        (open_to_all / name).chmod(0o755)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == [
        ". the folder shut cannot be read: permission denied",
        "shut the folder shut cannot be read: permission denied",
        "x.npy x.npy cannot be read: permission denied",
        "secret secret/y.png cannot be read: permission denied",
        "a 1",
    ]


# ---------------------------------------------------------------- order and parts


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10.png", "9.png", "1.png"], ["1.png", "9.png", "10.png"]),
        (["10.png", "9.png", "a.png"], ["10.png", "9.png", "a.png"]),
        (["b/2.png", "b/10.png", "a-b/1.png", "a/x.png"], ["a-b/1.png", "a/x.png", "b/2.png", "b/10.png"]),
        (["2/x.png", "10/x.png", "2/y.png"], ["2/x.png", "2/y.png", "10/x.png"]),
        (["01.png", "1.png", "001.png"], ["001.png", "01.png", "1.png"]),
        (["img10.png", "img9.png"], ["img10.png", "img9.png"]),
    ],
)
def test_order(names, ordered):
    assert walk.in_order(names) == ordered == walk.in_order(reversed(names))


@pytest.mark.parametrize("parts", [("train", "test"), ("Train", "val"), ("train",), ("train", "test", "notes")])
def test_parts_of_a_data_set_need_a_choice(tmp_path, parts):
    for k, part in enumerate(parts):
        save(tmp_path / part / "cat" / "x.png", GRAY + k)
        save(tmp_path / part / "dog" / "x.png", GRAY + k)
    with pytest.raises(DataError, match="parts of a data set and not classes") as caught:
        read(str(tmp_path))
    assert f"{tmp_path}:" in caught.value.hint
    examples = read(f"{tmp_path}:{parts[0]}")
    assert examples.name == f"{tmp_path}:{parts[0]}" and examples.classes == ("cat", "dog")
    assert np.array_equal(examples.data[0], GRAY)


def test_parts_below_classes(tmp_path):
    """cat/train, cat/test, dog/train: the parts would be read together."""
    for name in ("cat/train/a.png", "cat/test/b.png", "dog/train/c.png"):
        save(tmp_path / name)
    with pytest.raises(DataError, match="hold test/, train/: parts of a data set"):
        read(str(tmp_path))
    (tmp_path / "cat" / "test").rename(tmp_path / "cat" / "more")
    assert read(str(tmp_path)).labels.tolist() == [0, 0, 1]


def test_a_class_that_is_called_train_is_one(tmp_path):
    for name in ("bus", "train", "car"):
        save(tmp_path / name / "x.png")
    assert read(str(tmp_path)).classes == ("bus", "car", "train")


@pytest.mark.parametrize("part", ["tarin", "", "..", "../x"])
def test_unknown_parts(tmp_path, part):
    save(tmp_path / "train" / "x.png")
    with pytest.raises(UnknownNameError, match="train"):
        read(f"{tmp_path}:{part}")


# ---------------------------------------------------------------- listings


def listed(root, name, text, pictures=("a.png", "b.png")):
    for picture in pictures:
        save(root / picture)
    (root / name).write_text(text)
    return read(str(root))


def test_shards_without_labels_are_no_classes(tmp_path):
    examples = listed(tmp_path, "dataset.json", '{"labels": null}', ("00000/a.png", "00001/b.png"))
    assert examples.labels is None and examples.classes == ()


def test_a_metadata_file_without_labels(tmp_path):
    examples = listed(tmp_path, "metadata.csv", "file_name,text\nx/a.png,hello\nx/b.png,you\n", ("x/a.png", "x/b.png"))
    assert examples.labels is None
    assert passed(examples) == {"metadata.csv": "columns that are not read: text"}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("dataset.json", '{"labels": [["a.png", 1]]}', r"has no row for b\.png"),
        ("dataset.json", '{"labels": [["a.png", 1], ["b.png", 2], ["c.png", 2]]}', r"not there, c\.png"),
        ("dataset.json", '{"labels": [["a.png", 1], ["b.png", 2], ["./a.png", 2]]}', r"two rows for a\.png"),
        ("dataset.json", '{"labels": [["a.png", [0, 1]], ["b.png", [1, 0]]]}', "neither a whole number nor a name"),
        ("dataset.json", '{"labels": [["a.png", 1.5], ["b.png", 2]]}', "label '1.5'"),
        ("dataset.json", '{"labels": {"a.png": 1}}', "no list of pairs"),
        ("dataset.json", '{"images": 2}', 'a table with the key "labels"'),
        ("dataset.json", "[" * 100_000, "cannot be read"),
        ("dataset.json", "{", "cannot be read"),
        ("metadata.csv", "file,label\na.png,1\n", "not the column file_name"),
        ("metadata.csv", "file_name,label,class\na.png,1,2\nb.png,1,2\n", "columns label, class"),
        ("metadata.csv", "file_name,label\na.png,1\nb.png,\n", r"label '' for b\.png"),
        ("metadata.csv", "file_name,label\na.png,1\nb.png,2.5\n", r"label '2\.5' for b\.png"),
        ("metadata.csv", "file_name,label\na.png,1\nb.png," + "1" * 5000 + "\n", "label 'inf' for b"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 1, "label": 2}\n', "cannot be read"),
        ("metadata.csv", "file_name,label,label\na.png,1,2\n", "two columns have one name"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": 1}\nx', "cannot be read"),
        ("metadata.jsonl", '["a.png"]', "not the column file_name"),
        ("metadata.parquet", "PAR1", r"metadata\.parquet is not read"),
        ("sub/metadata.csv", "file_name,label\na.png,1\n", "lists the pictures of a sub-folder"),
    ],
)
def test_listings_that_do_not_fit_are_refused_by_name(tmp_path, name, text, match):
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=match) as caught:
        listed(tmp_path, name, text)
    assert name in str(caught.value)


def test_two_listings(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n")
    with pytest.raises(DataError, match="both list its pictures"):
        listed(tmp_path, "dataset.json", json.dumps({"labels": None}))


LABELS = {
    "numbers": (["7", "3"], [7, 3], ()),
    "names": (["dog", "cat"], [1, 0], ("cat", "dog")),
    "both": (["7", "x"], [0, 1], ("7", "x")),
    "numbers as pandas writes them beside missing ones": (["10.0", "2.0"], [10, 2], ()),
    "negative numbers": (["-1", "+2"], [-1, 2], ()),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_numbers_where_all_are_and_names_else(tmp_path, case):
    values, labels, classes = LABELS[case]
    rows = [f"{name},{value}\n" for name, value in zip(("a.png", "b.png"), values, strict=True)]
    examples = listed(tmp_path, "metadata.csv", "file_name,label\n" + "".join(rows))
    assert examples.labels.tolist() == labels and examples.classes == classes
