"""The site of the catalogue without a browser: what is on the pages, and whether the links lead somewhere."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nelbo.equations import catalogue
from nelbo.equations.pages import build, graph
from nelbo.equations.pages.build import render
from nelbo.equations.pages.code import highlighted
from nelbo.equations.pages.contents import read
from nelbo.errors import DataError
from tests.markup import Page


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    return {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}


def test_every_entry_has_a_page_with_its_latex_to_the_letter(pages):
    for e in catalogue().values():
        assert pages[f"equations/{e.id}.html"].texts["latex"] == e.latex


def test_every_printed_row_is_on_the_page_of_its_document_and_links_its_entries(pages):
    rows = 0
    for number, document in catalogue().documents.items():
        page = pages[f"sources/{number}.html"]
        for row in document.rows:
            rows += 1
            assert row.row in page.ids
            assert all(f"../equations/{id}.html" in page.links for id in row.ids)
            if not row.ids:
                assert row.out_of_scope in page.texts[row.row]
    assert rows == 166


def test_every_derivation_has_a_page_with_its_steps(site, pages):
    walks = read().walks
    assert walks
    for w in walks.values():
        page = pages[f"derivations/{w.id}.html"]
        assert [i for i in page.ids if i.startswith("step-")] == [f"step-{n}" for n in range(1, len(w.steps) + 1)]
        assert f"derivations/{w.id}.html" in pages["derivations.html"].links
        assert all(f"../equations/{s.entry}.html" in page.links for s in w.steps if s.entry)


def test_implemented_in_names_file_and_line_and_shows_the_source(site):
    place = catalogue().implementations("posterior-mean")[0]
    text = (site / "equations/posterior-mean.html").read_text()
    assert f"{place.file}:{place.line}" in text
    assert str(highlighted(place.source)) in text


def test_the_check_is_shown_with_its_figures(site, results):
    entry = next(e for e in json.loads(results.read_text())["entries"] if e["id"] == "posterior-mean")
    text = (site / "equations/posterior-mean.html").read_text()
    assert "✓ holds" in text
    assert text.count('<tr><th scope="row">') == len(entry["checks"])
    assert "nelbo equations verify posterior-mean" in text
    assert "The checks were not run" in (site / "equations/pf-ode.html").read_text()


def test_every_link_leads_somewhere(pages):
    assert {"graph.html", "figure.html", "derivations.html", "sources.html"} <= set(pages["index.html"].links)
    for name, page in pages.items():
        for link in page.links:
            if re.match(r"https?://", link):
                continue
            target, _, fragment = link.partition("#")
            path = (Path("/") / Path(name).parent / target).as_posix() if target else f"/{name}"
            path = str(Path(path).resolve())[1:]
            if path == "assets/LICENSE-katex.txt":
                continue
            assert path in pages, f"{name} links {link}"
            if fragment and "=" not in fragment:
                assert fragment in pages[path].ids, f"{name} links {link}"


def test_every_page_stands_alone(site, pages):
    for page in pages.values():
        page.check_alone(r"(\.\./)?assets/[\w.-]+|data:,|#.*")
    for sheet in site.rglob("*.css"):
        text = sheet.read_text()
        assert "@import" not in text
        assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", text))


def test_text_of_an_entry_is_escaped():
    contents = read()
    e = contents.entries["bayes-rule"]
    nasty = '<script>alert("1")</script> & x_t'
    changed = dataclasses.replace(e, title=nasty, statement=nasty, assumptions=(nasty,), tags=(nasty,))
    files = dict(render(dataclasses.replace(contents, entries={**contents.entries, e.id: changed})))
    for name in ("equations/bayes-rule.html", "index.html", "graph.html", "sources/003.html"):
        assert "<script>alert" not in files[name]
        assert "alert" in files[name]


def test_a_source_in_colour_is_the_source():
    source = catalogue().implementations("posterior-mean")[0].source
    page = Page(f'<pre id="x">{highlighted(source)}</pre>')
    assert page.texts["x"] == source


def test_the_graph_shows_every_equation_and_no_boxes_overlap(site):
    text = (site / "graph.html").read_text()
    assert set(re.findall(r'data-node="([^"]+)"', text)) == set(catalogue())
    corners = [(int(x), int(y)) for x, y in re.findall(r'<rect x="(\d+)" y="(\d+)"', text)]
    assert len(set(corners)) == len(corners) == len(catalogue())
    for x, y in corners:
        assert not any((x, y) != (u, v) and abs(x - u) < graph.WIDTH and abs(y - v) < graph.HEIGHT for u, v in corners)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"entries": [{"id": "bayes-rule"}]}', '{"entries": [{"id": 1, "ok": true}]}']
)
def test_results_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "checks.json").write_text(text)
    with pytest.raises(DataError, match=r"nelbo equations verify --json"):
        build(tmp_path / "site", verify=tmp_path / "checks.json")
    assert not (tmp_path / "site").exists()


def test_what_a_build_says_of_itself(site, built):
    size = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
    assert (built.pages, built.bytes, built.failed) == (len(list(site.rglob("*.html"))), size, ())
    assert size < 15e6


@pytest.mark.slow
def test_the_whole_build_with_every_check(tmp_path):
    shown = []
    built = build(tmp_path / "site", progress=lambda done, planned: shown.append((done, planned)))
    assert built.failed == ()
    assert shown[-1][0] == shown[-1][1] == len(catalogue()) + len(read().walks)
    assert shown == sorted(shown)
    for id in catalogue():
        assert "✓ holds" in (tmp_path / f"site/equations/{id}.html").read_text()
    for id, walk in read().walks.items():
        text = (tmp_path / f"site/derivations/{id}.html").read_text()
        assert "✓ checked" in text
        assert text.count('<span class="ok">✓ line') >= len(walk.steps) // 2
        assert "✗" not in text
