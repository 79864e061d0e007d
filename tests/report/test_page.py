"""The page: shows what is there, says what it means, needs nothing beside it, and trusts no text."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from nelbo.errors import DataError, UsageError
from nelbo.report import figures, write
from tests.markup import Page

SECTIONS = {
    "The bound, term by term": "bound.json",
    "Where along the chain the bits are": "bound.json",
    "Against general-purpose coders": "comparison.json",
    "Samples and data": "pictures.npz",
    "The reverse process": "pictures.npz",
    "Training": "model/log.jsonl",
}
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


@pytest.fixture
def page(demo, tmp_path):
    """page(FOLDER) is the parsed page of the folder, or of the demo's."""

    def parsed(folder=demo) -> Page:
        return Page(write(folder, tmp_path / "report.html").read_text(encoding="utf-8"))

    return parsed


def test_the_page_holds_the_whole_bound(page, demo):
    """Its value with error and meaning, every term with both errors, every field, also one that is not known."""
    bound = {**json.loads((demo / "bound.json").read_text()), "invented_later": {"depth": 3}}
    (demo / "bound.json").write_text(json.dumps(bound))
    shown = page()
    assert shown.headings == [*SECTIONS, "Provenance"]
    value, error = bound["bits_per_dim"], bound["standard_error"]["total"]
    decimals = max(3, 1 - math.floor(math.log10(error)))
    texts = [f"{value:.{decimals}f} ± {error:.{decimals}f} bits/dim", f"{value * 16:,.0f} bits an example"]
    texts += ["log₂ 17 = 4.087", f"{value:.5f}", "invented later: depth 3", "trained by nelbo 0.0", bound["version"]]
    texts += [f"{t['bits_per_dim']:.5f} {t['standard_error']:.5f} {t['standard_error_data']:.5f}"
              for t in bound["terms"].values()]  # fmt: skip
    texts += [bound["data"]["fingerprint"], bound["model"]["fingerprint"], bound["precision"], "seed 0"]
    texts += ["network_categorical", "beta_tilde", "logsnr_linear", "exhaustive", "clipping of x̂ none"]
    assert [t for t in texts if t not in shown.text] == []


@pytest.mark.parametrize("left_out", sorted(set(SECTIONS.values())))
def test_only_what_is_there_is_shown(page, demo, left_out):
    (demo / left_out).unlink()
    shown = page()
    assert [h for h in shown.headings if h in SECTIONS] == [h for h, f in SECTIONS.items() if f != left_out]
    if left_out == "bound.json":
        assert "This folder holds no bound" in shown.text


def test_a_model_folder_alone(page, demo):
    assert page(demo / "model").headings == ["Training", "Provenance"]


def test_the_page_refers_to_nothing_outside(demo, tmp_path):
    source = write(demo, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "://" not in source
    assert "@import" not in source
    shown = Page(source)
    shown.check_alone()
    assert not {"script", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in shown.elements}
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', source)) <= set(shown.ids)
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", source))
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", source)


def test_no_text_is_trusted(page, demo, alter):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}"
    alter(data={"name": evil, "fingerprint": evil}, warnings=[evil], precision=evil, **{evil: evil})
    rows = [{"name": evil, "bits_per_dim": 2.0, "note": evil}]
    (demo / "comparison.json").write_text(json.dumps({"rows": rows}))
    (demo / "model" / "model.json").write_text(json.dumps({"provenance": {evil: evil, "config": [evil]}}))
    records = [{"step": s, "loss": 2.0, f"validation {evil}": 2.0, "val $\\frac": 1.0, evil: evil} for s in (1, 2, 3)]
    (demo / "model" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    shown = page()
    shown.check_alone()
    assert "script" not in [tag for tag, _ in shown.elements]
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


def test_an_ode_likelihood_has_terms_of_its_own(page, alter):
    names = ("prior", "flow", "dequantisation", "reconstruction", "importance")
    term = {"bits_per_dim": 0.51234, "standard_error": 0.01, "standard_error_data": 0.1}
    alter(quantity="ode", terms=dict.fromkeys(names, term), levels=[])
    text = page().text
    assert "not the variational bound" in text and "the change of volume along the flow" in text
    alter(terms={name: term for name in names if name != "flow"})
    with pytest.raises(DataError, match=r"terms\.flow"):
        page()


def test_density_is_not_called_a_code(page, demo, alter):
    domain = json.loads((demo / "bound.json").read_text())["domain"]
    alter(domain=domain | {"bins": None}, bits_per_dim=-1.25)
    text = page().text
    assert "−1.25" in text and "log₂" not in text
    assert "bounds a negative log density, not the length of a code" in text


def test_what_a_bound_may_lack_or_fail_at(page, demo, alter):
    """Errors that do not exist are dashes, a chain without levels has no figure, and a bad bound is called one."""
    terms = json.loads((demo / "bound.json").read_text())["terms"]
    terms = {k: v | {"standard_error_data": None} for k, v in terms.items()}
    errors = {"estimator": 0.01, "data": None, "total": None}
    alter(terms=terms, standard_error=errors, examples=1, levels=[], bits_per_dim=5.0)
    shown = page()
    assert "0.01000 not measurable" in shown.text and "One example does not show how much others differ" in shown.text
    assert "Where along the chain the bits are" not in shown.headings
    assert "the model is no better" in shown.text


def test_a_log_cut_off_by_a_crash_is_counted(page, demo):
    log = demo / "model" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 60, "lo')
    assert "59 records of 59 steps in 6 seconds" in page().text
    assert "1 line of the log could not be read" in page().text
    log.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": null}\n[]\n')
    assert "Training" not in page().headings


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


def test_folders_and_files_that_make_no_page(demo, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds nothing"), ("no", "does not exist"), ("file", "is a file, not a folder")):
        with pytest.raises(DataError, match=message):
            write(tmp_path / name, tmp_path / "report.html")
    with pytest.raises(UsageError, match="which is a folder"):
        write(demo, tmp_path)
