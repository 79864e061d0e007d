"""The folder of a site: replaced whole or not at all, and never over anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from nelbo import files
from nelbo.equations.pages import build, folder
from nelbo.errors import UsageError


def listing(place: Path) -> set[str]:
    return {p.relative_to(place).as_posix() for p in place.rglob("*")}


def test_an_earlier_build_is_replaced_whole(tmp_path):
    out = tmp_path / "site"
    folder.replace(out, {"old.html": "1", "a/b.html": "2"})
    folder.replace(out, {"a/c.html": b"3"})
    assert listing(out) == {folder.MARKER, "a", "a/c.html"}
    assert listing(tmp_path) == {"site", *(f"site/{name}" for name in listing(out))}


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match=r"holds thesis.tex, which no earlier build wrote[\s\S]*new or empty"):
        build(tmp_path)
    assert listing(tmp_path) == {"thesis.tex"}


def test_what_was_put_into_an_earlier_build_is_not_lost(tmp_path):
    out = tmp_path / "site"
    folder.replace(out, {"a.html": "1"})
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        folder.replace(out, {"a.html": "2"})
    assert (out / "a.html").read_text() == "1"


def test_a_forged_marker_protects_nothing_else(tmp_path):
    (tmp_path / folder.MARKER).write_text('{"schema": "other", "files": ["x"]}')
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match="holds x"):
        folder.check(tmp_path)


def test_a_file_and_the_current_folder_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        folder.check(tmp_path / "file")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match="the folder you are in"):
        folder.check(Path())


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_what_was_there(tmp_path, monkeypatch, fault, earlier):
    out = tmp_path / "site"
    if earlier:
        folder.replace(out, {"a.html": "old"})
    before = listing(tmp_path)
    write = Path.write_bytes

    def stop(path, data):
        if path.name == "b.html":
            raise fault
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(fault):
        folder.replace(out, {"a.html": "new", "b.html": "new"})
    assert listing(tmp_path) == before
    if earlier:
        assert (out / "a.html").read_text() == "old"


def test_a_move_that_fails_brings_the_old_site_back(tmp_path, monkeypatch):
    """Where the system cannot exchange two names."""
    out = tmp_path / "site"
    folder.replace(out, {"a.html": "old"})
    rename = Path.rename

    def stop(path, target):
        if target == out and not path.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(files, "exchange", lambda a, b: False)
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.replace(out, {"a.html": "new"})
    assert listing(tmp_path) == {"site", "site/a.html", f"site/{folder.MARKER}"}
    assert (out / "a.html").read_text() == "old"
