"""What is contrasted: the conditions of one chain. They share the noise of every draw, which is made once for all."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain, check_finite
from nelbo.bound.problem import Draws
from nelbo.bound.runner import Runner
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Alternatives:
    """C conditions under which examples are scored: rows of the network's keywords, (C, …) each, besides the chain's
    own condition, which has a row an example. absent (C,): those for which the network is called without them."""

    chain: GaussianChain
    rows: Condition
    absent: Tensor

    def __len__(self) -> int:
        return len(self.absent)

    def nats(self, runner: Runner, draws: Draws, left: Tensor) -> Tensor:
        """The terms of `draws` (n,) under the conditions that are `left` (n, C), (n, C) nats; nan elsewhere."""
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
