"""`diagnose` of a model of symbols: its declaration among its siblings, at common noise."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound.tokens.evaluate import prepare
from nelbo.diagnosis import verdict as verdicts
from nelbo.diagnosis.halving import FAILURES, first_sentence
from nelbo.diagnosis.ranking import Ranking, better
from nelbo.diagnosis.result import Diagnosis, Row, Skipped
from nelbo.diagnosis.tokens import inspection
from nelbo.diagnosis.tokens.draws import Stage, Subject, values
from nelbo.diagnosis.tokens.siblings import Sibling, siblings
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel
from nelbo.workers import Run

MAX_NFE = 2000
"""Network evaluations that a diagnosis spends at most, where nothing else is given."""
EXAMPLES = 512
"""Sequences that are looked at, at most."""
FIRST = 32
"""Draws of the first stage, for every declaration; each further stage has twice as many as all before it."""
STAGES = 6
WORSE = 4.0
"""Standard errors by which a declaration is worse than the best that is dropped after a stage."""
LIKE = 0.02
"""Bits a token below which two declarations are not told apart; as of `ranking.LEAST`."""
UNIT = "bits/token"
LOG_2 = math.log(2)


@dataclass(eq=False)
class Candidate:
    """A declaration and its draws so far; sibling None: as declared."""

    sibling: Sibling | None
    model: TokenModel
    y: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    failure: str | None = None
    live: bool = True

    @property
    def kind(self) -> str:
        """As of `Row`."""
        if self.sibling is None:
            return "declared"
        return "choice" if self.sibling.choice else "declaration"


def diagnose(
    model: TokenModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    max_nfe: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
) -> Diagnosis:
    """Rank the model as declared among its siblings, each of which declares one thing otherwise; as of
    `nelbo.diagnosis.diagnose.diagnose`. Errors: those of `evaluate`; UsageError for too few evaluations."""
    started = time.perf_counter()
    run, limit = run or Run(), MAX_NFE if max_nfe is None else max_nfe
    prepared = prepare(model, data, dataclasses.replace(run, state=None), condition=condition)
    chain = prepared.chain
    rows = Purpose.DIAGNOSIS_EXAMPLES.permutation(run.seed, chain.examples)[:EXAMPLES].sort().values
    some = {name: v[rows] for name, v in chain.condition.items()}
    batch = max(1, prepared.runner.batch_size)
    subject = Subject(chain.data[rows], chain.scored[rows], some, run.seed, chain.device, batch)
    candidates = [Candidate(None, chain.model)]
    skipped = []
    for sibling in siblings(chain.model, subject.data, subject.scored):
        try:
            candidates.append(Candidate(sibling, sibling.of()))
        except FAILURES as error:
            skipped.append(Skipped(sibling.name, first_sentence(error)))
    nfe = 3 * inspection.ROWS
    if limit < nfe + FIRST * len(candidates):
        raise UsageError(
            f"max_nfe={limit} for {len(candidates)} declarations",
            f"give at least {nfe + FIRST * len(candidates)}, so that each is looked at once",
        )
    with chain.model.denoiser.inference():
        checks = [*inspection.of_data(chain.model, subject)]
        try:
            checks += [*inspection.of_logits(chain.model, subject), *inspection.of_padding(chain.model, subject)]
        except FAILURES as error:
            candidates[0].failure = first_sentence(error)
        nfe += _stages(candidates, subject, limit - nfe, run)
    skipped += [Skipped(c.sibling.name, c.failure) for c in candidates if c.sibling and c.failure]
    ranking = _ranked(candidates, prepared.chain.model)
    claims = prepared.claims()
    return Diagnosis(
        rows=ranking.rows,
        verdict=verdicts.verdict(ranking, checks, UNIT),
        checks=tuple(checks),
        skipped=tuple(skipped),
        unit=UNIT,
        nfe_total=nfe,
        max_nfe=limit,
        examples=len(prepared.examples),
        dimensions=chain.dimensions,
        seed=run.seed,
        precision=claims["precision"],
        data=claims["data"],
        model=claims["model"],
        description=claims["description"],
        version=__version__,
        seconds=time.perf_counter() - started,
    )


def _stages(candidates: list[Candidate], subject: Subject, limit: int, run: Run) -> int:
    """Draw in stages, each for the declarations that are not clearly worse than the best; evaluations spent."""
    spent, start, size = 0, 0, FIRST
    for count in range(STAGES):
        alive = [c for c in candidates if c.live and (c.failure is None or c.sibling is None)]
        if spent + size * len(alive) > limit:
            break
        stage = Stage.of(subject.seed, count, start, size, len(subject.data))
        for one in alive:
            if one.failure is None:
                one.y = torch.cat([one.y, _asked(one, subject, stage)])
                spent += size
        start, size = start + size, start + size
        _drop(candidates)
        if run.progress is not None:
            run.progress(spent, limit)
    return spent


def _asked(one: Candidate, subject: Subject, stage: Stage) -> Tensor:
    try:
        y = values(one.model, subject, stage)
    except FAILURES as error:
        one.failure = first_sentence(error)
        return torch.zeros(0, dtype=torch.float64)
    if not bool(torch.isfinite(y).all()):
        one.failure = "its bound is not finite"
        return torch.zeros(0, dtype=torch.float64)
    return y


def _drop(candidates: list[Candidate]) -> None:
    """Leave out what failed, and what is clearly worse than the best so far; never what was declared."""
    asked = [c for c in candidates if c.live and c.failure is None and len(c.y)]
    if not asked:
        return
    best = min(asked, key=lambda c: float(c.y.mean()))
    for one in candidates[1:]:
        if not one.live or one is best:
            continue
        difference = one.y - best.y if len(one.y) == len(best.y) else one.y
        one.live = one.failure is None and float(difference.mean()) < WORSE * _error(difference)


def _error(y: Tensor) -> float:
    return float(y.std()) / math.sqrt(len(y)) if len(y) > 1 else math.inf


def _ranked(candidates: list[Candidate], model: TokenModel) -> Ranking:
    """Rows in bits a token: the best first where it is better than what was declared for sure, else that."""
    declared = candidates[0]
    rows = {c.sibling.name if c.sibling else "as declared": _row(c, declared) for c in candidates if _shown(c)}
    as_declared = rows["as declared"]
    kinds = [row for row in rows.values() if row.kind == "declaration" and row.complete]
    tried = [row for row in kinds if better(row)]
    best = min(tried, key=lambda row: row.bits_per_dim) if tried else None
    unusual = {c.sibling.name for c in candidates if c.sibling is not None and c.sibling.unusual}
    if best is not None and best.name in unusual:
        near = _alike(candidates, best, tried)
        best = next((row for row in tried if row.name in near and row.name not in unusual), best)
    first = best or as_declared
    symbols = model.domain.vocabulary - int(model.kernel.absorbing and model.kernel.mask < model.domain.vocabulary)  # type: ignore[attr-defined]
    control = Row(
        "no network: all symbols alike", {}, "control", math.log2(symbols), 0.0, math.nan, math.nan, 0.0, 0, True
    )
    order = {"declared": 0, "declaration": 0, "choice": 1, "control": 2}
    rest = [row for row in (*rows.values(), control) if row is not first]
    rest.sort(key=lambda row: (order[row.kind], math.isnan(row.bits_per_dim), row.bits_per_dim))
    alike = _alike(candidates, first, kinds)
    return Ranking((first, *rest), best, None, alike)


def _shown(one: Candidate) -> bool:
    return one.sibling is None or len(one.y) > 0


def _alike(candidates: list[Candidate], first: Row, rows: list[Row]) -> tuple[str, ...]:
    """Declarations that were tried to the end and cannot be told from the first row."""
    named = {c.sibling.name if c.sibling else "as declared": c for c in candidates}
    of_first, found = named[first.name].y, []
    for row in rows:
        y = named[row.name].y
        if row is not first and len(y) == len(of_first) > 0:
            difference = (y - of_first) / LOG_2
            if float(difference.mean()) < max(LIKE, 2 * _error(difference)):
                found.append(row.name)
    return tuple(found)


def _row(one: Candidate, declared: Candidate) -> Row:
    sibling, n = one.sibling, min(len(one.y), len(declared.y))
    difference = (one.y[:n] - declared.y[:n]) / LOG_2
    bits = one.y / LOG_2
    cheaper = int((difference < 0).sum()) - int((difference > 0).sum())
    return Row(
        name="as declared" if sibling is None else sibling.name,
        declaration={} if sibling is None else sibling.declaration,
        kind=one.kind,
        bits_per_dim=float(bits.mean()) if len(bits) else math.nan,
        standard_error=_error(bits) if len(bits) > 1 else math.nan,
        difference=0.0 if sibling is None and n else float(difference.mean()) if n else math.nan,
        difference_error=0.0 if sibling is None and n else _error(difference) if n > 1 else math.nan,
        wins=0.0 if sibling is None or not n else cheaper / math.sqrt(n),
        draws=len(bits),
        complete=one.failure is None and one.live,
        change=None if sibling is None else sibling.change,
        claim=None if sibling is None else sibling.claim,
    )
