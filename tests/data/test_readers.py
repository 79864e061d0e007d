"""`read` and `resolve`: which reader a string is for, what else is taken as data, and what is refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import nelbo.data
from nelbo.data import FORMS, read, resolve
from nelbo.errors import DataError, UsageError
from nelbo.model.examples import Examples

CODES = torch.arange(6 * 4).reshape(6, 2, 2)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.mark.parametrize("spec", ["", "nowhere", "nowhere/at/all", "digit", "nowhere.png", "mnist", "HF:x"])
def test_unknown_data_lists_every_form(spec):
    with pytest.raises(DataError, match="neither a known name nor an existing path") as caught:
        read(spec)
    assert repr(spec) in caught.value.message
    assert all(form in caught.value.hint for form in FORMS)


def test_a_file_of_no_known_form(tmp_path):
    (tmp_path / "a.txt").write_text("1,2")
    with pytest.raises(DataError, match="file of no known form"):
        read(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["a.npz", "a.npz#key", "a.npy", "t10k-images-idx3-ubyte"])
def test_missing_files(tmp_path, name):
    with pytest.raises(DataError, match="there is no file"):
        read(str(tmp_path / name))


def stored(folder: Path, name: str) -> Path:
    """The six codes in a file of this form."""
    path, codes = folder / name, CODES.numpy().astype(np.uint8)
    if ".np" in name:
        np.save(path, codes) if name.endswith("npy") else np.savez_compressed(path, data=codes)
    else:
        idx = b"\0\0\x08\3" + np.array(codes.shape, ">u4").tobytes() + codes.tobytes()
        path.write_bytes(gzip.compress(idx) if name.endswith("gz") else idx)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_every_truncation_is_refused(tmp_path, name):
    path = stored(tmp_path, name)
    whole = path.read_bytes()
    assert torch.equal(read(str(path)).data, CODES.byte())
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read(str(path))


@pytest.mark.parametrize(("name", "bit"), [("a.npz", 4), ("images-idx3-ubyte.gz", 2)])
def test_no_bit_flip_of_a_compressed_file_gives_other_data(tmp_path, name, bit):
    path = stored(tmp_path, name)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            assert torch.equal(read(str(path)).data, CODES.byte())  # a flip in a date or an attribute says nothing
        except DataError:
            refused += 1
    assert refused > len(whole) / 2


@pytest.mark.parametrize(("name", "library"), [("folder", "PIL"), ("hf:x", "datasets")])
def test_missing_libraries(tmp_path, monkeypatch, name, library):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=r"pip install 'nelbo\[data\]'"):
        read(name)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "3"])
def test_limits_that_mean_nothing(limit):
    with pytest.raises(UsageError, match="limit"):
        read("digits", limit=limit)
    with pytest.raises(UsageError, match="limit"):
        resolve(CODES, limit=limit)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", CODES.numpy())
    assert torch.equal(read("~/a.npy").data, CODES)


def test_a_folder_named_like_a_file(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "set.npz"
    folder.mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "a.png")
    assert read(str(folder)).data.shape == (1, 2, 2)


def test_resolve_takes_strings_paths_arrays_tensors_and_examples(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, CODES.numpy())
    examples = Examples(CODES, "mine")
    for data in (str(path), path, Path(path), CODES, CODES.numpy(), examples):
        assert torch.equal(resolve(data).data, CODES)
        assert len(resolve(data, limit=2)) == 2
    assert resolve(examples) is examples


def test_arrays_are_taken_in_any_memory_order():
    array = CODES.numpy().transpose(0, 2, 1)[::-1]
    assert np.array_equal(resolve(array).data, array)
    frozen = CODES.numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(resolve(frozen).data, CODES)


def test_datasets_are_stacked_with_labels():
    dataset = TensorDataset(CODES, torch.tensor([3, 1, 4, 1, 5, 9]))
    examples = resolve(dataset)
    assert torch.equal(examples.data, CODES)
    assert examples.labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert resolve(dataset, limit=4).name == "TensorDataset[:4]"
    assert resolve(TensorDataset(CODES)).labels is None
    assert resolve(TensorDataset(CODES, torch.rand(6))).labels is None
    assert resolve(Items([(CODES[0], 1), (CODES[1], None)])).labels is None
    assert torch.equal(resolve(Items(list(CODES.numpy()))).data, CODES)


def test_datasets_of_pictures_are_codes():
    Image = pytest.importorskip("PIL.Image")
    examples = resolve(Items([(Image.fromarray(c.numpy().astype(np.uint8)), 7) for c in CODES]))
    assert torch.equal(examples.data, CODES.byte())
    assert examples.labels.tolist() == [7] * 6
    assert examples.bins == 256
    mixed = [Image.fromarray(np.eye(2, dtype=np.uint8)), Image.fromarray(np.eye(2) > 0)]
    assert resolve(Items(mixed[1:])).bins == 2
    with pytest.raises(DataError, match="item 1 is a picture of 2 codes"):
        resolve(Items(mixed))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(CODES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Items([CODES[0], CODES[0, :1]]), r"item 0 is int64 of shape \(2, 2\), item 1 is int64 of shape \(1, 2\)"),
        (Items([CODES[0], CODES[0].float()]), "item 1 is float32"),
        (Items([]), "no items"),
        (Items([{"a": CODES[0], "b": CODES[0]}]), "is a table with the keys a, b"),
        (Items(["text"]), "is a str"),
        (Stream(), "has no length"),
        (CODES[:0], "not a set of examples"),
        (torch.arange(3), "not a set of examples"),
        (np.arange(3), "not a set of examples"),
        (17, "data of type int"),
        (None, "data of type NoneType"),
    ],
)
def test_what_cannot_be_data(data, message):
    with pytest.raises(DataError, match=message):
        resolve(data)


def test_importing_the_readers_imports_no_extra():
    script = "import sys, nelbo.data; print(sorted({'sklearn', 'PIL', 'datasets'} & set(sys.modules)))"
    env = {"PYTHONPATH": str(Path(nelbo.data.__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert found.stdout.strip() == "[]"
