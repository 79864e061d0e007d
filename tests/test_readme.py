"""README and CONTRIBUTING say what is so: their Python runs, their table is the printed one, their names exist."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer.main

import nelbo
from nelbo.cli.main import app
from tests.training.cases import small

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TABLE = next(text for _, text in BLOCKS if "bits/dim" in text)


def run(code: str, capsys) -> str:
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    return capsys.readouterr().out


def labels(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines() if line.strip()]


@pytest.fixture
def demo_folder(tmp_path, monkeypatch) -> None:
    """A model at demo/model, where `make demo` puts it; of a second of training."""
    monkeypatch.chdir(tmp_path)
    nelbo.train("digits:train", tmp_path / "demo" / "model", small())


def test_the_first_snippet_prints_the_table(demo_folder, capsys):
    printed = run(PYTHON[0], capsys)
    assert labels(printed) == labels(TABLE)
    assert printed.splitlines()[0].split() == TABLE.splitlines()[0].split()
    assert "digits:test, 360 examples of shape (8, 8), 17 bins" in printed and printed.splitlines()[8] in TABLE


def test_the_table_adds_up():
    rows = {line.split()[0]: line.split()[1:] for line in TABLE.splitlines() if line.strip()}
    parts = sum(float(rows[name][0]) for name in ("prior", "diffusion", "reconstruction"))
    assert float(rows["bound"][0]) == pytest.approx(parts, abs=2e-5)
    errors = [float(rows[name][1]) for name in ("prior", "diffusion", "reconstruction")]
    assert float(rows["bound"][1]) == pytest.approx(sum(e**2 for e in errors) ** 0.5, abs=2e-5)


@pytest.mark.parametrize("k", range(1, len(PYTHON)))
def test_the_other_snippets_run(k, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(PYTHON[k], capsys).strip()


def test_commands_exist():
    """Every `nelbo COMMAND --option` of README and CHANGELOG."""
    commands = typer.main.get_command(app).commands
    named = re.findall(r"(?:^|`)nelbo ([a-z]+)([^`\n]*)", README + (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(named) >= 8
    for name, rest in named:
        assert name in commands, name
        command, words = commands[name], rest.partition("#")[0].split()
        if hasattr(command, "commands") and words:
            assert words[0] in command.commands, (name, rest)
            command = command.commands[words[0]]
        known = {option for p in command.params for option in p.opts}
        assert {word for word in words if word.startswith("-")} <= known, (name, rest)
    listed = re.search(r"The commands are (.*?);", README, re.DOTALL)
    assert listed is not None and set(re.findall(r"`(\w+)`", listed[1])) == set(commands)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make ([a-z-]+)", README + CONTRIBUTING, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_files_and_names_of_contributing_exist():
    """Paths in backticks are files, and the CapWords and ALL_CAPS named beside them occur in the source or tests."""
    text = CONTRIBUTING[CONTRIBUTING.index("## How to add a schedule") : CONTRIBUTING.index("## A change is ready")]
    ticks = re.findall(r"`([^`\n]+)`", text)
    paths = [t for t in ticks if re.fullmatch(r"[\w./-]+\.(py|toml|txt|md)", t)]
    assert len(paths) > 10
    for path in paths:
        assert any((base / path).exists() for base in (ROOT, ROOT / "src" / "nelbo")), path
    source = "\n".join(p.read_text() for base in ("src", "tests") for p in sorted((ROOT / base).rglob("*.py")))
    names = {
        n for t in set(ticks) - set(paths) for n in re.findall(r"\b(?:[A-Z][a-z]+\w*|[A-Z_]{4,}|[a-z]+_[a-z_]+)\b", t)
    } - {"Mine"}
    assert len(names) > 15
    assert {n for n in names if not re.search(rf"\b{n}\b", source)} == set()


def test_rooms_of_the_house():
    """The floors of README and CONTRIBUTING name every room that there is."""
    package = ROOT / "src" / "nelbo"
    rooms = {p.name for p in package.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    for text in (README, CONTRIBUTING):
        block = next(b for b in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if "bound/" in b)
        assert {r.rstrip("/") for r in re.findall(r"\b[a-z]+/", block)} == rooms


NEWCOMERS = """
import math
import sys
from dataclasses import dataclass

