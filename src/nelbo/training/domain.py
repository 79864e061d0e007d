"""The domain of a model that is to be trained on given examples, and the classes that its network takes."""

from __future__ import annotations

from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model import float_codes
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.training.config import TrainConfig
from nelbo.typing import Json, Shape

ROUNDING = 1e-12
"""Of a sum of equal float64 numbers, relative."""


def domain_of(examples: Examples, settings: TrainConfig, rows: Tensor | None) -> DataDomain:
    """The domain of the examples under `settings`; rows: those trained on. Errors: UsageError where they do not fit."""
    shape = tuple(examples.data.shape[1:])
    if settings.standardise and not examples.data.is_floating_point():
        raise UsageError(
            f"standardise = true was set, but {examples.name} holds integer codes",
            "leave it out: the values of codes follow from their range; or give the numbers as floats",
        )
    if settings.standardise:
        return _standardised(shape, examples, rows)
    if examples.data.is_floating_point():
        if settings.bins is not None:
            raise UsageError(
                f"bins = {settings.bins} was set, but {examples.name} holds real numbers",
                "give integer codes 0..K−1, or leave bins out to train a density",
            )
        line = float_codes.line(examples.data, 256, whole=examples.data.ndim > 2)
        if line is not None:
            raise UsageError(
                f"{examples.name} holds real numbers that are codes of 256 values; a density of them has no bound",
                f"give x = {line}; or, for a density, add noise of the width of a code",
            )
        return DataDomain(shape)
    bins = settings.bins or examples.bins
    if bins is None:
        largest = int(examples.data.max())
        raise UsageError(
            f"the number of bins of {examples.name} is not known: its codes run to {largest}",
            f"give it: bins=256, or bins={max(1, largest) + 1} if no code is larger in any data",
        )
    return DataDomain(shape, bins)


def classes_of(examples: Examples, settings: TrainConfig) -> Json:
    """Settings of a network that takes the labels of the examples, where that is asked for."""
    if settings.condition is None or examples.labels is None:
        return {}
    return {"classes": max(int(examples.labels.max()) + 1, len(examples.classes)), "keyword": settings.condition}


def _standardised(shape: Shape, examples: Examples, rows: Tensor | None) -> DataDomain:
    """The domain of real data with the mean and the standard deviation of every column, over what is trained on."""
    data = DataDomain(shape).checked(examples.data).double()
    data = data if rows is None else data[rows]
    mean, scale = data.mean(0), data.std(0, unbiased=False)
    constant = (scale <= ROUNDING * (1 + mean.abs())).flatten().nonzero()
    if len(constant):
        raise UsageError(
            f"standardise: column {int(constant[0])} of the examples of {examples.name} does not vary, so that they "
            "have no density",
            "remove that column, or leave standardise out",
        )
    return DataDomain(shape, mean=mean, scale=scale)
