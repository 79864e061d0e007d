"""Tables of real numbers: what is read, what is refused, and with which option to write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.data import read
from nelbo.errors import DataError, UnknownNameError


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
    assert read(str(tmp_path / "plain.csv"), limit=2).name == f"{tmp_path / 'plain.csv'}[:2]"


def written(tmp_path, text, options="", encoding="utf-8"):
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    return read(f"{tmp_path / 'x.csv'}{options}")


# text, options → data, labels, classes
READ = {
    "labels": ("a,label,b\n1.5,2,3\n-4e-1,0,6\n", "", [[1.5, 3], [-0.4, 6]], [2, 0], ()),
    "a byte order mark": ("\ufefflabel,a,b\n1,2.5,3\n0,4,5.5\n", "", [[2.5, 3], [4, 5.5]], [1, 0], ()),
    "a byte order mark before a number": ("\ufeff1.5,2\n3,4\n", "", [[1.5, 2], [3, 4]], None, ()),
    "Label": ("a,Label\n1.5,2\n2.5,0\n", "", [[1.5], [2.5]], [2, 0], ()),
    "class": ("a,class\n1.5,2\n2.5,0\n", "", [[1.5], [2.5]], [2, 0], ()),
    "names of classes": ("a,species\n1.5,owl\n2.5,ant\n", "#labels=species", [[1.5], [2.5]], [1, 0], ("ant", "owl")),
    "a column called label": ("a,label\n1.5,owl\n2.5,ant\n", "", [[1.5], [2.5]], [1, 0], ("ant", "owl")),
    "labels with a point": ("a,label\n1.5,2.0\n2.5,0.0\n", "", [[1.5], [2.5]], [2, 0], ()),
    "no labels": ("a,label\n1.5,2\n2.5,0\n", "#labels=none", [[1.5, 2], [2.5, 0]], None, ()),
    "y without x": ("a,b,y\n1.5,2.5,1\n2.5,3.5,0\n", "", [[1.5, 2.5], [2.5, 3.5]], [1, 0], ()),
    "points": ("x,y\n1.5,1.25\n2.5,0\n", "", [[1.5, 1.25], [2.5, 0]], None, ()),
    "whole points": ("x,y\n1.5,1\n2.5,0\n", "#labels=none", [[1.5, 1], [2.5, 0]], None, ()),
    "x and the class y": ("x,y\n1.5,1\n2.5,0\n", "#labels=y", [[1.5], [2.5]], [1, 0], ()),
    "numbers as names": ("0,1\n1.5,1\n2.5,0\n", "#header=yes", [[1.5, 1], [2.5, 0]], None, ()),
    "numbers as numbers": ("0,1\n1.5,1\n2.5,0\n", "#header=no", [[0, 1], [1.5, 1], [2.5, 0]], None, ()),
    "row numbers": (",a,b\n0,1.5,2\n1,3.5,4\n", "#index=yes", [[1.5, 2], [3.5, 4]], None, ()),
    "no row numbers": (",a,b\n0,1.5,2\n1,3.5,4\n", "#index=no", [[0, 1.5, 2], [1, 3.5, 4]], None, ()),
    "row numbers and labels": (",a,label\n7,1.5,2\n9,3.5,4\n", "#index=yes", [[1.5], [3.5]], [2, 4], ()),
    "quoted": ('"a","b"\n"1.5"," 2 "\n', "", [[1.5, 2]], None, ()),
    "CRLF": ("a,b\r\n1.5,2\r\n3,4\r\n", "", [[1.5, 2], [3, 4]], None, ()),
    "whole numbers": ("3,1\n4,1\n5,9\n", "", [[3, 1], [4, 1], [5, 9]], None, ()),
}


@pytest.mark.parametrize("case", READ)
def test_read(tmp_path, case):
    text, options, data, labels, classes = READ[case]
    examples = written(tmp_path, text, options)
    assert examples.data.tolist() == data and examples.classes == classes
    assert (None if examples.labels is None else examples.labels.tolist()) == labels
    assert examples.data.dtype == torch.float64
    passed = examples.facts.get("passed_over")
    assert (passed is not None) == (options == "#index=yes")


# text, what is wrong, what to write
REFUSED = {
    "unequal lines": ("1.5,2\n3\n", "line 2 .* has 1 fields, not 2", ""),
    "text": ("a,b\n1,2\n3,x\n", r"line 3 .*'x' in column 2 \(b\)", ""),
    "an empty field": ("1.5,2\n3,\n", "line 2 .*'' in column 2", ""),
    "nothing": ("", "no numbers", ""),
    "names alone": ("a,b\n", "no numbers", ""),
    "missing values first": ("NA,NA\n1,2\n", "'NA,NA', may be the names", "#header=no"),
    "a question mark first": ("?\n1\n", "'[?]', may be the names", "#header=yes"),
    "one missing value first": ("?,2.5\n1,2\n", "mixes numbers and other text", "#header=no"),
    "numbers 0, 1, 2 first": ("0,1,2\n3,1,4\n1,5,9\n", "may be the names of the columns or the first", "#header=no"),
    "years first": ("2019,2020\n3,1\n4,1\n", "may be the names of the columns or the first", "#header=yes"),
    "whole numbers above others": ("7,9\n3.5,1.5\n4.5,1.5\n", "may be the names of the columns", "#header=yes"),
    "an unnamed column": (",a,b\n0,1.5,2\n1,3,4\n", "column 1 .* has no name", "#index=yes"),
    "a column of pandas": ("Unnamed: 0,a\n0,1.5\n1,3\n", "column 1 .* has no name", "#index=yes"),
    "an underscore": ("a,b\n1_000,2\n", "'1_000' .* is not a number", ""),
    "not a number": ("a,b\nnan,2\n", "'nan' .* is not a number", ""),
    "infinity": ("a,b\ninf,2\n", "'inf' .* is not a number", ""),
    "other digits": ("a,b\n١,2\n", "is not a number", ""),
    "a label beyond all": ("a,label\n1,1e30\n", r"label 1e\+30 in the column 'label'", "#labels=none"),
    "a label between": ("a,label\n1,0.5\n", "label 0.5 in the column 'label'", "#labels=none"),
    "a missing label": ("a,label\n1,owl\n2,NA\n", "line 3 .* has no label: 'NA'", ""),
    "two columns of labels": ("a,label,class\n1,2,3\n", "'label' and 'class', which may both", "#labels=NAME"),
    "whole points": ("x,y\n1.5,1\n2.5,0\n", "holds whole numbers: labels, or a coordinate", "#labels=y or"),
    "semicolons": ("a;b\n1;2\n", "separated by semicolons", ""),
    "tabs": ("a\tb\n1\t2\n", "separated by tabs", ""),
    "labels alone": ("label,class\n1,2\n", "which may both be labels", ""),
    "a number beyond all": ("a,b\n1e999,2\n", "'1e999' .* is not a number", ""),
    "decimal commas": ("a;b\n1,5;2,5\n", "separated by semicolons", ""),
    "a column that is called id": ("a,ID\n1.5,0\n2.5,1\n", r"column 2 .* counts the lines \(ID\)", "#index=yes"),
    "a first column that counts": ("".join(f"{k + 1},0.5\n" for k in range(8)), "column 1 .* counts", "#index=no"),
    "a quote that stays open": ('a,b\n"1,2\n', "not a readable table", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    text, match, remedy = REFUSED[case]
    with pytest.raises(DataError, match=match) as caught:
        written(tmp_path, text)
    assert remedy in caught.value.hint


def test_columns_that_count_the_lines(tmp_path):
    """They are passed over or data, as the option says; without one, an id that does not count is data."""
    text = "a,Id\n1.5,1\n2.5,2\n"
    assert written(tmp_path, text, "#index=yes").data.tolist() == [[1.5], [2.5]]
    assert written(tmp_path, text, "#index=no").data.tolist() == [[1.5, 1], [2.5, 2]]
    assert written(tmp_path, "a,id\n1.5,1\n2.5,3\n").data.tolist() == [[1.5, 1], [2.5, 3]]
    assert written(tmp_path, "0,0.5\n1,0.25\n").data.tolist() == [[0, 0.5], [1, 0.25]]  # too few to say


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings(tmp_path, encoding):
    with pytest.raises(DataError, match="not a readable table"):
        written(tmp_path, "é,b\n1,2\n", encoding=encoding)


@pytest.mark.parametrize(
    ("options", "error"),
    [("#heder=no", UnknownNameError), ("#header=maybe", UnknownNameError), ("#a", DataError), ("#labels=z", DataError)],
)
def test_options_that_mean_nothing(tmp_path, options, error):
    with pytest.raises(error):
        written(tmp_path, "a,b\n1,2\n", options)


def test_a_name_with_a_hash(tmp_path):
    path = tmp_path / "run#2#header=no.csv"
    path.write_text("a,b\n1,2\n")
    assert read(str(path)).data.tolist() == [[1, 2]]
    assert read(f"{path}#header=yes").data.tolist() == [[1, 2]]
