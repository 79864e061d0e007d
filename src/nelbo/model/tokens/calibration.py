"""What is fitted to a network over symbols after its training: a log-linear law of its own and of an n-gram's.

    log p′(k) = β(u) log p(k) + b_k + γ_c log p̂(k) − log Z,        β(u) = a_0 + a_1 (2u − 1) + a_2 (6u² − 6u + 1)

at every place by itself: p is the law that the network gives, u the share of places that are hidden (of a kernel
without a mask the share of noise, 1 − α), 1/β a temperature, b a bias of each symbol, and p̂ the law of an n-gram given
the pattern c of those of four neighbours that are visible. Z makes it a law again, so that the chain is bounded,
sampled and coded as before. What the network gives probability 0 keeps it.
(Guo et al. 2017, "On calibration of modern neural networks", §4, for temperature and bias; Klakow 1998, "Log-linear
interpolation of language models".)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from nelbo.errors import DomainError
from nelbo.model.tokens.ngrams import LARGEST, PATTERNS, NGrams
from nelbo.parts import Part
from nelbo.process.tokens import counts

COEFFICIENTS = 3
"""Most of β."""
LEAST = 1e-3
"""Of β: a law is never turned round."""
_PLACES = 4
"""Neighbours of a pattern."""


@dataclass(frozen=True, eq=False)
class NGramTable(Part, family="ngrams", kind="hashed"):
    """`NGrams` as a file holds them, by their counts that are not 0. unigram (V,); contexts, joints (2, n) int32: entry
    in the tables, one after the other, and count. size: of one table; sequences: so many were counted."""

    offsets: tuple[int, ...]
    size: int
    sequences: int
    unigram: Tensor
    contexts: Tensor
    joints: Tensor
    limits: ClassVar[dict[str, int]] = {"size": LARGEST}

    def __post_init__(self):
        inside = len(self.offsets) == _PLACES and self.size > 0 and self.size & (self.size - 1) == 0
        inside &= self.unigram.ndim == 1 and self.unigram.dtype == torch.int64 and int(self.unigram.min()) >= 0
        for name in ("contexts", "joints"):
            table = getattr(self, name)
            if table.ndim != 2 or len(table) != 2 or table.dtype != torch.int32:
                inside = False
            elif table.numel():
                inside &= int(table.min()) >= 0 and int(table[0].max()) < PATTERNS * self.size
        if not inside:
            raise DomainError(
                f"a table of n-grams with offsets {self.offsets} and entries of {self.size}",
                "it has four offsets, a size that is a power of 2, and counts in it",
            )

    @classmethod
    def of(cls, x: Tensor, vocabulary: int) -> NGramTable:
        """Counted in sequences x (N, L) int64."""
        made = NGrams.fit(x, torch.ones_like(x, dtype=torch.bool), vocabulary, own=0)
        sparse = [_sparse(table) for table in (made.contexts, made.joints)]
        return cls(made.offsets, made.contexts.shape[1], len(x), made.unigram, *sparse)

    @cached_property
    def tables(self) -> NGrams:
        """As they are looked up."""
        dense = []
        for table in (self.contexts, self.joints):
            flat = torch.zeros(PATTERNS * self.size, dtype=torch.int32)
            flat[table[0].long()] = table[1]
            dense.append(flat.reshape(PATTERNS, self.size))
        return NGrams(self.offsets, self.unigram, *dense, own=0)

    @property
    def bytes(self) -> int:
        """Of its tensors in a file."""
        return sum(t.numel() * t.element_size() for t in (self.unigram, self.contexts, self.joints))


def _sparse(table: Tensor) -> Tensor:
    flat = table.flatten()
    entries = flat.nonzero()[:, 0]
    return torch.stack([entries.int(), flat[entries]])


class Surroundings(NamedTuple):
    """Of m places: the share of noise (m,), and where there are n-grams the pattern (m,) of visible neighbours and the
    symbols (m, 4) there."""

    share: Tensor
    pattern: Tensor | None = None
    neighbours: Tensor | None = None

    def take(self, rows: slice) -> Surroundings:
        """Those of some of the places."""
        return Surroundings(*(None if v is None else v[rows] for v in self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Calibration(Part, family="calibration", kind="log_linear"):
    """See the module. coefficients (1 to 3,): a; bias (V,): b, 0 where None; weights (16,): γ of the patterns, with
    `ngrams`; neither, or both."""

    coefficients: Tensor
    bias: Tensor | None = None
    weights: Tensor | None = None
    ngrams: NGramTable | None = None

    def __post_init__(self):
        for name in ("coefficients", "bias", "weights"):
            given = getattr(self, name)
            if given is None:
                continue
            values = torch.as_tensor(given, dtype=torch.float64)
            if values.ndim != 1 or not bool(torch.isfinite(values.detach()).all()):
                raise DomainError(
                    f"{name} of a calibration, of shape {tuple(values.shape)}", "give finite numbers (n,)"
                )
            object.__setattr__(self, name, values)
        wrong = not 1 <= len(self.coefficients) <= COEFFICIENTS or (self.weights is None) != (self.ngrams is None)
        if wrong or (self.weights is not None and len(self.weights) != PATTERNS):
            raise DomainError(
                "a calibration whose parts do not fit each other",
                f"give 1 to {COEFFICIENTS} coefficients, and {PATTERNS} weights where there are n-grams",
            )

    def check(self, vocabulary: int, masked: bool) -> None:
        """Errors: DomainError where it is one of another vocabulary, or has n-grams of a kernel without a mask."""
        sizes = [len(v) for v in (self.bias, None if self.ngrams is None else self.ngrams.unigram) if v is not None]
        if any(size != vocabulary for size in sizes):
            raise DomainError(f"a calibration of {sizes} symbols for a vocabulary of {vocabulary}", "they must agree")
        if self.ngrams is not None and not masked:
            raise DomainError("n-grams of noised symbols", "they are of the visible neighbours of masked places")

    def around(self, z: Tensor, hidden: Tensor, share: Tensor, places: Tensor) -> Surroundings:
        """Of the m places of `places` (B, L), for z and hidden (B, L) and the share of noise (B,)."""
        at = share.to(hidden.device)[:, None].expand(hidden.shape)[places]
        if self.ngrams is None:
            return Surroundings(at)
        offsets = self.ngrams.offsets
        symbols = torch.stack([counts.shifted(z, offset, False)[places] for offset in offsets], 1)
        return Surroundings(at, counts.patterns(hidden, offsets)[places], symbols)

    def law(self, log_p: Tensor, near: Surroundings) -> Tensor:
        """log p′ (m, V) of log p (m, V)."""
        return self.combined(log_p, near, self.foretold(near))

    def foretold(self, near: Surroundings) -> Tensor | None:
        """log p̂ (m, V) where there are n-grams, on the CPU."""
        if self.ngrams is None:
            return None
        assert near.pattern is not None and near.neighbours is not None  # as `around` makes them
        return self.ngrams.tables.log_law(near.pattern.cpu(), near.neighbours.cpu())

    def combined(self, log_p: Tensor, near: Surroundings, foretold: Tensor | None) -> Tensor:
        """The formula of the module; foretold: log p̂ (m, V)."""
        device, u = log_p.device, near.share.double()
        curve = torch.stack([torch.ones_like(u), 2 * u - 1, 6 * u * (u - 1) + 1][: len(self.coefficients)])
        beta = (self.coefficients.to(device)[:, None] * curve.to(device)).sum(0).clamp_min(LEAST)
        never = torch.isinf(log_p)
        mixed = beta[:, None] * log_p.double().masked_fill(never, 0.0)
        if self.bias is not None:
            mixed = mixed + self.bias.to(device)
        if self.weights is not None:
            assert foretold is not None and near.pattern is not None  # as there are n-grams
            gamma = self.weights.to(device)[near.pattern.to(device)]
            mixed = mixed + gamma[:, None] * foretold.to(device)
        return mixed.masked_fill(never, -torch.inf).log_softmax(-1)

    @property
    def numbers(self) -> int:
        """How many were fitted or counted."""
        return sum(v.numel() for v in self.to_tensors().values())
