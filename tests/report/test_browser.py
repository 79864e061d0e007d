"""The page in a real browser: it renders, and nothing is refused, missing or complained of."""

from __future__ import annotations

import re
import subprocess

import pytest

from nelbo.report import write
from tests import browser as chrome

FLAGS = ["--headless", *chrome.FLAGS, "--hide-scrollbars", "--enable-logging=stderr"]

pytestmark = chrome.needed("the report")


def browse(tmp_path, target, *flags):
    command = [chrome.BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, target.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)


def test_it_renders_without_complaint(demo, tmp_path):
    page = write(demo, tmp_path / "report.html")
    dom, console = browse(tmp_path, page, "--dump-dom")
    assert console == []
    assert 'class="value"' in dom
    assert dom.count("<svg") == 4
    assert dom.rstrip().endswith("</html>")


def test_complaints_are_heard(tmp_path):
    page = tmp_path / "bad.html"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    page.write_text(f"<!doctype html>{policy}<img src=missing.png><script>x</script>")
    assert browse(tmp_path, page, "--dump-dom")[1] != []


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
@pytest.mark.parametrize("width", [1100, 500])
def test_the_paper_is_dark_or_light_and_something_is_on_it(demo, tmp_path, scheme, dark, width):
    Image = pytest.importorskip("PIL.Image")
    picture = tmp_path / "shot.png"
    page = write(demo, tmp_path / "report.html")
    _, console = browse(
        tmp_path, page, f"--screenshot={picture}", f"--window-size={width},1500",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert console == []
    with Image.open(picture) as shot:
        gray = shot.convert("L")
    assert (gray.getpixel((3, 3)) < 60) == dark
    histogram = gray.histogram()
    shades = sum(1 for count in histogram if count > 20)
    assert shades > 60, "the page is nearly empty"
