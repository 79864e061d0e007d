"""The likelihood of data under a model's probability-flow ODE, and the choices of how it is computed."""

from nelbo.likelihood.dequantisation import Dequantisation
from nelbo.likelihood.likelihood import OdeLikelihood
from nelbo.likelihood.solvers import RK4, Heun, Solver
from nelbo.likelihood.trace import ExactTrace, Hutchinson, Trace

__all__ = ["RK4", "Dequantisation", "ExactTrace", "Heun", "Hutchinson", "OdeLikelihood", "Solver", "Trace"]
