"""The control and the features of a chain over hidden places: what its places are foretold to cost.

For M uniform among the subsets of its size, or a place and independent others, and any function f(place, pattern of
visible neighbours),

    E[ mean of f over M ] = (1/n) Σ_i Σ_p P(pattern p around i | i ∈ M) f(i, p)

in closed form (`counts.pattern_probabilities`, `counts.independent_probabilities`). So the mean of f over M less this
is a control of mean zero, whatever f, and the expectation itself foretells the term of the sequence along the chain. f
is `PlaceFit.foretold`, of costs by n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.tokens.place_fit import PlaceFit
from nelbo.model.tokens.ngrams import PATTERNS, NGrams

COLUMNS = 1
KNOWN = 1 << 17
"""Most places whose costs are kept, of 128 bytes each."""
_LEFT = 1
"""The pattern of the first neighbour alone."""
_LEAST = 0.05
"""Least expected error of a sequence, of the mean one's: the fit may extrapolate to less than nothing."""


@dataclass(frozen=True, eq=False)
class TokenControls:
    """Tables of n-grams, and what was fitted by them to the pilot's draws; None before. known (N, L, 16): what `nll`
    says of all data, where they are few: draws ask for each sequence several times."""

    tables: NGrams
    fit: PlaceFit | None = None
    known: Tensor | None = None

    @classmethod
    def of(cls, tables: NGrams, data: Tensor) -> TokenControls:
        """Before the pilot, for sequences `data` (N, L)."""
        return cls(tables, known=tables.nll(data) if data.numel() <= KNOWN else None)

    def nll(self, data: Tensor, examples: Tensor) -> Tensor:
        """`NGrams.nll` of the `examples` (b,) of the data, (b, L, 16)."""
        return self.tables.nll(data[examples]) if self.known is None else self.known[examples]


def column(foretold: Tensor, pattern: Tensor, scored: Tensor, hidden: Tensor, probabilities: Tensor) -> Tensor:
    """The mean (B,) of f over the hidden places less its expectation, for f (B, L, 16), patterns, scored and hidden
    places (B, L), and the probabilities (B, L, 16) of patterns around a scored place, which is hidden."""
    here = foretold.gather(-1, pattern[..., None])[..., 0]
    mean = (here * hidden).sum(1) / hidden.sum(1)
    return mean - expectation(foretold, scored, probabilities)


def expectation(foretold: Tensor, scored: Tensor, probabilities: Tensor) -> Tensor:
    """(1/n) Σ_i Σ_p P f, (B,)."""
    if len(foretold) and not probabilities.stride(0):  # those of all rows are one
        return foretold.flatten(1) @ probabilities[0].flatten() / scored.sum(1)
    return (probabilities * foretold).sum((1, 2)) / scored.sum(1)


def features(nll: Tensor, scored: Tensor) -> Tensor:
    """Mean costs (n, 3) of the scored places given no neighbour, one, and all, of nll (n, L, 16); and how many
    they are."""
    means = (nll[..., [0, _LEFT, PATTERNS - 1]] * scored[..., None]).sum(1) / scored.sum(1, keepdim=True)
    return torch.cat([means, scored.sum(1, keepdim=True).double()], 1)


def expected_errors(means: Tensor, number: Tensor) -> Tensor:
    """Expected errors (n, E) from mean costs of a place (n, E) at E places along the chain: in proportion to them and
    to the number (n,) of places, and above zero."""
    errors = means * number[:, None]
    return torch.maximum(errors, _LEAST * errors.mean(0).clamp_min(1e-12))
