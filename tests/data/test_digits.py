"""The digits: the recorded split is scikit-learn's, and anything else is refused."""

from __future__ import annotations

import builtins

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
    whole, train, test = read("digits"), read("digits:train"), read("digits:test")
    assert [len(e) for e in (whole, train, test)] == [1797, 1437, 360]
    assert test.data.shape == (360, 8, 8)
    assert test.data.dtype == torch.uint8
    assert int(whole.data.min()) == 0
    assert int(whole.data.max()) == digits.BINS - 1
    assert [e.name for e in (whole, train, test)] == ["digits", "digits:train", "digits:test"]
    assert test.labels.dtype == torch.int64
    assert {e.bins for e in (whole, train, test, test.first(3))} == {17}


def test_splits_are_disjoint_and_cover_everything():
    test, train = digits.split_indices("test"), digits.split_indices("train")
    assert len(set(test)) == 360
    assert sorted([*test, *train]) == list(range(1797))
    assert not torch.isin(read("digits:test").hashes, read("digits:train").hashes).any()


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


def test_without_sklearn_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install 'nelbo\[data\]'"):
        read("digits")


@pytest.mark.parametrize("spec", ["digits:tset", "digits:", "digits:test:1"])
def test_unknown_split_lists_the_choices(spec):
    with pytest.raises(UnknownNameError, match="choose one of: all, test, train"):
        read(spec)
