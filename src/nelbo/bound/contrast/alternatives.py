"""What is contrasted: conditions of one model, or models. They share places and noise of every draw."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import check_finite
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import ShapeError, UsageError
from nelbo.model.calling import condition_rows
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Conditions:
    """What is contrasted. name: of the keyword. shown: a name for every one of the C. rows: the keywords' values,
    (C, …) each. absent (C,): those for which the network is called without them."""

    name: str
    shown: tuple[Any, ...]
    rows: dict[str, Tensor]
    absent: Tensor

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[Any] | Tensor | Mapping[str, Any],
        shown: Sequence[Any] | None = None,
    ) -> Conditions:
        """From the values of one keyword, with None for a call without it; or from the rows of several keywords. shown:
        names for them.

        Errors: UsageError where there are none or they are no numbers, ShapeError where they differ in shape.
        """
        if isinstance(values, Mapping):
            lengths = {len(v) if v.dim() else 1 for v in condition_rows(values).values()}
            if len(lengths) != 1:
                raise ShapeError(f"keywords with {sorted(lengths)} rows", "give as many rows of each, one a condition")
            C = lengths.pop()
            rows = condition_rows(values, C, "conditions")
            return cls(name, tuple(range(C)), dict(rows), torch.zeros(C, dtype=torch.bool))
        listed = list(values)
        if not listed:
            raise UsageError("no conditions to contrast", "give values=range(10), say, or one row a condition")
        absent = torch.tensor([value is None for value in listed])
        given = [value for value in listed if value is not None]
        parts = _stacked(given) if given else torch.zeros(0)
        table = torch.zeros(len(listed), *parts.shape[1:], dtype=parts.dtype)
        table[~absent] = parts
        condition_rows({name: table}, len(listed), "conditions")
        names = [_shown(v, k) for k, v in enumerate(listed)] if shown is None else shown
        return cls(name, tuple(names), {name: table}, absent)

    def __len__(self) -> int:
        return len(self.absent)

    def first(self, examples: int) -> dict[str, Tensor]:
        """The first condition that is not absent as rows of so many examples; nothing where all are absent."""
        present = (~self.absent).nonzero()[:, 0]
        if not len(present):
            return {}
        return {name: rows[present[:1]].expand(examples, *rows.shape[1:]) for name, rows in self.rows.items()}


class Alternatives(ABC):
    """C ways to score the examples of a chain, whose noise they share."""

    chain: Problem

    @abstractmethod
    def __len__(self) -> int:
        """C."""

    @property
    @abstractmethod
    def first_differs(self) -> bool:
        """Whether the first level's term is not the same for all."""

    def exact(self, examples: Tensor) -> Tensor:
        """The exact terms of `examples` (n,) that the alternatives do not share, (n, C) nats."""
        return torch.zeros(len(examples), len(self), dtype=torch.float64)

    def prices(self, examples: Tensor) -> Tensor:
        """Network evaluations of a draw of `examples` (n,), (n, C)."""
        return torch.ones(len(examples), len(self), dtype=torch.long)

    @abstractmethod
    def nats(self, runner: Runner, draws: Draws, left: Tensor) -> Tensor:
        """The terms of `draws` (n,) for the alternatives that are `left` (n, C), (n, C) nats; nan elsewhere."""


@dataclass(frozen=True, eq=False)
class Chains(Alternatives):
    """Chains over the same examples, levels and seed: of several models, whose priors differ, or of one under several
    conditions."""

    chains: tuple[Problem, ...]
    priors_differ: bool = False

    @property
    def chain(self) -> Problem:  # type: ignore[override]
        """The first, whose cells and examples are those of all."""
        return self.chains[0]

    def __len__(self) -> int:
        return len(self.chains)

    @property
    def first_differs(self) -> bool:
        """Unless no first level asks the network, and all decoders are the same."""
        decoders = [chain.model.decoder.to_config() for chain in self.chains if isinstance(chain, GaussianChain)]
        return any([*(chain.first_cost for chain in self.chains), *(d != decoders[0] for d in decoders)])

    def exact(self, examples: Tensor) -> Tensor:
        if not self.priors_differ:
            return super().exact(examples)
        return torch.stack([chain.prior(examples) for chain in self.chains], 1)

    def nats(self, runner: Runner, draws: Draws, left: Tensor) -> Tensor:
        values = torch.full(left.shape, float("nan"), dtype=torch.float64)
        for c, chain in enumerate(self.chains):
            rows = left[:, c].nonzero()[:, 0]
            values[rows, c] = runner.nats(chain, draws.take(rows))
        return values


@dataclass(frozen=True, eq=False)
class UnderConditions(Alternatives):
    """Conditions of a model of a Gaussian chain: rows of the network's keywords, (C, …) each, besides the chain's own
    condition, which has a row an example. absent (C,): those for which the network is called without them."""

    chain: GaussianChain  # type: ignore[assignment]
    rows: Condition
    absent: Tensor

    def __len__(self) -> int:
        return len(self.absent)

    @property
    def first_differs(self) -> bool:
        return self.chain.first_cost > 0

    def nats(self, runner: Runner, draws: Draws, left: Tensor) -> Tensor:
        of, which = left.nonzero(as_tuple=True)
        cost = self.chain.first_cost if draws.cells is None else self.chain.cell_cost
        values = torch.full(left.shape, float("nan"), dtype=torch.float64)
        values[of, which] = runner.rows(len(of), 1, cost, functools.partial(self._terms, draws, of, which))[:, 0]
        return values

    def _terms(self, draws: Draws, of: Tensor, which: Tensor, rows: Tensor) -> Tensor:
        """(b, 1): the draws of[rows] under the conditions which[rows]; what they have in common is made once."""
        which = which[rows]
        distinct, at = torch.unique_consecutive(of[rows], return_inverse=True)
        values = torch.empty(len(rows), 1, dtype=torch.float64)
        with torch.no_grad():
            noised = self.chain.noised(draws, distinct)
            for absent in (False, True):
                part = (self.absent[which] == absent).nonzero()[:, 0]
                if not len(part):
                    continue
                some = noised.take(at[part])
                condition = dict(self.chain.condition_of(some.examples))
                if not absent:
                    condition |= {name: given[which[part]].to(self.chain.device) for name, given in self.rows.items()}
                nats = self.chain.term(some, condition)[0]
                check_finite(nats[:, None], some)
                values[part, 0] = nats.cpu()
        return values


def _stacked(values: list[Any]) -> Tensor:
    try:
        tensors = [torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else torch.as_tensor(v) for v in values]
        return torch.stack([tensor.to(torch.result_type(tensor, tensors[0])) for tensor in tensors])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"of the conditions {str(values)[:80]} no tensor can be made: {error}",
            "give numbers, or rows of one shape; classes are numbers in the order of the training",
        ) from None


def _shown(value: Any, k: int) -> Any:
    """A number as it is, None as it is; a row by its place."""
    if value is None:
        return None
    tensor = torch.as_tensor(value)
    return tensor.item() if tensor.dim() == 0 else k
