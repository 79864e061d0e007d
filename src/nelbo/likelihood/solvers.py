"""Solvers of the flow: fixed-step Runge-Kutta methods for dy/dλ = v(y, λ), which carry ∫ ∇·v dλ along.

    Heun   y + h/2 (v_1 + v_2)                      v_2 = v(y + h v_1, λ + h)
    RK4    y + h/6 (v_1 + 2 v_2 + 2 v_3 + v_4)      the classical method

Steps are fixed because one adaptive step for a whole batch would make an example's value depend on its neighbours.
Source: Hairer, Nørsett & Wanner 1993, §II.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UnknownNameError, UsageError

Field = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(y (B, …), λ) → dy/dλ (B, …) and its divergence (P, B), one row a probe."""


@numbers
@dataclass(frozen=True)
class Solver(ABC):
    """A method with its number of even steps in log-SNR. Abstract: `Heun` and `RK4`."""

    steps: int = 64

    name: ClassVar[str]
    order: ClassVar[int]
    """p: the error of a solve falls as steps^−p. Both methods take as many evaluations a step."""

    def __post_init__(self):
        if self.steps < 1:
            raise UsageError(f"{self.steps} ODE steps", "give a whole number ≥ 1")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one solve."""
        return self.order * self.steps

    def with_steps(self, steps: int) -> Self:
        """The same method with another number of steps."""
        return replace(self, steps=steps)

    def integrate(self, field: Field, y: Tensor, first: float, last: float) -> tuple[Tensor, Tensor]:
        """y (B, …) at λ = `last` of the solution that is y at `first`, and the integral of its divergence (P, B)."""
        h = (last - first) / self.steps
        integral = torch.zeros((), dtype=y.dtype, device=y.device)
        for k in range(self.steps):
            end = first + (k + 1) * h if k + 1 < self.steps else last
            dy, d_integral = self.step(field, y, first + k * h, h, end)
            y, integral = y + dy, integral + d_integral
        return y, integral

    @abstractmethod
    def step(self, field: Field, y: Tensor, at: float, h: float, end: float) -> tuple[Tensor, Tensor]:
        """The change of y and of the integral over one step from λ = `at` to `end` = at + h."""


@numbers
@dataclass(frozen=True)
class Heun(Solver):
    """Heun's method with so many steps: order 2, two evaluations a step."""

    name = "heun"
    order = 2

    def step(self, field: Field, y: Tensor, at: float, h: float, end: float) -> tuple[Tensor, Tensor]:
        v1, d1 = field(y, at)
        v2, d2 = field(y + h * v1, end)
        return 0.5 * h * (v1 + v2), 0.5 * h * (d1 + d2)


@numbers
@dataclass(frozen=True)
class RK4(Solver):
    """The classical Runge-Kutta method with so many steps: order 4, four evaluations a step."""

    name = "rk4"
    order = 4

    def step(self, field: Field, y: Tensor, at: float, h: float, end: float) -> tuple[Tensor, Tensor]:
        v1, d1 = field(y, at)
        v2, d2 = field(y + 0.5 * h * v1, at + 0.5 * h)
        v3, d3 = field(y + 0.5 * h * v2, at + 0.5 * h)
        v4, d4 = field(y + h * v3, end)
        return h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


SOLVERS: dict[str, type[Solver]] = {kind.name: kind for kind in (Heun, RK4)}


def parse(solver: str | Solver, steps: int | None = None) -> Solver:
    """The solver of a name and a number of steps (64), or the solver given. Errors: UnknownNameError, UsageError."""
    if isinstance(solver, Solver):
        if steps is not None:
            raise UsageError(f"{steps} steps beside {solver}", f"give {type(solver).__name__}({steps})")
        return solver
    if solver not in [*SOLVERS]:
        raise UnknownNameError.of("ODE solver", solver, SOLVERS)
    return SOLVERS[solver]() if steps is None else SOLVERS[solver](steps)
