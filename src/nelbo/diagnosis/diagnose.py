"""`diagnose`: which declaration of a network suits it best, by the bound that each would have at common noise."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import lattices
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.runner import Runner
from nelbo.diagnosis import conditions, contest, domains, draws, looks, outputs, schedules, steps, times
from nelbo.diagnosis.asked import Answers, Remembering, with_net
from nelbo.diagnosis.contest import Candidate, first_sentence
from nelbo.diagnosis.result import Diagnosis, Row, Skipped
from nelbo.diagnosis.subject import Sibling, Subject
from nelbo.diagnosis.verdict import better, nearness, verdict
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.workers import Run

MAX_NFE = 2000
"""Network evaluations that a diagnosis spends at most, where nothing else is asked for."""
EXAMPLES = 512
"""Examples that are looked at, at most."""


def diagnose(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    max_nfe: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
) -> Diagnosis:
    """Rank the model as declared among its siblings, each of which declares one thing otherwise.

    max_nfe: most network evaluations (2000). condition: keywords of the network, one row an example. run: device,
    precision, batches, seed, progress; a state and several workers are not for this.
    Errors: those of `evaluate`; UsageError where max_nfe is too small to look at every sibling once.
    """
    started = time.perf_counter()
    run, limit = run or Run(), MAX_NFE if max_nfe is None else max_nfe
    if limit < 1:
        raise UsageError(f"max_nfe={max_nfe}", f"give a number of evaluations, such as {MAX_NFE}")
    prepared = prepare(model, data, dataclasses.replace(run, state=None), condition=condition)
    subject = _looked_at(prepared, run.seed)
    device = prepared.chain.device
    answers, runner = Answers(), Runner(dataclasses.replace(run, state=None, progress=None), model.domain.dimensions)
    remembers = hasattr(subject.model.denoiser, "net")

    def spent() -> int:
        return answers.nfe if remembers else runner.nfe

    def done() -> None:
        if run.progress is not None:
            run.progress(spent(), limit)

    with subject.model.denoiser.inference():
        plain = subject.chain(run.seed, device)
        checks = [*looks.of_network(plain), *looks.of_data(plain)]
        answers.nfe += looks.COST
        if remembers:
            net = functools.partial(Remembering, answers=answers)
            subject = subject.with_denoiser(with_net(subject.model.denoiser, net))
        untrained = any(check.name == "first level" and not check.ok for check in checks)
        candidates, skipped = _candidates(subject, answers, run.seed, device, untrained)
        follow = functools.partial(_following, subject, run.seed, device)
        candidates = contest.run(candidates, runner, spent, limit, run.seed, done, follow)
    rows = _rows(candidates, model.domain.dimensions)
    skipped += [Skipped(c.sibling.name, c.failure) for c in candidates if c.sibling and c.failure and not c.values]
    checks += looks.of_conditions(candidates)
    claims = prepared.claims()
    return Diagnosis(
        rows=tuple(rows),
        verdict=verdict(rows, checks, nearness(candidates, model.domain.dimensions)),
        checks=tuple(checks),
        skipped=tuple(skipped),
        unit=_unit(subject),
        nfe_total=spent(),
        max_nfe=limit,
        examples=len(prepared.examples),
        dimensions=model.domain.dimensions,
        seed=run.seed,
        precision=claims["precision"],
        data=claims["data"],
        model=claims["model"],
        description=claims["description"],
        version=__version__,
        seconds=time.perf_counter() - started,
    )


def _looked_at(prepared: Prepared, seed: int) -> Subject:
    """Model, data and condition of at most `EXAMPLES` examples, in the run's precision."""
    chain = prepared.chain
    rows = Purpose.DIAGNOSIS_EXAMPLES.permutation(seed, chain.examples)[:EXAMPLES].sort().values
    condition = {name: values[rows] for name, values in chain.condition.items()}
    data = chain.data_of(rows).cpu()
    lattice = None if chain.model.domain.discrete else lattices.of_values(lattices.sample(data))
    # the density of values a step apart, times the step, is about the mass of a value
    nats = 0.0 if lattice is None else -chain.dimensions * math.log(lattice.step)
    return Subject(chain.model, data, condition, nats)


