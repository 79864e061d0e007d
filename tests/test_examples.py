"""The examples run as they stand, and each gets a bound that is better than no model at all."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pytest

import nelbo
from nelbo.cli.main import execute
from tests.diagnosis.cases import ALARMS
from tests.expected import arrays, early_end

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOT_RUN_HERE = {"small", "plugin", "plain_loop", "diffusers_script"}
"""What the others share, and what is run by tests of its own, here and in tests/monitoring."""


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """The folder of examples is the current one and importable, as for somebody who is in it."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def examples() -> list[str]:
    return sorted(p.stem for p in EXAMPLES.glob("*.py") if p.stem not in NOT_RUN_HERE)


SLOW = {"diffusers_folder"}
"""Train a U-Net."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in examples()])
def test_example(name, capsys):
    """A code of the uniform distribution costs log2(17) = 4.09 bits; every example does better or nearly so in seconds,
    its network is worth more than none, and it prints its table."""
    told = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    bound = told["bound"]
    assert isinstance(bound, nelbo.Bound) and not re.search(ALARMS, " ".join(bound.warnings)), bound
    assert 1.5 < bound.bits_per_dim < 1.15 * math.log2(17) and bound.examples == 360
    assert str(bound).splitlines()[0] in capsys.readouterr().out
    diagnosis = nelbo.diagnose(told["model"], "digits:test")
    assert diagnosis.best.as_declared, diagnosis  # no false alarm, however short the training


@pytest.mark.slow
@arrays
@early_end
@pytest.mark.filterwarnings("ignore:the model does not say what it was trained on")
def test_the_plain_loop():
    """Every step of somebody else's run: the curve falls, the bound is tightened, the file is as long as it says and
    comes back, and the page shows all of it."""
    ran = runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    readings, out = ran["monitor"].readings, ran["out"]
    assert len(readings) >= 2 and readings[1].change < -5 * readings[1].change_error
    gain, error = ran["certificate"].gain
    assert gain > 10 * error and ran["bound"].examples == 360
    back = nelbo.codec.decompress(ran["tight"], out / "digits.nelbo")
    assert (back == ran["held_out"][:40]).all()
    page = (out / "report.html").read_text()
    assert f"{ran['bound'].bits_per_dim:.5f}" in page and "<h2>Tightened</h2>" in page and "Samples and data" in page


def test_the_plugin_on_the_command_line(capsys):
    import json

    command = re.search(r"`nelbo (evaluate plugin:model [^`]*)`", (EXAMPLES / "plugin.py").read_text())
    assert command is not None
    assert execute([*command[1].split(), "--tolerance", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bits_per_dim"] < 1.15 * math.log2(17)
    assert not re.search(f"trained on|{ALARMS}", " ".join(told["warnings"]))
    assert execute(["diagnose", *command[1].split()[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["as_declared"]


def test_the_table_names_every_example():
    named = set(re.findall(r"`(\w+)\.py`", (EXAMPLES / "README.md").read_text()))
    assert named == {p.stem for p in EXAMPLES.glob("*.py")}
