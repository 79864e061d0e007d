"""A broad sweep of small breaks over the formula files: how many of them do the quick tests notice?

    make mutants ARGS='--sample 200 --seed 0'

Each mutant changes one operation, number, comparison, call or letter of one function, at a place that is named as in
`tests/mutations/`; a survivor that deserves a test can be copied into a table there. The tests are collected once. A
first run notes which functions each test reaches and how long it takes (kept in build/, until the code changes). Then
every mutant gets a fork of this process and the tests that reach its function, quickest first, until one fails.
Mutants that change nothing are listed with a reason in `mutants_equivalent.toml` and left out of the share.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import os
import random
import re
import signal
import sys
import time
import tomllib
import traceback
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402

from tests.mutations.functions import compiled, plain, tree_of, walk  # noqa: E402
from tests.mutations.places import (  # noqa: E402
    Edit,
    call,
    called,
    choice,
    comparison,
    field,
    is_number,
    letter,
    negation,
    number,
    operation,
)

FORMULAS = """
    maths/*  process/*  model/exact/*  model/fitted/*
    model/clip  model/decoder  model/denoiser  model/domain  model/prior  model/reverse  model/mixture
    bound/checks  bound/compare  bound/difference  bound/estimate  bound/estimators  bound/features
    bound/gaussian_chain  bound/lattices  bound/paired_chain  bound/problem  bound/readings  bound/surrogate
    bound/terms  bound/tolerance  bound/unpaired
    bound/trial  bound/planned/*  bound/contrast/*  bound/tokens/*  process/tokens/*  model/tokens/*
    monitoring/design  monitoring/loss  monitoring/reading
    likelihood/*  sampling/*
    diagnosis/draws  diagnosis/halving  diagnosis/ranking  diagnosis/schedules  diagnosis/times
    tightening/candidates  tightening/certificate  tightening/costs  tightening/covariance  tightening/decoders
    tightening/diagonal  tightening/families  tightening/log_linear  tightening/plan  tightening/regression
    tightening/shortest_path  data/pictures  nets/embedding  nets/noise_units  model/float_codes
    training/objective  training/learned_schedule  training/times  training/weighting
    codec/lattice  codec/tables
"""
"""Files of src/nelbo, without .py; `*` stands for any name."""

TESTS = "maths process model bound likelihood tightening sampling training codec equations"
TESTS += " diagnosis data nets monitoring"
"""Folders of tests/. Those of tests/mutations break code themselves."""

NO_FORMULA = re.compile(r"__(?!call__)\w+__|_?check\w*|describe|to_dict|from_dict|parse|kinds?|problems?")
"""Functions that compute nothing: they check arguments, describe or save."""

LAYOUT = {"reshape", "flatten", "unsqueeze", "squeeze", "expand", "view", "permute", "transpose", "unflatten", "diff"}
LAYOUT |= {"range", "zeros", "ones", "empty", "full", "arange", "split", "chunk", "isinstance", "len", "round"}
"""Calls whose numbers are shapes, axes or digits."""

OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "**": "*", "//": "/", "%": "+", "@": "*"}
NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
RENAMED = {"expm1": "exp", "exp": "expm1", "log1p": "log", "minimum": "maximum", "maximum": "minimum", "min": "max"}
RENAMED |= {"max": "min", "sum": "mean", "mean": "sum", "sin": "cos", "cos": "sin", "posterior": "transition"}
RENAMED |= {"transition": "posterior", "ceil": "floor", "floor": "ceil", "any": "all", "all": "any"}
DROPPED = ("sqrt", "square", "log", "abs", "cumsum", "softmax", "log_softmax", "sigmoid", "logsigmoid", "clamp", "flip")
DROPPED += ("clamp_min", "clamp_max", "detach", "neg", "reciprocal")
FIELDS = {"alpha": "sigma", "sigma": "alpha", "log_alpha": "log_sigma", "log_sigma": "log_alpha", "logsnr": "log_sigma"}
FIELDS |= {"x0": "z", "x_coefficient": "z_coefficient", "z_coefficient": "x_coefficient"}
LETTERS = {"s": "t", "t": "s", "x": "z", "z": "x", "x0": "z", "alpha": "sigma", "sigma": "alpha", "eps": "x"}


@dataclass(frozen=True)
class Mutant:
    """One change of one function of one file."""

    file: str
    name: str
    function: types.FunctionType
    edit: Edit

    def __str__(self) -> str:
        return f"{self.file}: {self.name}: {self.edit}"


# ---------------------------------------------------------------- which mutants there are
def functions(patterns: str) -> Iterator[tuple[str, str, types.FunctionType]]:
    """(file, qualified name, function) of every function and method of the files."""
    for pattern in patterns.split():
        paths = sorted((ROOT / "src/nelbo").glob(f"{pattern}.py"))
        if not paths:
            sys.exit(f"error: no file src/nelbo/{pattern}.py\nhint: bring FORMULAS of tools/mutants.py up to date")
        for path in paths:
            file = path.relative_to(ROOT / "src/nelbo").as_posix()
            module = importlib.import_module("nelbo." + file.removesuffix(".py").replace("/", "."))
            for name, value in members(module):
                if not NO_FORMULA.fullmatch(name.split(".")[-1]):
                    yield file, name, value


def members(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            for member in vars(value):
                function = plain(inspect.getattr_static(value, member))
                if function is not None and function.__qualname__ == f"{name}.{member}":
                    yield f"{name}.{member}", function
        else:
            function = plain(value)
            if function is not None and (function.__module__, function.__qualname__) == (module.__name__, name):
                yield name, function


def edits(definition: ast.FunctionDef) -> Iterator[Edit]:
    """Every change that the operators above make of the function, outside of messages, checks and shapes."""
    left_out = set(ignored(definition))
    places = [
        *((operation(a), lambda p, b=b: [p.to(b), p.keep_left()]) for a, b in OPERATORS.items()),
        *((comparison(a), lambda p, b=b: [p.to(b)]) for a, b in NEGATED.items()),
        *((call(a), lambda p, b=b: [p.to(b)]) for a, b in RENAMED.items()),
        *((call(a), lambda p: [p.drop()]) for a in DROPPED),
        *((field(a), lambda p, b=b: [p.to(b)]) for a, b in FIELDS.items()),
        *((letter(a), lambda p, b=b: [p.becomes(b)]) for a, b in LETTERS.items() if b in variables(definition)),
        *((number(v), lambda p, v=v: [p.to(other(v))]) for v in sorted(numbers(definition))),
        (negation(), lambda p: [p.drop()]),
        (choice(), lambda p: [p.swapped()]),
    ]
    for place, changes in places:
        for i, node in enumerate(place.find(definition)):
            if id(node) not in left_out:
                yield from changes(place[i])


def ignored(definition: ast.FunctionDef) -> Iterator[int]:
    """Nodes that are no formula: what is raised, asserted, warned of or formatted, what decides that, and shapes."""
    for node in ast.walk(definition):
        drop: list[ast.AST] = []
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.arguments | ast.ExceptHandler):
            drop = [node]
        elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            drop = [node.test, *node.body]
        elif called(node) in LAYOUT | {"warn"}:
            drop = list(ast.iter_child_nodes(node))
        elif isinstance(node, ast.keyword) and node.arg in ("dim", "dtype", "device", "keepdim", "shape"):
            drop = [node]
        elif isinstance(node, ast.Call):
            drop = [v for v in node.args if is_number(v) and called(node) in ("sum", "mean", "cat", "stack")]
        for top in drop:
            yield from (id(n) for n in ast.walk(top))


def variables(definition: ast.FunctionDef) -> set[str]:
    arguments = {a.arg for a in ast.walk(definition.args) if isinstance(a, ast.arg)}
    return arguments | {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def numbers(definition: ast.FunctionDef) -> set[float]:
    return {n.value for n in walk(definition) if is_number(n)}


def other(value: float) -> float:
    return value + 1 if isinstance(value, int) else (2 * value or 1.0)


def mutants(patterns: str) -> list[Mutant]:
    found = []
    for file, name, function in functions(patterns):
        definition = tree_of(function)
        found += [Mutant(file, name, function, edit) for edit in edits(definition)]
    return found


# ---------------------------------------------------------------- which tests reach which function
class Sweep:
    """Run by pytest in place of its own loop over the tests."""

    def __init__(self, chosen: list[Mutant], patterns: str, tests: list[str], seconds: float) -> None:
        self.chosen, self.patterns, self.tests, self.seconds = chosen, patterns, tests, seconds
        self.fates: list[tuple[Mutant, str]] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        self.timings = self.reach()
        started = time.time()
        for n, mutant in enumerate(self.chosen, 1):
            fate = self.fate(mutant)
            self.fates.append((mutant, fate))
            if fate not in ("noticed", "too slow"):
                print(f"{fate}: {mutant}", flush=True)
            if n % 25 == 0:
                print(f"  {n} of {len(self.chosen)} in {time.time() - started:.0f} s", flush=True)
        return True

    def reach(self) -> dict[str, tuple[float, list[str]]]:
        """Test → seconds and the functions that it reaches; of the tests that pass."""
        files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        content = (
            b"".join(path.read_bytes() for path in sorted(files)) + " ".join([*self.tests, self.patterns]).encode()
        )
        kept = ROOT / "build" / f"mutants-{hashlib.sha256(content).hexdigest()[:12]}.json"
        if not kept.exists():
            print(f"noting what {len(self.items)} tests reach", flush=True)
            kept.parent.mkdir(exist_ok=True)
            forked(lambda: kept.write_text(json.dumps(self._reached())) and 0, 3600)
        return json.loads(kept.read_text())

    def _reached(self) -> dict[str, tuple[float, list[str]]]:
        reached: set[str] = set()
        for file, name, function in list(functions(self.patterns)):
            definition = tree_of(function)
            definition.body.insert(0, ast.parse(f"__reached__.add({f'{file}: {name}'!r})").body[0])
            function.__globals__["__reached__"] = reached
            function.__code__ = compiled(function, ast.fix_missing_locations(definition))
        items, found, shared = list(self.items.values()), {}, {}

        class Shared:
            """What a fixture for several tests reaches, each of these tests does."""

            @pytest.hookimpl(wrapper=True)
            def pytest_fixture_setup(self, fixturedef, request):
                result = yield
                if fixturedef.scope != "function":
                    shared.setdefault(fixturedef.argname, set()).update(reached)
                return result

        items[0].config.pluginmanager.register(Shared())
        for item, following in zip(items, [*items[1:], None], strict=True):
            reached.clear()
            started = time.process_time()
            if all(r.passed for r in runtestprotocol(item, nextitem=following, log=False)):
                found[item.nodeid] = (time.process_time() - started, set(reached))
        for test, (_, functions_of_test) in found.items():
            for fixture in getattr(self.items[test], "fixturenames", ()):
                functions_of_test |= shared.get(fixture, set())
        return {test: (seconds, sorted(of_test)) for test, (seconds, of_test) in found.items()}

    # ------------------------------------------------------------ one mutant
    def fate(self, mutant: Mutant) -> str:
        """One of "noticed", "too slow" (which is noticed, too), "survived" and "not reached"."""
        key = f"{mutant.file}: {mutant.name}"
        tests = sorted((seconds, test) for test, (seconds, reached) in self.timings.items() if key in reached)
        budget, names = self.seconds, []
        for seconds, test in tests:
            if names and budget < seconds:
                break
            budget -= seconds
            names.append(test)
        if not names:
            return "not reached"
        status = forked(lambda: self._child(mutant, names), 60 + 5 * self.seconds)
        return {0: "survived", None: "too slow"}.get(status, "noticed")

    def _child(self, mutant: Mutant, names: list[str]) -> int:
        edited = mutant.edit.apply(tree_of(mutant.function))
        mutant.function.__code__ = compiled(mutant.function, edited)
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, nextitem=following, log=False)):
                return 1
        return 0


def forked(work, limit: float) -> int | None:
    """Exit status of the work in a fork of this process, silent; None where it took more processor time than the limit.

    A busy machine makes nobody too slow; the clock on the wall only ends work that waits for something.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status, console = 3, os.dup(2)
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            signal.setitimer(signal.ITIMER_PROF, limit)
            signal.alarm(int(20 * limit))
            status = work()
        except Exception:
            os.write(console, traceback.format_exc().encode())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


# ---------------------------------------------------------------- the report
def equivalents() -> dict[str, str]:
    """Mutant → why it changes nothing that can be seen."""
    path = Path(__file__).with_name("mutants_equivalent.toml")
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def report(fates: list[tuple[Mutant, str]]) -> float:
    caught, total = Counter(), Counter()
    for mutant, fate in fates:
        total[mutant.file] += 1
        caught[mutant.file] += fate in ("noticed", "too slow")
    print()
    for file in sorted(total):
        print(f"{file:36} {caught[file]:4} of {total[file]:4}  {caught[file] / total[file]:6.1%}")
    share = sum(caught.values()) / max(1, sum(total.values()))
    print(f"{'all':36} {sum(caught.values()):4} of {sum(total.values()):4}  {share:6.1%}")
    print("\nnot noticed:")
    for mutant, fate in sorted(fates, key=lambda f: str(f[0])):
        if fate in ("survived", "not reached"):
            print(f"  {fate:11} {mutant}")
    return share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many mutants; 0 for all (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--files", default=FORMULAS, help="files of src/nelbo, without .py, in place of all formula files"
    )
    parser.add_argument("--tests", default=TESTS, help="folders of tests/ (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of tests for one mutant, as they ran unbroken")
    parser.add_argument("--only", help="a regular expression that the name of a mutant must match")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--least", type=float, default=0.0, help="exit status 1 below this share")
    options = parser.parse_args()

    known = equivalents()
    every = [m for m in mutants(options.files) if str(m) not in known]
    if options.only:
        every = [m for m in every if re.search(options.only, str(m))]
    chosen = (
        every if options.sample == 0 else random.Random(options.seed).sample(every, min(options.sample, len(every)))
    )
    print(
        f"{len(chosen)} of {len(every)} mutants, seed {options.seed}; {len(known)} known to change nothing", flush=True
    )
    if options.list:
        print(*chosen, sep="\n")
        return 0
    folders = [name for name in options.tests.split() if (ROOT / "tests" / name).exists()]
    sweep = Sweep(chosen, options.files, folders, options.seconds)
    settings = ["-p", "no:terminal", "-p", "no:cacheprovider", "-s", "-m", "not slow", "-W", "ignore"]
    settings += ["-o", "addopts=--import-mode=importlib", "--rootdir", str(ROOT)]
    os.chdir(ROOT)
    pytest.main([*settings, *(f"tests/{name}" for name in folders)], plugins=[sweep])
    return 0 if report(sweep.fates) >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
