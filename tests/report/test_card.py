"""The model card: names from files stand in it as themselves, and never as Markdown, HTML or YAML."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

import nelbo
from nelbo.files import write_atomic
from nelbo.report.card import card, escaped, fenced

NASTY = [
    "<script>alert(1)</script>",
    "a `b` ``` c",
    "*x* _y_ [z](javascript:alert(1)) ![i](http://x/y)",
    "---\n# two\n\nlines",
    "caf\udce9 \x00\x7f\u202e",
    "&lt;b&gt; \\*",
    "</details></code>",
    '"quoted": {yes}',
]


@pytest.fixture(scope="module")
def scored():
    data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
    model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(4))
    return model, nelbo.evaluate(model, data.sample(8), estimator="stratified")


@pytest.mark.parametrize("name", NASTY)
def test_names_stand_for_themselves(scored, tmp_path, name):
    model, bound = scored
    named = dataclasses.replace(bound, data={**bound.data, "name": name})
    model = dataclasses.replace(model, provenance={"note": name, name: 1})
    path = write_atomic(tmp_path / "README.md", card(model, named, name=name, library="nelbo"))
    _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
    meta = yaml.safe_load(front)["model-index"][0]
    assert meta["name"] == name and meta["results"][0]["dataset"]["name"] == name
    html = MarkdownIt("commonmark", {"html": True}).render(text)
    usual = MarkdownIt("commonmark", {"html": True}).render(
        card(scored[0], bound, name="plain", library="nelbo").split("---\n", 2)[2]
    )
    for tag in ("<script", "<h1", "<h2", "<h3", "<a ", "<img", "<pre", "<details", "</details", "<em", "<hr", "<b>"):
        assert html.count(tag) == usual.count(tag), tag


def test_a_name_in_a_line_and_in_a_block():
    inline = MarkdownIt("commonmark", {"html": True})
    for name in NASTY:
        shown = " ".join(name.replace("\x00", "\ufffd").split())
        plain = inline.renderInline(escaped(name).replace("\x00", "\ufffd"))
        assert plain == shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert fenced("a ```` b", "text") == "`````text\na ```` b\n`````\n"
