"""A chain over hidden places whose bound is known at any length: a Markov chain with its exact network."""

from __future__ import annotations

import dataclasses
import functools

import torch

from nelbo.bound.tokens.masked import MaskedChain
from tests.model.tokens import checks

LENGTH = 24


@functools.cache
def data() -> torch.Tensor:
    return checks.markov(LENGTH).sample(120, seed=5)


def markov(seed: int = 0) -> MaskedChain:
    chain = MaskedChain(checks.markov(LENGTH).model(), data(), torch.ones_like(data()).bool(), seed=seed)
    return dataclasses.replace(chain, all_hidden=chain.ask_all_hidden())


def diffusion() -> float:
    """The mean of −log p(x), without the step from all places hidden, which is exact."""
    last = markov().last_step(torch.arange(len(data())))
    return float((-checks.markov(LENGTH).log_prob(data()) - last).mean())
