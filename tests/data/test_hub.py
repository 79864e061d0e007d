"""hf:NAME[:split] against a stand-in for the `datasets` library: nothing here reaches a network."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from nelbo.data import read
from nelbo.errors import DataError, UnknownNameError

PIL = pytest.importorskip("PIL.Image")
PIXELS = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


class Image:
    """Stands for datasets.Image, which is recognised by its name."""


class Rows:
    def __init__(self, **columns):
        self.columns, self.column_names = columns, list(columns)
        pictures = {k: isinstance(v[0], PIL.Image) for k, v in columns.items()}
        self.features = {k: Image() if is_picture else int for k, is_picture in pictures.items()}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column):
        return self.columns[column]

    def select(self, rows):
        return Rows(**{k: [v[i] for i in rows] for k, v in self.columns.items()})


@pytest.fixture
def hub(monkeypatch):
    """hub(result) makes datasets.load_dataset return `result`, or raise it."""

    def install(result):
        def load_dataset(name):
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))

    return install


def pictures(array=PIXELS):
    return [PIL.fromarray(a) for a in array]


def test_split_labels_and_limit(hub):
    hub({"train": Rows(image=pictures(PIXELS + 1), label=[1, 2, 3]), "test": Rows(image=pictures(), label=[4, 5, 6])})
    examples = read("hf:some/name:test")
    assert np.array_equal(examples.data, PIXELS)
    assert examples.labels.tolist() == [4, 5, 6]
    assert examples.name == "hf:some/name:test"
    first = read("hf:some/name:train", limit=2)
    assert np.array_equal(first.data, PIXELS[:2] + 1)
    assert first.name == "hf:some/name:train[:2]"


def test_the_only_split_and_the_only_column_of_images(hub):
    hub({"train": Rows(scan=pictures(), age=[1, 2, 3])})
    examples = read("hf:name")
    assert np.array_equal(examples.data, PIXELS)
    assert examples.labels is None


def test_choices_are_listed(hub):
    hub({"train": Rows(image=pictures()), "test": Rows(image=pictures())})
    with pytest.raises(DataError, match="has the splits train, test"):
        read("hf:name")
    with pytest.raises(UnknownNameError, match="choose one of: test, train"):
        read("hf:name:valid")
    hub({"train": Rows(text=["a"], number=[1])})
    with pytest.raises(DataError, match="columns are text, number"):
        read("hf:name")


def test_offline_is_one_clear_error(hub):
    hub(ConnectionError("Couldn't reach the Hugging Face Hub\nand forty lines more"))
    with pytest.raises(DataError, match=r"cannot be loaded .*: Couldn't reach the Hugging Face Hub\nhint: .*npz"):
        read("hf:name")


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'nelbo\[data\]'"):
        read("hf:name")


def test_sizes_that_differ_and_no_name(hub):
    hub({"train": Rows(image=[*pictures(), PIL.fromarray(PIXELS[0, :2])])})
    with pytest.raises(DataError, match=r"row 3 is 4×2 gray"):
        read("hf:name")
    hub({"train": Rows(image=[*pictures(), PIL.fromarray(PIXELS[0] > 3)])})
    with pytest.raises(DataError, match="row 3 is 4×4 black and white"):
        read("hf:name")
    with pytest.raises(DataError, match="name no data set"):
        read("hf:")
