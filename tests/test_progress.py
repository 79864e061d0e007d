"""Progress is shown by default where somebody looks on, and warnings point at the user's line."""

from __future__ import annotations

import io
import re
import sys
import types
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo import progress
from nelbo.errors import UsageError
from tests.expected import untrained
from tests.training.cases import codes, small

pytestmark = pytest.mark.filterwarnings("ignore:max_nfe=400")
DATA = nelbo.exact.CategoricalData(torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]]))
MODEL = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.even(5))
X = DATA.sample(16)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """A terminal, on which even brief work is shown."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv(progress.SWITCH, raising=False)
    monkeypatch.setattr(progress, "BRIEF_SECONDS", 0.0)
    return Terminal()


def test_a_bar_with_the_estimate_evaluations_and_time(terminal):
    with redirect_stderr(terminal):
        nelbo.evaluate(MODEL, X, estimator="per_example", max_nfe=400)
    shown = terminal.getvalue()
    assert "evaluating" in shown and "400/400" in shown and "0:00:00" in shown
    assert re.search(r"\d\.\d{4} ± \d\.\d{4} bits/dim", shown)


@pytest.mark.parametrize("off", ["argument", "environment", "rank", "brief", "no terminal", "dumb"])
def test_no_bar(off, terminal, monkeypatch):
    wanted = False if off == "argument" else None
    if off == "environment":
        monkeypatch.setenv(progress.SWITCH, "0")
    elif off == "rank":
        monkeypatch.setenv("RANK", "1")
    elif off == "brief":
        monkeypatch.setattr(progress, "BRIEF_SECONDS", 60.0)
    elif off == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif off == "no terminal":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    with redirect_stderr(terminal):
        nelbo.evaluate(MODEL, X, progress=wanted)
    assert terminal.getvalue() == ""


def test_a_callback_is_called_in_the_place_of_a_bar(terminal):
    calls = []
    with redirect_stderr(terminal):
        nelbo.evaluate(MODEL, X, progress=lambda done, planned: calls.append((done, planned)))
    assert calls and terminal.getvalue() == ""


def test_lines_where_they_are_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    nelbo.evaluate(MODEL, X, progress=True)
    assert capsys.readouterr().err.startswith("evaluating: ")


def test_a_notebook(monkeypatch, capsys):
    """A line below the cell, which is renewed, escaped, and empty in the end."""
    shown = []

    def display(content, display_id):
        shown.append(content)
        return types.SimpleNamespace(update=shown.append)

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(HTML=str, display=display))
    monkeypatch.setattr(progress, "BRIEF_SECONDS", 0.0)
    monkeypatch.delenv(progress.SWITCH, raising=False)
    nelbo.evaluate(MODEL, X, estimator="per_example", max_nfe=400)
    assert len(shown) > 2 and shown[-1] == ""
    assert "<progress " in shown[0] and "evaluating: " in shown[0]
    assert capsys.readouterr().err == ""


def test_training_says_what_it_reads_and_trains(terminal, tmp_path):
    with redirect_stderr(terminal):
        nelbo.train(codes(), tmp_path / "run", small())
    first, shown = terminal.getvalue().splitlines()[0], terminal.getvalue()
    assert "examples" in first and "training" in shown and "bits/dim" in shown


VERBS = {
    "evaluate": lambda p: nelbo.evaluate(MODEL, X, progress=p),
    "compare": lambda p: nelbo.compare(MODEL, MODEL, X, progress=p),
    "diagnose": lambda p: nelbo.diagnose(MODEL, X, progress=p),
    "ode_likelihood": lambda p: nelbo.ode_likelihood(MODEL, X, progress=p),
    "tighten": lambda p: nelbo.tighten(MODEL, X, progress=p),
    "sample": lambda p: nelbo.sample(MODEL, 4, progress=p),
    "train": lambda p: nelbo.train(X, "run", progress=p),
    "compress": lambda p: nelbo.codec.compress(MODEL, X, "x.nelbo", progress=p),
    "decompress": lambda p: nelbo.codec.decompress(MODEL, "x.nelbo", progress=p),
    "verify": lambda p: nelbo.equations.verify("posterior-mean", progress=p),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_long_verb_has_it(verb):
    with pytest.raises(UsageError, match="progress='yes'"):
        VERBS[verb]("yes")


def test_warnings_stand_at_the_line_of_the_user():
    """However many decorators lie between, and once each."""
    network = torch.nn.Conv1d(1, 1, 1)
    model = nelbo.from_callable(
        lambda z, t: 40 * network(z[:, None])[:, 0], schedule=nelbo.schedules.linear(20, 1e-3, 0.2),
        domain=nelbo.DataDomain((2,), bins=4), predicts="eps",
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bound = nelbo.evaluate(model, X, estimator="exhaustive")
    assert len(caught) == len(bound.warnings) > 0
    assert {Path(w.filename).name for w in caught} == {"test_progress.py"}
    lines = Path(__file__).read_text().splitlines()
    assert all("nelbo.evaluate(model, X" in lines[w.lineno - 1] for w in caught)


KNOWN = {
    "compare": (
        lambda p: nelbo.compare(MODEL, OTHER, X, tolerance=0.1, progress=p),
        r"^difference -?\d\.\d{4} ± \d\.\d{4} bits/dim$",
    ),
    "diagnose": (
        lambda p: nelbo.diagnose(NETWORK, X, max_nfe=300, progress=p),
        r"^as declared \d+\.\d{4} ± \d\.\d{4} ",
    ),
    "ode_likelihood": (
        lambda p: nelbo.ode_likelihood(MODEL, X, steps=4, batch_size=4, dequantisation="uniform", progress=p),
        r"^\d\.\d{4} ± \d\.\d{4} bits/dim of 16 examples$",
    ),
    "contrast": (
        lambda p: nelbo.contrast(CONDITIONAL, X, condition="y", values=[0, 1], max_nfe=2000, progress=p),
        r"^\d+ of 16 decided$",
    ),
}
OTHER = DATA.model(nelbo.schedules.logsnr_linear(5.0, -6.0), nelbo.grids.even(4))
TABLE = nelbo.schedules.linear(20, 1e-3, 0.3)
NETWORK = nelbo.from_callable(lambda z, t: 0.7 * z, schedule=TABLE, domain=nelbo.DataDomain((2,), bins=4))
CONDITIONAL = nelbo.from_callable(
    lambda z, t, y: (0.7 + 0.1 * y[:, None]) * z, schedule=TABLE, domain=nelbo.DataDomain((2,), bins=4)
)


@untrained
@pytest.mark.filterwarnings("ignore:.*are not decided")
@pytest.mark.parametrize("verb", KNOWN)
def test_what_is_known_so_far_is_told(verb):
    """To a callback with a method for it, beside evaluations done; the last is of the whole."""
    told, counts = [], []

    class Shown(progress.Progress):
        def result(self, text):
            told.append(text)

        def __call__(self, done, planned):
            counts.append(done)

    call, words = KNOWN[verb]
    call(Shown(verb))
    assert re.search(words, told[-1]) and counts[-1] > 0
