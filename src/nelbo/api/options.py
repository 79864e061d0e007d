"""What `contrast` is given where conditions are answers to prompts: texts or symbols, of any length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo import data as readers
from nelbo.bound.contrast.options import Questions
from nelbo.data import symbols
from nelbo.errors import UsageError
from nelbo.model.examples import Examples
from nelbo.model.tokens.model import TokenModel

ANSWER = "answer"
"""The condition whose values are answers."""


def questions(model: TokenModel, data: Any, answers: Any, labels: Any, limit: int | None) -> Questions:
    """Prompts and the answers to each. data: prompts, as texts or symbols (n,) in a list, or DATA of sequences, whose
    padding is no part of them. answers: C answers to every prompt, or C for each prompt in a list of lists; texts or
    symbols. labels: of every prompt the number of the right answer, −1 where none is.

    Errors: UsageError for what is neither text nor symbols, and for prompts with unequal numbers of answers.
    """
    name, known = "prompts", None
    if isinstance(data, (str, Path, Examples)):
        examples = readers.resolve(data, limit=limit)
        kept = torch.ones_like(examples.data, dtype=torch.bool) if examples.mask is None else examples.mask
        data, name, known = (
            [row[there] for row, there in zip(examples.data, kept, strict=True)],
            examples.name,
            examples,
        )
    prompts = [_symbols(model, prompt) for prompt in list(data)[:limit]]
    if not prompts:
        raise UsageError("no prompts", "give one or more")
    listed = _listed(answers)
    each = listed and not isinstance(listed[0], str) and any(_listed(a) and _nested(a) for a in listed)
    rows = [[_symbols(model, a) for a in _listed(some)] for some in listed[: len(prompts)]] if each else None
    if rows is None:
        common = [_symbols(model, a) for a in listed]
        rows = [common] * len(prompts)
    numbers = sorted({len(row) for row in rows})
    if len(rows) != len(prompts) or len(numbers) != 1 or not numbers[0]:
        raise UsageError(
            f"{len(prompts)} prompts with {len(rows)} lists of {' or '.join(map(str, numbers)) or 'no'} answers",
            "give as many answers to every prompt: C of them, or a list of C for each; contrast others by themselves",
        )
    shown = tuple(a if isinstance(a, str) else k for k, a in enumerate(listed)) if not each else range(numbers[0])
    if labels is None and known is not None:
        labels = known.labels
    return Questions(
        name, prompts, rows, tuple(shown), None if labels is None else numbers_of(labels, len(prompts), limit)
    )


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise UsageError(f"values={str(value)[:80]!r}", "give a list of answers, or one for every prompt")
    return list(value)


def _nested(value: Any) -> bool:
    """Whether it is a list of answers, and no answer: its first member is a text or has members."""
    return not isinstance(value, str) and any(isinstance(v, str) or np.ndim(v) > 0 for v in list(value)[:1])


def _symbols(model: TokenModel, given: Any) -> Tensor:
    if isinstance(given, str):
        known = symbols.of_facts(model.provenance.get("data", {}))
        if known is None:
            raise UsageError(
                f"the text {given[:40]!r}, and it is not known what the model's symbols stand for",
                "give symbols, or a model that was trained on text:FILE",
            )
        given = np.asarray(known.stream(given.encode(), "a prompt or answer").symbols, np.int64)
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(())
    if found.ndim != 1 or (found.is_floating_point() and len(found)):
        raise UsageError(f"a prompt or answer {str(given)[:60]}", "give a text, or whole numbers (n,)")
    return found.long()


def numbers_of(labels: Sequence[int] | Tensor, n: int, limit: int | None) -> Tensor:
    """Labels (n,). Errors: UsageError."""
    found = torch.as_tensor(labels)[:limit]
    if found.shape != (n,) or found.is_floating_point():
        raise UsageError(f"labels of shape {tuple(found.shape)} for {n} prompts", "give one whole number for each")
    return found.long()
