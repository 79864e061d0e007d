"""The page in a real browser: it renders, and nothing is refused, missing or complained of."""

from __future__ import annotations

import pytest

from nelbo.report import write
from tests import browser as chrome


@pytest.fixture(scope="module")
def browser():
    with chrome.chromium("the report") as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1100, 500])
def test_it_renders_without_complaint(browser, demo, tmp_path, scheme, width):
    page = write(demo, tmp_path / "report.html")
    with chrome.pages(browser, page.as_uri(), []) as open_page:
        shown = open_page(page.as_uri(), width, color_scheme=scheme)
        assert shown.locator(".value").first.is_visible()
        # of each figure there are a wide and a narrow drawing, one of which is shown
        boxes = [box for drawing in shown.locator("svg").all() if (box := drawing.bounding_box())]
        assert len(boxes) == 2 and all(box["height"] > 30 and box["width"] > 100 for box in boxes)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        colour = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in colour.strip("rgb()").split(",")[:3]) / 3
        assert (brightness < 60) == (scheme == "dark")