def siblings(subject: Subject, answers: Answers, seed: int, untrained: bool = False) -> list[Sibling]:
    """Everything that is declared otherwise, one thing at a time. untrained: whether the first level seems to be."""
    found = [s for kind in (outputs, times, schedules, domains) for s in kind.siblings(subject)]
    return [*found, *steps.siblings(subject, untrained), *conditions.siblings(subject, answers, seed)]


def _candidates(
    subject: Subject, answers: Answers, seed: int, device: torch.device, untrained: bool
) -> tuple[list[Candidate], list[Skipped]]:
    """What was declared, then its siblings; and those that cannot be made."""
    chain = subject.chain(seed, device)
    made = [Candidate(None, chain, subject.nats, _density(chain))]
    skipped = []
    for sibling in siblings(subject, answers, seed, untrained):
        try:
            other = sibling.of(subject)
            chain = other.chain(seed, device)
            made.append(Candidate(sibling, chain, other.nats, _density(chain, made[0])))
        except contest.FAILURES as error:
            skipped.append(Skipped(sibling.name, first_sentence(error)))
    return made, skipped


def _density(chain: GaussianChain, declared: Candidate | None = None) -> Tensor:
    """The density of draws along a chain: the declared one's where the chain is the same, so that draws are, too."""
    if declared is not None and len(chain.cells) == len(declared.p):
        place = declared.chain.cells.place
        if torch.allclose(chain.cells.place, place):
            return declared.p
    return draws.density(chain) if len(chain.cells) else torch.zeros(0, dtype=torch.float64)


def _following(subject: Subject, seed: int, device: torch.device, candidate: Candidate) -> Candidate | None:
    """The declaration that one brings along; None where there is none, or where it cannot be made."""
    sibling = candidate.sibling.following() if candidate.sibling is not None else None
    if sibling is None:
        return None
    try:
        other = sibling.of(subject)
        chain = other.chain(seed, device)
        return Candidate(sibling, chain, other.nats, _density(chain), followed=candidate)
    except contest.FAILURES:
        return None


def _rows(candidates: list[Candidate], D: int) -> list[Row]:
    """The rows: the declaration that the verdict names, others by their bounds, then choices and controls.

    A declaration that left early is placed by its difference to the best of those that were tried to the end, whose
    own value is known well; a chain that was brought along is a choice unless the times that brought it are better.
    """
    declared = candidates[0]
    last = max(max(candidate.values, default=-1) for candidate in candidates)
    finished = [c for c in candidates if last in c.values and c.followed is None]
    best = min(finished, key=lambda c: c.pooled()[0])
    of_best, to_declared = best.pooled(), best.difference(declared)
    rows = {}
    for one in candidates:
        if not one.values and one is not declared:
            continue
        ended = last in one.values
        value, variance = one.pooled() if ended else _sum(of_best, one.difference(best))
        change = one.difference(declared) if ended else _sum(to_declared, one.difference(best))
        if one is declared and one.values:
            change = 0.0, 0.0
        row = Row(
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
        rows[one.name] = row
        if one.followed is not None and not better(rows[one.followed.name]):
            rows[one.name] = dataclasses.replace(row, kind="choice")
    order = {"declared": 0, "declaration": 0, "choice": 1, "control": 2}
    ranked = sorted(rows.values(), key=lambda row: (order[row.kind], math.isnan(row.bits_per_dim), row.bits_per_dim))
    first = next((row for row in ranked if row.kind == "declaration" and row.complete and better(row)), None)
    return ranked if first is None else [first, *(row for row in ranked if row is not first)]


def _sum(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


def _unit(subject: Subject) -> str:
    if subject.model.domain.discrete:
        return "bits/dim"
    return "bits/dim (density)" if subject.nats == 0 else "bits/dim (density × step)"
