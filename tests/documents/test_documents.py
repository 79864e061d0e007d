"""Results as documents: each law holds for every kind of result that a command writes."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.difference import Comparison, compare_results
from nelbo.documents import numbers, tables
from nelbo.documents.document import Document
from nelbo.errors import DataError, UnknownNameError, UsageError
from nelbo.tightening.certificate import Certificate, Stage
from tests.bound.conditional import gaussians, model_of
from tests.diagnosis.cases import mistaken

DATA = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 4))
CODES = nelbo.Examples(DATA.sample(24), name="<b>codes</b>")
DETAILS = {
    "version": "0",
    "seed": 0,
    "seconds": 1.0,
    "steps": 4,
    "data": {k: {"name": k, "examples": 24, "fingerprint": "x"} for k in ("fit", "held_out")},
    "chain": {"positions": [0.1, 1.0], "logsnr": [5.0, -6.0]},
    "decoder": {"kind": "own", "calls_network": False, "tried": {}},
    "covariance": {"family": "scalar", "note": None, "tried": {}},
    "curve": [],
    "error": [],
    "nfe": {"fit": 10, "fit_per_example": 0.5, "certificate": 20},
}


@functools.cache
def bound(steps: int = 6, per_example: bool = True) -> nelbo.Bound:
    model = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.even(steps))
    return nelbo.evaluate(model, CODES, estimator="exhaustive", per_example=per_example)


@functools.cache
def ode() -> nelbo.OdeLikelihood:
    model = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.continuous())
    return nelbo.ode_likelihood(model, CODES, steps=8, per_example=True)


def certificate() -> Certificate:
    stages = tuple(Stage(f"{steps} steps", bound(steps)) for steps in (4, 6))
    return Certificate.of(stages, DETAILS, ("a < b",))


@functools.cache
def contrast() -> nelbo.Contrast:
    model = model_of(gaussians(3, 2)).with_grid(nelbo.grids.continuous())
    data = nelbo.Examples(torch.cat([law.sample(4) for law in gaussians(3, 2)]), name="<b>codes</b>")
    return nelbo.contrast(model, data, "y", [0, 1, 2], confidence=0.9, indifference=0.5)


@functools.cache
def profile() -> nelbo.Profile:
    from tests.bound import test_profile as cases

    data = nelbo.Examples(cases.X[:6], name="<b>codes</b>")
    return nelbo.likelihood_profile(cases.MODEL, data, "theta", cases.GRID, tolerance=0.3)


KINDS = {
    "bound": bound,
    "few": lambda: bound(6, False),
    "ode": ode,
    "comparison": lambda: compare_results(bound(4), bound(6)),
    "certificate": certificate,
    "contrast": contrast,
    "profile": profile,
    "diagnosis": mistaken,
}


@pytest.fixture(params=KINDS)
def result(request) -> Any:
    return KINDS[request.param]()


def test_round_trip(result, tmp_path):
    """JSON → result → JSON is the same document, and both results print the same."""
    document = result.to_dict()
    back = type(result).load(result.save(tmp_path / "result.json"))
    assert (
        type(back) is type(result) and back.to_dict() == json.loads(json.dumps(document)) and str(back) == str(result)
    )


def test_a_short_repr(result):
    text = repr(result)
    assert text.startswith(f"<{type(result).__name__}: ") and "\n" not in text and len(text) < 250


def test_what_a_notebook_shows(result):
    """The rows of the report's table, with every text escaped; names of data are not markup."""
    shown, document = result._repr_html_(), result.to_dict()
    make = {"Bound": tables.terms, "OdeLikelihood": tables.terms, "Comparison": tables.difference}
    make |= {
        "Certificate": tables.stages,
        "Diagnosis": tables.declarations,
        "Contrast": tables.decisions,
        "Profile": tables.profile,
    }
    rows = make[type(result).__name__](document)
    assert len(rows) > 1
    for row in rows:
        number = row[{"Contrast": "difference", "Profile": "value"}.get(type(result).__name__, "bits")]
        assert f">{html.escape(row['name'])}<" in shown and f"<td>{number}</td>" in shown
    assert "<b>codes" not in shown and "a < b" not in shown
    if isinstance(result, (nelbo.Bound, nelbo.Contrast, nelbo.Profile, Comparison)):
        assert "&lt;b&gt;codes" in shown


def test_damaged_documents_are_refused(result):
    document = result.to_dict()
    needed = {"vlb": "levels", "ode": "terms"}.get(document.get("quantity", ""))
    of_kind = {
        "Comparison": "models",
        "Certificate": "gain",
        "Diagnosis": "rows",
        "Contrast": "difference",
        "Profile": "grid",
    }
    needed = needed or of_kind[type(result).__name__]
    with pytest.raises(DataError, match=f"is damaged: lacks '{needed}'"):
        type(result).from_dict({k: v for k, v in document.items() if k != needed})
    with pytest.raises(DataError, match=f"no {type(result).__name__}: its schema is 'x'"):
        type(result).from_dict({**document, "schema": "x"})


def test_files_that_are_something_else(tmp_path):
    ode().save(tmp_path / "ode.json")
    (tmp_path / "broken.json").write_text('{"schema": ')
    cases = {
        "ode.json": "no Bound.*quantity 'ode'",
        "broken.json": "not readable JSON",
        "none.json": "there is no file",
    }
    for name, match in cases.items():
        with pytest.raises(DataError, match=match) as caught:
            nelbo.Bound.load(tmp_path / name)
        assert "nelbo evaluate --out" in caught.value.hint
    with pytest.raises(DataError, match=r"bits_per_dim is 'many', not a finite number"):
        nelbo.Bound.from_dict({**bound().to_dict(), "bits_per_dim": "many"})


