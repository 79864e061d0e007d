"""The documentation's examples run, its links lead somewhere, and (slow) Sphinx builds it without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.expected import untrained

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)
EXAMPLES = [p for p in PAGES if CELL.search(p.read_text())]


def named(paths):
    return [pytest.param(p, id=str(p.relative_to(DOCS))) for p in paths]


@untrained
@pytest.mark.parametrize("page", named(EXAMPLES))
def test_cells_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in CELL.findall(page.read_text()):
        exec(compile(cell, str(page), "exec"), names)


def test_pages_with_cells_are_notebooks():
    for page in EXAMPLES:
        assert page.read_text().startswith("---\nfile_format: mystnb\n"), page


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page in PAGES:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {str((page.parent / name).relative_to(DOCS)) for name in names}
    assert {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES} == listed


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "doctrees"]
    run = subprocess.run(
        [*command, "-D", "nb_execution_mode=off", DOCS, tmp_path / "html"],
        capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    page = (tmp_path / "html" / "reference" / "functions.html").read_text()
    for name in ("evaluate", "from_callable", "train", "sample"):
        assert f">{name}</span>" in page
