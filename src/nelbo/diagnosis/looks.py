"""Looks at a model and its data that need no other declaration: chance, batch mates, output, conditions, ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import checks, contradictions, lattices, readings
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.diagnosis.contest import Candidate
from nelbo.diagnosis.result import Check
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition

LEVELS, EXAMPLES, ALONE = 4, 4, 2
COST = 2 * LEVELS * EXAMPLES + ALONE
"""Evaluations that `of_network` makes."""
SAME = 1e-5
"""Relative difference of two answers to one question from which they differ."""
MATES = 1e-3
"""The same of an answer alone and in a batch, where sums are added up in another order."""
UNTRAINED = 1.5
"""Error of x̂ at the first level over that of no network, from which the network was not trained there."""
SENSITIVE = 1e-4
"""Relative change of a term by another condition from which a network reads it."""


@dataclass(frozen=True, eq=False)
class Question:
    """A batch that is asked: x, z, levels and the condition, of LEVELS × EXAMPLES rows."""

    x: Tensor
    z: Tensor
    t: Levels
    condition: Condition

    @classmethod
    def of(cls, chain: GaussianChain) -> Question:
        """Examples of the chain at levels evenly along it."""
        rows = torch.arange(LEVELS * EXAMPLES) % chain.examples
        ends = chain.model.levels()
        if chain.cells.continuous:
            logsnr = ends.logsnr[0] + (ends.logsnr[-1] - ends.logsnr[0]) * torch.linspace(0, 1, LEVELS).double()
            levels = chain.model.schedule.at(chain.model.schedule.time_of(logsnr))
        else:
            levels = ends[torch.linspace(0, len(ends) - 1, LEVELS).round().long()]
        t = levels[torch.arange(LEVELS).repeat_interleave(EXAMPLES)].to(device=chain.device)
        x = chain.values(rows)
        shape = chain.model.domain.shape
        eps = Purpose.DIAGNOSIS_NOISE.normal(chain.seed, rows, 0, torch.arange(len(rows)), shape, device=chain.device)
        return cls(x, forward.noised(x, eps, t), t, chain.condition_of(rows))

    def answer(self, model: DiffusionModel, rows: slice | Tensor = slice(None)) -> Prediction:
        """The model's prediction at these rows."""
        condition = {name: values[rows] for name, values in self.condition.items()}
        with torch.no_grad():
            return model.predict(self.z[rows], self.t[rows], condition)


def of_network(chain: GaussianChain) -> list[Check]:
    """Whether answers are the same twice and alone, and whether the output is cut off. The chain's network must
    remember nothing. Costs `COST` evaluations."""
    question = Question.of(chain)
    first, second = (question.answer(chain.model) for _ in range(2))
    found = [_determined(first, second)]
    alone = [question.answer(chain.model, torch.tensor([i])).x0 for i in (0, len(question.x) - 1)][:ALONE]
    found.append(_independent(first.x0[torch.tensor([0, -1])], torch.cat(alone)))
    if chain.first_cost:
        found.append(_first_level(chain, question, first))
    denoiser = chain.model.denoiser
    if isinstance(denoiser, NetworkDenoiser) and first.output is not None:
        kept = readings.observed(question.x, question.z, first.x0, first.output)
        notes = contradictions.cut_off(denoiser, {0: kept}, chain.dimensions)
        found.append(Check("output", not notes, notes[0] if notes else "not cut off at a largest or smallest value"))
    return found


def _determined(first: Prediction, second: Prediction) -> Check:
    moved = _relative(first.x0, second.x0)
    if moved <= SAME:
        return Check("determinism", True, "the same question has the same answer")
    return Check(
        "determinism",
        False,
        f"the network answers the same question differently, by {moved:.2g} of x̂: dropout is active, or it draws "
        "random numbers; put it into evaluation mode",
    )


def _independent(batch: Tensor, alone: Tensor) -> Check:
    moved = _relative(batch, alone)
    if moved <= MATES:
        return Check("batch mates", True, "an example is answered alone as it is in a batch")
    return Check(
        "batch mates",
        False,
        f"the network answers an example differently in other company, by {moved:.2g} of x̂: statistics of the batch "
        "are in use; put it into evaluation mode",
    )


def _first_level(chain: GaussianChain, question: Question, answer: Prediction) -> Check:
    """Whether x̂ at the first level is nearer to x than z/α is."""
    rows = slice(0, EXAMPLES)
    error = (question.x[rows] - answer.x0[rows]).square().mean()
    ratio = float(error * question.t.logsnr[0].exp())
    text = f"there the error of x̂ is {ratio:.2g} of that of z/α, which is the prediction of no network"
    if ratio < UNTRAINED:
        return Check("first level", True, text)
    return Check("first level", False, f"the network is worse than none at the first level: {text}")


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt() / one.square().mean().sqrt().clamp_min(1e-12))


def of_data(chain: GaussianChain) -> list[Check]:
    """Whether the data fill the lattice that is declared, and whether the chain ends at its prior."""
    domain = chain.model.domain
    notes = lattices.notes(domain, chain.data)
    fine = f"the codes may well be of {domain.bins} levels" if domain.discrete else "the values are no codes"
    found = [Check("bins", not notes, notes[0] if notes else fine)]
    prior = float(bits_per_dim(float(chain.priors().mean()), chain.dimensions))
    text = f"the prior term is {prior:.4g} bits/dim"
    ended = prior <= checks.PRIOR
    return [*found, Check("terminal level", ended, text if ended else f"the chain does not end at its prior: {text}")]


def of_conditions(candidates: list[Candidate]) -> Iterator[Check]:
    """Whether the rows of a condition belong to their examples, from the declarations that give them to others.

    With Δ the change of x̂ and w the weight of a term, other rows cost m = w‖Δ‖² on average if the network's prediction
    is a posterior mean given the right ones, and the square of a paired difference is on average m² + 4 m c with c the
    term over D. So much is expected of rows that belong, and 0 of rows in any other order.
    """
    declared = candidates[0]
    for candidate in candidates[1:]:
        if candidate.sibling is None or not candidate.sibling.control or not candidate.values:
            continue
        keyword = next(iter(candidate.sibling.declaration["condition"]))
        common = sorted(candidate.values.keys() & declared.values.keys())
        pairs = [(candidate.values[count], declared.values[count]) for count in common]
        if not pairs:
            continue
        change = torch.cat([(mine.along - theirs.along).flatten() for mine, theirs in pairs])
        term = torch.cat([theirs.along.flatten() for _, theirs in pairs])
        size = float(change.square().mean().sqrt() / term.square().mean().sqrt().clamp_min(1e-300))
        if size < SENSITIVE:
            yield Check(f"condition {keyword}", True, "the network does not read it")
            continue
        mean, error = float(change.mean()), float(change.std()) / math.sqrt(len(change))
        D = declared.chain.dimensions
        c = term / D
        expected = float(((4 * c.square() + change.square()).sqrt() - 2 * c).mean())
        cost, se, due = (float(bits_per_dim(v, D)) for v in (mean, error, expected))
        if mean > 0.25 * expected or mean > 3 * error or expected < 4 * error:
            yield Check(f"condition {keyword}", True, f"rows of other examples cost {cost:+.3f} ± {se:.3f} bits/dim")
        else:
            yield Check(
                f"condition {keyword}",
                False,
                f"rows of {keyword} that belong to other examples cost {cost:+.3f} ± {se:.3f} bits/dim, where about "
                f"{due:.2f} is expected of a network that reads them: the rows are in another order than the examples, "
                "or count from another number",
            )
