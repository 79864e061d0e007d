"""The page: shows what is there, says what it means, needs nothing beside it, and trusts no text."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nelbo.errors import DataError, UsageError
from nelbo.report import figures, write

SECTIONS = {
    "The bound, term by term": "bound.json",
    "Where along the chain the bits are": "bound.json",
    "Against general-purpose coders": "comparison.json",
    "Samples, and the data they should look like": "pictures.npz",
    "The reverse process": "pictures.npz",
    "Training": "model/log.jsonl",
}
VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


DRAWN: dict[str, str] = {}


@pytest.fixture(autouse=True)
def each_figure_is_drawn_once(monkeypatch):
    """Most tests show the same chain and the same log; drawing them is what takes the time."""

    def once(draw):
        def drawn(*args):
            key = draw.__name__ + json.dumps(args)
            if key not in DRAWN:
                DRAWN[key] = draw(*args)
            return DRAWN[key]

        return drawn

    monkeypatch.setattr(figures, "chain", once(figures.chain))
    monkeypatch.setattr(figures, "loss", once(figures.loss))


class Page(HTMLParser):
    """Headings, attributes, visible text, and whether the elements nest."""

    def __init__(self, source: str):
        super().__init__()
        self.headings, self.attributes, self.words, self.open, self.tags = [], [], [], [], []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        self.tags.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def page(folder, tmp_path) -> Page:
    return Page(write(folder, tmp_path / "report.html").read_text(encoding="utf-8"))


def test_everything_is_shown(demo, tmp_path):
    shown = page(demo, tmp_path)
    assert shown.headings == [*SECTIONS, "Provenance"]
    assert shown.open == []


def test_headline_is_the_bound_with_its_error_and_meaning(demo, tmp_path):
    bound = json.loads((demo / "bound.json").read_text())
    text = page(demo, tmp_path).text
    value, error = bound["bits_per_dim"], bound["standard_error"]["total"]
    decimals = max(3, 1 - math.floor(math.log10(error)))
    assert f"{value:.{decimals}f} ± {error:.{decimals}f} bits/dim" in text
    assert f"{value * 16:,.0f} bits an example" in text
    assert "log₂ 17 = 4.087" in text


def test_table_holds_every_term_and_both_errors(demo, tmp_path):
    bound = json.loads((demo / "bound.json").read_text())
    text = page(demo, tmp_path).text
    for term in bound["terms"].values():
        assert f"{term['bits_per_dim']:.5f} {term['standard_error']:.5f} {term['standard_error_data']:.5f}" in text
    assert f"{bound['bits_per_dim']:.5f}" in text


def test_provenance_names_every_field_of_the_bound(demo, tmp_path):
    bound = json.loads((demo / "bound.json").read_text())
    text = page(demo, tmp_path).text
    for wanted in (bound["data"]["fingerprint"], bound["model"]["fingerprint"], bound["version"], bound["precision"]):
        assert wanted in text
    for wanted in ("network_categorical", "beta_tilde", "logsnr_linear", "exhaustive", "clipping of x̂ none", "seed 0"):
        assert wanted in text
    assert "trained by nelbo 0.0" in text


def test_unknown_fields_are_shown_too(demo, alter, tmp_path):
    alter(invented_later={"depth": 3})
    assert "invented later: depth 3" in page(demo, tmp_path).text


@pytest.mark.parametrize("left_out", sorted(set(SECTIONS.values())))
def test_only_what_is_there_is_shown(demo, tmp_path, left_out):
    (demo / left_out).unlink()
    shown = page(demo, tmp_path)
    assert [h for h in shown.headings if h in SECTIONS] == [h for h, f in SECTIONS.items() if f != left_out]
    if left_out == "bound.json":
        assert "This folder holds no bound" in shown.text


def test_a_model_folder_alone(demo, tmp_path):
    assert page(demo / "model", tmp_path).headings == ["Training", "Provenance"]


def test_the_page_refers_to_nothing_outside(demo, tmp_path):
    source = write(demo, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "://" not in source
    assert "@import" not in source
    shown = Page(source)
    assert not {"script", "iframe", "object", "embed", "base", "form", "a"} & set(shown.tags)
    for tag, name, value in shown.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), (tag, name, value[:40])
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", source))
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", source)


def test_ids_are_unique_and_references_are_met(demo, tmp_path):
    source = write(demo, tmp_path / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]*)"', source)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', source)) <= set(ids)


def test_no_text_is_trusted(demo, alter, tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}"
    alter(data={"name": evil, "fingerprint": evil}, warnings=[evil], precision=evil, **{evil: evil})
    rows = [{"name": evil, "bits_per_dim": 2.0, "note": evil}]
    (demo / "comparison.json").write_text(json.dumps({"rows": rows}))
    (demo / "model" / "model.json").write_text(json.dumps({"provenance": {evil: evil, "config": [evil]}}))
    records = [{"step": s, "loss": 2.0, f"validation {evil}": 2.0, "val $\\frac": 1.0, evil: evil} for s in (1, 2, 3)]
    (demo / "model" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    shown = page(demo, tmp_path)
    assert "script" not in shown.tags
    assert not [a for a in shown.attributes if a[1].startswith("on")]
    assert evil in shown.text
    assert "49" not in shown.headings


def test_same_folder_same_bytes_and_small(demo, tmp_path):
    first = write(demo, tmp_path / "a.html")
    DRAWN.clear()
    second = write(demo, tmp_path / "deep" / "er" / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 1_000_000
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == ["b.html"]


def test_large_pictures_and_long_chains_stay_small(demo, alter, tmp_path):
    levels = [{"t": 0, "s": 0, "logsnr_t": -i - 1, "logsnr_s": -i, "bits_per_dim": 0.001} for i in range(4000)]
    alter(levels=levels)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (100, 3, 128, 128), dtype=np.uint8)
    np.savez(demo / "pictures.npz", samples=pictures, data=pictures)
    out = write(demo, tmp_path / "report.html")
    assert out.stat().st_size < 3_000_000
    assert "4000 strata, drawn as 240" in Page(out.read_text(encoding="utf-8")).text


def test_an_ode_likelihood_has_terms_of_its_own(demo, alter, tmp_path):
    names = ("prior", "flow", "dequantisation", "reconstruction", "importance")
    term = {"bits_per_dim": 0.51234, "standard_error": 0.01, "standard_error_data": 0.1}
    alter(quantity="ode", terms=dict.fromkeys(names, term), levels=[])
    text = page(demo, tmp_path).text
    assert "not the variational bound" in text and "how volumes change along the flow" in text
    alter(terms={name: term for name in names if name != "flow"})
    with pytest.raises(DataError, match=r"terms\.flow"):
        page(demo, tmp_path)


def test_density_is_not_called_a_code(demo, alter, tmp_path):
    bound = json.loads((demo / "bound.json").read_text())
    alter(domain=bound["domain"] | {"bins": None}, bits_per_dim=-1.25)
    text = page(demo, tmp_path).text
    assert "−1.25" in text
    assert "bounds a negative log density, not the length of a code" in text
    assert "log₂" not in text


def test_a_model_worse_than_none_says_so(demo, alter, tmp_path):
    alter(bits_per_dim=5.0)
    assert "the model is no better" in page(demo, tmp_path).text


def test_errors_that_do_not_exist_are_dashes(demo, alter, tmp_path):
    bound = json.loads((demo / "bound.json").read_text())
    terms = {k: v | {"standard_error_data": None} for k, v in bound["terms"].items()}
    alter(terms=terms, standard_error={"estimator": 0.01, "data": None, "total": None}, examples=1)
    text = page(demo, tmp_path).text
    assert "0.01000 –" in text
    assert "one example cannot tell" in text


def test_a_chain_without_levels_has_no_figure(demo, alter, tmp_path):
    alter(levels=[])
    assert "Where along the chain the bits are" not in page(demo, tmp_path).headings


def test_a_log_cut_off_by_a_crash_is_counted(demo, tmp_path):
    log = demo / "model" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 60, "lo')
    assert "59 records of 59 steps in 6 seconds" in page(demo, tmp_path).text
    assert "1 line of the log could not be read" in page(demo, tmp_path).text
    log.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": null}\n[]\n')
    assert "Training" not in page(demo, tmp_path).headings


BROKEN = {
    "bound.json": [
        ("", "not readable JSON"),
        ('{"schema": "nelbo.bound/1", ', "not readable JSON"),
        ("[]", "holds a JSON list"),
        ('{"schema": "nelbo.bound/2"}', "has the schema 'nelbo.bound/2'"),
        ('{"schema": "nelbo.bound/1"}', r"lacks bits_per_dim, examples, .*terms\.prior"),
        ("[" * 100_000, "not readable JSON"),
    ],
    "model/model.json": [("{", "not readable JSON"), ("3", "holds a JSON int")],
    "comparison.json": [("{}", "does not hold rows"), ('{"rows": [{"name": "PNG"}]}', "does not hold rows")],
    "pictures.npz": [("PK", "not a readable numpy file")],
}


@pytest.mark.parametrize(("name", "content", "message"), [(n, *c) for n, cases in BROKEN.items() for c in cases])
def test_a_damaged_file_is_refused_by_name(demo, tmp_path, name, content, message):
    (demo / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        write(demo, tmp_path / "report.html")
    assert str(demo / name) in caught.value.message
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "field",
    [
        {"bits_per_dim": "2.05"},
        {"bits_per_dim": float("nan")},
        {"examples": 0},
        {"levels": [{"logsnr_t": 0}]},
        {"levels": 3},
        {"terms": {"prior": 0.1}},
        {"standard_error": 0.1},
        {"domain": {"bins": 1}},
    ],
)
def test_a_bound_with_a_wrong_field_is_refused(demo, alter, tmp_path, field):
    alter(**field)
    with pytest.raises(DataError, match=next(iter(field))):
        write(demo, tmp_path / "report.html")


@pytest.mark.parametrize(
    "arrays",
    [
        {"samples": np.zeros(3)},
        {"data": np.array([["a"]])},
        {"trajectory": np.zeros((4, 2, 2, 2)), "denoised": np.zeros((3, 2, 2, 2))},
        {"trajectory": np.zeros((4, 2))},
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(demo, tmp_path, arrays):
    np.savez(demo / "pictures.npz", **arrays)
    with pytest.raises(DataError, match=r"pictures\.npz"):
        write(demo, tmp_path / "report.html")


def test_folders_without_anything(tmp_path):
    for folder, message in ((tmp_path, "holds nothing"), (tmp_path / "no", "does not exist")):
        with pytest.raises(DataError, match=message):
            write(folder, tmp_path / "report.html")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not a folder"):
        write(tmp_path / "file", tmp_path / "report.html")


def test_out_must_be_a_file(demo, tmp_path):
    with pytest.raises(UsageError, match="which is a folder"):
        write(demo, tmp_path)
