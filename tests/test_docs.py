"""The documentation's examples run, its links lead somewhere, and (slow) Sphinx builds it without a warning."""

import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import nelbo
from tests.expected import untrained

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)
EXAMPLES = [p for p in PAGES if CELL.search(p.read_text())]
TRAINED = {"howto/points.md"}
"""Pages that train for more than some seconds."""


def named(paths, slow=()):
    names = {p: str(p.relative_to(DOCS)) for p in paths}
    return [pytest.param(p, id=n, marks=[pytest.mark.slow] * (n in slow)) for p, n in names.items()]


@untrained
@pytest.mark.parametrize("page", named(EXAMPLES, TRAINED))
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


def test_every_parameter_of_a_verb_is_described():
    """The reference lists them with type and default, and takes what they mean from the docstring."""
    documented = runpy.run_path(str(DOCS / "parameters.py"))["documented"]
    verbs = [v for v in (getattr(nelbo, name) for name in nelbo.__all__) if inspect.isfunction(v)]
    assert len(verbs) > 12
    for verb in [*verbs, nelbo.Monitor]:
        lines = documented(verb, inspect.getdoc(verb).splitlines(), str)
        entries = [line for line in lines if line.startswith("- ``")]
        assert len(entries) == len(inspect.signature(verb).parameters)
        assert not [line for line in entries if not re.search(r"(\)|``): \S", line)], verb
    assert not re.search("tolerance: ", "\n".join(documented(nelbo.evaluate, nelbo.evaluate.__doc__.splitlines(), str)))


def test_notebooks_are_those_of_the_pages():
    """`make notebooks` was run after the last change of a page."""
    made = runpy.run_path(str(DOCS.parent / "tools" / "notebooks.py"))
    found = {path.name: path.read_text() for path in made["FOLDER"].glob("*.ipynb")}
    assert found == made["notebooks"](), "run `make notebooks`"


def test_paths_of_the_machine_are_found_in_pages(tmp_path):
    pytest.importorskip("sphinx")
    for name, text in {"a": f"<p>{tmp_path}/run: saved</p>", "b": "<p>in ~/run or /tmpfs, the ratio a/b</p>"}.items():
        (tmp_path / f"{name}.html").write_text(text)
    (line,) = runpy.run_path(str(DOCS / "conf.py"))["machine_paths"](tmp_path)
    assert line == f"{tmp_path / 'a.html'}: {tmp_path}/run:"


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
