"""Tables of real numbers: what is read, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError


def test_numbers_with_and_without_names(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(5, 3))
    text = "\n".join(",".join(map(repr, row)) for row in numbers.tolist())
    (tmp_path / "plain.csv").write_text(text + "\n\n")
    (tmp_path / "named.csv").write_text(f"a, b, c\n{text}")
    for name in ("plain", "named"):
        examples = read(str(tmp_path / f"{name}.csv"))
        assert examples.data.dtype == torch.float64 and np.array_equal(examples.data, numbers)
        assert examples.labels is None and examples.bins is None
    assert read(str(tmp_path / "plain.csv"), limit=2).data.shape == (2, 3)


def test_labels_are_no_data(tmp_path):
    (tmp_path / "x.csv").write_text("a,label,b\n1.5,2,3\n-4e-1,0,6\n")
    examples = read(str(tmp_path / "x.csv"))
    assert examples.data.tolist() == [[1.5, 3.0], [-0.4, 6.0]]
    assert examples.labels is not None and examples.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1,2\n3\n", "line 2 .* has 1 fields, not 2"),
        ("a,b\n1,2\n3,x\n", r"line 3 .*'x' in column 2 \(b\)"),
        ("1,2\n3,\n", "line 2 .*'' in column 2"),
        ("", "no numbers"),
        ("a,b\n", "no numbers"),
        ("1,2\n\xff\x00", None),
    ],
)
def test_refusals(tmp_path, text, match):
    (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=match):
        read(str(tmp_path / "x.csv"))
