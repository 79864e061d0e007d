"""Every mistake of the table is the first row of a diagnosis, or fails the check that names it; what is right stands.
`evaluate` warns of what the logits show by themselves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.cli.main import execute
from nelbo.errors import UsageError
from tests.diagnosis.tokens.mistakes import MISTAKES, RIGHT, L, V, attends, data, tokens
from tests.model.tokens import checks

QUICK = ("logits of the next place", "t for σ", "padding scored", "ratios as logits")
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MISTAKES]


@pytest.mark.parametrize("name", NAMES)
def test_a_diagnosis_finds_it(name):
    case = MISTAKES[name]
    diagnosis = nelbo.diagnose(case.model(), case.sequences(), max_nfe=1500)
    assert not diagnosis.verdict.ok and diagnosis.nfe_total <= 1500, diagnosis
    if case.found is None:
        assert diagnosis.best.as_declared and diagnosis.verdict.change is None, diagnosis
    else:
        assert diagnosis.best.name == case.found and diagnosis.verdict.change, diagnosis
    failed = {check.name for check in diagnosis.checks if not check.ok}
    assert failed == ({case.check} if case.check else set()), diagnosis


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_declaration_stands(name):
    case = RIGHT[name]
    diagnosis = nelbo.diagnose(case.model(), case.sequences(), max_nfe=1500)
    assert diagnosis.verdict.ok and diagnosis.best.as_declared and diagnosis.verdict.change is None, diagnosis


def test_blocks_are_looked_at_as_blocks():
    """A network that knows nothing once a place is visible behind a hidden one is scored where none is."""

    def left(z: torch.Tensor) -> torch.Tensor:
        hidden = z == V
        apart = (hidden.long().cummax(1).values.bool() & ~hidden).any(1)
        logits = checks.TRANSITION.log()[z.roll(1, 1).clamp(max=V - 1)]
        logits[:, 0] = checks.INITIAL.log()
        return logits.masked_fill(apart[:, None, None], 0.0)

    model = tokens.from_callable(left, vocabulary=V, length=L, kernel=tokens.absorbing(V), block=1)
    diagnosis = nelbo.diagnose(model, data(), max_nfe=700)
    exact = -float(checks.markov(L).log_prob(data()).mean()) / L / math.log(2)
    row = diagnosis.declared
    assert abs(row.bits_per_dim - exact) < 4 * row.standard_error < 0.4 and diagnosis.verdict.ok


def test_padding_that_is_attended():
    """The places behind a sequence, which are not scored, change what its own cost."""
    x, scored = data().clone(), torch.ones(len(data()), L).bool()
    x[1, -4:], scored[1, -4:] = 4, False
    given = {"vocabulary": 5, "length": L, "kernel": tokens.absorbing(3)}
    examples = nelbo.Examples(x, mask=scored)
    for fn, good in ((attends, False), (lambda z: attends(z.masked_fill(z == 4, 0)), True)):
        diagnosis = nelbo.diagnose(tokens.from_callable(fn, **given), examples, max_nfe=900)
        check = next(c for c in diagnosis.checks if c.name == "padding attended")
        assert check.ok is good and ("attends to padding" in check.text) is not good


def test_the_masks_own_probability():
    """Left in, it is said how much it is, and that without it the model is another with a lower bound."""
    case = RIGHT["logits"]
    fn = lambda z: torch.cat([case.fn(z), torch.ones(*z.shape, 1)], -1)  # noqa: E731
    model = tokens.from_callable(fn, vocabulary=V, length=L, kernel=tokens.absorbing(V), remove_mask=False)
    diagnosis = nelbo.diagnose(model, data(), max_nfe=700)
    row = next(r for r in diagnosis.rows if r.name == "remove_mask=True")
    assert row.kind == "choice" and row.difference < -0.5 and diagnosis.best.as_declared
    assert any("on the mask itself; left in" in check.text for check in diagnosis.checks)
    assert "which is another model and no mistake" in diagnosis.verdict.text
    control = next(r for r in diagnosis.rows if r.kind == "control")
    assert control.bits_per_dim == pytest.approx(torch.tensor(float(V)).log2().item())


def test_evaluate_warns_of_what_the_logits_show():
    for name, words in (
        ("probabilities as logits", "declare predicts='probabilities'"),
        ("logits of 8 bits", "numbers of bfloat16"),
    ):
        case = MISTAKES[name]
        with pytest.warns(NelboWarning, match=words):
            nelbo.evaluate(case.model(), case.sequences(), tolerance=0.3)


def test_the_document_and_the_command(tmp_path, capsys, monkeypatch):
    """The JSON of a diagnosis reads back; the command prints the line to change."""
    (tmp_path / "wrong.py").write_text(
        "import nelbo\nfrom tests.diagnosis.tokens.mistakes import MISTAKES\n"
        "def model():\n    return MISTAKES['logits of the next place'].model()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.savez(tmp_path / "x.npz", tokens=data().numpy())
    assert execute(["diagnose", "wrong:model", "--data", "x.npz#tokens", "--max-nfe", "700", "--out", "d.json"]) == 0
    out = capsys.readouterr().out
    assert "change: shift=True" in out and "bits/token" in out
    document = json.loads((tmp_path / "d.json").read_text())
    assert document["unit"] == "bits/token" and document["verdict"]["change"] == "shift=True"


def test_too_few_evaluations():
    case = RIGHT["logits"]
    with pytest.raises(UsageError, match="max_nfe=40 for"):
        nelbo.diagnose(case.model(), data(), max_nfe=40)
