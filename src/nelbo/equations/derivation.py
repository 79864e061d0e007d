"""Derivations as walks: a chain of lines, each with the rule that makes it and the entry that states it.

A walk is `derivations/<id>.toml` with these keys, all required:

    id, title, intro                              strings; the intro says in plain words what the derivation shows
    [[steps]]  latex, rule, entry, explanation    one line: its LaTeX, the rule's name, a catalogue id, why it follows

The numbers behind it are computed by the function registered with `@walk(id)`: the value of every line on a tractable
model, by the library's own functions, each compared with the line before.

    @walk("five-lines")
    def _(w: Walk) -> None:
        w.start(nll)                  # line 1
        w.at_least(nll + gap)         # line 2 ≥ line 1
        w.line(bound)                 # line 3 = line 2
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nelbo.equations.check import Checks, Numbers, numbers
from nelbo.equations.registry import catalogue
from nelbo.equations.verify import Report, Result, each
from nelbo.errors import DataError, UnknownNameError

FOLDER = Path(__file__).parent / "derivations"
KEYS = ("id", "title", "intro", "steps")
STEP_KEYS = ("latex", "rule", "entry", "explanation")

WALKS: dict[str, Callable[[Walk], None]] = {}
"""Derivation id -> the function that computes its lines. Filled by importing `nelbo.equations.checks`."""


@dataclass(frozen=True)
class Step:
    """One line: LaTeX, the name of the rule that gives it, the entry that states it, and why it follows."""

    latex: str
    rule: str
    entry: str
    explanation: str


@dataclass(frozen=True)
class Derivation:
    """A derivation: its lines in order, and what it shows, in plain words."""

    id: str
    title: str
    intro: str
    steps: tuple[Step, ...]

    @property
    def entries(self) -> tuple[str, ...]:
        """Ids of the entries of its steps, each once, in order."""
        return tuple(dict.fromkeys(step.entry for step in self.steps))


class Walk:
    """The lines of one derivation as numbers; every line becomes a row that compares it with the one before.

    A line is a number or an array (several x_0, steps or paths at once).
    """

    def __init__(self, id: str):
        self.checks = Checks(id)
        self.count = 0
        self._last: Numbers | None = None

    def start(self, value: Numbers) -> None:
        """A line that begins a chain, which no line before it should equal."""
        self._next(value)

    def line(self, value: Numbers, bound: float = 1e-10, before: Numbers | None = None, how: str = "") -> None:
        """line k = line k − 1 to within `bound`. before: what to compare with where the step changes the last line,
        for instance to its mean over the data; `how` names the change."""
        last = self._last if before is None else before
        assert last is not None, "a walk begins with start()"
        self._next(value)
        what = f"line {self.count} = {how + ' ' if how else ''}line {self.count - 1}"
        self.checks.holds(what, numbers(value) - numbers(last), bound)

    def at_least(self, value: Numbers) -> None:
        """line k ≥ line k − 1 in every place; the row shows the smallest difference."""
        slack = numbers(value) - numbers(self._last if self._last is not None else value)
        self._next(value)
        self.checks.true(f"line {self.count} ≥ line {self.count - 1}", bool((slack >= 0).all()), float(slack.min()))

    def at_most(self, value: Numbers) -> None:
        """line k ≤ line k − 1 in every place; the row shows the smallest difference."""
        slack = numbers(self._last if self._last is not None else value) - numbers(value)
        self._next(value)
        self.checks.true(f"line {self.count} ≤ line {self.count - 1}", bool((slack >= 0).all()), float(slack.min()))

    def _next(self, value: Numbers) -> None:
        self.count += 1
        self._last = value


def walk(id: str) -> Callable[[Callable[[Walk], None]], Callable[[Walk], None]]:
    """Register a function as the numbers behind the derivation `id`."""

    def register(function: Callable[[Walk], None]) -> Callable[[Walk], None]:
        earlier = WALKS.get(id)
        if earlier is not None and earlier.__code__.co_firstlineno != function.__code__.co_firstlineno:
            raise ValueError(f"the derivation {id!r} has a second walk, {function.__code__.co_filename}")
        WALKS[id] = function
        return function

    return register


class Derivations(Mapping[str, Derivation]):
    """id -> `Derivation`, in the order of reading."""

    def __init__(self, walks: Mapping[str, Derivation]):
        self._walks = dict(walks)

    def __getitem__(self, id: str) -> Derivation:
        """Errors: UnknownNameError listing the ids."""
        if id not in self._walks:
            raise UnknownNameError.of("derivation", id, self._walks)
        return self._walks[id]

    def __contains__(self, id: object) -> bool:
        return id in self._walks

    def __iter__(self) -> Iterator[str]:
        return iter(self._walks)

    def __len__(self) -> int:
        return len(self._walks)

    def through(self, entry: str) -> tuple[str, ...]:
        """Ids of the derivations with a step that is this entry."""
        return tuple(id for id, d in self.items() if entry in d.entries)


ORDER = (
    "likelihood-to-bound",
    "five-lines",
    "thirteen-lines",
    "vae-to-diffusion",
    "noise-loss",
    "variational-diffusion",
    "snr-and-limit",
    "probability-flow",
)
"""The order of reading; a walk that is not named here comes last."""


@cache
def derivations() -> Derivations:
    """Every derivation, read once. Errors: DataError where a file is damaged or names an entry that does not exist.

    >>> from nelbo.equations.derivation import derivations
    >>> [step.entry for step in derivations()["five-lines"].steps][1]
    'vlb-add-kl'
    """
    read = {d.id: d for d in map(load, FOLDER.glob("*.toml"))}
    known = [id for id in ORDER if id in read]
    return Derivations({id: read[id] for id in [*known, *sorted(set(read) - set(known))]})


def load(path: Path) -> Derivation:
    """The derivation in a TOML file named `<id>.toml`.

    Errors: DataError naming the file and the key that is missing, unknown, empty or of the wrong type, or the entry
    that the catalogue does not have.
    """

    def fail(what: str, hint: str) -> DataError:
        return DataError(f"the derivation {path.name}: {what}", hint)

    def text(table: dict[str, Any], key: str, what: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value.strip():
            raise fail(f"{what} has {key} = {value!r}", "write a string that is not empty")
        return value.strip() if key == "latex" else " ".join(value.split())

    def strict(table: Any, keys: tuple[str, ...], what: str) -> None:
        if not isinstance(table, dict) or set(table) != set(keys):
            present = sorted(table) if isinstance(table, dict) else table
            raise fail(f"{what} has the keys {present}", f"it needs exactly: {', '.join(keys)}")

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"the derivation {path.name} cannot be read: {error}", "restore or repair it") from None
    strict(table, KEYS, "it")
    if table["id"] != path.stem:
        raise fail(f"its id is {table['id']!r}", "a derivation lies in <id>.toml")
    if not isinstance(table["steps"], list) or len(table["steps"]) < 2:
        raise fail("it has fewer than two steps", "write [[steps]] before each")
    steps = []
    for k, step in enumerate(table["steps"], 1):
        strict(step, STEP_KEYS, f"step {k}")
        steps.append(Step(**{key: text(step, key, f"step {k}") for key in STEP_KEYS}))
        if steps[-1].entry not in catalogue():
            raise fail(f"step {k} links {steps[-1].entry!r}, which is no entry", "`nelbo equations list` shows all")
    return Derivation(table["id"], text(table, "title", "it"), text(table, "intro", "it"), tuple(steps))


def verify_derivations(*ids: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Compute every line of the derivations `ids`, or of all, and compare each with the one before.

    The report has the form of `verify`, one result a walk. progress: called with (done, planned) after each.
    Errors: UnknownNameError for an id that is no derivation.

    >>> from nelbo.equations.derivation import verify_derivations
    >>> verify_derivations("five-lines").ok
    True
    """
    known = derivations()
    asked = {known[id].id for id in ids} if ids else set(known)
    selected = [id for id in known if id in asked]
    return Report(each(selected, run, progress), "derivation")


def run(id: str) -> Result:
    """Compute the lines of one derivation; a walk that raises, or computes another number of lines, failed."""
    import nelbo.equations.checks  # noqa: F401  registers the walks

    walk, started = Walk(id), time.perf_counter()
    if id in WALKS:
        try:
            WALKS[id](walk)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            walk.checks.true(f"the walk ran to its end ({type(error).__name__}: {text})", False)
    steps = len(derivations()[id].steps)
    walk.checks.true(f"every one of the {steps} lines was computed", walk.count == steps, float(walk.count))
    return Result(id, walk.checks.ok, time.perf_counter() - started, tuple(walk.checks.rows))
