"""The digits: images, labels and recorded split are scikit-learn's, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import digits, read
from nelbo.errors import DataError, UnknownNameError


def test_recorded_split_is_that_of_sklearn_row_by_row():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.model_selection import train_test_split

    X, y = sklearn_datasets.load_digits(return_X_y=True)
    train, test, _, labels = train_test_split(X.astype(np.int64), y, test_size=360, random_state=0, stratify=y)
    read_test, read_train = read("digits:test"), read("digits:train")
    np.testing.assert_array_equal(read_test.data.flatten(1).numpy(), test)
    np.testing.assert_array_equal(read_test.labels, labels)
    as_set = {row.tobytes() for row in train.astype(np.uint8)}
    assert {row.tobytes() for row in read_train.data.flatten(1).numpy()} == as_set


def test_shapes_codes_and_names():
    for spec, n in (("digits", 1797), ("digits:train", 1437), ("digits:test", 360)):
        examples = read(spec)
        assert examples.data.shape == (n, 8, 8) and examples.name == spec
        assert (examples.data.dtype, examples.labels.dtype) == (torch.uint8, torch.int64)
        assert examples.bins == examples.first(3).bins == int(examples.data.max()) + 1 == 17


def altered(tmp_path, monkeypatch, change) -> None:
    with np.load(digits._FILE) as file:
        arrays = dict(file)
    np.savez(tmp_path / "other.npz", **change(arrays))
    monkeypatch.setattr(digits, "_FILE", tmp_path / "other.npz")


def test_other_digits_are_refused(tmp_path, monkeypatch):
    at = (digits.split_indices("test")[3], 2, 2)

    def change(arrays):
        arrays["images"][at] = 16 - arrays["images"][at]
        return arrays

    altered(tmp_path, monkeypatch, change)
    with pytest.raises(DataError, match="contains other digits"):
        read("digits:test")
    assert len(read("digits:train")) == 1437  # the altered image is not in it


def test_reordered_digits_are_refused(tmp_path, monkeypatch):
    altered(tmp_path, monkeypatch, lambda arrays: {name: values[::-1] for name, values in arrays.items()})
    with pytest.raises(DataError, match="fingerprint differs"):
        read("digits")


@pytest.mark.parametrize("spec", ["digits:tset", "digits:", "digits:test:1"])
def test_unknown_split_lists_the_choices(spec):
    with pytest.raises(UnknownNameError, match="choose one of: all, test, train"):
        read(spec)
