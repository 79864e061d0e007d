"""hf:NAME[:split] with data sets of the `datasets` library made here: nothing reaches a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import pictures as decoding
from nelbo.data import read
from nelbo.data.pictures import LazyRows
from nelbo.errors import DataError, UnknownNameError

PIL = pytest.importorskip("PIL.Image")
PIXELS = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


@pytest.fixture
def hub(monkeypatch):
    """hub(splits) makes datasets.load_dataset return `splits`, or raise it."""
    datasets = pytest.importorskip("datasets")

    def install(splits):
        def load_dataset(name):
            if isinstance(splits, Exception):
                raise splits
            return splits

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return install


def rows(pictures=PIXELS, column="image", **others):
    """A split with a column of pictures."""
    import datasets

    split = datasets.Dataset.from_dict({column: [PIL.fromarray(p) for p in pictures], **others})
    return split.cast_column(column, datasets.Image())


def test_split_labels_and_limit(hub):
    hub({"train": rows(PIXELS + 1, label=[1, 2, 3]), "test": rows(label=[4, 5, 6])})
    examples = read("hf:some/name:test")
    assert np.array_equal(examples.data, PIXELS)
    assert examples.labels.tolist() == [4, 5, 6]
    assert examples.name == "hf:some/name:test"
    first = read("hf:some/name:train", limit=2)
    assert np.array_equal(first.data, PIXELS[:2] + 1)
    assert first.name == "hf:some/name:train[:2]"


def test_the_only_split_and_the_only_column_of_images(hub):
    hub({"train": rows(column="scan", age=[1, 2, 3])})
    examples = read("hf:name")
    assert np.array_equal(examples.data, PIXELS)
    assert examples.labels is None


def test_rows_are_decoded_when_they_are_used(hub, monkeypatch):
    """Above a threshold: the same data, of which no more is decoded than was asked for."""
    hub({"train": rows(label=[1, 0, 1])})
    monkeypatch.setattr(decoding, "STREAMED", 0)
    lazy = read("hf:name")
    assert isinstance(lazy.data, LazyRows) and lazy.labels.tolist() == [1, 0, 1]
    decoded, decode = [], lazy.data.decode
    monkeypatch.setattr(lazy.data, "decode", lambda chosen: decoded.extend(chosen) or decode(chosen))
    assert np.array_equal(lazy.data[torch.tensor([2, 0])], PIXELS[[2, 0]]) and [int(row) for row in decoded] == [2, 0]


def without_pictures():
    import datasets

    return datasets.Dataset.from_dict({"text": ["a"], "number": [1]})


OFFLINE = ConnectionError("Couldn't reach the Hugging Face Hub\nand forty lines more")


@pytest.mark.parametrize(
    ("splits", "spec", "error", "match"),
    [
        (lambda: {"train": rows(), "test": rows()}, "hf:name", DataError, "has the splits train, test"),
        (lambda: {"train": rows(), "test": rows()}, "hf:name:valid", UnknownNameError, "choose one of: test, train"),
        (lambda: {"train": without_pictures()}, "hf:name", DataError, "columns are text, number"),
        (lambda: OFFLINE, "hf:name", DataError, r"be loaded .*: Couldn't reach the Hugging Face Hub\nhint: .*npz"),
        (lambda: {"train": rows([*PIXELS, PIXELS[0, :2]])}, "hf:name", DataError, "row 3 is 4×2 gray"),
        (lambda: {"train": rows([*PIXELS, PIXELS[0] > 3])}, "hf:name", DataError, "row 3 is 4×4 black and white"),
        (lambda: {}, "hf:", DataError, "name no data set"),
    ],
    ids=["no split", "unknown split", "no images", "offline", "sizes", "modes", "no name"],
)
def test_refusals(hub, splits, spec, error, match):
    hub(splits())
    with pytest.raises(error, match=match):
        read(spec)