import torch

import nelbo
from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.problem import Draws
from nelbo.model import folder
from nelbo.model.decoder import MassDecoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Bent(Schedule, kind="bent"):
    ends: tuple[float, float]
    path_name: str = "vp"

    def logsnr(self, t):
        return self.ends[0] + (self.ends[1] - self.ends[0]) * t**2

    def dlogsnr_dt(self, t):
        return 2 * (self.ends[1] - self.ends[0]) * t

    def time_of(self, logsnr):
        return ((logsnr - self.ends[0]) / (self.ends[1] - self.ends[0])).sqrt()


@dataclass(frozen=True, eq=False)
class Uniform(MassDecoder, kind="uniform_codes"):
    def log_pmf(self, z, t, prediction, domain):
        return z.new_full((*z.shape, domain.bins), -math.log(domain.bins))


@dataclass(frozen=True)
class Once(Estimator):
    name = "once"

    def describe(self):
        return {"name": self.name}

    def cost(self, problem):
        return 2 * problem.examples * (problem.steps + problem.first_cost)

    def estimate(self, problem, runner):
        n = problem.examples
        examples, draws = torch.arange(n).repeat(2), torch.arange(2).repeat_interleave(n)
        total, variance = torch.zeros(n).double(), torch.zeros(n).double()
        for j in range(problem.steps):
            cells, inner = torch.full_like(examples, j), torch.zeros(2 * n)
            pair = runner.nats(problem, Draws(examples, cells + 1, draws, cells, inner)).reshape(2, n)
            total, variance = total + pair.mean(0), variance + pair.var(0) / 2
        pair = runner.nats(problem, Draws.first_level(examples, draws)).reshape(2, n)
        reconstruction = pair.mean(0), pair.var(0) / 2
        return Estimate.of(problem.priors(), (total, variance), reconstruction, [], self.describe())


domain = nelbo.DataDomain((2,), bins=4)
net = {"name": "mlp", "settings": {"width": 8}, "logsnr_max": 5.0, "logsnr_min": -5.0}
model = DiffusionModel(
    domain=domain,
    schedule=Bent((5.0, -5.0)),
    grid=nelbo.grids.even(6),
    denoiser=folder.make_denoiser({"kind": "network", "output": "v", "time": "logsnr", "net": net}, domain),
    reverse=Reverse(BetaTilde()),
    decoder=Uniform(),
    prior=GaussianPrior(),
)
folder.save(model, sys.argv[1])
back = nelbo.load(sys.argv[1])
assert back.fingerprint() == model.fingerprint() and type(back.schedule) is Bent and back.schedule.ends == (5.0, -5.0)
codes = torch.arange(8).reshape(4, 2) % 4
mine = nelbo.evaluate(back, codes, estimator=Once(), precision="float64")
theirs = nelbo.evaluate(model, codes, estimator="exhaustive", precision="float64")
assert abs(mine.bits_per_dim - theirs.bits_per_dim) < 1e-9, (mine.bits_per_dim, theirs.bits_per_dim)
assert mine.terms.reconstruction.bits_per_dim == 2.0 and mine.standard_error.estimator > 0
nelbo.sample(back, 3)
print("all of it works")
"""


def test_newcomers_need_no_more_than_contributing_says(tmp_path):
    """A schedule, a decoder and an estimator written as its sections say: scored, sampled, saved and loaded."""
    done = subprocess.run(
        [sys.executable, "-c", NEWCOMERS, str(tmp_path / "model")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "all of it works", done.stderr


def test_the_version_is_the_same_everywhere():
    """In the changelog's newest section, the citation, and the result that the README prints."""
    released = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    printed = re.search(r"^fingerprints .*nelbo (\S+)$", README, re.MULTILINE)
    assert {found[1] for found in (released, cited, printed) if found} == {nelbo.__version__}
