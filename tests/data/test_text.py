"""Texts as sequences of symbols: bytes and characters are counted right, and nothing is dropped in silence."""

from __future__ import annotations

import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError, UnknownNameError

TEXT = "aé€😀b\n\nñ"
BYTES = TEXT.encode()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(BYTES)
    return path


def test_bytes(file):
    examples = read(f"text:{file}#length=4")
    assert torch.equal(examples.data.flatten(), torch.tensor(list(BYTES[:12]), dtype=torch.int32))
    assert examples.facts == {"tokenizer": "bytes", "left_over": {"tokens": len(BYTES) - 12}, "bytes": 12}


def test_characters(file):
    examples = read(f"text:{file}#length=3#tokenizer=chars")
    alphabet = "".join(sorted(set(TEXT)))
    assert examples.facts["alphabet"] == alphabet
    assert "".join(alphabet[k] for k in examples.data.flatten()) == TEXT[:6]
    assert examples.facts["bytes"] == len(TEXT[:6].encode()) and examples.facts["left_over"] == {"tokens": 2}
    one = read(f"text:{file}#length=3#tokenizer=chars", limit=1)
    assert one.facts["bytes"] == len(TEXT[:3].encode()) and "left_over" not in one.facts
    assert "bytes" not in examples.first(1).facts and examples.first(1).facts["alphabet"] == alphabet


def test_what_is_refused(file):
    with pytest.raises(UnknownNameError, match="chars"):
        read(f"text:{file}#tokenizer=words")
    with pytest.raises(DataError, match="less than a sequence of 128"):
        read(f"text:{file}")
    with pytest.raises(DataError, match="length=0"):
        read(f"text:{file}#length=0")
    file.write_bytes(b"ab\xffcd")
    with pytest.raises(DataError, match="byte 2 is 0xff"):
        read(f"text:{file}#length=2#tokenizer=chars")
    with pytest.raises(DataError, match="there is no file"):
        read("text:nowhere.txt")
