"""The result of `likelihood_profile`: the curve, its minimum, and intervals for the parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo.bound.contrast.curve import Curve, Minimum
from nelbo.documents import frames, html, plots, tables
from nelbo.documents.document import Document
from nelbo.documents.numbers import in_short, number, without_nan
from nelbo.documents.reading import filled
from nelbo.errors import UsageError
from nelbo.typing import Json

SCHEMA = "nelbo.profile/1"


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Document):
    """Of N observations and J values of a parameter, in nats:

    grid (J,) the values, values (J,) the summed bound less its least one; covariance (J, J) of these sums by Monte
    Carlo, but for what all values share. curves (N, J): of single observations, less their value at the least sum.
    """

    schema: ClassVar[str] = SCHEMA
    command: ClassVar[str] = "`nelbo.likelihood_profile(…).save(path)`"
    parameter: str
    grid: Tensor
    values: Tensor
    covariance: Tensor
    curves: Tensor
    examples: int
    nfe_total: int
    tolerance: float
    precision: str
    seed: int
    data: Json
    model: Json
    description: Json
    version: str
    warnings: tuple[str, ...]
    seconds: float
    overrides: Json = field(default_factory=dict)
    """What the user chose in the place of the model's own."""

    @cached_property
    def _least(self) -> Minimum:
        return self._curve.minimum()

    @property
    def _curve(self) -> Curve:
        return Curve(self.grid.numpy(), self.values.numpy())

    @property
    def maximum(self) -> float:
        """θ̂: where the bound of the likelihood is greatest; an end of the grid where it rises towards it."""
        return self._least.place

    @property
    def information(self) -> float:
        """The observed information −(log L)″(θ̂), by the bound; nan at an end of the grid."""
        return self._least.information

    @property
    def standard_error(self) -> float:
        """Of θ̂ by the data, 1/√information."""
        return self.information**-0.5

    @property
    def monte_carlo_error(self) -> float:
        """Of θ̂ by the draws: √(wᵀ covariance w)/information, w the weights of the values in the curve's slope."""
        w = torch.from_numpy(self._least.weights)
        return float((w @ self.covariance @ w).clamp_min(0).sqrt()) / self.information

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """θ with 2 (S(θ) − S(θ̂)) ≤ χ²: the likelihood-ratio interval, widened by the Monte Carlo error of θ̂; infinite
        ends where the curve does not rise that much inside the grid. Errors: UsageError.
        """
        if not 0 < confidence < 1:
            raise UsageError(f"confidence={confidence!r}", "give a probability between 0 and 1, such as 0.95")
        z = float(torch.special.ndtri(torch.tensor((1 + confidence) / 2, dtype=torch.float64)))
        noise = (self.monte_carlo_error / self.standard_error) ** 2 if self._least.inside else 0.0
        return self._curve.below(0.5 * z**2 * (1 + noise))

    def to_dict(self) -> Json:
        """JSON form, schema nelbo.profile/1; numbers that do not exist are null."""
        low, high = self.interval()
        own = ("parameter", "examples", "nfe_total", "tolerance", "precision", "seed", "data", "model", "description")
        return without_nan(
            {
                "schema": SCHEMA,
                "grid": self.grid.tolist(),
                "values": self.values.tolist(),
                "maximum": self.maximum,
                "information": self.information,
                "standard_error": {"data": self.standard_error, "monte_carlo": self.monte_carlo_error},
                "interval": {"confidence": 0.95, "low": low, "high": high},
                "covariance": self.covariance.tolist(),
                **{name: getattr(self, name) for name in own},
                "overrides": self.overrides,
                "warnings": list(self.warnings),
                "seconds": self.seconds,
                "version": self.version,
            }
        )

    @classmethod
    def _read(cls, document: Json) -> Self:
        grid, values = (torch.tensor(document[name], dtype=torch.float64) for name in ("grid", "values"))
        return filled(
            cls,
            document,
            grid=grid,
            values=values,
            covariance=torch.tensor(document["covariance"], dtype=torch.float64),
            curves=torch.full((document["examples"], len(grid)), math.nan, dtype=torch.float64),
        )

    def _summary(self) -> str:
        value = in_short(self.maximum, self.standard_error, "").strip()
        return (
            f"{self.parameter} = {value} by the data, ± {number(self.monte_carlo_error, 4)} by the draws, "
            f"{self.examples} observations of {self.data['name']}, {self.nfe_total} evaluations"
        )

    def _view(self) -> html.View:
        return html.View(self._summary(), "profile", (tables.profile(self.to_dict()), self.parameter), self.warnings)

    def plot(self, axes: Any = None) -> Any:
        """Draw the curve with a band of one Monte Carlo error of its differences to the least value, and the 95 %
        interval, on matplotlib `axes`, new ones where None, and return them. Errors: UsageError without matplotlib."""
        axes = plots.new(axes)
        k = int(self.values.argmin())
        of_least = self.covariance.diagonal() + self.covariance[k, k] - 2 * self.covariance[:, k]
        error = of_least.clamp_min(0).sqrt().numpy()
        grid, values = self.grid.numpy(), self.values.numpy()
        axes.plot(grid, values, marker="o", markersize=3)
        axes.fill_between(grid, values - error, values + error, alpha=0.25, linewidth=0)
        low, high = self.interval()
        axes.axvspan(max(low, grid[0]), min(high, grid[-1]), color="C1", alpha=0.12, label="95 %")
        axes.set_xlabel(self.parameter)
        axes.set_ylabel("nats above the least bound")
        axes.legend(frameon=False)
        return axes

    def to_frame(self) -> Any:
        """A pandas DataFrame of the curve. Errors: UsageError without pandas."""
        return frames.frame({self.parameter: self.grid.numpy(), "nats": self.values.numpy()})

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self._summary()}\n95 % interval {low:.5g} … {high:.5g}"
