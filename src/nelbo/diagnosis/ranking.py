"""The ranking of declarations: one row each, which of them is better than what was declared, and which are as good."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.bound import checks
from nelbo.diagnosis.halving import Candidate
from nelbo.diagnosis.result import Row
from nelbo.diagnosis.subject import Sibling
from nelbo.maths.units import bits_per_dim

LEAST = 0.02
"""Bits/dim below which two declarations are not told apart."""
DEVIATIONS, AT_LEAST = 3.5, 2.0
"""Standard errors of a paired difference by which another declaration must be better; and how many of them are enough
where so many standard deviations more of its draws cost less, for a term that explodes has a large error of its own."""
MOST_OF_IT = 0.9
"""Share of what an unusual declaration saves from which a usual one is preferred to it."""

OF_A_WORTHLESS_ONE = 0.02
"""Share of the bound that another declaration must save where the declared one is worse than no model: a network with
little training may do a little better with almost any input, and one that is declared wrongly does much better."""


@dataclass(frozen=True)
class Ranking:
    """rows: the first is the best declaration; choices and controls come last. best: the row that is better than what
    was declared, if any. whole: of another schedule, the row of the model with its levels. alike: those that cannot be
    told apart from the first row, by name."""

    rows: tuple[Row, ...]
    best: Row | None
    whole: Row | None
    alike: tuple[str, ...]

    @property
    def declared(self) -> Row:
        """The row of what was declared."""
        return next(row for row in self.rows if row.as_declared)

    @property
    def choice(self) -> Row | None:
        """The best other model of the same network, where it is better than what was declared."""
        return next((row for row in self.rows if row.kind == "choice" and row.complete and better(row)), None)


def ranked(candidates: list[Candidate], D: int) -> Ranking:
    """The ranking of candidates of data of D dimensions, the declared one first among them.

    Of declarations that are as good as the best or save most of what it saves, a usual one comes first. What was
    declared comes first where none is better for sure.
    """
    rows = _rows(candidates, D)
    best = _best(candidates, rows, D)
    first = rows["as declared"] if best is None else best
    rest = sorted((row for row in rows.values() if row is not first), key=lambda row: (_ORDER[row.kind], _by_bits(row)))
    if best is None:
        alike = [row.name for row in rest if row.kind == "declaration" and row.complete and _like(row)]
    else:
        near = _near(candidates, best.name, D)
        alike = [row.name for row in rest if row.kind == "declaration" and better(row) and row.name in near]
    whole = next((rows[c.name] for c in candidates if c.followed is not None and c.followed.name == first.name), None)
    return Ranking((first, *rest), best, whole, tuple(alike))


def _best(candidates: list[Candidate], rows: dict[str, Row], D: int) -> Row | None:
    """The best of the declarations, where one is better than what was declared for sure: of those whose difference is
    more than two standard errors that of the least upper end, a standard error above it.

    Of a declaration that changes data or chain and a schedule on the chain that is declared, the one is compared with
    the model of the other on its own levels.
    """
    declarations = [c for c in candidates if c.kind == "declaration" and c.name in rows]
    tried = [(c.sibling, rows[c.name]) for c in declarations if not _only_smaller(c, rows[c.name], candidates[0], D)]
    worthless = _worse_than_uniform(candidates[0], rows["as declared"])
    # where chain and data are the same, the right one does not cost more in most draws; it costs less in most of them
    # where the declared one is worth nothing
    wins = AT_LEAST if worthless else -AT_LEAST
    tried = [(s, row) for s, row in tried if row.complete and s and not (s.same_chain and row.wins < wins)]
    least = OF_A_WORTHLESS_ONE if worthless else 0.0

    def saves_enough(sibling: Sibling, row: Row) -> bool:
        share = max(sibling.least_share, least)
        return share == 0 or not -row.difference < share * abs(rows["as declared"].bits_per_dim)

    tried = [(s, row) for s, row in tried if saves_enough(s, row)]
    if not any(better(row) for _, row in tried):
        return None
    tried = [(s, row) for s, row in tried if _lower(row)]
    unusual = {row.name for s, row in tried if s.unusual}
    ends = {row.name: _upper_end(row) for _, row in tried}

    def preferred(some: list[Row]) -> list[Row]:
        """The best of some, or nothing."""
        some = sorted(some, key=lambda row: ends[row.name])
        if not some or some[0].name not in unusual:
            return some[:1]
        near, enough = _near(candidates, some[0].name, D), MOST_OF_IT * some[0].difference
        usual = (r for r in some if r.name not in unusual and (r.name in near or r.difference < enough))
        return [next(usual, some[0])]

    names = [row.name for _, row in tried]
    same = [_of_schedules(candidates, rows, row, names) for row in preferred([r for s, r in tried if s.same_chain])]
    for c in candidates:
        if same and c.followed is not None and c.followed.name == same[0].name and c.name in rows:
            ends[same[0].name] = min(ends[same[0].name], _upper_end(rows[c.name]))
    return preferred([*same, *preferred([r for s, r in tried if not s.same_chain])])[0]


def _worse_than_uniform(declared: Candidate, row: Row) -> bool:
    """Whether the bound as declared is above log2(bins), which codes cost without any model."""
    domain = declared.chain.model.domain
    return domain.bins is not None and row.bits_per_dim > math.log2(domain.bins)


def _only_smaller(one: Candidate, row: Row, declared: Candidate, D: int) -> bool:
    """Whether a range of the data is better by no more than a smaller one is without any network."""
    if one.sibling is None or not one.sibling.rescales or math.isnan(row.difference):
        return False
    own, other = (float(checks.without_network(c.chain).sum()) for c in (declared, one))
    saved = max(0.0, float(bits_per_dim(own - other, D)))
    return row.difference + saved > -max(LEAST, AT_LEAST * row.difference_error)


def _of_schedules(candidates: list[Candidate], rows: dict[str, Row], best: Row, tried: list[str]) -> Row:
    """The best of the schedules, where `best` is one: of two, that which costs less at the log-SNRs of both, since at
    others the network was trained with neither, if one of the two is right."""
    trained = {c.name: (c, c.trained) for c in candidates if c.name in tried and c.trained is not None}
    if best.name not in trained:
        return best
    winner, (low, high) = trained[best.name]
    for other, (least, most) in trained.values():
        value, variance = other.difference(winner, (max(low, least), min(high, most)))
        if value < -AT_LEAST * variance**0.5:
            winner, low, high = other, least, most
    return rows[winner.name]


_ORDER = {"declared": 0, "declaration": 0, "choice": 1, "control": 2}


def better(row: Row) -> bool:
    """Whether a row is better than what was declared, by enough and for sure; where that is not finite, any is."""
    if math.isnan(row.difference):
        return not math.isnan(row.bits_per_dim)
    deviations = AT_LEAST if row.wins > DEVIATIONS else DEVIATIONS
    return -row.difference > max(LEAST, deviations * row.difference_error)


def _lower(row: Row) -> bool:
    """Whether a row is probably better than what was declared."""
    return better(row) or -row.difference > max(LEAST, AT_LEAST * row.difference_error)


def _upper_end(row: Row) -> float:
    """The difference and its standard error; the bound and its own where the declared one is not finite."""
    if math.isnan(row.difference):
        return row.bits_per_dim + row.standard_error
    return row.difference + row.difference_error


def _like(row: Row) -> bool:
    """Whether it cannot be told from what was declared: within the least difference, or within its errors."""
    return row.difference < max(LEAST, 2 * row.difference_error)


def _by_bits(row: Row) -> tuple[bool, float]:
    return math.isnan(row.bits_per_dim), row.bits_per_dim


def _near(candidates: list[Candidate], name: str, D: int) -> set[str]:
    """Declarations that were tried to the end, too, and are not told apart from that of this name: whose paired
    difference is below `LEAST` bits/dim or within two standard errors."""
    one = next(c for c in candidates if c.name == name)
    near = set()
    for other in candidates:
        if other is not one and other.kind == "declaration" and max(one.values) in other.values:
            value, variance = other.difference(one)
            bits, error = float(bits_per_dim(abs(value), D)), float(bits_per_dim(variance**0.5, D))
            if bits < max(LEAST, 2 * error):
                near.add(other.name)
    return near


def _rows(candidates: list[Candidate], D: int) -> dict[str, Row]:
    """The row of every declaration that has values, and of what was declared.

    One that was dropped early is placed by its difference to the best of those that were tried to the end, whose own
    value is known well.
    """
    declared = candidates[0]
    last = max(max(candidate.values, default=-1) for candidate in candidates)
    finished = [c for c in candidates if last in c.values and c.followed is None]
    reference = min(finished, key=lambda c: c.pooled()[0])
    of_reference, to_declared = reference.pooled(), reference.difference(declared)
    rows = {}
    for one in candidates:
        if not one.values and one is not declared:
            continue
        ended = last in one.values
        value, variance = one.pooled() if ended else _sum(of_reference, one.difference(reference))
        change = one.difference(declared) if ended else _sum(to_declared, one.difference(reference))
        if one is declared and one.values:
            change = 0.0, 0.0
        rows[one.name] = Row(
            name=one.name,
            declaration={} if one.sibling is None else one.sibling.declaration,
            kind=one.kind,
            bits_per_dim=float(bits_per_dim(value, D)),
            standard_error=float(bits_per_dim(variance**0.5, D)),
            difference=float(bits_per_dim(change[0], D)),
            difference_error=float(bits_per_dim(change[1] ** 0.5, D)),
            wins=0.0 if one is declared else one.wins(declared),
            draws=sum(values.along.numel() + len(values.first) for values in one.values.values()),
            complete=ended,
            change=None if one.sibling is None else one.sibling.change,
            claim=None if one.sibling is None else one.sibling.claim,
        )
    return rows


def _sum(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]
