"""Entry files: what is read, and that every fault is said by name."""

from __future__ import annotations

import re

import pytest

from nelbo.equations.entry import Reference, load
from nelbo.errors import DataError

GOOD = r"""
id = "some-entry"
title = "Some entry"
group = "B forward process"
kind = "identity"
tags = ["forward", "posterior"]
latex = '''
a=b
'''
statement = "Two things\n are one."
assumptions = []
related = ["other-entry"]
code = "none: nothing to compute"
place = 3

[symbols]
'\beta_t' = "variance of step t"

[[references]]
authors = "Ho et al."
year = 2020
arxiv = "2006.11239"
equation = "eq. 7"

[[sources]]
row = "003-14"
document = "003"
where = "eq (7)"
status = "misprinted"
printed = 'a:=b'
right = "a=b"
why = "sign"
evidence = ["gap 0.1"]

[[sources]]
row = "000-1"
document = "000"
where = "line 1"
status = "correct"
printed = 'a=b'
"""


def written(tmp_path, text: str, name: str = "some-entry.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_an_entry(tmp_path):
    e = load(written(tmp_path, GOOD))
    assert (e.id, e.title, e.letter, e.kind, e.place) == ("some-entry", "Some entry", "B", "identity", 3)
    assert e.latex == "a=b" and e.statement == "Two things are one."
    assert e.tags == ("forward", "posterior") and e.symbols == {r"\beta_t": "variance of step t"}
    assert e.references == (Reference("Ho et al.", 2020, "2006.11239", "eq. 7"),)
    assert str(e.references[0]) == "Ho et al. 2020, arXiv:2006.11239, eq. 7"
    assert e.references[0].url == "https://arxiv.org/abs/2006.11239"
    assert Reference("Feller", 1949, "", "").url == "" and str(Reference("Feller", 1949, "", "")) == "Feller 1949"
    assert e.documents == ("000", "003") and e.statuses == ("correct", "misprinted") and not e.beyond
    assert e.sources[0].evidence == ("gap 0.1",) and e.sources[1].right == ""
    assert e.code == "none: nothing to compute" and e.derivations == ()


def test_what_may_be_left_out(tmp_path):
    short = (
        GOOD.split("[[references]]")[0].replace("place = 3\n", "").replace('code = "none: nothing to compute"\n', "")
    )
    e = load(written(tmp_path, short))
    assert e.references == e.sources == e.derivations == () and e.code == "" and e.beyond and e.statuses == ()


FAULTS = {
    "the entry lacks the key 'title'": ('title = "Some entry"\n', ""),
    "the entry has the unknown key 'titel'": ('title = "Some entry"\n', 'title = "Some entry"\ntitel = "x"\n'),
    "its id is 'another'": ('id = "some-entry"', 'id = "another"'),
    "its group is 'B'": ('group = "B forward process"', 'group = "B"'),
    "its kind is 'law'": ('kind = "identity"', 'kind = "law"'),
    "title is '  '": ('title = "Some entry"', 'title = "  "'),
    "latex is 3": ("latex = '''\na=b\n'''", "latex = 3"),
    "tags is []": ('tags = ["forward", "posterior"]', "tags = []"),
    "tags is 'forward'": ('tags = ["forward", "posterior"]', 'tags = "forward"'),
    "tags repeats itself": ('tags = ["forward", "posterior"]', 'tags = ["forward", "forward"]'),
    "related is [1]": ('related = ["other-entry"]', "related = [1]"),
    "its symbols are no table of strings": ('"variance of step t"', "3"),
    "its code is 'yes'": ('code = "none: nothing to compute"', 'code = "yes"'),
    "place is '3'": ("place = 3", 'place = "3"'),
    "year is True": ("year = 2020", "year = true"),
    "a reference lacks the key 'equation'": ('equation = "eq. 7"\n', ""),
    "a source row has the unknown key 'page'": ('where = "line 1"', 'where = "line 1"\npage = "3"'),
    "row 000-1 has the status 'right'": ('status = "correct"', 'status = "right"'),
    "row 003-14 is misprinted and does not say what is right": ('why = "sign"\n', ""),
    "cannot be read": ('id = "some-entry"', "id = some-entry"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_every_fault_is_said(tmp_path, what):
    old, new = FAULTS[what]
    assert GOOD.count(old) == 1
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        load(written(tmp_path, GOOD.replace(old, new)))
    assert "some-entry.toml" in caught.value.message and caught.value.hint


def test_sources_that_are_no_tables(tmp_path):
    text = GOOD.split("[[references]]")[0].replace("place = 3", 'place = 3\nsources = ["003-14"]')
    with pytest.raises(DataError, match="sources is no list of tables"):
        load(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"missing\.toml cannot be read"):
        load(tmp_path / "missing.toml")
