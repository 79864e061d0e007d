"""From prompts and answers to what a contrast draws from: a chain for every answer, which hide the same positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.contrast.alternatives import Chains
from nelbo.bound.contrast.asked import Asked
from nelbo.bound.prepare import Setup
from nelbo.bound.problem import Draws
from nelbo.bound.runner import Runner
from nelbo.bound.tokens import evaluate as of_tokens
from nelbo.bound.tokens.options import OptionChain
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel
from nelbo.workers import Run


@dataclass(frozen=True, eq=False)
class Questions:
    """N prompts (n_i,) of symbols, C answers (m_ic,) to each, a name for every answer, and the number (N,) of the right
    ones, −1 where none is known."""

    name: str
    prompts: list[Tensor]
    answers: list[list[Tensor]]
    shown: tuple[object, ...]
    labels: Tensor | None

    @property
    def lengths(self) -> Tensor:
        """Symbols of every answer, (N, C)."""
        return torch.tensor([[len(a) for a in row] for row in self.answers])


@dataclass(frozen=True, eq=False)
class Options(Chains):
    """Answers: a draw is an order, which takes as many evaluations as the answer has steps."""

    chains: tuple[OptionChain, ...]

    def prices(self, examples: Tensor) -> Tensor:
        return torch.stack([chain.prices[examples] for chain in self.chains], 1)

    def nats(self, runner: Runner, draws: Draws, left: Tensor) -> Tensor:
        runner.count(int(((self.prices(draws.examples) - 1) * left).sum()))  # the runner counts one for each
        return super().nats(runner, draws, left)


def options_of(model: TokenModel, questions: Questions, run: Run | None) -> tuple[Asked, list[str]]:
    """The answers as alternatives, and notes: where a prompt and its longest answer do not fit into the model's
    sequences, the beginning of the prompt is left out, for all its answers. Errors: those of `OptionChain.of`."""
    most = model.domain.longest or model.domain.length
    over = [
        max(0, len(prompt) + max(map(len, row)) - most)
        for prompt, row in zip(questions.prompts, questions.answers, strict=True)
    ]
    prompts = [prompt[cut:] for prompt, cut in zip(questions.prompts, over, strict=True)]
    given = [len(prompt) for prompt in prompts]
    rows = [
        [torch.cat([prompt, row[c]]) for prompt, row in zip(prompts, questions.answers, strict=True)]
        for c in range(len(questions.shown))
    ]
    setup = Setup.of(model, torch.zeros(1, 1, dtype=torch.long), run)
    made, seed = setup.in_precision(), setup.run.seed
    chains = tuple(OptionChain.of(made, some, given, seed=seed, device=setup.device) for some in rows)
    one, place = chains[0], torch.arange(chains[0].data.shape[1])
    assert one.lengths is not None  # as of every chain of answers
    there = place < one.lengths[:, None]
    examples = Examples(one.data, questions.name, questions.labels, prompt=there & ~one.scored, mask=there)
    size = max(1, one.data.shape[1] * model.domain.vocabulary // of_tokens.SYMBOLS)
    prepared = Setup(setup.model, examples, setup.run).prepared(one.data, one, size)
    how = {"answers": repr([Examples(chain.data).fingerprint for chain in chains]), "given": repr(given)}
    notes = [f"the beginning of {sum(map(bool, over))} prompts is left out, to fit"] if any(over) else []
    asked = Asked(prepared, Options(chains), lambda runner: of_tokens.trial(one, runner), (one.model,), how)
    return asked, notes
