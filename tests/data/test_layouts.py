"""Folders as people have them: names, order, codes and labels as they are, and by name whatever is not read."""

from __future__ import annotations

import numpy as np
import pytest

from nelbo.data import pictures as decoding
from nelbo.data import read

pytest.importorskip("PIL.Image")
from tests.data.layouts import LAYOUTS, picture


@pytest.mark.parametrize("stay_on_disk", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_read_as_it_is(tmp_path, name, stay_on_disk, monkeypatch):
    layout = LAYOUTS[name]
    if stay_on_disk:
        monkeypatch.setattr(decoding, "STREAMED", 0)
    spec = layout.write(tmp_path / "root")
    examples = read(spec)
    assert list(examples.names) == list(layout.pictures)
    assert (None if examples.labels is None else examples.labels.tolist()) == layout.labels
    assert examples.classes == layout.classes
    rows = examples.data[:].numpy()
    for row, (where, k) in zip(rows, layout.pictures.items(), strict=True):
        want = picture(k, layout.colour)
        if layout.kinds.get(where) != "JPEG":  # which does not keep them
            assert np.array_equal(row.transpose(1, 2, 0) if layout.colour else row, want), where
    passed = examples.facts.get("passed_over", {"count": 0, "entries": []})
    assert sorted(entry["name"] for entry in passed["entries"]) == sorted(layout.passed)
    assert passed["count"] == len(layout.passed)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_first_ones_are_those_of_the_whole(tmp_path, name):
    spec = LAYOUTS[name].write(tmp_path / "root")
    whole, first = read(spec), read(spec, limit=2)
    assert first.names == whole.names[:2] and np.array_equal(first.data, whole.data[:2])
    assert first.labels is None or first.labels.tolist() == whole.labels[:2].tolist()
    assert first.classes == whole.classes
