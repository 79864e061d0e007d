"""Units of information: nats for one example, bits per dimension for people. The only place of log 2 in nelbo.

bits/dim = nats / (D log 2), with D the number of data dimensions (van den Oord et al. 2016, "Pixel recurrent neural
networks", section 5.1).
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from nelbo.errors import UsageError

Number = TypeVar("Number", float, Tensor)
LOG_2 = math.log(2.0)


def bits_per_dim(nats: Number, dimensions: int) -> Number:
    """nats / (D log 2) for examples of D = `dimensions` values; a float or a tensor of any shape. D < 1: UsageError."""
    return nats / (_checked(dimensions) * LOG_2)


def nats(bits_per_dim: Number, dimensions: int) -> Number:
    """bits/dim times D log 2, the inverse of `bits_per_dim`; a float or a tensor of any shape. D < 1: UsageError."""
    return bits_per_dim * (_checked(dimensions) * LOG_2)


def _checked(dimensions: int) -> int:
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
        raise UsageError(
            f"an example of {dimensions!r} dimensions", "give the number of values of one example, e.g. 3 * 32 * 32"
        )
    return dimensions
