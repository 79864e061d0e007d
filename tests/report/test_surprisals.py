"""The section of surprisals: every symbol with its number, readable without colours and at any width."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nelbo.errors import DataError
from nelbo.report import write
from nelbo.report.surprisals import EDGES, view
from tests import browser as chrome

TEXT = ["I", "n", "<", "b", ">", "\n", "日", "\0", " ", "x"]
NATS = [0.1, 0.3, 0.7, 1.5, 3.0, 9.0, None, 0.0, 4.0, 0.26]


def document(**changes) -> dict:
    places = [
        {"symbol": k, "text": text, "nats": nats, "standard_error": None if nats is None else 0.05}
        for k, (text, nats) in enumerate(zip(TEXT, NATS, strict=True))
    ]
    sequences = [places, [{**p, "text": p["text"] or "y"} for p in places * 12]]
    return {"schema": "nelbo.surprisal/1", "sequences": sequences, "nfe_total": 77} | changes


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "surprisal.json").write_text(json.dumps(document()))
    return tmp_path


def test_classes_and_sums():
    shown = view(document())
    assert shown is not None
    first = shown["sequences"][0]
    assert [p["grade"] for p in first["places"]] == [0, 1, 2, 3, 4, 5, None, 0, 5, 1]
    assert first["total"] == "18.9" and first["scored"] == 9 and len(shown["classes"]) == len(EDGES) + 1
    assert [p["k"] for p in first["most"][:3]] == [5, 8, 4] and first["most"][1]["before"].endswith("⏎\n日␀")
    assert view(None) is None


def test_the_page_holds_every_number_as_text(folder):
    page = write(folder, folder / "page.html").read_text()
    assert "<b>" not in re.sub(r"<b>[^<]*</b>", "", page) and "&lt;" in page  # symbols are escaped
    assert 'title="9.00 ± 0.05 nats"' in page and "given or padding, not scored" in page
    table = page[page.index('class="costs"') :]
    assert table.count("<tr>") >= len(TEXT) and "not scored" in table
    assert 'aria-label="Classes of cost in nats"' in page and "77 network evaluations" in page


def test_damage_is_refused_by_name(folder):
    for changes in ({"schema": "other/1"}, {"sequences": [[{"nats": "x"}]]}, {"sequences": 3}):
        (folder / "surprisal.json").write_text(json.dumps(document(**changes)))
        with pytest.raises(DataError, match=r"surprisal\.json"):
            write(folder, folder / "page.html")


CONTRAST = """() => {
  const luminance = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126*v[0] + 0.7152*v[1] + 0.0722*v[2] };
  return [...document.querySelectorAll('.sym')].map(e => {
    const s = getComputedStyle(e); let ground = s.backgroundColor;
    if (ground === 'rgba(0, 0, 0, 0)') ground = getComputedStyle(e.closest('.symbols')).backgroundColor;
    const [a, b] = [luminance(s.color), luminance(ground)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) })
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1100, 360])
def test_in_a_browser(folder, scheme, width):
    """Nothing overflows or complains; text stands out from its ground; classes differ in shape too; keys reach it."""
    page = write(folder, folder / "page.html")
    with chrome.chromium("the report") as browser, chrome.pages(browser, page.as_uri(), []) as open_page:
        shown = open_page(page.as_uri(), width, color_scheme=scheme)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert min(shown.evaluate(CONTRAST)) >= 4.5
        bars = [
            shown.locator(f".grades .g{k}").evaluate("e => getComputedStyle(e).borderBottomWidth") for k in range(6)
        ]
        assert len(set(bars)) == 6
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "symbols"
        shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")
        assert shown.locator("table.costs").first.is_visible()
