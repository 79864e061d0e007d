"""Sequences of symbols in npz files: given places, padding, bytes, streams; nothing by its name alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError

X = np.arange(12).reshape(3, 4).astype(np.uint16)


@pytest.fixture
def file(tmp_path):
    given = np.array([[1], [0], [2]]) > X % 4
    np.savez(
        tmp_path / "x.npz", tokens=X, given=given, ones=given.astype(np.int64), prompts=[1, 0, 2], lengths=[4, 3, 1],
        widths=np.full((3, 4), 3), stream=np.arange(11), widths_of=np.arange(11) % 3, real=X / 2, low=[-1, 0, 2],
    )  # fmt: skip
    return tmp_path / "x.npz"


def test_given_places_and_padding(file):
    for key in ("given", "ones", "prompts"):
        examples = read(f"{file}#tokens#prompt={key}#mask=lengths#bytes=widths")
        assert examples.prompt.tolist() == [[True, False, False, False], [False] * 4, [True, True, False, False]]
        assert examples.mask.sum(1).tolist() == [4, 3, 1] and examples.mask[2].tolist() == [True, False, False, False]
        assert examples.place_bytes.sum() == 36 and "bytes" not in examples.facts
        assert np.array_equal(examples.data, X) and examples.name == f"{file}#tokens"
    assert read(f"{file}#tokens#bytes=widths").facts["bytes"] == 36
    one = read(f"{file}#tokens#prompt=given", limit=1)
    assert one.prompt.shape == (1, 4) == one.data.shape
    assert read(f"{file}#tokens").prompt is None  # no array is taken by its name


def test_a_stream(file):
    examples = read(f"{file}#stream#length=4#stride=2#bytes=widths_of")
    assert examples.data.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9], [7, 8, 9, 10]]
    scored = examples.data[~examples.prompt]
    assert scored.tolist() == list(range(11))
    assert int(examples.place_bytes[~examples.prompt].sum()) == int((np.arange(11) % 3).sum())
    assert torch.equal(read(f"{file}#stream#length=4").data, torch.arange(8).reshape(2, 4).int())
    assert read(f"{file}#stream#length=4").facts["left_over"] == {"tokens": 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("#tokens#prompt=nothing", "has no array 'nothing'"),
        ("#prompt=given", "without the array of the symbols"),
        ("#tokens#mask=widths", "says nothing of the places"),
        ("#tokens#mask=low", "says nothing of the places"),
        ("#tokens#bytes=prompts", "no bytes of the places"),
        ("#real#bytes=widths", "integers (N, L) are expected"),
        ("#tokens#stride=2", "it is of windows"),
        ("#tokens#length=2", "one stream"),
        ("#stream#length=4#prompt=given", "of a stream"),
        ("#stream#length=4#bytes=widths", "bytes of every symbol"),
        ("#stream#length=40#stride=3", "no symbol to pad"),
        ("#stream#length=40", "less than a sequence of 40"),
    ],
)
def test_what_is_refused(file, options, words):
    with pytest.raises(DataError) as caught:
        read(f"{file}{options}")
    assert words in str(caught.value) + (caught.value.hint or "")
