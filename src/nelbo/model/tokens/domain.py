"""Sequences of symbols: how many there are, how long a sequence is, and which of its places are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.parts import Part
from nelbo.typing import Json, Shape


@numbers
@dataclass(frozen=True, eq=False)
class TokenDomain(Part, family="token_domain", kind="tokens"):
    """Sequences x ∈ {0, …, V − 1}^L of V = `vocabulary` symbols, L = `length`.

    longest: where the network is one of sequences of any length up to this, each has a model of its own, and data of
    another length are those of that model.
    """

    vocabulary: int
    length: int
    longest: int | None = None
    limits: ClassVar[dict[str, int]] = {"vocabulary": 1 << 24, "length": 1 << 20, "longest": 1 << 30}

    def __post_init__(self):
        if self.vocabulary < 2 or self.length < 1:
            raise UsageError(
                f"sequences of {self.length} places with {self.vocabulary} symbols", "give at least 1 place, 2 symbols"
            )

    def of(self, data: Tensor) -> TokenDomain:
        """The domain of the length of `data` (N, L), where that is one of those up to `longest`; else this one."""
        if self.longest is None or data.ndim != 2 or not 1 <= data.shape[1] <= self.longest:
            return self
        return TokenDomain(self.vocabulary, data.shape[1], self.longest)

    @property
    def dimensions(self) -> int:
        """L."""
        return self.length

    @property
    def shape(self) -> Shape:
        """(L,)."""
        return (self.length,)

    def checked(self, data: Tensor) -> Tensor:
        """data (N, L) as int64. Errors: ShapeError; DomainError for what is no symbol."""
        if data.ndim != 2 or data.shape[1] != self.length:
            raise ShapeError(
                f"sequences of shape {tuple(data.shape)}",
                f"give (N, {self.length}) integers: one row a sequence, shorter ones padded and told apart by `mask`; "
                f"a text is cut so by text:FILE#length={self.length}"
                + ("" if self.longest is None else f"; the network takes sequences of up to {self.longest} places"),
            )
        return self.symbols(data)

    def symbols(self, data: Tensor) -> Tensor:
        """data (N, any) as int64. Errors: ShapeError; DomainError for what is no symbol."""
        if data.ndim != 2:
            raise ShapeError(f"sequences of shape {tuple(data.shape)}", "give (N, L) integers: one row a sequence")
        if not data.numel():
            raise ShapeError("no sequences", "give at least one")
        if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise DomainError(f"symbols as {data.dtype}", "give integers, one symbol a place")
        data = data.long()
        low, high = int(data.min()), int(data.max())
        if low < 0 or high >= self.vocabulary:
            raise DomainError(
                f"symbols from {low} to {high} for a vocabulary of {self.vocabulary}",
                f"symbols are 0 … {self.vocabulary - 1}; check the tokenizer that they come from",
            )
        return data


def first_places(data: Tensor, count: int) -> Tensor:
    """Bools (N, L): the first `count` places of every sequence. Errors: UsageError."""
    L = data.shape[1]
    if isinstance(count, bool) or not 0 <= count < L:
        raise UsageError(f"prompt={count} of sequences of {L} places", f"give a number from 0 to {L - 1}")
    return (torch.arange(L) < count).expand(data.shape)


def check_same_symbols(trained: Json, given: Json, name: str) -> None:
    """Errors: UsageError where facts of data say that symbols stand for something else than in a model's training: the
    same numbers would be other characters, and no bound would show it."""
    for key in ("tokenizer", "alphabet", "tokenizer_fingerprint"):
        one, other = trained.get(key), given.get(key)
        if key == "tokenizer" and "tokenizer_fingerprint" in trained and "tokenizer_fingerprint" in given:
            continue  # a path
        if one is None or other is None or (one == other if key != "alphabet" else set(one) == set(other)):
            continue
        what = {"alphabet": f"{len(one)} and {len(other)} characters"}.get(key, f"{one} and {other}")
        raise UsageError(
            f"the symbols of the model's training and those of {name} differ in their {key.replace('_', ' ')}: {what}",
            "read the text by the symbols of the training: #tokenizer=chars#alphabet=FILE with the text that it was "
            "trained on, or the same #tokenizer",
        )


@equation("token-prompt")
def scored_places(data: Tensor, prompt: Tensor | int | None, mask: Tensor | None) -> Tensor:
    """The places (N, L) that are noised and scored: those of `mask` (all where None) without those of `prompt` (a
    number: so many at the beginning).

    Errors: ShapeError, DomainError where a sequence has none.
    """
    scored = torch.ones_like(data, dtype=torch.bool)
    for name, given in {"prompt": prompt, "mask": mask}.items():
        if given is None:
            continue
        places = first_places(data, given) if isinstance(given, int) else torch.as_tensor(given)
        if places.shape != data.shape or places.dtype != torch.bool:
            raise ShapeError(
                f"{name} of shape {tuple(places.shape)} and type {str(places.dtype).removeprefix('torch.')}",
                f"give bools of the shape of the data, {tuple(data.shape)}: "
                + ("True where a place is given" if name == "prompt" else "True where a place is scored"),
            )
        scored &= ~places if name == "prompt" else places
    if not bool(scored.any(1).all()):
        raise DomainError(
            f"sequence {int((~scored.any(1)).nonzero()[0, 0])} has no place that is scored",
            "leave out sequences that are wholly given or padded",
        )
    return scored
