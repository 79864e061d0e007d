"""npz and npy files: values, types and labels as stored; every fault is a DataError."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError

CODES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_single_array_is_chosen(tmp_path):
    examples = read(write(tmp_path / "a.npz", anything=CODES))
    assert examples.data.dtype == torch.uint8
    assert np.array_equal(examples.data, CODES)
    assert examples.labels is None
    assert examples.bins == 256
    assert examples.name == str(tmp_path / "a.npz")


@pytest.mark.parametrize("key", ["labels", "labels_inferred", "y", "label"])
def test_labels_are_found(tmp_path, key):
    examples = read(write(tmp_path / "a.npz", images=CODES, **{key: np.arange(5, dtype=np.uint8)}))
    assert examples.labels.tolist() == [0, 1, 2, 3, 4]
    assert examples.labels.dtype == torch.int64


def test_train_and_test_keys_have_their_own_labels(tmp_path):
    spec = write(tmp_path / "a.npz", x_train=CODES, y_train=np.arange(5), x_test=CODES[:2] + 1, y_test=np.array([7, 8]))
    assert read(f"{spec}#x_test").labels.tolist() == [7, 8]
    assert read(f"{spec}#x_test").name == f"{spec}#x_test"
    with pytest.raises(DataError, match="x_train uint8"):
        read(spec)


@pytest.mark.parametrize("labels", [np.arange(4), np.linspace(0, 1, 5), np.array(list("abcde"))])
def test_labels_that_do_not_fit_are_left_out(tmp_path, labels):
    assert read(write(tmp_path / "a.npz", images=CODES, labels=labels)).labels is None


def test_several_arrays_are_listed_with_shape_and_remedy(tmp_path):
    spec = write(tmp_path / "a.npz", first=CODES, second=CODES)
    with pytest.raises(DataError, match=r"first uint8\[5, 4, 3\], second") as caught:
        read(spec)
    assert f"{spec}#first" in caught.value.hint
    with pytest.raises(DataError, match="has no array 'third'") as caught:
        read(f"{spec}#third")
    assert "first uint8" in caught.value.hint


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("u1", torch.uint8),
        (">u2", torch.int32),
        ("<u2", torch.int32),
        ("u4", torch.int64),
        (">u8", torch.int64),
        (">i4", torch.int32),
        ("f4", torch.float32),
        (">f8", torch.float64),
        ("f2", torch.float16),
        ("?", torch.bool),
    ],
)
def test_numbers_are_kept(tmp_path, dtype, expected):
    array = CODES.astype(dtype)
    np.save(tmp_path / "a.npy", array)
    data = read(str(tmp_path / "a.npy")).data
    assert data.dtype == expected
    assert np.array_equal(data.numpy().astype("f8"), array.astype("f8"))


def test_large_uint16_codes_survive(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 65535]], dtype=np.uint16))
    examples = read(str(tmp_path / "a.npy"))
    assert examples.data.tolist() == [[0, 65535]]
    assert examples.bins is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[{}, None]], dtype=object), "Python objects"),
        (np.array([["a", "b"]]), "neither codes nor real"),
        (np.ones((2, 2), dtype=complex), "neither codes nor real"),
        (np.zeros((2, 2), dtype="datetime64[s]"), "neither codes nor real"),
        (np.arange(5), "not a set of examples"),
        (np.array(3), "not a set of examples"),
        (np.zeros((0, 8, 8)), "empty"),
        (np.zeros((3, 0)), "empty"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "beyond 2"),
    ],
    ids=["object", "text", "complex", "dates", "one-axis", "scalar", "no-examples", "no-values", "uint64"],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_that_are_no_data_are_refused(tmp_path, array, message, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, data=array)
    with pytest.raises(DataError, match=message):
        read(str(path))


def test_no_pickle_is_ever_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.write_text, ("x",))

    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read(str(tmp_path / "a.npy"))
    assert not marker.exists()


def test_pickle_under_another_name_is_refused(tmp_path):
    import pickle

    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(pickle.dumps([1, 2, 3]))
        with pytest.raises(DataError, match="not a readable numpy file"):
            read(str(tmp_path / name))


def test_npy_that_promises_more_than_memory_is_refused(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 8), }"
    padded = header.ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)
    with pytest.raises(DataError, match="not a readable numpy file"):
        read(str(tmp_path / "a.npy"))


def test_wrong_ending_is_told(tmp_path):
    np.savez(tmp_path / "a", data=CODES)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"named \.npy but holds several"):
        read(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", CODES)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"named \.npz but holds a single"):
        read(str(tmp_path / "b.npz"))


def test_real_file(shared):
    examples = read(str(shared / "data/cifar10_first4000/images.npz"), limit=7)
    assert examples.data.shape == (7, 3, 32, 32)
    assert examples.data.dtype == torch.uint8
    assert len(examples.labels) == 7
    assert examples.name.endswith("images.npz[:7]")
