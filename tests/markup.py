"""What is in a page of HTML: its elements, its text, and what it loads."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Elements in order, headings (h2), the text of the whole page and by id; elements must nest."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.headings: list[str] = []
        self.texts: dict[str, str] = {}
        self.words: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        self.text = " ".join(" ".join(self.words).split())
        self.ids = [a["id"] for _, a in self.elements if "id" in a]
        self.links = [a["href"] for tag, a in self.elements if tag == "a" and "href" in a]

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if "id" in given:
            self.texts[given["id"]] = ""
        if tag not in VOID:
            self._open.append((tag, given.get("id")))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open and self._open.pop()[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        tags = [tag for tag, _ in self._open]
        if "style" not in tags:
            self.words.append(data)
        if tags and tags[-1] == "h2":
            self.headings.append(data)
        for _, id in self._open:
            if id is not None:
                self.texts[id] += data

    def check_alone(self, loaded: str = "data:.*|#.*") -> None:
        """Ids are unique, attributes hold no code, and all that is loaded matches the pattern `loaded`."""
        assert len(set(self.ids)) == len(self.ids)
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            loads = ("src", "srcset", *(("href", "xlink:href") if tag != "a" else ()))
            assert all(re.fullmatch(loaded, attributes.get(name, "#")) for name in loads), (tag, attributes)
