"""`diagnose`: which declaration of a network suits it best, by the bound that each would have at common noise."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nelbo._version import __version__
from nelbo.bound import lattices
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.prepare import Prepared, examples_of, prepare
from nelbo.bound.runner import Runner
from nelbo.diagnosis import conditions, domains, draws, halving, inspection, outputs, schedules, steps, times
from nelbo.diagnosis.cached import Cache, Cached, with_net
from nelbo.diagnosis.halving import Candidate, first_sentence
from nelbo.diagnosis.ranking import ranked
from nelbo.diagnosis.result import Diagnosis, Skipped
from nelbo.diagnosis.subject import Sibling, Subject
from nelbo.diagnosis.verdict import verdict
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.progress import tell, with_error
from nelbo.workers import Run

MAX_NFE = 2000
"""Network evaluations that a diagnosis spends at most, where nothing else is given."""
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
    data = examples_of(data)
    data.check_whole("a diagnosis", "its siblings are looked at by whole examples")
    prepared = prepare(model, data, dataclasses.replace(run, state=None), condition=condition)
    subject = _subject(prepared, run.seed)
    device, D = prepared.chain.device, model.domain.dimensions
    cache, runner = Cache(), Runner(dataclasses.replace(run, state=None, progress=None), D)
    cached = hasattr(subject.model.denoiser, "net")

    def spent() -> int:
        return cache.nfe if cached else runner.nfe

    def done() -> None:
        if run.progress is not None:
            if candidates[0].values:
                nats, variance = candidates[0].pooled()
                tell(
                    run.progress,
                    "as declared " + with_error(*(float(bits_per_dim(v, D)) for v in (nats, variance**0.5))),
                )
            run.progress(spent(), limit)

    with subject.model.denoiser.inference():
        plain = subject.chain(run.seed, device)
        checks = [inspection.of_answers(plain, runner), *inspection.of_output(plain), *inspection.of_data(plain)]
        runner.count(inspection.LEVELS * inspection.EXAMPLES)
        cache.nfe = runner.nfe
        if cached:
            net = functools.partial(Cached, cache=cache)
            subject = subject.with_denoiser(with_net(subject.model.denoiser, net))
        untrained = any(check.name == "first level" and not check.ok for check in checks)
        candidates, skipped = _candidates(subject, cache, run.seed, device, untrained)
        follow = functools.partial(_following, subject, run.seed, device)
        candidates = halving.run(candidates, runner, spent, limit, run.seed, done, follow)
    ranking = ranked(candidates, D)
    skipped += [Skipped(c.sibling.name, c.failure) for c in candidates if c.sibling and c.failure and not c.values]
    checks += inspection.of_conditions(candidates)
    claims = prepared.claims()
    return Diagnosis(
        rows=ranking.rows,
        verdict=verdict(ranking, checks),
        checks=tuple(checks),
        skipped=tuple(skipped),
        unit=_unit(subject),
        nfe_total=spent(),
        max_nfe=limit,
        examples=len(prepared.examples),
        dimensions=D,
        seed=run.seed,
        precision=claims["precision"],
        data=claims["data"],
        model=claims["model"],
        description=claims["description"],
        version=__version__,
        seconds=time.perf_counter() - started,
    )


def _subject(prepared: Prepared[DiffusionModel, GaussianChain], seed: int) -> Subject:
    """Model, data and condition of at most `EXAMPLES` examples, in the run's precision."""
    chain = prepared.chain
    rows = Purpose.DIAGNOSIS_EXAMPLES.permutation(seed, chain.examples)[:EXAMPLES].sort().values
    condition = {name: values[rows] for name, values in chain.condition.items()}
    data = chain.data_of(rows).cpu()
    lattice = None if chain.model.domain.discrete else lattices.of_values(lattices.sample(data))
    # the density of values a step apart, times the step, is about the mass of a value
    nats = 0.0 if lattice is None else -chain.dimensions * math.log(lattice.step)
    return Subject(chain.model, data, condition, nats)


def siblings(subject: Subject, cache: Cache, seed: int, untrained: bool = False) -> list[Sibling]:
    """Everything that is declared otherwise, one thing at a time. untrained: whether the first level seems to be."""
    others = [s for kind in (outputs, times, schedules, domains) for s in kind.siblings(subject)]
    return [*others, *steps.siblings(subject, untrained), *conditions.siblings(subject, cache, seed)]


def _candidates(
    subject: Subject, cache: Cache, seed: int, device: torch.device, untrained: bool
) -> tuple[list[Candidate], list[Skipped]]:
    """What was declared, then its siblings; and those that cannot be made."""
    chain = subject.chain(seed, device)
    made = [Candidate(None, chain, subject.nats, _density(chain))]
    skipped = []
    for sibling in siblings(subject, cache, seed, untrained):
        if sibling.indexes and ends_the_process(subject.model, device):
            skipped.append(Skipped(sibling.name, "a GPU does not survive an index past a table; try it on the CPU"))
            continue
        try:
            other = sibling.of(subject)
            chain = other.chain(seed, device)
            made.append(Candidate(sibling, chain, other.nats, _density(chain, made[0])))
        except halving.FAILURES as error:
            skipped.append(Skipped(sibling.name, first_sentence(error)))
    return made, skipped


def ends_the_process(model: DiffusionModel, device: torch.device) -> bool:
    """Whether a table of the network, looked up past its end on this device, leaves nothing to go on with."""
    return device.type != "cpu" and any(isinstance(module, nn.Embedding) for module in model.denoiser.modules())


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
    except halving.FAILURES:
        return None


def _unit(subject: Subject) -> str:
    if subject.model.domain.discrete:
        return "bits/dim"
    return "bits/dim (density)" if subject.nats == 0 else "bits/dim (density × step)"
