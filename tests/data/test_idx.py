"""IDX files, plain and gzip, with their companions and with every fault."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError

IMAGES = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)


def encode(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, images=IMAGES, labels=None, ending=""):
    pack = gzip.compress if ending else bytes
    path = folder / f"t10k-images-idx3-ubyte{ending}"
    path.write_bytes(pack(encode(images)))
    if labels is not None:
        (folder / f"t10k-labels-idx1-ubyte{ending}").write_bytes(pack(encode(np.asarray(labels, np.uint8))))
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_images_and_companion_labels(tmp_path, ending):
    examples = read(str(write(tmp_path, labels=[3, 1, 4, 1], ending=ending)))
    assert np.array_equal(examples.data, IMAGES)
    assert examples.data.dtype == torch.uint8
    assert examples.labels.tolist() == [3, 1, 4, 1]


def test_packed_images_find_unpacked_labels(tmp_path):
    path = write(tmp_path, ending=".gz")
    assert read(str(path)).labels is None
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encode(np.arange(4, dtype=np.uint8)))
    assert read(str(path)).labels.tolist() == [0, 1, 2, 3]


def test_labels_that_do_not_belong_are_refused(tmp_path):
    path = write(tmp_path, labels=[1, 2, 3])
    with pytest.raises(DataError, match=r"shape \(3,\) for the 4 images"):
        read(str(path))
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    with pytest.raises(DataError, match="labels, not images"):
        read(str(labels))
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(DataError, match="labels-idx1"):
        read(str(path))


def test_an_excess_is_refused(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError):
        read(str(path))


@pytest.mark.parametrize("head", [b"\1\0\x08\3", b"\0\0\x07\3", b"\0\0\x08\0", b"PK\3\4"])
def test_wrong_magic_is_refused(tmp_path, head):
    path = write(tmp_path)
    path.write_bytes(head + path.read_bytes()[4:])
    with pytest.raises(DataError, match=r"not an IDX file: it starts with the bytes"):
        read(str(path))


def test_no_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="empty"):
        read(str(write(tmp_path, images=IMAGES[:0])))


def test_other_types_keep_their_numbers(tmp_path):
    path = tmp_path / "wide-images.idx3-ubyte"
    path.write_bytes(encode((IMAGES.astype("i2") - 300).astype(">i2"), kind=0x0B))
    data = read(str(path)).data
    assert data.dtype == torch.int16
    assert np.array_equal(data, IMAGES.astype(np.int16) - 300)


def test_real_files(shared):
    """The first test labels, and every training image to the bit."""
    assert read(str(shared / "data/mnist/t10k-images-idx3-ubyte.gz")).labels[:5].tolist() == [7, 2, 1, 0, 4]
    examples = read(str(shared / "data/mnist/train-images-idx3-ubyte.gz"))
    raw = b"\0\0\x08\3" + struct.pack(">3I", *examples.data.shape) + examples.data.numpy().tobytes()
    assert hashlib.md5(raw).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
