"""A check before an ODE likelihood, which depends on the network's derivative: is it the derivative of its values?

A network that detaches its input, or a part of it, has a derivative that autograd takes for 0: the divergence is then
wrong, and nothing else shows it. So at a few levels autograd's J e, along random signs e, is compared with

    (x̂(z + δ e) − x̂(z − δ e))/2δ,        δ = σ/200,

wherever the difference for 2δ agrees with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.errors import UsageError
from nelbo.likelihood import ode
from nelbo.likelihood.trace import signs
from nelbo.maths.keys import Purpose
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.typing import Condition

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along log-SNR, as fractions of the flow's span: a network may detach at some levels only."""
ROWS = 2
"""Examples at each place; each costs five evaluations there."""
AGREE, DIFFER = 0.02, 0.05
"""Relative. The error of a central difference is a third of its distance to that of the double step: where the two
agree to 2 %, it is below 0.7 %, so that a derivative 5 % off is wrong and not inaccurately tested."""


def check(chain: GaussianChain) -> int:
    """Compare the two at `PLACES`; the evaluations that it took. Errors: UsageError where they differ."""
    first, last = ode.span(chain.model)
    rows = torch.arange(min(ROWS, chain.examples))
    x = chain.values(rows)
    shape, device = x.shape[1:], chain.device
    condition = chain.condition_of(rows)
    law = ode.law(chain.model.schedule)
    for i, place in enumerate(PLACES):
        at = ode.level_at(law, first + place * (last - first), len(x), device)
        eps = Purpose.DERIVATIVE_NOISE.normal(chain.seed, rows, 0, i, shape, device=device)
        there = chain.there_of(rows) if isinstance(chain, RaggedChain) else torch.ones_like(x, dtype=torch.bool)
        e = signs(Purpose.DERIVATIVE_PROBES.uniform(chain.seed, rows, i, 0, shape, device=device))
        z = forward.noised(x, eps, at)
        nothing = torch.zeros_like(z)
        _compare(chain, z.where(there, nothing), e.where(there, nothing), there, at, condition)
    return len(PLACES) * 5 * len(rows)


def _compare(chain: GaussianChain, z: Tensor, e: Tensor, there: Tensor, at: Levels, condition: Condition) -> None:
    def x0(state: Tensor) -> Tensor:
        with torch.no_grad():
            x0 = chain.model.predict(state, at, condition).x0
            return x0.where(there, torch.zeros_like(x0))

    delta = 0.01 * column(at.sigma, z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        prediction = ode.predicted(chain.model, z, at, condition)
        wide, near = ((x0(z + d * e) - x0(z - d * e)) / (2 * d) for d in (delta, 0.5 * delta))
        (row,) = torch.autograd.grad((prediction * near).sum(), z, allow_unused=True)
    expected = near.square().flatten(1).sum(1)  # uᵀ J e where J e is the difference u
    autograd = torch.zeros_like(expected) if row is None else (row * e).flatten(1).sum(1)
    reliable = (wide - near).square().flatten(1).sum(1) <= AGREE**2 * expected
    wrong = reliable & (expected > 0) & ((autograd - expected).abs() > DIFFER * expected)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise UsageError(
            f"the network's derivative is not that of its values: at log-SNR {float(at.logsnr[i]):.3g} autograd finds "
            f"{float(autograd[i] / expected[i]):.3g} of the change of its prediction",
            "remove torch.no_grad, inference_mode, detach, .data and .numpy() from the network's own code: the "
            "likelihood needs the derivative with respect to its whole input",
        )
