"""The digits: the recorded split is scikit-learn's, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import digits, read
from nelbo.errors import DataError, UnknownNameError

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_recorded_split_is_that_of_sklearn_row_by_row():
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


def test_other_digits_are_refused(monkeypatch):
    original = sklearn_datasets.load_digits()
    images = original["images"].copy()
    images[digits.split_indices("test")[3], 2, 2] = 16 - images[digits.split_indices("test")[3], 2, 2]
    monkeypatch.setattr(sklearn_datasets, "load_digits", lambda: {"images": images, "target": original["target"]})
    with pytest.raises(DataError, match="contains other digits"):
        read("digits:test")
    assert len(read("digits:train")) == 1437  # the altered image is not in it


def test_reordered_digits_are_refused(monkeypatch):
    original = sklearn_datasets.load_digits()
    turned = {"images": original["images"][::-1], "target": original["target"][::-1]}
    monkeypatch.setattr(sklearn_datasets, "load_digits", lambda: turned)
    with pytest.raises(DataError, match="fingerprint differs"):
        read("digits")


@pytest.mark.parametrize("spec", ["digits:tset", "digits:", "digits:test:1"])
def test_unknown_split_lists_the_choices(spec):
    with pytest.raises(UnknownNameError, match="choose one of: all, test, train"):
        read(spec)
