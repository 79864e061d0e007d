"""Where Chromium is, and how it is started so that it asks for nothing by itself, for the tests that open pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
)


@contextmanager
def chromium(what: str) -> Iterator[Any]:
    """A running browser driven by playwright; skips, naming `what` was not opened, where either is missing."""
    missed = f"so {what} was not opened in a browser"
    playwright = pytest.importorskip(
        "playwright.sync_api", reason=f"NOT CHECKED: playwright is not installed, {missed}"
    )
    if BROWSER is None:
        pytest.skip(f"NOT CHECKED: no chromium found, {missed}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def pages(browser: Any, home: str, complaints: list[str]) -> Iterator[Callable[..., Any]]:
    """open_page(url, width=…, **context) opens a page in a context of its own. Messages of the console, errors, and
    requests that lead outside of the address `home` are noted in `complaints`, which must be empty at the end."""
    contexts = []

    def open_page(url: str, width: int = 1100, height: int = 900, **context: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(f"{page.url}: {message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"{page.url}: {request.url} failed"))
        page.on("request", lambda r: r.url.startswith((home, "data:")) or complaints.append(f"{page.url} asks {r.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
