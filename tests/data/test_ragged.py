"""Examples of different size from lists and npz files: padded, one after the other, with their labels; and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from nelbo.data import read, resolve
from nelbo.errors import NelboError

LENGTHS = [2, 1, 3]
POINTS = np.arange(12, dtype=np.float32).reshape(6, 2)
SETS = np.split(POINTS, [2, 3])


@pytest.fixture
def file(tmp_path):
    padded = np.full((3, 5, 2), np.nan, np.float32)
    for row, one in zip(padded, SETS, strict=True):
        row[: len(one)] = one
    np.savez(
        tmp_path / "x.npz", x=padded, points=POINTS, lengths=LENGTHS, offsets=[0, 2, 3, 6], labels=[4, 5, 6],
        mask=np.isfinite(padded[..., 0]), numbers=np.isfinite(padded).astype(int), short=[2, 1], falling=[0, 3, 2, 6],
        none=[2, 0, 4], far=[2, 1, 6],
    )  # fmt: skip
    return tmp_path / "x.npz"


@pytest.mark.parametrize("key", ["x#mask=mask", "x#mask=numbers", "x#mask=lengths", "points#lengths=lengths",
                                 "points#offsets=offsets"])  # fmt: skip
def test_every_form_holds_the_same_examples(file, key):
    """As a list: the same numbers, sizes, hashes and labels; the first two of them by a limit."""
    listed = resolve([torch.from_numpy(one) for one in SETS])
    for limit in (None, 2):
        examples, first = read(f"{file}#{key}", limit=limit), listed.first(limit)
        assert torch.equal(examples.hashes, first.hashes) and examples.sizes.tolist() == [4, 2, 6][:limit]
        assert examples.labels.tolist() == [4, 5, 6][:limit]
        there = examples.mask if examples.mask.ndim == 2 else examples.mask.all(-1)
        assert [examples.data[i][there[i]].tolist() for i in range(len(examples))] == [s.tolist() for s in SETS[:limit]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("#x#mask=lengths#lengths=lengths", "with #mask and #lengths"),
        ("#lengths=lengths", "without the array of the data"),
        ("#points#lengths=nothing", "has no array 'nothing'"),
        ("#points#lengths=short", "says that there are 3 points, and .* has 6"),
        ("#points#offsets=falling", "no offsets of examples"),
        ("#points#lengths=none", "no lengths of examples"),
        ("#points#lengths=points", "no lengths of examples"),
        ("#x#mask=points", "says nothing of what is there"),
        ("#x#mask=far", "says nothing of what is there"),
    ],
)
def test_what_says_nothing_is_refused(file, options, words):
    with pytest.raises(NelboError, match=words):
        read(f"{file}{options}")


def test_a_mask_says_what_is_hashed():
    """Neither padding nor its content counts in a hash; where the gaps are is told by the mask."""
    x = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    other = x.clone()
    other[0, 1] = 99.0
    a, b = (nelbo.Examples(v, mask=mask) for v in (x, other))
    assert torch.equal(a.hashes, b.hashes) and not torch.equal(a.hashes, nelbo.Examples(x).hashes)
    assert nelbo.Examples(x[:1, [0, 2]]).hashes[0] == a.hashes[0] and a.sizes.tolist() == [4, 6]