def test_a_bound_read_again_compares_as_before():
    """Its examples' bounds are there, and so is the paired error of a difference; the noise of each is not."""
    a, b = (nelbo.Bound.from_dict(bound(steps).to_dict()) for steps in (4, 6))
    one, other = compare_results(a, b), compare_results(bound(4), bound(6))
    assert one.difference == other.difference and one.standard_error.total == other.standard_error.total
    assert math.isnan(one.standard_error.estimator) and "± not measurable estimator" in str(one)


def drawn(axes: Any, of: str = "get_xdata") -> set[float]:
    """All numbers of lines and bars on the axes, along x or along y."""
    lines = np.concatenate([np.asarray(getattr(line, of)(), dtype=float).ravel() for line in axes.get_lines()])
    return set(np.round(lines, 9))


def test_plots(result):
    """On the axes that it is given, it draws its own numbers; on none, on new ones."""
    from matplotlib import pyplot

    axes = pyplot.figure().add_subplot()
    assert result.plot(axes) is axes and axes.get_xlabel()
    document = result.to_dict()
    if isinstance(result, Certificate):
        expected = [row["bits_per_dim"] for row in document["stages"]]
    elif isinstance(result, Comparison):
        expected = [document["difference"]]  # the mean of the examples
    elif isinstance(result, nelbo.Contrast):
        expected = result.posterior.flatten().tolist()
    elif isinstance(result, nelbo.Profile):
        expected = result.grid.tolist()
    elif isinstance(result, nelbo.OdeLikelihood):
        expected = [document["bits_per_dim"], document["terms"]["flow"]["bits_per_dim"]]
    elif isinstance(result, nelbo.Bound):
        expected = [level["logsnr_t"] for level in document["levels"]]
    else:
        expected = [row.bits_per_dim for row in result.rows[:16]]
    along = "get_ydata" if isinstance(result, nelbo.Contrast) else "get_xdata"
    assert {round(v, 9) for v in expected} <= drawn(axes, along)
    assert result.plot() is not axes
    pyplot.close("all")


def test_plots_of_a_bound():
    """The area under the line along the chain is the diffusion term; examples are counted; the rest is refused."""
    from matplotlib import pyplot

    axes = bound().plot()
    x, y = axes.get_lines()[-1].get_data()
    assert np.trapezoid(y, x) == pytest.approx(bound().terms.diffusion.bits_per_dim)
    axes = bound().plot(of="examples")
    assert sum(bar.get_height() for bar in axes.patches) == 24
    assert round(bound().bits_per_dim, 9) in drawn(axes)
    for read, error in (
        (lambda: dataclasses.replace(bound(), per_example=None).to_frame("examples"), UsageError),
        (lambda: ode().plot(of="levels"), UsageError),
        (lambda: bound().plot(of="steps"), UnknownNameError),
        (lambda: bound().to_frame("steps"), UnknownNameError),
    ):
        with pytest.raises(error):
            read()
    pyplot.close("all")


def test_frames(result):
    pytest.importorskip("pandas")
    frame = result.to_frame()
    if isinstance(result, nelbo.Bound):
        assert frame["bits_per_dim"].iloc[:-1].sum() == pytest.approx(frame["bits_per_dim"].iloc[-1])
    elif isinstance(result, Comparison):
        mean = frame["difference_nats"].mean() / (4 * math.log(2))
        assert mean == pytest.approx(result.difference)
    elif isinstance(result, nelbo.Contrast):
        assert frame.groupby("example")["posterior"].sum().tolist() == pytest.approx([1.0] * 12)
    elif isinstance(result, nelbo.Profile):
        assert frame["nats"].min() == 0 and len(frame) == len(result.grid)
    elif isinstance(result, Certificate):
        assert frame["gained"].sum() == pytest.approx(result.gain[0])
    else:
        assert list(frame.index) == [row.name for row in result.rows]


def test_frames_of_a_bound():
    pytest.importorskip("pandas")
    assert len(bound().to_frame("levels")) == len(bound().levels)
    assert bound().to_frame("examples")["nats"].mean() == pytest.approx(bound().bits_per_dim * 4 * math.log(2))


def test_what_is_not_installed_is_named(monkeypatch):
    for name, call in (("pandas", bound().to_frame), ("matplotlib", bound().plot)):
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=f"needs {name}, which is not installed\nhint: pip install {name}"):
            call()


def test_a_certificate_from_a_file_has_no_bounds():
    read = Certificate.from_dict(certificate().to_dict())
    assert read.gain == certificate().gain
    with pytest.raises(UsageError, match="read from a file"):
        _ = read.before


@pytest.mark.parametrize(
    ("value", "text"), [(-1e-7, "0.00000"), (1e-7, "0.00000"), (-0.5, "−0.50000"), (math.nan, "–"), (None, "–")]
)
def test_zero_has_no_sign(value, text):
    assert numbers.number(value) == text


def test_every_kind_of_document_is_tested():
    kinds, found = [Document], set()
    while kinds:
        kinds += (below := kinds.pop().__subclasses__())
        found |= set(below)
    assert {kind.__name__ for kind in found} == {type(make()).__name__ for make in KINDS.values()}
