"""How an ODE likelihood is computed: the settings, what fits together, and how a result tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.errors import UsageError
from nelbo.likelihood import fitted, ode
from nelbo.likelihood.dequantisation import Dequantisation
from nelbo.likelihood.ode import Solver
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.typing import Json


@dataclass(frozen=True, eq=False)
class Settings:
    """How a likelihood is computed. steps is even: step doubling solves with half of them too. probes 0: exact trace.

    tolerance: nats of discretisation error an example may have; None: the steps are fixed.
    """

    steps: int
    solver: Solver
    probes: int
    dequantisation: Dequantisation
    draws: int
    importance: int
    tolerance: float | None
    max_steps: int

    def check(self) -> None:
        """Raise UsageError where they do not fit together."""
        if self.steps < 2 or self.steps % 2:
            raise UsageError(f"{self.steps} ODE steps", "give an even number ≥ 2: half of them tell the error")
        if min(self.draws, self.importance) < 1 or self.probes < 0:
            raise UsageError(
                f"{self.draws} draws, {self.importance} points a weighted bound, {self.probes} probes",
                "draws and importance are whole numbers ≥ 1, probes ≥ 1, or exact_trace=True",
            )
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise UsageError("an ODE tolerance that is not positive", "give bits/dim > 0, such as 1e-4")
        if self.importance > 1 and self.probes:
            raise UsageError(
                f"an importance-weighted bound over {self.importance} points with {self.probes} probes: the noise of a "
                "probe under the logarithm makes the number too low, and it is no bound",
                "use exact_trace=True, or importance=1",
            )
        if self.importance > 1 and not self.dequantisation.random:
            raise UsageError("an importance-weighted bound of one point that is not drawn", "use importance=1")
        noisy = self.dequantisation.random or self.probes
        if noisy and self.draws < 2 and (self.dequantisation.random or self.probes < 2):
            raise UsageError(
                "one draw does not tell its own error", "use draws=2 or more (with dequantisation 'none', probes=2)"
            )


def told(model: DiffusionModel, how: Settings, used: int, mean: float, most: float) -> Json:
    """What was computed, in words and numbers; errors in bits/dim."""
    kind = how.dequantisation
    scores = "mass" if model.domain.discrete else "density" if kind.random else "noisy density"
    about: Json = {"name": "probability_flow", "scores": scores, "bound": kind.random}
    if kind is Dequantisation.FLOW:
        about["fit"] = {"examples": fitted.EXAMPLES, "steps": fitted.STEPS, "batch": fitted.BATCH}
    if not kind.random:
        about["noise"] = math.exp(-0.5 * ode.span(model)[0])  # σ_1/α_1, in units of x
    return about | {
        "dequantisation": kind.value,
        "draws": how.draws,
        "importance": how.importance,
        "trace": f"{how.probes} probes" if how.probes else "exact",
        "probes": how.probes,
        "solver": how.solver.value,
        "steps": how.steps,
        "most_steps": used,
        "tolerance": None if how.tolerance is None else float(bits_per_dim(how.tolerance, model.domain.dimensions)),
        "solver_error": {"mean": mean, "max": most},
        "law": ode.law(model.schedule).kind,
    }
