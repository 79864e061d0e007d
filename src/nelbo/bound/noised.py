"""Draws where the network is asked, and their terms checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.errors import NumericalError
from nelbo.process.levels import Levels


class Noised(NamedTuple):
    """b draws where the network is asked: `examples` (b,) and `cells` (b,), None at the first level; their data as they
    are held, x, z_t and levels."""

    examples: Tensor
    cells: Tensor | None
    data: Tensor
    x: Tensor
    z: Tensor
    at: Levels

    def take(self, rows: Tensor) -> Noised:
        """The draws `rows`, which may repeat."""
        cells, there = self.cells, rows.to(self.x.device)
        return Noised(
            self.examples[rows], None if cells is None else cells[rows], self.data[there], self.x[there], self.z[there],
            self.at[there],
        )  # fmt: skip


def check_finite(values: Tensor, noised: Noised) -> None:
    """Errors: NumericalError where one of the values (b, …) of draws is not finite."""
    if not bool(torch.isfinite(values).all()):
        bad = int(noised.examples[(~torch.isfinite(values)).flatten(1).any(1).cpu().nonzero()[0, 0]])
        raise NumericalError(
            f"the {'reconstruction' if noised.cells is None else 'diffusion'} term of example {bad} is not finite",
            "the network returned NaN or infinity there, or the example has zero probability under the "
            "model; check its weights, its precision and the declared output (eps, x0, v)",
        )
