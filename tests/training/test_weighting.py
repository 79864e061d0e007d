"""Weightings: what is monotone, and what they are refused for. Their formulas are checks of the catalogue."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.errors import UsageError
from nelbo.training.weighting import EDMMonotone, Flat, MinSNR, Sigmoid, Weighting, augmentation_level

LAMBDA = torch.linspace(-9, 11, 201, dtype=torch.float64)
MONOTONE = [Flat(), Sigmoid(-1.0), Sigmoid(2.0), EDMMonotone()]


def test_monotone() -> None:
    """w falls, and is between 0 and 1."""
    for w in MONOTONE:
        value = w(LAMBDA)
        assert w.monotone and bool((value.diff() <= 1e-15).all())
        assert float(value.max()) <= 1 and float(value.min()) >= 0


def test_the_bound_adds_no_noise() -> None:
    assert bool((augmentation_level(Flat(), torch.rand(50), 6.0, -5.0) == 6.0).all())


def test_only_monotone_weightings_are_mixtures():
    with pytest.raises(UsageError, match="falls in log-SNR"):
        augmentation_level(MinSNR(), torch.rand(3), 6.0, -5.0)


@pytest.mark.parametrize("make", [lambda: Sigmoid(math.nan), lambda: MinSNR(0.0), lambda: MinSNR(math.inf)])
def test_refusals(make):
    with pytest.raises(UsageError):
        make()


def test_every_weighting_is_here():
    assert {type(w) for w in MONOTONE} | {MinSNR} == set(Weighting.__subclasses__())
