"""Siblings of the reverse steps: their variance, the clipping of x̂ and the first level. Most are choices."""

from __future__ import annotations

from dataclasses import dataclass

from nelbo.diagnosis.subject import Sibling, Subject, plain
from nelbo.errors import UsageError
from nelbo.model.reverse import Beta, BetaTilde, LearnedLog, LearnedRange, Variance, VarianceTable
from nelbo.process.grid import Full
from nelbo.typing import Json


@dataclass(frozen=True)
class WithVariance(Sibling):
    """Another variance of the steps; the same network with another one is another model."""

    key: str
    evaluates = False

    @property
    def choice(self) -> bool:  # type: ignore[override]
        return self.key in ("beta_tilde", "beta")

    @property
    def name(self) -> str:
        return f"variance {VARIANCES[self.key][0]}"

    @property
    def declaration(self) -> Json:
        return {"variance": VARIANCES[self.key][0]}

    @property
    def claim(self) -> str:
        return VARIANCES[self.key][1]

    @property
    def change(self) -> str:
        return VARIANCES[self.key][2]

    def of(self, subject: Subject) -> Subject:
        return subject.redeclared(variance=_variance(self.key, subject.model.reverse.variance))


VARIANCES = {
    "beta_tilde": ("beta_tilde", "the variance beta_tilde suits it better", 'variance="beta_tilde"'),
    "beta": ("beta", "the variance beta suits it better", 'variance="beta"'),
    "square": ("squared", "the variances are given as standard deviations", "variance=torch.as_tensor(table) ** 2"),
    "root": ("square root", "the variances are given squared", "variance=torch.as_tensor(table) ** 0.5"),
    "reversed": ("reversed", "the variances are given from noise to data", "variance=torch.as_tensor(table).flip(0)"),
    "learned_log": ("learned_log", "the network predicts the logarithm of its variance", 'variance="learned_log"'),
    "learned_range": (
        "learned_range",
        "the network predicts a place between two variances",
        'variance="learned_range"',
    ),
}


def _variance(key: str, own: Variance) -> Variance:
    if key in ("beta_tilde", "beta"):
        return BetaTilde() if key == "beta_tilde" else Beta()
    if key in ("learned_log", "learned_range"):
        if not own.learned:
            raise UsageError("a network that predicts no variance", "it has a fixed one")
        return LearnedLog() if key == "learned_log" else LearnedRange()
    if not isinstance(own, VarianceTable):
        raise UsageError(f"the variance {own.kind!r}", "only a table may be given in another form")
    table = {"square": own.table.square(), "root": own.table.sqrt(), "reversed": own.table.flip(0)}[key]
    return VarianceTable(table)


@dataclass(frozen=True)
class Clipped(Sibling):
    """x̂ clamped to the range of the data, or used as it is."""

    clipped: bool
    choice = True
    evaluates = False

    @property
    def name(self) -> str:
        return "x̂ clipped" if self.clipped else "x̂ not clipped"

    @property
    def declaration(self) -> Json:
        return {"clip": self.clipped}

    @property
    def claim(self) -> str:
        return f"it does better with {self.name}"

    @property
    def change(self) -> str:
        return f"clip={self.clipped}"

    def of(self, subject: Subject) -> Subject:
        domain = subject.model.domain
        if self.clipped and not domain.discrete:
            inside = bool((subject.data >= domain.low).all()) and bool((subject.data <= domain.high).all())
            if not inside:
                raise UsageError("real data beyond the declared range", "x̂ may be, too")
        return subject.redeclared(clip=self.clipped)


@dataclass(frozen=True)
class FirstLevel(Sibling):
    """The chain begins at another level of the table. untrained: whether the network is worse than none at the first
    level that was declared, so that this is no choice."""

    first: int
    untrained: bool = False

    @property
    def choice(self) -> bool:  # type: ignore[override]
        return not self.untrained

    @property
    def name(self) -> str:
        return f"first level {self.first}"

    @property
    def declaration(self) -> Json:
        return {"first_level": self.first}

    @property
    def claim(self) -> str:
        if self.untrained:
            return f"this network was not trained below level {self.first}"
        return f"it does better if the chain begins at level {self.first}"

    @property
    def change(self) -> str:
        return f"first_level={plain(self.first)}"

    def of(self, subject: Subject) -> Subject:
        return subject.redeclared(first=self.first)


def siblings(subject: Subject, untrained: bool) -> list[Sibling]:
    """Other variances, clipping and first levels. untrained: as of `FirstLevel`."""
    variance, clip, grid = subject.model.reverse.variance, subject.model.reverse.clip, subject.model.grid
    keys = {
        "beta_tilde": ("beta",),
        "beta": ("beta_tilde",),
        "table": ("square", "root", "reversed", "beta_tilde", "beta"),
        "learned_range": ("learned_log", "beta_tilde", "beta"),
        "learned_log": ("learned_range", "beta_tilde", "beta"),
    }.get(variance.kind, ())  # type: ignore[attr-defined]
    if subject.model.grid.continuous:
        keys = tuple(key for key in keys if key in ("learned_range",))
    others: list[Sibling] = [WithVariance(key) for key in keys]
    others.append(Clipped(clip is None))
    if isinstance(grid, Full):
        others += [FirstLevel(grid.first + 1, untrained), *([FirstLevel(0)] if grid.first else [])]
    return others
