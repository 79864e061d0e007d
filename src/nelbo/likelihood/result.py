"""`OdeLikelihood`: what the probability-flow ODE says, in the form of a `Bound` with terms of its own.

Schema nelbo.bound/1 with quantity "ode"; the terms, the per-example columns and `estimator` say how it differs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nelbo.bound.estimate import PerExample
from nelbo.bound.result import Bound, Term


@dataclass(frozen=True)
class FlowTerms:
    """Terms of the ODE likelihood, which add up to it.

    prior: −log p(z_L), where the flow ends. flow: −∫ ∇·(dz/dλ) dλ, from the first level to the last. dequantisation:
    log q(z_1 | x), on average minus its entropy; −D log α_1 where nothing is drawn. reconstruction: −log p(x | z_1),
    0 where the bins decide. importance: what the importance-weighted bound over several z_1 takes off, ≤ 0; 0 for one.
    """

    prior: Term
    flow: Term
    dequantisation: Term
    reconstruction: Term
    importance: Term


@dataclass(frozen=True, eq=False)
class FlowPerExample:
    """Per-example values in nats, each (N,) float64: the sum, its Monte Carlo error (dequantisation and probes), its
    terms, and the estimated error of the solve by step doubling."""

    nats: Tensor
    standard_error: Tensor
    prior: Tensor
    flow: Tensor
    dequantisation: Tensor
    reconstruction: Tensor
    importance: Tensor
    solver_error: Tensor


@dataclass(frozen=True, eq=False)
class OdeLikelihood(Bound):
    """−log p of a data set by the probability-flow ODE: `quantity` is "ode", and `estimator["scores"]` says what of.

    "mass": a bound of −log P(codes); "density": a bound of a negative log density of real data; "noisy density": the
    density of the first level at x, which has its noise: no bound of the data's.
    """

    terms: FlowTerms  # type: ignore[assignment]
    per_example: FlowPerExample | PerExample | None = None  # type: ignore[assignment]
    quantity: str = "ode"

    @property
    def total_name(self) -> str:
        return "ode" if self.estimator["scores"] == "noisy density" else "ode bound"
